"""What a reproduction will take, before anything is run: operations, and the hours of a GPU."""

import dataclasses
import functools
import re
import statistics
from collections.abc import Iterable, Sequence

import pandas as pd
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from tqdm import tqdm

from imcl_core.measure.memory import on_fake_tensors
from imcl_core.study.speeds import alone
from imcl_core.training.config import RunConfig, as_fast
from imcl_core.training.machine import on_gpu
from imcl_core.training.record import Record

GPUS = {"T4": 65e12, "A100": 312e12, "H100": 989e12}  # operations/s in half precision, by NVIDIA's sheets
# Of that, reached in training: by airbench's ResNet-18 on an A100, and our step of a CPU's peak; by ours on an H100.
SHARE = {"T4": 0.25, "A100": 0.25, "H100": 0.14}


@dataclasses.dataclass(frozen=True)
class Work:
    """What some runs take: how many there are, the images they train on, and all their operations."""

    runs: int
    images: float
    operations: float


@functools.cache
def operations(config: RunConfig) -> float:
    """Operations of a training step for each image: multiplications and additions of all convolutions and products.

    Forward and backward, counted on fake tensors; takes a fraction of a second, and none the second time. Methods that
    are joined are counted one by one, for what each adds to the baseline adds up.
    """
    no_work = (as_fast() | {"precision"}) - {"profile"}  # whose sizes are filled in already
    methods, usual = config.methods.split("+"), RunConfig()
    same = {name: getattr(usual, name) for name in no_work}
    each = [_operations(dataclasses.replace(config, methods=m, **same)) for m in methods]
    if len(methods) == 1:
        return each[0]
    plain = _operations(dataclasses.replace(config, methods="baseline", **same))
    return plain + sum(operations - plain for operations in each)


@functools.cache
def _of_baseline(config: RunConfig) -> float:
    return operations(dataclasses.replace(config, methods="baseline"))


@functools.cache
def _operations(config: RunConfig) -> float:
    with on_fake_tensors(config) as (images, labels, collaboration), _Operations() as counter:
        collaboration(images, labels).backward()
    return counter.total / config.batch_size


class _Operations(TorchDispatchMode):
    """Adds up the operations that run inside, those of local backward passes too.

    PyTorch's `FlopCounterMode` does the same, but its hooks on modules cannot bear `torch.autograd.grad` inside,
    which local terms call that sit behind blocks.
    """

    total = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        formula = flop_registry.get(function._overloadpacket)
        self.total += formula(*args, **(kwargs or {}), out_val=result) if formula else 0
        return result


def work(configs: Iterable[RunConfig]) -> Work:
    """What the runs take together; an evaluation is one forward pass of the plain network."""
    runs = images = total = 0
    for config in configs:
        trained, tested = _seen(config), config.evaluations * config.evaluated_images
        runs, images = runs + 1, images + trained
        total += trained * operations(config) + tested * _of_baseline(config) / 3
    return Work(runs, images, total)


def hours(configs: Sequence[RunConfig], gpu: str, records: Iterable[Record] = ()) -> tuple[float, bool]:
    """Hours of one `gpu` of `GPUS`, and whether they rest on measured speeds.

    A run like one of `records` that had such a GPU for itself takes as long for an image as that did; any other
    `SHARE` of the GPU's peak.
    """
    speeds: dict[tuple, list[float]] = {}
    for record in records:
        if re.search(rf"\b{gpu}\b", record.run["device"]) and alone(record):
            speeds.setdefault(record.config.like, []).append(record.run["seconds"] / _seen(record.config))
    seconds, measured = 0.0, bool(configs)
    for config in configs:
        if like := speeds.get(config.like):
            seconds += _seen(config) * statistics.median(like)
        else:
            seconds += work([config]).operations / (SHARE[gpu] * GPUS[gpu])
            measured = False
    return seconds / 3600, measured


def core_hours(configs: Iterable[RunConfig], records: Iterable[Record]) -> tuple[float, int]:
    """Hours of one core of a processor, and how many of the runs are not in them: no run like them was measured.

    Measured are `records` of runs of one thread, on a processor.
    """
    seconds: dict[tuple, list[float]] = {}
    for record in records:
        if record.run.get("threads") == 1 and not on_gpu(record.run):
            seconds.setdefault(record.config.like, []).append(record.run["seconds"] / _seen(record.config))
    known = [statistics.median(seconds[c.like]) * _seen(c) if c.like in seconds else None for c in configs]
    return sum(filter(None, known)) / 3600, known.count(None)


def _seen(config: RunConfig) -> float:
    """Images that a run trains on, an image as often as there are epochs."""
    return config.epochs * config.images


def plan(grids: dict[str, Sequence[RunConfig]], records: Iterable[Record] = ()) -> pd.DataFrame:
    """A row a table: its runs, millions of images, 10¹⁸ operations, and hours of each GPU; the last, each run once."""
    every = {config.name: config for configs in grids.values() for config in configs}
    rows, records = {}, list(records)
    for config in tqdm(every.values(), desc="counting operations", unit="run", delay=1, leave=False, disable=None):
        operations(config)  # takes the time; it is kept for what follows
    for name, configs in {**grids, "all, each run once": list(every.values())}.items():
        sums = work(configs)
        rows[name] = {"runs": sums.runs, "10⁶ images": sums.images / 1e6, "10¹⁸ operations": sums.operations / 1e18}
        rows[name] |= {f"{gpu}, h": hours(configs, gpu, records)[0] for gpu in GPUS}
    return pd.DataFrame(rows).T.astype({"runs": int})
