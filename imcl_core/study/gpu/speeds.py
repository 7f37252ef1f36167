"""How fast the step is, beside a plain loop, as a share of the card's peak, and each method beside the baseline."""

import functools
import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.flop_counter import FlopCounterMode

from imcl_core.data.sets import DataSet
from imcl_core.networks import build
from imcl_core.study.gpu.checks import ALL, random_images
from imcl_core.training.config import RunConfig
from imcl_core.training.machine import forget_peak, own_random_numbers, peak_memory
from imcl_core.training.run import Run
from imcl_core.training.step import half_type

MODELS = ("resnet18", "vgg16")
METHODS = ("baseline", "out", "kernel", "mid", "pull-push", ALL)
IMAGES, CLASSES = 2_048, 100
EVALUATED = 10_000  # images, whose evaluation a row has the seconds of
WARM_UP = 6  # steps, the capture among them
Row = dict[str, Any]


def rows(profile: str, device: torch.device, steps: int) -> Iterator[Row]:
    """A row a measurement, as it comes: the peak, then for each network the plain loops and the methods.

    What cannot be measured has a row that says why, in `failed`.
    """
    types = (torch.float32, half_type(device)) if device.type == "cuda" else (torch.float32,)
    named = [str(each).removeprefix("torch.") for each in types]
    first = attempted(f"fastest matrix product, {named[-1]}", lambda: {"flops_per_s": matrix_peak(device)})
    yield first
    for model in MODELS:
        config = RunConfig(dataset="cifar100", model=model, profile=profile)
        for dtype, name in zip(types, named, strict=True):
            rate = functools.partial(plain_rate, config, device, dtype != torch.float32, max(3, steps // 10))
            yield attempted(f"plain loop, {name}", rate, model=model)
        per_image, baseline = flops_per_image(config), None
        for methods in METHODS:
            tried = RunConfig(dataset="cifar100", model=model, methods=methods, profile=profile)
            step = functools.partial(method_row, tried, device, steps)
            row = attempted("training step", step, model=model, methods=methods)
            baseline = row if methods == "baseline" else baseline
            yield row | _compared(row, baseline, first.get("flops_per_s"), per_image)


def attempted(what: str, measure: Callable[[], Row], **about: str) -> Row:
    """The row of a measurement; of one that fails, why."""
    try:
        return {"what": what, **about, **measure()}
    except Exception as error:  # the next may tell something
        return {"what": what, **about, "failed": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}


def _compared(row: Row, baseline: Row, peak: float | None, per_image: float) -> Row:
    """What a row comes to beside the baseline's and the card's peak, as far as they are known."""
    if "failed" in row:
        return {}
    found = {"share_of_peak": row["images_per_s"] * per_image / peak} if peak else {}
    if "failed" in baseline:
        return found
    return found | {
        "time_over_baseline": baseline["images_per_s"] / row["images_per_s"],
        "memory_over_baseline": row["peak_memory_gb"] / (baseline["peak_memory_gb"] or 1),
    }


def method_row(config: RunConfig, device: torch.device, steps: int) -> Row:
    """Images a second and the peak of training steps; seconds of evaluating 10,000 images, and of starting."""
    began = time.monotonic()
    data = random_images(IMAGES, device)
    forget_peak(device)
    with own_random_numbers(device):
        run = Run(config, data, device)
        run.collaboration.train()
        starts = itertools.cycle(range(0, len(run.batches) * config.batch_size, config.batch_size))
        for _ in range(WARM_UP):
            run.step(next(starts))
        started = time.monotonic() - began
        taken = seconds(lambda: run.step(next(starts)), steps, device)
        peak = peak_memory(device)
        run.evaluate()
        evaluation = seconds(run.evaluate, 1, device) * EVALUATED / len(data.test)
    return {
        "images_per_s": config.batch_size / taken,
        "peak_memory_gb": peak / 1e9,
        "evaluation_seconds": evaluation,
        "start_seconds": started,
    }


def plain_rate(config: RunConfig, device: torch.device, half: bool, steps: int) -> Row:
    """Images a second of `plain_loop`."""
    return {"images_per_s": config.batch_size / seconds(plain_loop(config, device, half), steps, device)}


def plain_loop(
    config: RunConfig, device: torch.device, half: bool, loader: DataLoader | None = None
) -> Callable[[], None]:
    """A step as a tutorial has it: zero_grad, forward, backward, step, on a loader's batches.

    `loader`: by default one in this process, with torchvision's transforms.
    """
    loader = loader or _usual_loader(config.batch_size)
    batches = itertools.chain.from_iterable(itertools.repeat(loader))
    network = build(config.model, CLASSES, config.width).to(device).train()
    optimizer = torch.optim.SGD(network.parameters(), config.lr, config.momentum, weight_decay=config.weight_decay)

    def step() -> None:
        images, labels = (part.to(device, non_blocking=True) for part in next(batches))
        with torch.autocast(device.type, dtype=half_type(device), enabled=half):
            loss = F.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    step()
    return step


def _usual_loader(batch_size: int) -> DataLoader:
    from torchvision.transforms import v2  # here, since it takes a second to import

    data = random_images(IMAGES, torch.device("cpu"))
    change = v2.Compose([v2.RandomCrop(32, 4), v2.RandomHorizontalFlip(), v2.ToDtype(torch.float32, scale=True)])
    return DataLoader(_Changed(data, change), batch_size, shuffle=True, drop_last=True)


class _Changed(TensorDataset):
    """Images and labels, each image changed when it is asked for."""

    def __init__(self, data: DataSet, change: Callable):
        super().__init__(data.train.images, data.train.labels)
        self.change = change

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        image, label = super().__getitem__(index)
        return self.change(image), label


def seconds(act: Callable[[], Any], times: int, device: torch.device) -> float:
    """Of one call, over so many."""
    wait = functools.partial(torch.cuda.synchronize, device) if device.type == "cuda" else (lambda: None)
    wait()
    began = time.perf_counter()
    for _ in range(times):
        act()
    wait()
    return (time.perf_counter() - began) / times


def flops_per_image(config: RunConfig) -> float:
    """Of a training step: three times the forward pass."""
    network = build(config.model, CLASSES, config.width).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, 32, 32))
    return 3 * counter.get_total_flops()


def matrix_peak(device: torch.device) -> float:
    """FLOP/s of a large square matrix product, in half precision on a GPU and float32 on a CPU."""
    size, dtype = (8_192, half_type(device)) if device.type == "cuda" else (1_024, torch.float32)
    a = torch.randn(size, size, device=device, dtype=dtype)
    seconds(lambda: a @ a, 3, device)
    return 2 * size**3 / min(seconds(lambda: a @ a, 5, device) for _ in range(5))
