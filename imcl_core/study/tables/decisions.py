"""The decisions of the book's page, taken the other way."""

import itertools
from typing import Any

import pandas as pd

from imcl_core.study.grids import ABLATIONS, ablation
from imcl_core.study.ledger import Ledger, Run
from imcl_core.study.tables.judge import gained, moments, summarise
from imcl_core.study.tables.write import NAMES, NO_RUN, Cell, Table, method_name, plus_minus, signed
from imcl_core.training.config import RunConfig


def decisions_table(ledger: Ledger) -> Table:
    """Each decision of the book's page taken the other way, beside the same seeds as decided; a row a profile."""
    rows, data = [], []
    for (methods, change), profile in itertools.product(ABLATIONS, ("paper", "narrow")):
        changed, decided = ablation(methods, change, profile)
        runs, gains = ledger.runs(changed), gained(changed, decided, ledger)
        if profile == "paper" and not runs:
            continue
        summary = summarise(changed, runs) | {"pairs": len(gains)} | moments(gains.values())
        name = next(reversed(change))
        ways = [_value(getattr(config, name)) for config in (decided, changed)]
        _, _, method, n, last, _, gain, hardware = row_of_runs(changed, runs, summary)
        words = [Cell(tuple(text.split(", "))) for text in (name, *ways)]
        rows.append((method, Cell((NAMES[changed.dataset],)), *words, Cell((profile,)), n, last, gain, hardware))
        data.append({"table": "decisions"} | summary | {"setting": name, "decided": ways[0], "changed": ways[1]})
    note = (
        "ResNet-18. Errors in percent of the decision taken the other way, at the last epoch: mean and deviation over "
        "n seeds. The gain is over the same method as decided, seed by seed; below zero speaks for the decision. "
        "In the profile narrow networks are narrow: what is better there need not be so at the paper's scale."
    )
    columns = (
        "method", "data set", "setting", "decided", "changed", "profile", "n", "last epoch", "gain over the decided",
        "hardware",
    )  # fmt: skip
    shown = (
        "method", "dataset", "setting", "decided", "changed", "profile", "n", "last_mean", "last_deviation",
        "gain_mean", "gain_deviation", "pairs",
    )  # fmt: skip
    title = "The decisions, taken the other way"
    return Table("decisions", title, note, columns, tuple(rows), pd.DataFrame(data), shown)


def _value(value: Any) -> str:
    """A setting as a table shows it."""
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "equal parts"
    return f"{value:g}" if isinstance(value, float) else str(value)


def row_of_runs(config: RunConfig, runs: tuple[Run, ...], summary: dict[str, Any]) -> tuple[Cell, ...]:
    """Data and network, noise, method, n, errors, gain, hardware."""
    gain = "" if not summary["pairs"] else signed(summary["gain_mean"])
    last, best = ("" if summary[name] is None else f"{summary[name]:.2f}" for name in ("last_mean", "best_mean"))
    if summary["pairs"]:
        gain += plus_minus(summary["gain_deviation"]) + f" ({summary['pairs']})"
    return (
        Cell((f"{NAMES[config.dataset]}, {NAMES[config.model]}",)),
        Cell((f"{config.noise:.0%}",), config.noise),
        Cell((method_name(config.methods),)),
        Cell((str(len(runs)),), len(runs), runs, config.profile),
        Cell((last + plus_minus(summary["last_deviation"]) if runs else NO_RUN,), summary["last_mean"]),
        Cell((best,), summary["best_mean"]),
        Cell((gain,), summary["gain_mean"]),
        Cell((summary["hardware"],)),
    )
