"""Tables I to III in the paper's layout: our figures beside the printed ones, `paper.csv`."""

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from imcl_core.study.ledger import Ledger, Run
from imcl_core.study.tables.judge import summarise
from imcl_core.study.tables.write import NAMES, NO_RUN, Cell, Table, method_name, signed
from imcl_core.training.config import RunConfig

PAPER = Path(__file__).parents[1] / "paper.csv"
TITLES = {
    "table-1": "Table I: test error on CIFAR-10 and CIFAR-100",
    "table-2": "Table II: top-5 test error on ImageNet32, top-1 test error on STL-10",
    "table-3": "Table III: test error of all combinations on CIFAR-100",
    "figure-2": "Figure 2: test error of VGG-16 on CIFAR-100 by portion of noisy labels",
}
LINES = ("paper", "last epoch", "deviation (n)", "best epoch", "difference")  # below the name of a row that has runs


@dataclass(frozen=True)
class Figure:
    """A number the paper prints: a row of `paper.csv`."""

    source: str
    dataset: str
    metric: str
    model: str
    method: str
    printed: str

    @property
    def value(self) -> float:
        return float(self.printed)


def paper_figures() -> dict[str, Figure]:
    """The paper's numbers by `source/dataset/model/method`, in its order."""
    with PAPER.open(encoding="utf-8") as file:
        figures = [Figure(printed=row.pop("value"), **row) for row in csv.DictReader(file)]
    return {f"{f.source}/{f.dataset}/{f.model}/{f.method}": f for f in figures}


def printed_table(name: str, source: str) -> Callable[[Ledger], Table]:
    """Tables I to III: a row a data set and network, a column a method, in the order of `paper.csv`.

    STL-10, for which the paper names no augmentation, has a second row without it.
    """

    def build(ledger: Ledger) -> Table:
        figures = [figure for figure in paper_figures().values() if figure.source == source]
        heads = list(dict.fromkeys((figure.dataset, figure.model) for figure in figures))
        methods = list(dict.fromkeys(figure.method for figure in figures))
        values = {(figure.dataset, figure.model, figure.method): figure.value for figure in figures}
        ways = [(d, m, augment) for d, m in heads for augment in ((True, False) if d == "stl10" else (True,))]
        places = [
            [
                (RunConfig(dataset=d, model=m, methods=t, augment=a, profile="paper"), values.get((d, m, t)))
                for t in methods
            ]
            for d, m, a in ways
        ]
        names = [f"{NAMES[d]}, {NAMES[m]}" + ("" if a else ", no augmentation") for d, m, a in ways]
        more = "" if len(ways) == len(heads) else " Of augmentation on STL-10 the paper says nothing."
        return beside(name, names, [method_name(t) for t in methods], places, ledger, more)

    return build


Place = tuple[RunConfig, float | None]  # one cell: what to run, and what the paper prints


def beside(
    name: str,
    heads: list[str],
    columns: list[str],
    places: list[list[Place]],
    ledger: Ledger,
    more: str = "",
) -> Table:
    """The paper's layout with ours beside."""
    rows, data = [], []
    for head, row in zip(heads, places, strict=True):
        cells = []
        for config, printed in row:
            cell, figures = _cell(config, printed, ledger.runs(config))
            cells.append(cell)
            data.append({"table": name, "augment": config.augment} | figures)
        rows.append((Cell((head, *(LINES if any(cell.runs for cell in cells) else ("paper", "ours")))), *cells))
    devices = sorted({run.device for row in rows for cell in row for run in cell.runs})
    count = sum(bool(cell.runs) for row in rows for cell in row)
    note = (
        "Errors in percent. The paper's are of one run at its best epoch. Ours, of runs at the paper's scale with "
        f"default settings ({count} of {len(data)} cells have any): mean and standard deviation of the last epoch's "
        "error over n seeds; mean of the best epoch's, and how far that is from the paper's."
        + more
        + (f" Hardware: {', '.join(devices)}." if devices else "")
    )
    shown = (
        "dataset", "model", *(["augment"] if name == "table-2" else []), "method",
        *(["noise"] if name == "figure-2" else []),
        "paper", "last_mean", "last_deviation", "n", "best_mean", "difference",
    )  # fmt: skip
    columns = ("method" if name == "figure-2" else "network", *columns)
    return Table(name, TITLES[name], note, columns, tuple(rows), pd.DataFrame(data), shown)


def _cell(config: RunConfig, printed: float | None, runs: tuple[Run, ...]) -> tuple[Cell, dict[str, Any]]:
    summary = summarise(config, runs)
    difference = None if printed is None or not runs else summary["best_mean"] - printed
    figures = summary | {"paper": printed, "difference": difference}
    shown = "" if printed is None else f"{printed:.2f}"
    if not runs:
        return Cell(("", shown, NO_RUN), printed), figures
    deviation = "" if len(runs) == 1 else f"± {summary['last_deviation']:.2f} "
    lines = (
        "",
        shown,
        f"{summary['last_mean']:.2f}",
        f"{deviation}({len(runs)})",
        f"{summary['best_mean']:.2f}",
        signed(difference),
    )
    return Cell(lines, summary["last_mean"], runs, config.profile), figures
