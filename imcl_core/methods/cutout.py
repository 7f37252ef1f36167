"""Cutout (DeVries & Taylor 2017): a square of every image is blanked."""

from dataclasses import dataclass

import torch
from torch import Tensor

from imcl_core.errors import ImclError
from imcl_core.methods.term import Term
from imcl_core.settings import Settings, setting


@dataclass(frozen=True, kw_only=True)
class CutoutSettings(Settings):
    cutout_size: int = setting(2, "side of the square, pixels", least=1, most=1 << 20)


class Cutout(Term):
    name, Settings = "cutout", CutoutSettings
    source = "DeVries 2017"
    strengths = tuple({"cutout_size": side} for side in (2, 4, 6, 8, 10, 12, 14, 16, 20))

    def images(self, images: Tensor) -> Tensor:
        return cutout(images, self.settings.cutout_size)

    def check_factor(self, factor: float) -> None:
        super().check_factor(factor)
        if factor not in (0, 1):
            raise ImclError(f"cutout is on (1) or off (0), not {factor}: change cutout_size for a smaller square.")


def cutout(images: Tensor, size: int) -> Tensor:
    """`images` (B, C, H, W), each with one square of 0 around a pixel drawn at random.

    The square has a side of `size` pixels and is cut off at the border. In normalised images 0 is the mean.
    """
    rows, columns = (_near_a_centre(len(images), side, size, images.device) for side in images.shape[2:])
    return images.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], 0)


def _near_a_centre(count: int, side: int, size: int, device: torch.device) -> Tensor:
    """Which of `side` places lie in a stretch of `size` around a random one: (count, side), bool."""
    centre = torch.randint(side, (count, 1), device=device)
    place = torch.arange(side, device=device) - centre + size // 2
    return (place >= 0) & (place < size)
