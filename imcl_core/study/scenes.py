"""Mosaics of patterns with a label for every pixel, a small set for segmentation, and training on them."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from imcl_core.collaboration import DenseCollaboration, DenseSettings
from imcl_core.data.sets import Split
from imcl_core.errors import ImclError, needed
from imcl_core.networks import UNet
from imcl_core.training.machine import environment

SCENE_CLASSES = ("lying stripes", "rising stripes", "standing stripes", "falling stripes", "checks")


def mosaics(count: int, *, side: int = 32, cells: int = 4, noise: float = 0.2, seed: int = 0) -> Split:
    """`count` mosaics of `cells` patterns in colour, and of which pattern every pixel is.

    Images, uint8 (count, 3, side, side), and labels, int64 (count, side, side), which count `SCENE_CLASSES`. A cell is
    what lies nearest to one of `cells` random points; its two colours, its period and its phase are random, and so is
    the `noise` of every pixel, a standard deviation where colours go from 0 to 1. The same seed makes the same scenes.

    Raises:
        ImclError: a size that leaves nothing to see.
    """
    if side < 8 or count < 1 or cells < 1 or noise < 0:
        raise ImclError(
            f"A mosaic needs a side of 8 pixels or more, a cell, and no negative noise: got {side=}, {count=}, "
            f"{cells=}, {noise=}."
        )
    draw = torch.Generator().manual_seed(seed)
    row, column = torch.meshgrid(torch.arange(side) / side, torch.arange(side) / side, indexing="ij")
    top, left, period, phase = torch.rand(4, count, cells, 1, 1, generator=draw)
    kind = torch.randint(len(SCENE_CLASSES), (count, cells), generator=draw)
    angle = kind[..., None, None] * math.pi / 4  # of checks the same as of lying stripes
    turns = 32 / (4 + 4 * period)  # periods across 32 pixels
    u, v = (row * angle.cos() + column * angle.sin()), (column * angle.cos() - row * angle.sin())
    one, other = (torch.sin(2 * math.pi * (turns * side / 32 * along + phase)) for along in (u, v))
    wave = torch.where(kind[..., None, None] == len(SCENE_CLASSES) - 1, one * other, one)
    first, second = torch.rand(2, count, cells, 3, 1, 1, generator=draw)
    colours = first + (0.5 + 0.5 * wave[:, :, None]) * (second - first)  # (count, cells, 3, side, side)
    cell = ((row - top).square() + (column - left).square()).argmin(dim=1)
    chosen = cell[:, None, None].expand(-1, 1, 3, -1, -1)
    images = colours.gather(1, chosen)[:, 0]
    images = images + noise * torch.randn(images.shape, generator=draw)
    labels = kind.gather(1, cell.flatten(1)).unflatten(1, (side, side))
    return Split((255 * images.clamp(0, 1)).round().to(torch.uint8), labels)


@dataclass(frozen=True)
class Segmentation:
    """How `fit` trains: Adam, whose rate falls to 0 along half a cosine."""

    scenes: int = 256
    test_scenes: int = 200
    epochs: int = 15
    batch_size: int = 8
    width: int = 8
    dropout: float = 0.2
    lr: float = 0.01


def fit(
    methods: str,
    seed: int = 0,
    *,
    how: Segmentation | None = None,
    settings: DenseSettings | None = None,
    validation: bool = False,
    progress: bool = True,
) -> tuple[dict[str, Any], DenseCollaboration]:
    """Trains a `UNet` on scenes with some methods; its record, and the trained collaboration.

    The scenes are the same for every seed, which decides the initial weights, the order and the masks. With
    `validation` other scenes take the place of the test scenes. The record: methods, seed,
    how, settings, environment, and by epoch the loss, the mean intersection over union of all classes (`miou`, %) and
    the portion of wrong pixels (`error`, %).
    """
    how, settings = how or Segmentation(), settings or DenseSettings()
    train, test = mosaics(how.scenes), mosaics(how.test_scenes, seed=2 if validation else 1)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        network = UNet(len(SCENE_CLASSES), how.width, how.dropout)
        shape = tuple(train.images.shape[1:])
        collaboration = DenseCollaboration(network, methods, settings=settings, image_shape=shape, seed=seed)
        optimizer = torch.optim.Adam(collaboration.parameters(), how.lr)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, how.epochs)
        curve = []
        for _ in tqdm(range(how.epochs), desc=methods, unit=" epochs", disable=not progress):
            loss = _epoch(collaboration, optimizer, train, how.batch_size)
            schedule.step()
            curve.append({"loss": loss} | evaluate(network, test))
    record = {
        "methods": methods, "seed": seed, "validation": validation, "how": asdict(how), "settings": asdict(settings),
        "curve": curve, "run": environment(torch.device("cpu")),
    }  # fmt: skip
    return record, collaboration


def _epoch(collaboration: DenseCollaboration, optimizer: torch.optim.Optimizer, train: Split, batch_size: int) -> float:
    collaboration.train()
    losses = []
    for batch in torch.randperm(len(train)).split(batch_size):
        optimizer.zero_grad()
        loss = collaboration(normal(train.images[batch]), train.labels[batch])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return sum(losses) / len(losses)


def normal(images: Tensor) -> Tensor:
    """Bytes (B, 3, H, W) as numbers from -1 to 1."""
    return images.float() / 127.5 - 1


@torch.no_grad()
def evaluate(network: nn.Module, test: Split, batch_size: int = 100) -> dict[str, float]:
    """`miou` and `error` of a network on scenes, %."""
    training = network.training
    network.eval()
    predicted = torch.cat([network(normal(x)).argmax(dim=1) for x in test.images.split(batch_size)])
    network.train(training)
    metrics = needed("sklearn.metrics", "scikit-learn", "digits")
    miou = metrics.jaccard_score(test.labels.flatten(), predicted.flatten(), average="macro")
    return {"miou": 100 * miou, "error": 100 * (predicted != test.labels).float().mean().item()}
