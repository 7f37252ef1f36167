"""What bfloat16 saves on a CPU: a training step of the baseline by autocast, and by oneDNN's own switch, over float32.

    python benchmarks/precision.py --out benchmarks/precision.json       (five minutes; needs avx512_bf16 or amx_bf16)

CIFAR-like random images, batch 128, one thread. The three ways take turns for a few rounds. Times are CPU time, which
other processes disturb less: medians, and the median of each round's ratio. Autocast is what training uses.
"""

import argparse
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import torch

from imcl_core import RunConfig
from imcl_core.data.batches import TrainBatches
from imcl_core.study.gpu.checks import random_images
from imcl_core.training.machine import environment
from imcl_core.training.run import build_collaboration
from imcl_core.training.step import make_step

MODELS = ("resnet18", "vgg16")
STEPS = {0.125: 8, 0.25: 6, 0.5: 3, 1.0: 1}  # a round, by width
WAYS = {"float32": "float32", "autocast": "bfloat16", "onednn": "float32"}  # and the setting `precision` of each
CPU = torch.device("cpu")


class Timed:
    """The training step of one way to compute, ready to run."""

    def __init__(self, model: str, width: float, way: str):
        config = RunConfig(dataset="cifar10", model=model, width=width, batch_size=128, precision=WAYS[way])
        data = random_images(1_024, CPU)
        collaboration = build_collaboration(config, data).to(memory_format=torch.channels_last).train()
        self.way, self.step = way, make_step(collaboration, TrainBatches(data, 128), config, CPU)

    def run(self, steps: int) -> float:
        """Seconds of CPU time a step."""
        with onednn_in_bfloat16(self.way == "onednn"):
            began = time.process_time()
            for step in range(steps):
                self.step(step * 128)
            return (time.process_time() - began) / steps


@contextmanager
def onednn_in_bfloat16(on: bool) -> Iterator[None]:
    """float32 tensors go in and out; inside, convolutions and matrix products are in bfloat16."""
    kinds = torch.backends.mkldnn.conv, torch.backends.mkldnn.matmul
    before = [kind.fp32_precision for kind in kinds]
    try:
        for kind in kinds:
            kind.fp32_precision = "bf16" if on else "ieee"
        yield
    finally:
        for kind, precision in zip(kinds, before, strict=True):
            kind.fp32_precision = precision


def measure(model: str, width: float, rounds: int) -> dict:
    runners = [Timed(model, width, way) for way in WAYS]
    for runner in runners:
        runner.run(1)
    seconds = {way: [] for way in WAYS}
    for _ in range(rounds):
        for runner in runners:
            seconds[runner.way].append(runner.run(STEPS[width]))
    row = {"model": model, "width": width} | {f"{way}_s": median(values) for way, values in seconds.items()}
    for way in ("autocast", "onednn"):
        row[f"{way}_gain"] = median(f / s for f, s in zip(seconds["float32"], seconds[way], strict=True))
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write the figures to this JSON file")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    print(
        f"{'model':10}{'width':>7}{'float32, s':>12}{'autocast, s':>13}{'oneDNN, s':>11}{'gain':>8}{'oneDNN gain':>13}"
    )
    for model in MODELS:
        for width in STEPS:
            rows.append(row := measure(model, width, arguments.rounds))
            times = f"{row['float32_s']:12.3f}{row['autocast_s']:13.3f}{row['onednn_s']:11.3f}"
            print(f"{model:10}{width:7g}{times}{row['autocast_gain']:8.2f}{row['onednn_gain']:13.2f}", flush=True)
    if arguments.out:
        content = {**environment(CPU), "rounds": arguments.rounds, "batch_size": 128, "rows": rows}
        arguments.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
