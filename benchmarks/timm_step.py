"""What L_kernel adds to a training step of a network of timm: CPU time, and memory at the peak.

One thread, float32, images of 224×224. Times: both steps in turns in one process, the ratio a median of pairs in the
same turn. Memory: the resident peak of a process that runs a few steps of one of them and nothing else. Needs timm
(`make others`).
"""

import argparse
import json
import multiprocessing
import resource
from collections.abc import Callable
from pathlib import Path
from statistics import median

import timm
import torch
from step_cpu import seconds

from imcl_core import Collaboration
from imcl_core.training.machine import device_name

MODEL, BATCH, CLASSES, SIDE = "resnet50", 8, 100, 224
METHODS = ("baseline", "kernel")


def step_of(methods: str) -> Callable[[], None]:
    """A training step on a batch that stays the same."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    collaboration = Collaboration(timm.create_model(MODEL, num_classes=CLASSES), methods).train()
    optimizer = torch.optim.SGD(collaboration.parameters(), 0.01, 0.9)
    images, labels = torch.randn(BATCH, 3, SIDE, SIDE), torch.randint(CLASSES, (BATCH,))

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        collaboration(images, labels).backward()
        optimizer.step()

    return step


def peak_gb(methods: str) -> float:
    """Resident memory at the peak of three steps, GB; of the process it runs in."""
    step = step_of(methods)
    for _ in range(3):
        step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def measure(turns: int) -> dict:
    """Seconds of the baseline's step, what `kernel` takes of it, and the peaks of both."""
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        peaks = pool.map(peak_gb, METHODS, chunksize=1)
    steps = {methods: step_of(methods) for methods in METHODS}
    for step in steps.values():
        step()
    taken = [{methods: seconds(step) for methods, step in steps.items()} for _ in range(turns)]
    return {
        "model": MODEL, "batch": BATCH, "side": SIDE, "turns": turns,
        "torch": torch.__version__, "timm": timm.__version__, "processor": device_name(torch.device("cpu")),
        "baseline_s": round(median(turn["baseline"] for turn in taken), 2),
        "kernel_over_baseline": round(median(turn["kernel"] / turn["baseline"] for turn in taken), 3),
        "peak_gb": dict(zip(METHODS, (round(peak, 2) for peak in peaks), strict=True)),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    found = json.dumps(measure(options.turns), indent=1)
    options.out.write_text(found + "\n", encoding="utf-8")
    print(found)


if __name__ == "__main__":
    main()
