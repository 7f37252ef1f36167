"""What a label is of: here of an image. Terms ask their task, and so need not know."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imcl_core import losses
from imcl_core.attach.layer import Layer
from imcl_core.attach.trace import check_logits
from imcl_core.errors import ImclError
from imcl_core.networks.classifier import LocalClassifier


class Images:
    """One label an image: labels (B,), logits (B, m)."""

    check_logits = staticmethod(check_logits)

    def __init__(self, settings: Any):
        self.settings, self.num_classes = settings, 0

    def takes(self, term: type) -> bool:
        """Whether a method is for such labels."""
        return True

    def step(self, images: Tensor, labels: Tensor, comparing: bool) -> AbstractContextManager:
        """Encloses a step, in which a term may be `comparing` what there are labels of."""
        return nullcontext()

    def targets(self, labels: Tensor) -> Tensor:
        """What each prediction is to be, (B,)."""
        return labels

    def rows(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Logits (…, B, m), a row for each of `targets`."""
        return logits

    def compared(self, maps: Tensor) -> Tensor:
        """What pull-push compares of projected maps (B, C, H, W): the maps of all images."""
        return maps

    def one_hot(self, labels: Tensor, like: Tensor) -> Tensor:
        return F.one_hot(labels, self.num_classes).to(losses.promote(like).dtype)

    @torch.no_grad()
    def similarities(self, images: Tensor, labels: Tensor, centre: str) -> tuple[Tensor, Tensor]:
        """S(y) and S(x) of Eq. 9."""
        one_hot = self.one_hot(labels, images)
        return losses.similarity_matrix(one_hot, centre), losses.similarity_matrix(images, centre)

    def local_classifier(self, place: Layer, pool: int, width: int) -> nn.Module:
        """The head of `mid` for a layer's maps."""
        channels, *size = place.shape
        return LocalClassifier(channels, tuple(size), self.num_classes, pool, width)

    def check(self, images: Tensor, labels: Tensor, comparing: str | None, sized: tuple | None) -> None:
        """Refuses what the losses cannot use; looks at shapes and types alone, so that a GPU need not wait."""
        check_labels(labels, (len(images),), len(images))
        if len(images) < (2 if comparing else 1):
            why = f"{comparing} compares images with one another" if len(images) else "there is nothing to learn from"
            raise ImclError(f"A batch of {len(images)} is too small, {why}: leave the last one out (drop_last=True).")
        if sized and images.shape[2:] != sized[1:]:
            raise ImclError(
                f"The heads were made for images of {sized[1:]}, not {tuple(images.shape[2:])}: pass "
                f"image_shape={tuple(images.shape[1:])} to Collaboration."
            )


def check_labels(labels: Tensor, shape: tuple[int, ...], count: int) -> None:
    """Refuses labels of another type or shape than `count` images need."""
    if labels.dtype != torch.int64 or labels.shape != shape:
        raise ImclError(
            f"Labels must be class indices, int64 of shape {shape} for {count} images; got "
            f"{str(labels.dtype).removeprefix('torch.')} of shape {tuple(labels.shape)}."
        )
