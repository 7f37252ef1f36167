"""Training steps, all in one run: our step beside plain PyTorch, and each method beside the baseline.

    python benchmarks/steps.py --out steps.json          (five minutes on a CPU: narrow networks)
    python benchmarks/steps.py --profile paper           (on a GPU: the paper's networks)

CIFAR-like random images, batch 128. The methods take turns for a few rounds; shown are medians, and the median of
each round's ratio to the baseline. Memory: on a GPU the allocator's peak; on a CPU the growth of a fresh process over
three steps, so that ratios hold what PyTorch keeps, not what it loads.
"""

import argparse
import json
import multiprocessing
import time
from pathlib import Path
from statistics import median

import torch
from speed import contenders

from imcl_core import RunConfig
from imcl_core.data.batches import TrainBatches
from imcl_core.study.gpu.checks import random_images
from imcl_core.study.gpu.speeds import matrix_peak
from imcl_core.training.machine import choose_device, environment, forget_peak, peak_memory
from imcl_core.training.run import build_collaboration
from imcl_core.training.step import make_step

MODELS = ("resnet18", "vgg16")
METHODS = ("baseline", "out", "kernel", "mid", "pull-push", "out+mid+pull-push+kernel")


class Timed:
    """The training step of one method, ready to run."""

    def __init__(self, model: str, methods: str, profile: str, device: torch.device):
        config = RunConfig(dataset="cifar100", model=model, methods=methods, profile=profile, batch_size=128)
        data = random_images(2_048, device)
        self.device, self.batch_size, self.position = device, config.batch_size, 0
        batches = TrainBatches(data, config.batch_size)
        collaboration = build_collaboration(config, data).to(device, memory_format=torch.channels_last).train()
        self.step, self.steps_an_epoch = make_step(collaboration, batches, config, device), len(batches)

    def run(self, steps: int) -> float:
        """Seconds a step."""
        self.synchronise()
        began = time.perf_counter()
        for _ in range(steps):
            self.step(self.position % self.steps_an_epoch * self.batch_size)
            self.position += 1
        self.synchronise()
        return (time.perf_counter() - began) / steps

    def synchronise(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def memory(model: str, methods: str, profile: str, device: torch.device) -> int:
    """Bytes that a few training steps add to this process; call it in a fresh one."""
    torch.set_num_threads(1)
    forget_peak(device)
    before = peak_memory(device)
    Timed(model, methods, profile, device).run(8 if device.type == "cuda" else 3)
    return peak_memory(device) - before


def measure(model: str, profile: str, device: torch.device, rounds: int, steps: int) -> list[dict]:
    runners = {methods: Timed(model, methods, profile, device) for methods in METHODS}
    seconds = {methods: [] for methods in METHODS}
    for runner in runners.values():
        runner.run(8 if device.type == "cuda" else 1)
    for _ in range(rounds):
        for methods, runner in runners.items():
            seconds[methods].append(runner.run(steps))
    batch_size = runners["baseline"].batch_size
    del runners
    context = multiprocessing.get_context("spawn")
    rows = []
    for methods in METHODS:
        if device.type == "cuda":  # whose peak can be forgotten: a process each would take minutes of the card
            taken = memory(model, methods, profile, device)
        else:
            with context.Pool(1) as pool:
                taken = pool.apply(memory, (model, methods, profile, device))
        ratios = [s / b for s, b in zip(seconds[methods], seconds["baseline"], strict=True)]
        rows.append(
            {
                "model": model,
                "methods": methods,
                "images_per_s": batch_size / median(seconds[methods]),
                "time_over_baseline": median(ratios),
                "memory_gb": taken / 1e9,
            }
        )
    for row in rows:
        row["memory_over_baseline"] = row["memory_gb"] / rows[0]["memory_gb"]
    return rows


def _tables(arguments: argparse.Namespace, device: torch.device, steps: int, peak: float) -> tuple[list, list]:
    """Our step beside others, and methods beside the baseline: rows, printed as they come."""
    print(f"fastest matrix product: {peak / 1e12:.2f} TFLOP/s")
    print(f"{'model':10}{'step':30}{'images/s':>10}{'over plain':>12}{'of the peak':>13}")
    ways = []
    for model in MODELS:
        for row in contenders(model, arguments.profile, device, arguments.rounds, steps):
            ways.append(row | {"share_of_peak": row["flops_per_s"] / peak})
            print(
                f"{row['model']:10}{row['step']:30}{row['images_per_s']:10.0f}{row['over_plain']:12.2f}"
                f"{row['flops_per_s'] / peak:13.1%}",
                flush=True,
            )
    print(f"{'model':10}{'methods':30}{'images/s':>10}{'time ratio':>12}{'GB':>8}{'memory ratio':>14}")
    methods = []
    for model in MODELS:
        for row in measure(model, arguments.profile, device, arguments.rounds, steps):
            methods.append(row)
            print(
                f"{row['model']:10}{row['methods']:30}{row['images_per_s']:10.0f}{row['time_over_baseline']:12.2f}"
                f"{row['memory_gb']:8.2f}{row['memory_over_baseline']:14.2f}",
                flush=True,
            )
    return ways, methods


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write the figures to this JSON file")
    parser.add_argument("--profile", default="cpu", help="cpu (narrow) or paper (full width)")
    parser.add_argument("--device", help="cpu or cuda (default: a GPU where there is one)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, help="a round (default: 3 on a CPU, 100 on a GPU)")
    arguments = parser.parse_args()
    device = choose_device(arguments.device)
    steps = arguments.steps or (100 if device.type == "cuda" else 3)
    if device.type == "cpu":
        torch.set_num_threads(1)
    peak = matrix_peak(device)
    ways, methods = _tables(arguments, device, steps, peak)
    if arguments.out:
        content = {
            **environment(device),
            "profile": arguments.profile,
            "rounds": arguments.rounds,
            "matrix_flops_per_s": peak,
            "ways": ways,
            "methods": methods,
        }
        arguments.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
