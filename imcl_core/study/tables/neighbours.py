"""The comparison with neighbours: every method at the strength that its trials chose."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pandas as pd

from imcl_core.methods import TERMS
from imcl_core.study.grids import STRENGTHS, TUNED, grid, trial
from imcl_core.study.ledger import Ledger, Run
from imcl_core.study.tables.decisions import row_of_runs
from imcl_core.study.tables.judge import gained, metric_of, moments, summarise
from imcl_core.study.tables.write import Cell, Table
from imcl_core.training.config import RunConfig

COMPARED = 3  # seeds of that comparison; a further baseline is there as a teacher alone


def neighbours_table(ledger: Ledger, operations: Mapping[str, float] | None = None) -> Table:
    """The baseline, the four and their neighbours, each at its chosen strength: how that was chosen, and what it gives.

    `operations` of a training step by method, relative to the baseline's, as `imcl_core.study.plan` counts
    them: one column more. Counting takes seconds, so it is left to the caller.
    """
    rows, data, by_method = [], [], neighbour_gains(ledger)
    for config in grid("neighbours", "cpu", 1):
        runs, gains = compared(config, ledger), by_method.get(config.methods, {})
        summary = summarise(config, runs) | {"pairs": len(gains)} | moments(gains.values())
        trials, tried = _trials(config, ledger)
        _, _, method, n, last, _, gain, hardware = row_of_runs(config, runs, summary)
        n = replace(n, lines=(f"{len(runs)} of {COMPARED}",))
        source = TERMS[config.methods].source if config.methods in TERMS else ""
        cost = (operations or {}).get(config.methods)
        price = [] if operations is None else [Cell(("" if cost is None else f"{cost:.2f}",), cost)]
        rows.append((method, Cell((source,)), trials, n, last, gain, *price, hardware))
        data.append({"table": "neighbours"} | summary | {"source": source, "operations": cost} | tried)
    data = pd.DataFrame(data)
    note = (
        "ResNet-18 on CIFAR-100 in the cpu profile: narrow networks, a part of the images, few epochs; no number of "
        "the paper stands beside it. Held-out error: at the end of a short run on images held out of the training set, "
        f"one seed; {data.tried.sum()} of {sum(map(len, STRENGTHS.values()))} such runs are there. "
        "Chosen: the strength of the runs behind the other columns, which are tested on the test set; "
        f"{data.n.sum()} of {COMPARED * len(data)} are there. Errors in percent, of the last epoch: mean and deviation "
        "over n seeds. Gain: the baseline's error less the method's, seed by seed; above zero is better."
    )
    if operations is not None:
        note += (
            " Operations: multiplications and additions of a training step, as a multiple of the baseline's; the "
            "training of a teacher, and the linear systems of hsic, are not in them."
        )
    price = [] if operations is None else ["operations"]
    columns = ("method", "source", "held-out error by strength", "n", "last epoch", "gain", *price)
    shown = (
        "method", "chosen", "n", "last_mean", "last_deviation", "gain_mean", "gain_deviation", "pairs",
        *price,
    )  # fmt: skip
    title = "The four and their neighbours, tuned alike, in the cpu profile (not the paper's scale)"
    return Table("neighbours", title, note, (*columns, "hardware"), tuple(rows), data, shown)


def compared(config: RunConfig, ledger: Ledger) -> tuple[Run, ...]:
    """The runs of `config` at the seeds of the comparison with neighbours."""
    return tuple(run for run in ledger.runs(config) if run.seed < COMPARED)


def neighbour_gains(ledger: Ledger) -> dict[str, dict[int, float]]:
    """By method, then by seed: the gain over the baseline at the chosen strength, in points."""
    baseline, *others = grid("neighbours", "cpu", 1)
    every = {config.methods: gained(config, baseline, ledger) for config in others}
    return {m: {seed: gain for seed, gain in by_seed.items() if seed < COMPARED} for m, by_seed in every.items()}


def strength_name(strength: Mapping[str, Any]) -> str:
    """A strength as a number: of its first setting, at the last layer where layers differ."""
    value = next(iter(strength.values()))
    return f"{value[-1] if isinstance(value, tuple) else value:g}"


def _trials(config: RunConfig, ledger: Ledger) -> tuple[Cell, dict[str, Any]]:
    """A line a strength with its held-out error, the chosen one marked; and the same for the data."""
    method = config.methods
    strengths = STRENGTHS.get(method, [{}])
    found = [ledger.runs(trial(method, strength, config.profile)) for strength in strengths]
    found = [next((run for run in runs if run.seed == 0), None) for runs in found]
    names = [strength_name(s) if s else "baseline" for s in strengths]
    errors = [None if run is None else run.errors[metric_of(config.dataset)][0] for run in found]
    marks = [", chosen" if s and s == TUNED[method] else "" for s in strengths]
    lines = [
        f"{name}: {'none yet' if error is None else f'{error:.2f}'}{mark}"
        for name, error, mark in zip(names, errors, marks, strict=True)
    ]
    if method in STRENGTHS:
        lines.insert(0, next(iter(strengths[0])))
    runs = [(run, name) for run, name in zip(found, names, strict=True) if run is not None]
    cell = Cell(tuple(lines), None, tuple(r for r, _ in runs), config.profile, tuple(name for _, name in runs))
    return cell, {
        "setting": next(iter(strengths[0]), ""),
        "chosen": strength_name(TUNED[method]) if method in TUNED else "",
        "trials": " ".join(f"{n}:{e}" for n, e in zip(names, errors, strict=True) if e is not None),
        "tried": len(runs) if method in STRENGTHS else 0,
        "trial_records": " ".join(run.path.name for run, _ in runs),
    }
