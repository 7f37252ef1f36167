"""The study in the `cpu` profile, and the decisions taken the other way."""

import itertools
from typing import Any

import pandas as pd

from imcl_core.study.grids import ABLATIONS, BEFORE, COMBINATIONS, ablation
from imcl_core.study.ledger import Ledger, Run
from imcl_core.study.tables.judge import moments, paired, summarise
from imcl_core.study.tables.write import NAMES, NO_RUN, Cell, Table, method_name, plus_minus, signed
from imcl_core.training.config import RunConfig
from imcl_core.training.recipes import DATASETS

METHODS = ("baseline", *BEFORE, *COMBINATIONS)  # in the order of the study's rows


def study_table(ledger: Ledger) -> Table:
    """What was run of `METHODS` in the `cpu` profile with default settings, and how far it is from its baseline."""
    rows, data = [], []
    for config in sorted((c for c in ledger.cells("cpu") if c.methods in METHODS), key=_in_order):
        runs = ledger.runs(config)
        if not runs:
            continue
        baseline = RunConfig(dataset=config.dataset, model=config.model, noise=config.noise, profile="cpu")
        differences = {} if config.methods == "baseline" else paired(config, baseline, ledger)
        summary = summarise(config, runs) | {"pairs": len(differences)} | moments(differences.values())
        data.append({"table": "study"} | summary)
        rows.append(study_row(config, runs, summary))
    note = (
        "Narrow networks, a part of the training images, few epochs: what this shows need not hold at the paper's "
        "scale, and no number of the paper stands beside it. Errors in percent: mean and deviation over n seeds. "
        "The difference to the baseline is taken seed by seed, at the last epoch; below zero is better."
    )
    columns = ("network", "noise", "method", "n", "last epoch", "best epoch", "less the baseline's", "hardware")
    shown = (
        "dataset", "model", "noise", "method", "n", "last_mean", "last_deviation", "best_mean", "difference_mean",
        "difference_deviation", "pairs",
    )  # fmt: skip
    title = "The study in the cpu profile (not the paper's scale)"
    empty = ("table", *summarise(RunConfig(), ()), "pairs", *moments(()))
    return Table("study", title, note, columns, tuple(rows), pd.DataFrame(data, columns=empty), shown)


def study_row(config: RunConfig, runs: tuple[Run, ...], summary: dict[str, Any]) -> tuple[Cell, ...]:
    difference = "" if not summary["pairs"] else signed(summary["difference_mean"])
    last, best = ("" if summary[name] is None else f"{summary[name]:.2f}" for name in ("last_mean", "best_mean"))
    if summary["pairs"]:
        difference += plus_minus(summary["difference_deviation"]) + f" ({summary['pairs']})"
    return (
        Cell((f"{NAMES[config.dataset]}, {NAMES[config.model]}",)),
        Cell((f"{config.noise:.0%}",), config.noise),
        Cell((method_name(config.methods),)),
        Cell((str(len(runs)),), len(runs), runs, config.profile),
        Cell((last + plus_minus(summary["last_deviation"]) if runs else NO_RUN,), summary["last_mean"]),
        Cell((best,), summary["best_mean"]),
        Cell((difference,), summary["difference_mean"]),
        Cell((summary["hardware"],)),
    )


def decisions_table(ledger: Ledger) -> Table:
    """Each decision of the book's page taken the other way, less the same seeds as decided; a row a profile."""
    rows, data = [], []
    for (methods, change), profile in itertools.product(ABLATIONS, ("paper", "narrow", "cpu")):
        changed, decided = ablation(methods, change, profile)
        runs, differences = ledger.runs(changed), paired(changed, decided, ledger)
        if profile != "cpu" and not runs:
            continue
        summary = summarise(changed, runs) | {"pairs": len(differences)} | moments(differences.values())
        name = next(reversed(change))
        ways = [_value(getattr(config, name)) for config in (decided, changed)]
        _, _, method, n, last, _, difference, hardware = study_row(changed, runs, summary)
        words = [Cell(tuple(text.split(", "))) for text in (name, *ways)]
        rows.append((method, Cell((NAMES[changed.dataset],)), *words, Cell((profile,)), n, last, difference, hardware))
        data.append({"table": "decisions"} | summary | {"setting": name, "decided": ways[0], "changed": ways[1]})
    note = (
        "ResNet-18. Errors in percent of the decision taken the other way, at the last epoch: mean and deviation over "
        "n seeds. The difference is to the same method as decided, seed by seed; above zero speaks for the decision. "
        "In the profiles narrow and cpu networks are narrow and training is short: what is better there need not be so "
        "at the paper's scale."
    )
    columns = (
        "method", "data set", "setting", "decided", "changed", "profile", "n", "last epoch", "less the decided's",
        "hardware",
    )  # fmt: skip
    shown = (
        "method", "dataset", "setting", "decided", "changed", "profile", "n", "last_mean", "last_deviation",
        "difference_mean", "difference_deviation", "pairs",
    )  # fmt: skip
    title = "The decisions, taken the other way"
    return Table("decisions", title, note, columns, tuple(rows), pd.DataFrame(data), shown)


def _value(value: Any) -> str:
    """A setting as a table shows it."""
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "equal parts"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _in_order(config: RunConfig) -> tuple:
    return DATASETS.index(config.dataset), config.model, config.noise, METHODS.index(config.methods)
