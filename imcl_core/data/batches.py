"""Augmented and normalised batches, made on the device that holds the images."""

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from imcl_core.data.sets import DataSet
from imcl_core.errors import ImclError


class TrainBatches:
    """Augmented, normalised batches of one training set; all chance in an epoch follows from (seed, epoch).

    Each image gets `padding` black pixels on every side, is cropped at random to its own size, mirrored with
    probability 1/2 if `flip`, and normalised. `noise` is the share of labels replaced, each epoch anew, by
    labels drawn uniformly over all classes. `share`, (i, n): this process takes the i-th of n parts of every batch.
    `ImclError` where these settings make no sense.
    """

    def __init__(
        self,
        data: DataSet,
        batch_size: int,
        *,
        padding: int = 4,
        flip: bool = True,
        noise: float = 0.0,
        seed: int = 0,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        self.images, size = data.train.images, len(data.train)
        if not 1 <= batch_size <= size:
            raise ImclError(
                f"batch_size must be from 1 to {size}, the number of training images, not {batch_size}: "
                "choose a smaller batch or more images."
            )
        if padding < 0 or not 0 <= noise <= 1:
            raise ImclError(f"padding must be 0 or more and noise from 0 to 1, not {padding} and {noise}.")
        self.batch_size, self.padding, self.flip, self.seed = batch_size, padding, flip, seed
        self.num_classes, self.num_noisy = data.num_classes, round(noise * size)
        device, (height, width) = self.images.device, self.images.shape[2:]
        self._clean_labels = data.train.labels.cpu()
        self._row = width + 2 * padding
        # Where the pixels of the top left window lie in a flattened padded image: as they are, and mirrored.
        window = torch.arange(height)[:, None] * self._row + torch.arange(width)
        self._windows = torch.stack([window.flatten(), window.flip(1).flatten()]).to(device)
        part, parts = share
        if batch_size % parts:
            raise ImclError(f"batch_size {batch_size} does not divide into {parts} processes: choose a multiple of it.")
        self._positions = torch.arange(batch_size, device=device).chunk(parts)[part]
        self._scale, self._shift = _normalisation(data)
        # What `draw` fills in place, so that a captured step sees each new epoch.
        # The plan has a row for each place in the order: image, offset of its window, whether mirrored.
        self._plan = torch.zeros(size, 3, dtype=torch.int64, device=device)
        self.labels = torch.zeros(size, dtype=torch.int64, device=device)  # by image, noise included
        self.draw(0)

    def __len__(self) -> int:
        """Full batches in an epoch: the rest of its order is left out, so that every batch has one size."""
        return len(self._plan) // self.batch_size

    def draw(self, epoch: int) -> None:
        """Draw order, crops, flips and noisy labels of `epoch`, whatever was drawn before."""
        size = len(self._plan)
        generator = self._generator(epoch, stream=0)
        order = torch.randperm(size, generator=generator)
        down, right = torch.randint(2 * self.padding + 1, (2, size), generator=generator)
        mirrored = torch.randint(2, (size,), generator=generator) * self.flip
        self._plan.copy_(torch.stack([order, down * self._row + right, mirrored], dim=1))
        labels = self._clean_labels.clone()
        if self.num_noisy:  # from a generator of its own: the augmentation is the same at every noise level
            generator = self._generator(epoch, stream=1)
            noisy = torch.randperm(size, generator=generator)[: self.num_noisy]
            labels[noisy] = torch.randint(self.num_classes, noisy.shape, generator=generator)
        self.labels.copy_(labels)

    def _generator(self, epoch: int, stream: int) -> torch.Generator:
        mixed = np.random.SeedSequence((self.seed, epoch, stream)).generate_state(1, np.uint64)
        return torch.Generator().manual_seed(int(mixed[0]))

    def batch(self, start: int | Tensor) -> tuple[Tensor, Tensor]:
        """Images, float32 (B, 3, H, W), and labels (B,) from position `start` of the epoch's order on.

        `start` may be a 0-dim int64 tensor on the device: nothing here waits for the device, and no shape
        depends on data, so a CUDA graph can capture it.
        """
        chosen, offset, mirrored = self._plan[self._positions + start].unbind(1)
        images = F.pad(self.images.index_select(0, chosen), (self.padding,) * 4).flatten(2)
        pixels = self._windows[mirrored] + offset[:, None]
        images = images.gather(2, pixels[:, None].expand(-1, 3, -1)).unflatten(2, self.images.shape[2:])
        return images.float().mul_(self._scale).add_(self._shift), self.labels[chosen]

    def epoch(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Draw `epoch`, then every batch of it."""
        self.draw(epoch)
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            yield self.batch(start)


def evaluation_batches(data: DataSet, batch_size: int = 1000) -> Iterator[tuple[Tensor, Tensor]]:
    """All test images in order, normalised float32 (B, 3, H, W), and labels (B,); the last may be smaller."""
    scale, shift = _normalisation(data)
    for start in range(0, len(data.test), batch_size):
        images, labels = (part[start : start + batch_size] for part in (data.test.images, data.test.labels))
        yield images.float().mul_(scale).add_(shift), labels


def _normalisation(data: DataSet) -> tuple[Tensor, Tensor]:
    """Scale and shift (3, 1, 1) that take bytes to zero mean and unit deviation over the training set."""
    mean, std = data.mean.view(3, 1, 1), data.std.view(3, 1, 1)
    return 1 / (255 * std), -mean / std
