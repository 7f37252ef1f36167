"""Labels of pixels, for networks such as FCN or U-Net: the paper names it as work to come.

What changes. A prediction is one of a pixel, so that `out` and `mid` are means over all pixels that count; local
classifiers are convolutions, whose logits are enlarged to the labels' size; `pull-push` compares pixels, each by its
column of the maps, its label, and the 3×3 image pixels around it, or whole images, whose label is the portion of each
class. `kernel` is what it was.
"""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imcl_core import losses
from imcl_core.attach.layer import Layer
from imcl_core.attach.trace import check_logits
from imcl_core.errors import ImclError
from imcl_core.networks.classifier import LocalSegmenter
from imcl_core.settings import Settings, setting
from imcl_core.tasks.images import Images, check_labels

check_maps = functools.partial(  # `check_logits` for maps of logits
    check_logits,
    form="(B, m, H, W)",
    users="DenseCollaboration is for networks that label pixels, Collaboration for classifiers",
)


@dataclass(frozen=True, kw_only=True)
class PixelSettings(Settings):
    """What only labels of pixels need."""

    pp_pixels: int = setting(
        256, "pixels of a batch that pull-push compares, drawn afresh each step; 0: whole images", least=0, most=1 << 40
    )
    ignore_label: int = setting(255, "pixels with this label count in no term", least=-(2**31), most=2**31)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pp_pixels == 1:
            raise ImclError(f"Setting pp_pixels must be 2 or more, or 0 for whole images, not {self.pp_pixels}.")


class Pixels(Images):
    """One label a pixel: labels (B, H, W), or probabilities (B, m, H, W); logits (B, m, h, w), enlarged to that size.

    Pixels with the label `ignored`, and those whose probabilities are all 0, count in no term.
    """

    check_logits = staticmethod(check_maps)

    def __init__(self, settings: Any, smoothing: float = 0.0, ignored: int | None = None):
        settings = settings if isinstance(settings, PixelSettings) else PixelSettings()
        super().__init__(settings, smoothing, settings.ignore_label if ignored is None else ignored)
        self._counted: tuple[Tensor, Tensor, Tensor] | None = None  # image, row, column of a step's pixels that count
        self._pixels: tuple[Tensor, Tensor, Tensor] | None = None  # of those to compare

    def takes(self, term: type) -> bool:
        return term.pixels

    @contextmanager
    def step(self, images: Tensor, labels: Tensor, comparing: bool) -> Iterator[None]:
        self._size = images.shape[2:]
        places = self._counts(labels).nonzero()  # once, since a GPU waits for their number
        self._counted = places.unbind(1)
        self._pixels = self.draw(places) if comparing and self.settings.pp_pixels else None
        try:
            yield
        finally:
            self._counted = self._pixels = None

    def draw(self, places: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Some of the pixels that count; all where there are no more."""
        order = torch.randperm(len(places), device=places.device)
        return places[order[: self.settings.pp_pixels]].unbind(1)

    def _counts(self, labels: Tensor) -> Tensor:
        return labels.sum(dim=1) > 0 if labels.is_floating_point() else labels != self.ignored

    def targets(self, labels: Tensor, like: Tensor) -> Tensor:
        labels = (labels.movedim(1, -1) if labels.is_floating_point() else labels)[self._counted]
        return self._soft(labels, like, like.shape[1]) if self.smoothing else labels

    def rows(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Logits (…, B, m, h, w) at the P pixels that count: (…, P, m)."""
        *more, batch = logits.shape[:-3]
        z = losses.promote(logits).flatten(0, -4)
        if z.shape[2:] != labels.shape[-2:]:
            z = F.interpolate(z, size=labels.shape[-2:], mode="bilinear")
        return z.movedim(1, -1).unflatten(0, (*more, batch))[..., *self._counted, :]

    def compared(self, maps: Tensor) -> Tensor:
        """The maps' columns (P, C) at the pixels drawn, or the maps (B, C, h, w) of whole images."""
        if not self.settings.pp_pixels:
            return maps
        columns = maps.movedim(1, -1)
        if self._pixels is None:  # `cost` asks for so many of any
            return columns.flatten(0, 2)[: self.settings.pp_pixels]
        image, row, column = self._pixels
        height, width = self._size
        return columns[image, row * columns.shape[1] // height, column * columns.shape[2] // width]

    @torch.no_grad()
    def label_similarity(self, images: Tensor, labels: Tensor, centre: str) -> Tensor:
        counts = self._counts(labels)
        soft = labels.is_floating_point()
        one_hot = labels.movedim(1, -1) if soft else labels.where(counts, 0)
        one_hot = self._soft(one_hot, images, self.num_classes)
        if self._pixels is None:
            return losses.similarity_matrix((one_hot * counts[..., None]).mean(dim=(1, 2)), centre)
        return losses.similarity_matrix(one_hot[self._pixels], centre)

    @torch.no_grad()
    def image_similarity(self, images: Tensor, centre: str, pixels: bool = False) -> Tensor:
        if self._pixels is None:
            return losses.similarity_matrix(images.flatten(1) if pixels else images, centre)
        image, row, column = self._pixels
        padded = F.pad(images, (1, 1, 1, 1))
        around = [padded[image, :, row + i, column + j] for i in range(3) for j in range(3)]
        return losses.similarity_matrix(torch.cat(around, dim=1), centre)

    def local_classifier(self, place: Layer, pool: int, width: int) -> nn.Module:
        return LocalSegmenter(place.shape[0], self.num_classes, width)

    def check(self, images: Tensor, labels: Tensor, comparing: str | None, sized: tuple | None) -> None:
        check_labels(labels, tuple(images.shape[2:]), len(images))
        if comparing and not self.settings.pp_pixels and len(images) < 2:
            raise ImclError(
                f"A batch of 1 is too small, {comparing} compares images with one another: leave the last one out "
                "(drop_last=True), or let pp_pixels be more than 0."
            )
        if not self._counts(labels).any():
            why = "all probabilities are 0" if labels.is_floating_point() else f"all have the label {self.ignored}"
            raise ImclError(f"No pixel of this batch counts, {why}: skip it.")
