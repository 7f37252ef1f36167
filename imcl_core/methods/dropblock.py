"""DropBlock (Ghiasi et al. 2018): blocks of maps are dropped behind the last groups, more and more of them."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from imcl_core import losses
from imcl_core.attach.layer import Layer
from imcl_core.measure.cost import Counter
from imcl_core.methods.term import OnLayers, Row, Term
from imcl_core.settings import setting


@dataclass(frozen=True, kw_only=True)
class DropBlockSettings(OnLayers):
    dropblock_rate: float = setting(
        0.1, "portion of each map to drop, reached linearly at the end of training", least=0, most=1
    )
    dropblock_size: int = setting(
        7, "side of a block; at most the largest odd number that fits into the map", least=1, most=1 << 20
    )
    dropblock_groups: int = setting(
        2, "behind the last layers of so many groups, from the end; 0: of all", least=0, most=1 << 20
    )


class DropBlock(Term):
    name, Settings = "dropblock", DropBlockSettings
    source = "Ghiasi 2018"
    strengths = tuple({"dropblock_rate": p, "dropblock_size": s} for p in (0.03, 0.1, 0.2) for s in (3, 5, 7))
    needs = ("layers",)
    inside = pixels = True

    def attach(self, sites: Any, task: Any) -> None:
        self.changes = sites.ends(self.name, maps=True)[-self.settings.dropblock_groups :]

    @property
    def share(self) -> float:
        return self.settings.dropblock_rate

    def change(self, place: Layer, maps: Tensor, progress: float | Tensor | None) -> Tensor:
        rate = self.settings.dropblock_rate * self.factor * (1 if progress is None else progress)
        return drop_blocks(maps, rate, self.settings.dropblock_size)

    def cost(self, counter: Counter) -> dict[str, Row]:
        """Of a mask over the maps: drawing it reads a value, which fake tensors lack."""
        return {
            self.named(p): (0, *counter.at(p.shape, lambda maps: maps * torch.ones_like(maps))) for p in self.changes
        }


def drop_blocks(maps: Tensor, rate: float | Tensor, size: int) -> Tensor:
    """`maps` (B, C, H, W) with blocks of side `size` set to 0, a portion `rate` in all (Ghiasi et al. 2018).

    The side is at most the largest odd number that fits. What is left is scaled up to keep the sum. A `rate` that is a
    tensor is read where it lies, so that a captured step can follow it.
    """
    from torchvision.ops import drop_block2d  # here, since it takes a second to import

    side = min(size, *maps.shape[2:])
    side -= 1 - side % 2
    wide = losses.promote(maps)  # half precision cannot count the units
    drop = _drop_by_tensor if isinstance(rate, Tensor) else drop_block2d
    return drop(wide, rate, side).to(maps.dtype)


def _drop_by_tensor(maps: Tensor, rate: Tensor, side: int) -> Tensor:
    """torchvision's `drop_block2d`, of an odd side that fits, for a rate that no Python number may be made of."""
    height, width = maps.shape[2:]
    places = (height - side + 1, width - side + 1)
    centres = torch.rand(*maps.shape[:2], *places, device=maps.device) < rate * (
        height * width / (side**2 * places[0] * places[1])
    )
    blocks = F.max_pool2d(F.pad(centres.to(maps.dtype), (side // 2,) * 4), side, stride=1, padding=side // 2)
    kept = 1 - blocks
    return maps * kept * (kept.numel() / (1e-6 + kept.sum()))
