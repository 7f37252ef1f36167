"""Images a second of our training step beside what a user would write; `steps.py` prints it.

(a) the same network in plain PyTorch, float32, fed by a torchvision `DataLoader` with the same transforms; (b) the same
in half precision (on a GPU); (c) our step as it reads; (d) our step as a CUDA graph (on a GPU). FLOP/s count the
convolutions and matrix products of forward and backward, and are set against the fastest matrix product measured in
the same run.
"""

import itertools
from collections.abc import Callable
from statistics import median

import torch
from data_path import PilImages
from torch.utils.data import DataLoader

from imcl_core import RunConfig
from imcl_core.data.batches import TrainBatches
from imcl_core.data.sets import DataSet
from imcl_core.study.gpu.checks import random_images
from imcl_core.study.gpu.speeds import flops_per_image, plain_loop, seconds
from imcl_core.training.run import build_collaboration
from imcl_core.training.step import half_type, make_step

CLASSES = 100
IMAGES = 4_096


def plain(config: RunConfig, data: DataSet, device: torch.device, half: bool, workers: int) -> Callable[[], None]:
    """A step as a tutorial has it, on the batches of a DataLoader with workers."""
    loader = DataLoader(
        PilImages(data), config.batch_size, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=True
    )
    return plain_loop(config, device, half, loader)


def ours(config: RunConfig, data: DataSet, device: torch.device, graphed: bool) -> Callable[[], None]:
    batches = TrainBatches(data.to(device), config.batch_size)
    collaboration = build_collaboration(config, data).to(device, memory_format=torch.channels_last).train()
    step = make_step(collaboration, batches, config, device, graphed)
    starts = itertools.cycle(range(0, len(batches) * config.batch_size, config.batch_size))
    return lambda: step(next(starts))


def contenders(model: str, profile: str, device: torch.device, rounds: int, steps: int) -> list[dict]:
    """A row for each of (a) to (d)."""
    workers = 8 if device.type == "cuda" else 1  # of the DataLoader
    config, data = (
        RunConfig(dataset="cifar100", model=model, profile=profile),
        random_images(IMAGES, torch.device("cpu")),
    )
    ways = {"plain float32, DataLoader": plain(config, data, device, False, workers)}
    if device.type == "cuda":
        half = str(half_type(device)).removeprefix("torch.")
        ways[f"plain {half}, DataLoader"] = plain(config, data, device, True, workers)
    ways["ours, as it reads"] = ours(config, data, device, graphed=False)
    if device.type == "cuda":
        ways["ours, CUDA graph"] = ours(config, data, device, graphed=True)
    times = {name: [] for name in ways}
    for step in ways.values():
        seconds(step, 8, device)
    for _ in range(rounds):
        for name, step in ways.items():
            times[name].append(seconds(step, steps, device))
    first, per_image = next(iter(times.values())), flops_per_image(config)
    return [
        {
            "model": model,
            "step": name,
            "images_per_s": config.batch_size / median(taken),
            "over_plain": median(f / t for f, t in zip(first, taken, strict=True)),
            "flops_per_s": per_image * config.batch_size / median(taken),
        }
        for name, taken in times.items()
    ]
