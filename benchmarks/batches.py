"""A batch of tiny runs, bare, as executed notebooks and on Ray: time, what a run costs beside the bare one, two slots.

    python benchmarks/batches.py                  (200 runs a way: half an hour on two cores)
    python benchmarks/batches.py --slots 2        (200 runs a way on two slots alone: ten minutes)
    python benchmarks/batches.py --runs 12        (two minutes)

Each way is timed twice, with a quarter of the runs and with all of them: the difference is what the further runs take,
without the start of the processes. A slot has one thread. Local slots, and those of Ray, are one and two; the speed-up
is over one slot.
"""

import argparse
import json
import os
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from imcl_core import RunConfig
from imcl_core.study.batch import run_batch
from imcl_core.study.pools import Slots
from imcl_core.study.ray import RayPool
from imcl_core.training.machine import choose_device, environment

WAYS = ("bare", "papermill", "ray")


def seconds(way: str, slots: int, runs: int) -> float:
    """Wall time of a batch of so many runs, all of them done."""
    configs = [RunConfig(seed=seed, width=1 / 16, epochs=2, train_size=320, batch_size=64) for seed in range(runs)]
    pool = RayPool(jobs=slots) if way == "ray" else Slots.on_cores(slots)
    with TemporaryDirectory() as out:
        began = time.perf_counter()
        outcome = run_batch(configs, out, pool=pool, notebook=way == "papermill", device="cpu", progress=False)
        if len(outcome.done) != runs:
            raise SystemExit(f"{way}: {outcome}")
        return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--ways", nargs="*", choices=WAYS, default=WAYS)
    parser.add_argument("--slots", nargs="*", type=int, default=(1, 2), help="how many runs at once (default: 1 2)")
    parser.add_argument("--out", type=Path, help="write the figures to this JSON file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    few, figures = max(2, arguments.runs // 4), {}
    print(f"{'':12}{'slots':>6}{'batch s':>10}{'a run s':>10}{'over bare s':>13}{'speed-up':>10}")
    for way in arguments.ways:
        for slots in arguments.slots:
            start, whole = (seconds(way, slots, runs) for runs in (few, arguments.runs))
            figures[f"{way} {slots}"] = row = {"batch": whole, "run": (whole - start) / (arguments.runs - few)}
            row["over_bare"] = row["run"] - figures.get(f"bare {slots}", row)["run"]
            row["speed_up"] = figures.get(f"{way} 1", row)["run"] / row["run"]
            print(f"{way:12}{slots:6}{whole:10.1f}{row['run']:10.2f}{row['over_bare']:13.2f}{row['speed_up']:10.2f}")
    load = [round(value, 2) for value in os.getloadavg()]
    print(f"load {load}")
    if arguments.out:
        content = {**environment(choose_device("cpu")), "runs": arguments.runs, "load": load, "seconds": figures}
        arguments.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
