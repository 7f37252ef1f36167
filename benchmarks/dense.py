"""Segmentation with and without the four losses: a U-Net on mosaics of patterns, three seeds, pairs of one seed.

    python benchmarks/dense.py --out benchmarks/dense.json      (ten minutes on two cores)
    python benchmarks/dense.py --seeds 1 --methods baseline mid

Every weight is the default of classification, fixed before the first run; nothing is tuned on these scenes, and each
record names its weights. Runs of a seed share the initial weights and the order of the first epoch; later orders follow
the stream that masks and pixels are drawn from too, and so differ between methods. A process has one thread.
"""

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean, stdev

import torch
from tqdm import tqdm

from imcl_core.files import write_whole
from imcl_core.study.scenes import fit

METHODS = ("baseline", "out", "mid", "pull-push", "kernel", "mid+pull-push")


def run(case: tuple[str, int]) -> dict:
    methods, seed = case
    torch.set_num_threads(1)
    return fit(methods, seed, progress=False)[0]


def summary(records: list[dict], methods: str) -> str:
    """The last epoch's mIoU, and its difference to the baseline's, seed by seed."""
    by_seed = {m: {r["seed"]: r["curve"][-1]["miou"] for r in records if r["methods"] == m} for m in METHODS}
    differences = [miou - by_seed["baseline"][seed] for seed, miou in by_seed[methods].items()]
    pairs = [
        fmean(values) if len(values) < 2 else f"{fmean(values):6.2f} ± {stdev(values):4.2f}"
        for values in (list(by_seed[methods].values()), differences)
    ]
    return f"{methods:14} mIoU {pairs[0]}, less the baseline's {pairs[1]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--methods", nargs="*", default=METHODS, choices=METHODS)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, help="write the records to this JSON file")
    arguments = parser.parse_args()
    methods = dict.fromkeys(("baseline", *arguments.methods))
    cases = [(m, seed) for seed in range(arguments.seeds) for m in methods]
    with ProcessPoolExecutor(arguments.jobs, mp_context=get_context("spawn")) as pool:
        records = list(tqdm(pool.map(run, cases), total=len(cases), unit=" runs"))
    for name in methods:
        print(summary(records, name))
    if arguments.out:
        write_whole(arguments.out, (json.dumps(records, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
