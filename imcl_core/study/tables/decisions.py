"""The decisions of the book's page, taken the other way."""

import itertools
from typing import Any

import pandas as pd

from imcl_core.study.grids import ABLATIONS, ablation
from imcl_core.study.ledger import Ledger
from imcl_core.study.tables.judge import summarise, verdict
from imcl_core.study.tables.narrow import case_of
from imcl_core.study.tables.write import NAMES, Cell, Table, between, method_name, plus_minus, signed
from imcl_core.training.config import RunConfig


def decisions_table(ledger: Ledger) -> Table:
    """Each decision of the book's page that has runs taken the other way, beside the same seeds as decided."""
    lines, unknown = [], dict.fromkeys(_named(*each) for each in ABLATIONS)
    for (methods, change), profile in itertools.product(ABLATIONS, ("paper", "narrow")):
        changed, decided = ablation(methods, change, profile)
        if ledger.runs(changed):
            unknown.pop(_named(methods, change), None)
            lines.append(_row(next(reversed(change)), changed, decided, ledger))
    note = (
        "Errors in percent of the decision taken the other way, at the last epoch: mean ± deviation over n seeds. The "
        "gain is over the same method as decided, seed by seed: a negative one speaks for the decision. Under it are "
        "its bounds. In the profile narrow networks are narrow: what is better there need not be so at the paper's "
        "scale."
    )
    if unknown:
        note += f" Not run yet: {', '.join(unknown)}."
    columns = ("network and data", "method", "decided → changed", "profile", "n", "error", "gain")
    shown = (
        "dataset", "model", "augment", "method", "setting", "decided", "changed", "profile", "n", "last_mean",
        "last_deviation", "gain", "lower", "upper", "pairs",
    )  # fmt: skip
    rows, data = zip(*lines, strict=True) if lines else ((), ())
    frame = pd.DataFrame(data, columns=None if data else shown)
    return Table("decisions", "The decisions, taken the other way", note, columns, rows, frame, shown)


def _row(
    setting: str, changed: RunConfig, decided: RunConfig, ledger: Ledger
) -> tuple[tuple[Cell, ...], dict[str, Any]]:
    """A decision's line, and its figures."""
    runs = ledger.runs(changed)
    summary, found = summarise(changed, runs), verdict(((1, decided), (-1, changed)), 0.0, ledger)
    ways = [_value(getattr(config, setting)) for config in (decided, changed)]
    pairs = f"{found.n} pairs" if found.n and found.n != len(runs) else ""
    gained = (signed(found.mean), between(found.lower, found.upper), pairs)
    line = (
        Cell((case_of(decided),)),
        Cell((method_name(changed.methods),), None, runs, changed.profile),
        Cell((setting, f"{ways[0]} →", *ways[1].split(", "))),  # narrow lines
        Cell((changed.profile,)),
        Cell((str(len(runs)),), len(runs)),
        Cell((f"{summary['last_mean']:.2f}" + plus_minus(summary["last_deviation"]),), summary["last_mean"]),
        Cell(tuple(filter(None, gained)) or ("",), found.mean),
    )
    about = {"table": "decisions", "augment": decided.augment, "setting": setting}
    about |= {"decided": ways[0], "changed": ways[1]}
    gain = {"gain": found.mean, "lower": found.lower, "upper": found.upper, "pairs": found.n}
    return line, about | summary | gain


def _named(methods: str, change: dict[str, Any]) -> str:
    """A decision in words that tell it from the others."""
    *place, setting = change
    value = f" {change[setting]}" if isinstance(change[setting], str) else ""
    if setting == "attach":
        return f"{setting}{value} of {methods}"
    where = [NAMES.get(change[name], "no augmentation") for name in place if name in ("dataset", "model", "augment")]
    return f"{setting}{value}" + (f" ({', '.join(where)})" if where else "")


def _value(value: Any) -> str:
    """A setting as a table shows it."""
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "equal parts"
    return f"{value:g}" if isinstance(value, float) else str(value)
