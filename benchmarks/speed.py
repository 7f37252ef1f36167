"""Images a second of our training step beside what a user would write; `steps.py` prints it.

(a) the same network in plain PyTorch, float32, fed by a torchvision `DataLoader` with the same transforms; (b) the same
in half precision (on a GPU); (c) our step as it reads; (d) our step as a CUDA graph (on a GPU). FLOP/s count the
convolutions and matrix products of forward and backward, and are set against the fastest matrix product measured in
the same run.
"""

import itertools
import time
from collections.abc import Callable, Iterator
from statistics import median

import torch
import torch.nn.functional as F
from data_path import PilImages
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from imcl_core import RunConfig
from imcl_core.data.batches import TrainBatches
from imcl_core.data.sets import DataSet, Split
from imcl_core.networks import build
from imcl_core.training.run import build_collaboration
from imcl_core.training.step import make_step

CLASSES = 100
IMAGES = 4_096


def random_images(count: int, device: torch.device) -> DataSet:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)
    split = Split(pixels, torch.randint(CLASSES, (count,), generator=generator))
    half = torch.full((3,), 0.5)
    return DataSet("random", tuple(map(str, range(CLASSES))), split, split, half, half / 2).to(device)


def plain(config: RunConfig, data: DataSet, device: torch.device, half: bool, workers: int) -> Callable[[], None]:
    """A step as a tutorial has it: DataLoader, zero_grad, forward, backward, step."""
    network = build(config.model, CLASSES, config.width).to(device).train()
    optimizer = torch.optim.SGD(network.parameters(), config.lr, config.momentum, weight_decay=config.weight_decay)
    loader = DataLoader(
        PilImages(data), config.batch_size, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=True
    )
    batches: Iterator = itertools.chain.from_iterable(itertools.repeat(loader))

    def step() -> None:
        images, labels = (part.to(device, non_blocking=True) for part in next(batches))
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=half):
            loss = F.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def ours(config: RunConfig, data: DataSet, device: torch.device, graphed: bool) -> Callable[[], None]:
    batches = TrainBatches(data.to(device), config.batch_size)
    collaboration = build_collaboration(config, data).to(device, memory_format=torch.channels_last).train()
    step = make_step(collaboration, batches, config, device, graphed)
    starts = itertools.cycle(range(0, len(batches) * config.batch_size, config.batch_size))
    return lambda: step(next(starts))


def seconds(step: Callable[[], None], steps: int, device: torch.device) -> float:
    """Of one step, over `steps` of them."""
    wait = torch.cuda.synchronize if device.type == "cuda" else (lambda: None)
    wait()
    began = time.perf_counter()
    for _ in range(steps):
        step()
    wait()
    return (time.perf_counter() - began) / steps


def flops_per_image(config: RunConfig) -> float:
    """Of a training step: three times the forward pass."""
    network = build(config.model, CLASSES, config.width).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, 32, 32))
    return 3 * counter.get_total_flops()


def matrix_peak(device: torch.device) -> float:
    """FLOP/s of a large square matrix product, in bfloat16 on a GPU and float32 on a CPU."""
    size, dtype = (8_192, torch.bfloat16) if device.type == "cuda" else (2_048, torch.float32)
    a = torch.randn(size, size, device=device, dtype=dtype)
    seconds(lambda: a @ a, 3, device)
    return 2 * size**3 / min(seconds(lambda: a @ a, 5, device) for _ in range(5))


def contenders(model: str, profile: str, device: torch.device, rounds: int, steps: int) -> list[dict]:
    """A row for each of (a) to (d)."""
    workers = 8 if device.type == "cuda" else 1  # of the DataLoader
    config, data = (
        RunConfig(dataset="cifar100", model=model, profile=profile),
        random_images(IMAGES, torch.device("cpu")),
    )
    ways = {"plain float32, DataLoader": plain(config, data, device, False, workers)}
    if device.type == "cuda":
        ways["plain bfloat16, DataLoader"] = plain(config, data, device, True, workers)
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
