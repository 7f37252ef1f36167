"""Augmented batches a second: `TrainBatches` beside a torchvision `DataLoader` with the same transforms.

    python benchmarks/data_path.py --out data_path.json      (half a minute)

Batches of 128 images of 32 x 32 (CIFAR-100 where cifar100.npz lies in the data folder, else random ones):
padding 4, random crop, flip, normalisation. Both sides take turns for a few rounds; each shows its median.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from statistics import median

import numpy as np
import torch
import torchvision
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from imcl_core.data.batches import TrainBatches
from imcl_core.data.sets import DataSet, Split, data_folder, load

BATCH, PADDING, WARM_UP = 128, 4, 5


class PilImages(Dataset):
    """What torchvision's CIFAR classes do for one image: array to PIL image, then the transforms."""

    def __init__(self, data: DataSet) -> None:
        self.arrays = np.ascontiguousarray(data.train.images.permute(0, 2, 3, 1).numpy())
        self.labels = data.train.labels.tolist()
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(data.train.images.shape[2:], PADDING),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(data.mean.tolist(), data.std.tolist()),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.arrays[index])), self.labels[index]


def images(folder: str | None) -> DataSet:
    """CIFAR-100 from the data folder, or random images of its size."""
    if (data_folder(folder) / "cifar100.npz").exists():
        return load("cifar100", folder=folder)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (50_000, 3, 32, 32), dtype=torch.uint8, generator=generator)
    split = Split(pixels, torch.randint(100, (50_000,), generator=generator))
    half = torch.full((3,), 0.5)
    return DataSet("random", tuple(map(str, range(100))), split, split, half, half / 2)


def tensor_batches(data: DataSet, threads: int) -> Callable[[], Iterator]:
    def start() -> Iterator:
        torch.set_num_threads(threads)
        batches = TrainBatches(data, BATCH, padding=PADDING)
        return (batch for epoch in count() for batch in batches.epoch(epoch))

    return start


def loader_batches(dataset: PilImages, workers: int) -> Callable[[], Iterator]:
    def start() -> Iterator:
        torch.set_num_threads(1)
        return iter(DataLoader(dataset, BATCH, shuffle=True, drop_last=True, num_workers=workers))

    return start


def rate(start: Callable[[], Iterator], number: int) -> float:
    """Batches a second over `number` batches, after the start and a few batches that are not timed."""
    batches = start()
    for _ in range(WARM_UP):
        next(batches)
    began = time.perf_counter()
    for _ in range(number):
        next(batches)
    return number / (time.perf_counter() - began)


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--out", type=Path, help="write the figures to this JSON file")
    parser.add_argument("--folder", help="the data folder (default: IMCL_DATA, else the cache folder)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=100, help="timed a round (ours: 4 times as many)")
    arguments = parser.parse_args()

    data = images(arguments.folder)
    dataset = PilImages(data)
    ours = {f"TrainBatches, {n} thread{'s' * (n > 1)}": tensor_batches(data, n) for n in (1, 2)}
    theirs = {f"DataLoader, {n} workers": loader_batches(dataset, n) for n in (0, 2)}
    rates = {name: [] for name in (*ours, *theirs)}
    for _ in range(arguments.rounds):
        for name, start in {**ours, **theirs}.items():
            rates[name].append(rate(start, arguments.batches * (4 if name in ours else 1)))

    medians = {name: median(values) for name, values in rates.items()}
    ratio = max(medians[name] for name in ours) / max(medians[name] for name in theirs)
    print(f"{'batches/s of ' + str(BATCH) + ' images':28s} {'median':>8s} {'lowest':>8s} {'highest':>8s}")
    for name, values in rates.items():
        print(f"{name:28s} {medians[name]:8.1f} {min(values):8.1f} {max(values):8.1f}")
    print(f"best of ours / best of theirs: {ratio:.1f}")
    if arguments.out:
        record = {
            "images": data.name,
            "batch_size": BATCH,
            "rounds": arguments.rounds,
            "batches_per_s": rates,
            "median_batches_per_s": medians,
            "ratio": ratio,
            "versions": {"torch": torch.__version__, "torchvision": torchvision.__version__},
            "machine": {"system": platform.platform(), "cores": os.cpu_count(), "load": os.getloadavg()[0]},
        }
        partial = arguments.out.with_name(f".{arguments.out.name}.partial")
        partial.write_text(json.dumps(record, indent=1) + "\n")
        os.replace(partial, arguments.out)


if __name__ == "__main__":
    main()
