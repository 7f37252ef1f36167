"""What a label is of: here of an image. Terms ask their task, and so need not know."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
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
    """One label an image: labels (B,), or probabilities (B, m), and logits (B, m).

    Labels are smoothed by `smoothing`, and images whose label is `ignored` count in no term.
    """

    check_logits = staticmethod(check_logits)

    def __init__(self, settings: Any, smoothing: float = 0.0, ignored: int | None = None):
        self.settings, self.smoothing, self.ignored, self.num_classes = settings, smoothing, ignored, 0
        self._counted: Tensor | None = None  # places of the images of a step that count, where not all may
        self._batch = 0  # how many images there are in all, then

    def takes(self, term: type) -> bool:
        """Whether a method is for such labels."""
        return True

    def step(self, images: Tensor, labels: Tensor, comparing: bool) -> AbstractContextManager:
        """Encloses a step, in which a term may be `comparing` what there are labels of."""
        return nullcontext() if self.ignored is None or labels.is_floating_point() else self._counting(labels)

    @contextmanager
    def _counting(self, labels: Tensor) -> Iterator[None]:
        self._counted = (labels != self.ignored).nonzero()[:, 0]  # once, since a GPU waits for their number
        self._batch = len(labels)
        try:
            yield
        finally:
            self._counted = None

    def targets(self, labels: Tensor, like: Tensor) -> Tensor:
        """What each prediction is to be, (B,), or (B, m) where labels are soft or smoothed; `like` the logits."""
        labels = self._kept(labels)
        return self._soft(labels, like, like.shape[1]) if self.smoothing else labels

    def rows(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Logits (…, B, m), a row for each of `targets`."""
        return logits if self._counted is None else logits[..., self._counted, :]

    def compared(self, maps: Tensor) -> Tensor:
        """What is compared of maps (B, C, H, W) or images: those of all images that count."""
        return self._kept(maps)

    def one_hot(self, labels: Tensor, like: Tensor) -> Tensor:
        """Labels as numbers that can be compared: (B, m), smoothed or soft ones as they are."""
        return self._soft(self._kept(labels), like, self.num_classes)

    def _kept(self, rows: Tensor) -> Tensor:
        """Of rows, those of images that count; of several branches, one behind the other."""
        return rows if self._counted is None else rows.unflatten(0, (-1, self._batch))[:, self._counted].flatten(0, 1)

    def _soft(self, labels: Tensor, like: Tensor, classes: int) -> Tensor:
        if not labels.is_floating_point():
            if self.smoothing:  # which hides them from the check of targets
                check_targets(labels, classes)
            labels = F.one_hot(labels, classes)
        soft = labels.to(losses.promote(like).dtype)
        return (1 - self.smoothing) * soft + self.smoothing / soft.shape[-1] if self.smoothing else soft

    @torch.no_grad()
    def label_similarity(self, images: Tensor, labels: Tensor, centre: str) -> Tensor:
        """S(y) of Eq. 9, in the precision of `images`."""
        return losses.similarity_matrix(self.one_hot(labels, images), centre)

    @torch.no_grad()
    def image_similarity(self, images: Tensor, centre: str, pixels: bool = False) -> Tensor:
        """S(x) of Eq. 9; with `pixels` whole images are compared by them, not by each channel's deviation."""
        images = self.compared(images)
        return losses.similarity_matrix(images.flatten(1) if pixels else images, centre)

    def local_classifier(self, place: Layer, pool: int, width: int) -> nn.Module:
        """The head of `mid` for a layer's maps."""
        channels, *size = place.shape
        return LocalClassifier(channels, tuple(size), self.num_classes, pool, width)

    def check(self, images: Tensor, labels: Tensor, comparing: str | None, sized: tuple | None) -> None:
        """Refuses what the losses cannot use; looks at shapes and types alone, so that a GPU need not wait.

        Where labels are ignored it counts the others, for which a GPU waits.
        """
        check_labels(labels, (), len(images))
        whole = self.ignored is None or labels.is_floating_point()
        count = len(images) if whole else int((labels != self.ignored).sum())
        if count < (2 if comparing else 1):
            why = f"{comparing} compares images with one another" if count else "there is nothing to learn from"
            which = "leave the last one out (drop_last=True)" if whole else "skip it"
            raise ImclError(f"A batch of {count} {'' if whole else 'that count '}is too small, {why}: {which}.")
        if sized and images.shape[2:] != sized[1:]:
            raise ImclError(
                f"What is attached was made for images of {sized[1:]}, not {tuple(images.shape[2:])}: pass "
                f"image_shape={tuple(images.shape[1:])} to Collaboration."
            )


def check_labels(labels: Tensor, sides: tuple[int, ...], count: int) -> None:
    """Refuses labels of another type or shape than `count` images need, of pixels with an image's `sides`."""
    if not isinstance(labels, Tensor):
        raise ImclError(f"Labels are a tensor, not a {type(labels).__name__}: make one by torch.as_tensor.")
    soft = labels.is_floating_point() and labels.ndim == 2 + len(sides)
    shape = (count, labels.shape[1], *sides) if soft else (count, *sides)
    if labels.shape != shape or not (soft or labels.dtype == torch.int64):
        probabilities = str((count, "m", *sides)).replace("'", "")
        raise ImclError(
            f"Labels must be class indices, int64 of shape {(count, *sides)} for {count} images, or probabilities of "
            f"shape {probabilities}; got {str(labels.dtype).removeprefix('torch.')} of shape {tuple(labels.shape)}."
        )


def check_targets(targets: Tensor, num_classes: int) -> None:
    """Refuses labels of no class, and soft ones that are no probabilities of all classes.

    Looks at values only where that does not make a GPU wait, and where there is something to see.
    """
    soft = targets.is_floating_point()
    if soft and targets.shape[1] != num_classes:
        raise ImclError(
            f"Soft labels have {targets.shape[1]} columns, and the network {num_classes} classes: give "
            "each class a column."
        )
    if type(targets) is not Tensor or targets.device.type != "cpu" or torch.compiler.is_compiling():
        return
    if soft:
        if targets.min() < 0 or (targets.sum(dim=1) - 1).abs().max() > 0.01:
            raise ImclError("Soft labels must be probabilities, whose sum is 1: divide them by their sum.")
        return
    low, high = (int(label) for label in targets.aminmax())
    if low < 0 or high >= num_classes:
        hint = f", or, where {low} stands for no label, pass ignore_label={low} to Collaboration" if low < 0 else ""
        raise ImclError(
            f"Labels must be in 0 ... {num_classes - 1} for {num_classes} classes; got {low} ... {high}: number them "
            f"from 0{hint}."
        )
