"""Several runs at once on one machine: images a second in all, beside one run alone.

    python benchmarks/processes.py                       (two minutes on a CPU: narrow networks)
    python benchmarks/processes.py --profile paper       (on a GPU, where one run may leave the chip half idle)

On a CPU the processes share the cores. They start their steps together, and take turns with the run alone for a few
rounds; shown are medians. `imcl batch --jobs N` is worth it where N at once are faster.
"""

import argparse
import json
import multiprocessing
import os
import time
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from pathlib import Path
from statistics import median
from threading import BrokenBarrierError

import torch
from steps import Timed

from imcl_core.training.machine import choose_device, environment


def share(barrier) -> None:
    """Keeps, in a process of the pool, what all of them wait at."""
    global together
    together = barrier


def worker(threads: int, model: str, profile: str, device: str, steps: int) -> float:
    torch.set_num_threads(threads)
    try:
        timed = Timed(model, "baseline", profile, torch.device(device))
        timed.run(8)
    except BaseException:
        together.abort()  # the others wait for nobody
        raise
    together.wait()
    began = time.perf_counter()
    timed.run(steps)
    return steps * timed.batch_size / (time.perf_counter() - began)


def rate(jobs: int, model: str, profile: str, device: torch.device, steps: int) -> float:
    """Images a second of `jobs` processes together; raises what one of them raised."""
    context, threads = multiprocessing.get_context("spawn"), max(1, (os.cpu_count() or 1) // jobs)
    barrier = context.Barrier(jobs)
    with ProcessPoolExecutor(jobs, context, initializer=share, initargs=(barrier,)) as pool:
        running = [pool.submit(worker, threads, model, profile, str(device), steps) for _ in range(jobs)]
        wait(running, return_when=FIRST_EXCEPTION)
        raised = [error for each in running if each.done() and (error := each.exception())]
        for error in sorted(raised, key=lambda error: isinstance(error, BrokenBarrierError)):
            raise error
        return sum(each.result() for each in running)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write the figures to this JSON file")
    parser.add_argument("--profile", default="cpu", help="cpu (narrow) or paper (full width)")
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--device", help="cpu or cuda (default: a GPU where there is one)")
    parser.add_argument("--jobs", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    device = choose_device(arguments.device)
    steps = 300 if device.type == "cuda" else 20
    rates: dict[int, list[float]] = {jobs: [] for jobs in arguments.jobs}
    for _ in range(arguments.rounds):
        for jobs, measured in rates.items():
            measured.append(rate(jobs, arguments.model, arguments.profile, device, steps))
    for jobs, measured in rates.items():
        print(f"{jobs} at once: {median(measured):8.0f} images/s  ({min(measured):.0f} to {max(measured):.0f})")
    if arguments.out:
        content = {**environment(device), "profile": arguments.profile, "images_per_s": rates}
        arguments.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
