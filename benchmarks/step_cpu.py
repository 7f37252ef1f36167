"""What each method adds to a training step on one core: CPU time of its step over the baseline's.

Narrow networks (a quarter of the width), images of 32×32, ten classes, batches of 128, one thread, channels last, in
float32 and under autocast to bfloat16. Turns are taken in one process: every method's steps right beside those of the
baseline, before them in one turn and behind them in the next, and the first step of each is not counted: in training a
step comes after one of its own kind, whose memory it takes over. Ratios are medians of such pairs; other processes on
the machine take part in neither.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import torch

from imcl_core import Collaboration, MethodSettings, methods
from imcl_core.networks import build
from imcl_core.study.grids import BEST, SINGLES, WITHOUT_PROJECTION
from imcl_core.training.machine import device_name, kept_memory

NEIGHBOURS = tuple(term.name for term in methods.NEIGHBOURS if not term.taught_by)
VARIANTS = {"pull-push without projection": {"methods": "pull-push", "settings": WITHOUT_PROJECTION}}
METHODS = ("baseline", "out", "kernel", "mid", "pull-push", *BEST, "+".join(SINGLES), *NEIGHBOURS, *VARIANTS)
MODELS = ("resnet18", "vgg16")
BATCH, CLASSES, WIDTH, SIDE = 128, 10, 0.25, 32


def step_of(methods: str, model: str, half: bool) -> Callable[[], None]:
    """A training step on a batch that stays the same."""
    torch.manual_seed(0)
    how = VARIANTS.get(methods, {"methods": methods, "settings": {}})
    settings = MethodSettings(**how["settings"])
    network = build(model, CLASSES, WIDTH)
    collaboration = Collaboration(network, how["methods"], settings=settings, image_shape=(3, SIDE, SIDE))
    collaboration = collaboration.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(collaboration.parameters(), 0.01, 0.9, weight_decay=5e-4)
    images = torch.randn(BATCH, 3, SIDE, SIDE).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(CLASSES, (BATCH,))

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = collaboration(images, labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


def seconds(step: Callable[[], None], counted: int = 2) -> float:
    """Of CPU time, of this process alone, for a step behind one of its own kind."""
    step()
    began = time.process_time()
    for _ in range(counted):
        step()
    return (time.process_time() - began) / counted


def pair(turn: int, baseline: Callable[[], None], step: Callable[[], None]) -> tuple[float, float]:
    """Seconds of both; which of them comes first changes from turn to turn."""
    order = (baseline, step) if turn % 2 else (step, baseline)
    took = {which: seconds(which) for which in order}
    return took[baseline], took[step]


def measure(model: str, half: bool, turns: int, wanted: Sequence[str] = METHODS[1:]) -> dict:
    """Milliseconds of the baseline's step, and every method's over it."""
    steps = {methods: step_of(methods, model, half) for methods in ("baseline", *wanted)}
    with kept_memory(torch.device("cpu")):  # as a run has it
        pairs = [{m: pair(turn, steps["baseline"], steps[m]) for m in wanted} for turn in range(turns)]
    over = {m: round(median(turn[m][1] / turn[m][0] for turn in pairs), 3) for m in wanted}
    return {
        "model": model,
        "precision": "bfloat16" if half else "float32",
        "baseline_ms": round(1000 * median(before for turn in pairs for before, _ in turn.values()), 1),
        "over_baseline": over,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--out", type=Path, help="a JSON file, of which other rows are kept")
    parser.add_argument("--label", default="now", help="the name of these rows in the file, such as a commit")
    parser.add_argument(
        "--only", nargs="+", choices=METHODS[1:], metavar="METHODS", help="add these to the rows in --out"
    )
    arguments = parser.parse_args()
    kept = json.loads(arguments.out.read_text()) if arguments.out and arguments.out.exists() else {}
    made = {"torch": torch.__version__, "processor": device_name(torch.device("cpu")), "turns": arguments.turns}
    before = kept.get(arguments.label, {})
    if arguments.only and before | made != before:
        parser.error(
            f"--only adds to rows in --out named {arguments.label!r}, which were made with {made}: there are none"
        )
    torch.set_num_threads(1)
    rows = []
    for model in MODELS:
        for half in (False, True):
            rows.append(measure(model, half, arguments.turns, arguments.only or METHODS[1:]))
            print(rows[-1], flush=True)
    if arguments.out:
        if arguments.only:
            rows = [
                row | {"over_baseline": row["over_baseline"] | new["over_baseline"]}
                for row, new in zip(before["rows"], rows, strict=True)
            ]
        arguments.out.write_text(json.dumps(kept | {arguments.label: made | {"rows": rows}}, indent=1) + "\n")


if __name__ == "__main__":
    main()
