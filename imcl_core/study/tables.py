"""The paper's tables with our figures beside them: records and `book/paper.csv` in; HTML, CSV, LaTeX and text out."""

import csv
import html
import itertools
import os
import re
import statistics
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from imcl_core.errors import ImclError, check_choice
from imcl_core.files import write_whole
from imcl_core.study.grids import (
    ABLATIONS,
    BEFORE,
    BEST,
    COMBINATIONS,
    NOISE,
    SINGLES,
    STRENGTHS,
    TUNED,
    ablation,
    grid,
    trial,
)
from imcl_core.study.ledger import Ledger, Run
from imcl_core.training.config import DATASETS, RunConfig

PAPER = Path(__file__).parents[2] / "book" / "paper.csv"
NO_RUN = "no run yet"
NAMES = {
    "cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "stl10": "STL-10", "imagenet32": "ImageNet32", "digits": "digits",
    "vgg16": "VGG-16", "resnet18": "ResNet-18", "resnet101": "ResNet-101", "baseline-2x": "baseline (2x)",
}  # fmt: skip
TITLES = {
    "table-1": "Table I: test error on CIFAR-10 and CIFAR-100",
    "table-2": "Table II: top-5 test error on ImageNet32, top-1 test error on STL-10",
    "table-3": "Table III: test error of all combinations on CIFAR-100",
    "figure-2": "Figure 2: test error of VGG-16 on CIFAR-100 by portion of noisy labels",
}
LINES = ("paper", "last epoch", "deviation (n)", "best epoch", "difference")  # below the name of a row that has runs
METHODS = ("baseline", *BEFORE, *COMBINATIONS)  # in the order of the study's rows
SOURCES = {  # of every method of the comparison with neighbours
    **dict.fromkeys(SINGLES, "Fang & Lin 2021"), "spatial-dropout": "Tompson 2015", "dropblock": "Ghiasi 2018",
    "cutout": "DeVries 2017", "decov": "Cogswell 2016", "deep-supervision": "Lee 2015", "predsim": "Nøkland 2019",
    "hsic": "Ma 2020", "kd": "Hinton 2014",
}  # fmt: skip
COMPARED = 3  # seeds of that comparison; a further baseline is there as a teacher alone


@dataclass(frozen=True)
class Figure:
    """A number the paper prints: a row of `paper.csv`."""

    source: str
    dataset: str
    metric: str
    model: str
    method: str
    value: float


def paper_figures(path: Path = PAPER) -> dict[str, Figure]:
    """The paper's numbers by `source/dataset/model/method`, in its order."""
    with path.open(encoding="utf-8") as file:
        figures = [Figure(**row | {"value": float(row["value"])}) for row in csv.DictReader(file)]
    return {f"{f.source}/{f.dataset}/{f.model}/{f.method}": f for f in figures}


def metric_of(dataset: str) -> str:
    """What the paper reports on a data set: top-5 errors on ImageNet32, top-1 errors elsewhere."""
    return "top5_error" if dataset == "imagenet32" else "top1_error"


@dataclass(frozen=True)
class Cell:
    """One place of a table: its lines of text, the number it is sorted by, and the runs it rests on.

    The lines of the cells of a row stand beside one another; the head's first line is its name. `links`: what the
    links to the runs say; their seeds, unless given.
    """

    lines: tuple[str, ...]
    value: float | None = None
    runs: tuple[Run, ...] = ()
    profile: str = ""
    links: tuple[str, ...] = ()


@dataclass(frozen=True, repr=False)
class Table:
    """One table in all its forms. The first place of a row is its head; `data` holds every figure, a row a cell.

    `shown`: the columns of `data` that the plain text has.
    """

    name: str
    title: str
    note: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    data: pd.DataFrame
    shown: tuple[str, ...]

    def html(self, base: str | Path = ".") -> str:
        """A piece of a page: scrolls and sorts by itself and fetches nothing. `base`: where links to records start."""
        kinds, title = [' class="imcl-text"' * (not number) for number in self._numeric()], _escaped(self.title)
        heads = "".join(
            f'<th scope="col"{kind}>{_escaped(name)}</th>' for kind, name in zip(kinds, self.columns, strict=True)
        )
        body = "\n".join(
            f"<tr>{_html_head(head)}"
            + "".join(_html_cell(cell, kind, base) for cell, kind in zip(cells, kinds[1:], strict=True))
            + "</tr>"
            for head, *cells in self.rows
        )
        return (
            f'<div class="imcl-table">\n<style>{_STYLE}</style>\n'
            f'<div class="imcl-box" role="region" aria-label="{title}" tabindex="0"><table class="imcl">\n'
            f"<caption>{title}</caption>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>\n"
            f"<p>{_escaped(self.note)}</p>\n<script>{_SCRIPT}</script>\n</div>\n"
        )

    def _numeric(self) -> list[bool]:
        """Which columns hold numbers."""
        return [any(row[i].value is not None for row in self.rows) for i in range(len(self.columns))]

    def _repr_html_(self) -> str:
        return self.html()

    def csv(self) -> str:
        """A line a cell, with every figure in full and the names of the records."""
        return self.data.to_csv(index=False, lineterminator="\n")

    def latex(self) -> str:
        """A `table` for the package booktabs, in the paper's layout."""
        lines = [" & ".join(map(_latex, self.columns)) + r" \\", r"\midrule"]
        for number, row in enumerate(self.rows):
            lines += [r"\addlinespace"] * (number > 0)
            for i in range(max(len(cell.lines) for cell in row)):
                texts = [cell.lines[i] if i < len(cell.lines) else "" for cell in row]
                lines.append(" & ".join("--" if text == NO_RUN else _latex(text) for text in texts) + r" \\")
        kinds = "".join("lr"[number] for number in self._numeric())
        note = _latex(self.note) + (f" --: {NO_RUN}." if NO_RUN in str(self.rows) else "")
        return "\n".join(
            [
                r"\begin{table}", r"\centering\scriptsize\setlength{\tabcolsep}{3pt}",
                rf"\caption{{{_latex(self.title)}}}", rf"\begin{{tabular}}{{{kinds}}}",
                r"\toprule", *lines, r"\bottomrule", r"\end{tabular}", rf"\par\smallskip {note}",
                r"\end{table}", "",
            ]
        )  # fmt: skip

    def __str__(self) -> str:
        shown = self.data.reindex(columns=list(self.shown))
        if "last_mean" in shown:
            shown["last_mean"] = [NO_RUN if pd.isna(value) else f"{value:.2f}" for value in shown["last_mean"]]
        shown = shown.dropna(axis="columns", how="all")
        body = shown.to_string(index=False, na_rep="", float_format="{:.2f}".format) if len(shown) else NO_RUN
        return f"{self.title}\n\n{body}\n\n{textwrap.fill(self.note, 110)}\n"

    __repr__ = __str__

    def write(self, folder: str | Path) -> list[Path]:
        """Writes `<name>.html`, a page of its own, `<name>.csv` and `<name>.tex`; `ImclError` where it cannot."""
        page = (
            '<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f'<meta name="color-scheme" content="light dark"><title>{_escaped(self.title)}</title></head>\n'
            f'<body style="font-family: system-ui, sans-serif">\n{self.html(folder)}</body>\n</html>\n'
        )
        forms = {"html": page, "csv": self.csv(), "tex": self.latex()}
        paths = {Path(folder) / f"{self.name}.{ending}": text for ending, text in forms.items()}
        for path, text in paths.items():
            write_whole(path, text.encode())
        return list(paths)


# --- what the tables hold -------------------------------------------------------------------------------------------


def table(name: str, ledger: Ledger) -> Table:
    """A table of `TABLES` from the records of a ledger."""
    check_choice("table", name, TABLES)
    return TABLES[name](ledger)


def open_ledger(folder: str | Path) -> Ledger:
    """The ledger of a folder with records; `ImclError` where there is no such folder."""
    if not Path(folder).is_dir():
        raise ImclError(f"There is no folder {folder} with records: name the one that your runs were merged into.")
    return Ledger(folder)


def _printed(name: str, source: str) -> Callable[[Ledger], Table]:
    """Tables I to III: a row a data set and network, a column a method, in the order of `paper.csv`."""

    def build(ledger: Ledger) -> Table:
        figures = [figure for figure in paper_figures().values() if figure.source == source]
        heads = list(dict.fromkeys((figure.dataset, figure.model) for figure in figures))
        methods = list(dict.fromkeys(figure.method for figure in figures))
        values = {(figure.dataset, figure.model, figure.method): figure.value for figure in figures}
        places = [
            [(RunConfig(dataset=d, model=m, methods=t, profile="paper"), values.get((d, m, t))) for t in methods]
            for d, m in heads
        ]
        names = [f"{NAMES[d]}, {NAMES[m]}" for d, m in heads]
        return _beside(name, names, [_method(t) for t in methods], places, ledger)

    return build


NOISY = ("baseline", *SINGLES, BEST[0])  # the lines of Figure 2, which is of VGG-16 on CIFAR-100
_TABLE_1, _GAIN = "table1/cifar100/vgg16", f"figure2/cifar100-noise50/vgg16/{BEST[0]}"


def noise_errors(ledger: Ledger) -> dict[str, dict[float, list[float]]]:
    """Figure 2: the last epoch's errors, %, a value a seed, by method and portion of noisy labels."""
    return {
        methods: {
            noise: [run.errors["top1_error"][0] for run in ledger.runs(_noisy(methods, noise))] for noise in NOISE
        }
        for methods in NOISY
    }


def noise_printed() -> tuple[dict[str, float], float]:
    """What the paper prints of Figure 2: errors without noise, in Table I, and one gain at the highest noise."""
    printed = paper_figures()
    return {methods: printed[f"{_TABLE_1}/{methods}"].value for methods in NOISY}, printed[_GAIN].value


def write_figure_2(ledger: Ledger, folder: str | Path) -> Path:
    """Draws Figure 2 with error bars into `<folder>/figure-2.svg`."""
    from imcl_book.figures import label_noise

    path = Path(folder) / "figure-2.svg"
    figure = label_noise(noise_errors(ledger), *noise_printed())
    write_whole(path, lambda file: figure.savefig(file, format="svg"))
    return path


def _noisy(methods: str, noise: float) -> RunConfig:
    return RunConfig(dataset="cifar100", model="vgg16", methods=methods, noise=noise, profile="paper")


def _figure_2(ledger: Ledger) -> Table:
    """A row a method, a column a noise level."""
    printed, gain = noise_printed()
    places = [[(_noisy(m, noise), None if noise else printed[m]) for noise in NOISE] for m in NOISY]
    note = (
        f" The paper draws this figure and prints one number of it: at {NOISE[-1]:.0%} noise {_method(BEST[0])} gains "
        f"{gain:.2f} points. Its numbers without noise are those of Table I."
    )
    heads = [_method(methods) for methods in NOISY]
    return _beside("figure-2", heads, [f"{noise:.0%} noise" for noise in NOISE], places, ledger, note)


Place = tuple[RunConfig, float | None]  # one cell: what to run, and what the paper prints


def _beside(
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
            data.append({"table": name} | figures)
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
        "dataset", "model", "method", *(["noise"] if name == "figure-2" else []),
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


def summarise(config: RunConfig, runs: Sequence[Run]) -> dict[str, Any]:
    """What a cell rests on and shows: mean and deviation over seeds of its metric, %; None where there is none."""
    metric = metric_of(config.dataset)
    last, best = ([run.errors[metric][i] for run in runs] for i in (0, 1))
    return {
        "dataset": config.dataset, "model": config.model, "method": config.methods, "noise": config.noise,
        "metric": metric, "profile": config.profile, "n": len(runs),
        "last_mean": statistics.fmean(last) if last else None,
        "last_deviation": statistics.stdev(last) if len(last) > 1 else None,
        "best_mean": statistics.fmean(best) if best else None,
        "hardware": "; ".join(sorted({run.device for run in runs})),
        "records": " ".join(run.path.name for run in runs),
    }  # fmt: skip


def paired(config: RunConfig, against: RunConfig, ledger: Ledger) -> dict[int, float]:
    """By seed: the last epoch's error of `config` less that of `against`, where both have a run of that seed."""
    metric = metric_of(config.dataset)
    theirs = {run.seed: run.errors[metric][0] for run in ledger.runs(against)}
    return {r.seed: r.errors[metric][0] - theirs[r.seed] for r in ledger.runs(config) if r.seed in theirs}


def _study(ledger: Ledger) -> Table:
    """What was run of `METHODS` in the `cpu` profile with default settings, and how far it is from its baseline."""
    rows, data = [], []
    for config in sorted((c for c in ledger.cells("cpu") if c.methods in METHODS), key=_in_order):
        runs = ledger.runs(config)
        if not runs:
            continue
        baseline = RunConfig(dataset=config.dataset, model=config.model, noise=config.noise, profile="cpu")
        differences = {} if config.methods == "baseline" else paired(config, baseline, ledger)
        summary = summarise(config, runs) | {"pairs": len(differences)} | _moments(differences.values())
        data.append({"table": "study"} | summary)
        rows.append(_study_row(config, runs, summary))
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
    empty = ("table", *summarise(RunConfig(), ()), "pairs", *_moments(()))
    return Table("study", title, note, columns, tuple(rows), pd.DataFrame(data, columns=empty), shown)


def _study_row(config: RunConfig, runs: tuple[Run, ...], summary: dict[str, Any]) -> tuple[Cell, ...]:
    difference = "" if not summary["pairs"] else signed(summary["difference_mean"])
    last, best = ("" if summary[name] is None else f"{summary[name]:.2f}" for name in ("last_mean", "best_mean"))
    if summary["pairs"]:
        difference += _plus_minus(summary["difference_deviation"]) + f" ({summary['pairs']})"
    return (
        Cell((f"{NAMES[config.dataset]}, {NAMES[config.model]}",)),
        Cell((f"{config.noise:.0%}",), config.noise),
        Cell((_method(config.methods),)),
        Cell((str(len(runs)),), len(runs), runs, config.profile),
        Cell((last + _plus_minus(summary["last_deviation"]) if runs else NO_RUN,), summary["last_mean"]),
        Cell((best,), summary["best_mean"]),
        Cell((difference,), summary["difference_mean"]),
        Cell((summary["hardware"],)),
    )


def _decisions(ledger: Ledger) -> Table:
    """Each decision of the book's page taken the other way, less the same seeds as decided; a row a profile."""
    rows, data = [], []
    for (methods, change), profile in itertools.product(ABLATIONS, ("paper", "cpu")):
        changed, decided = ablation(methods, change, profile)
        runs, differences = ledger.runs(changed), paired(changed, decided, ledger)
        if profile == "paper" and not runs:
            continue
        summary = summarise(changed, runs) | {"pairs": len(differences)} | _moments(differences.values())
        name = next(reversed(change))
        ways = [_value(getattr(config, name)) for config in (decided, changed)]
        _, _, method, n, last, _, difference, hardware = _study_row(changed, runs, summary)
        words = [Cell(tuple(text.split(", "))) for text in (name, *ways)]
        rows.append((method, Cell((NAMES[changed.dataset],)), *words, Cell((profile,)), n, last, difference, hardware))
        data.append({"table": "decisions"} | summary | {"setting": name, "decided": ways[0], "changed": ways[1]})
    note = (
        "ResNet-18. Errors in percent of the decision taken the other way, at the last epoch: mean and deviation over "
        "n seeds. The difference is to the same method as decided, seed by seed; above zero speaks for the decision. "
        "In the cpu profile networks are narrow and training is short: what is better there need not be so at the "
        "paper's scale."
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


def _moments(differences: Iterable[float]) -> dict[str, float | None]:
    values = list(differences)
    return {
        "difference_mean": statistics.fmean(values) if values else None,
        "difference_deviation": statistics.stdev(values) if len(values) > 1 else None,
    }


def _in_order(config: RunConfig) -> tuple:
    return DATASETS.index(config.dataset), config.model, config.noise, METHODS.index(config.methods)


def neighbours_table(ledger: Ledger, operations: Mapping[str, float] | None = None) -> Table:
    """The baseline, the four and their neighbours, each at its chosen strength: how that was chosen, and what it gives.

    `operations` of a training step by method, relative to the baseline's, as `imcl_core.study.plan` counts
    them: one column more. Counting takes seconds, so it is left to the caller.
    """
    rows, data, by_method = [], [], neighbour_differences(ledger)
    for config in grid("neighbours", "cpu", 1):
        runs, differences = compared(config, ledger), by_method.get(config.methods, {})
        summary = summarise(config, runs) | {"pairs": len(differences)} | _moments(differences.values())
        trials, tried = _trials(config, ledger)
        _, _, method, n, last, _, difference, hardware = _study_row(config, runs, summary)
        n = replace(n, lines=(f"{len(runs)} of {COMPARED}",))
        source, cost = SOURCES.get(config.methods, ""), (operations or {}).get(config.methods)
        price = [] if operations is None else [Cell(("" if cost is None else f"{cost:.2f}",), cost)]
        rows.append((method, Cell((source,)), trials, n, last, difference, *price, hardware))
        data.append({"table": "neighbours"} | summary | {"source": source, "operations": cost} | tried)
    data = pd.DataFrame(data)
    note = (
        "ResNet-18 on CIFAR-100 in the cpu profile: narrow networks, a part of the images, few epochs; no number of "
        "the paper stands beside it. Held-out error: at the end of a short run on images held out of the training set, "
        f"one seed; {data.tried.sum()} of {sum(map(len, STRENGTHS.values()))} such runs are there. "
        "Chosen: the strength of the runs behind the other columns, which are tested on the test set; "
        f"{data.n.sum()} of {COMPARED * len(data)} are there. Errors in percent, of the last epoch: mean and deviation "
        "over n seeds. The difference to the baseline is taken seed by seed; below zero is better."
    )
    if operations is not None:
        note += (
            " Operations: multiplications and additions of a training step, as a multiple of the baseline's; the "
            "training of a teacher, and the linear systems of hsic, are not in them."
        )
    price = [] if operations is None else ["operations"]
    columns = ("method", "source", "held-out error by strength", "n", "last epoch", "less the baseline's", *price)
    shown = (
        "method", "chosen", "n", "last_mean", "last_deviation", "difference_mean", "difference_deviation", "pairs",
        *price,
    )  # fmt: skip
    title = "The four and their neighbours, tuned alike, in the cpu profile (not the paper's scale)"
    return Table("neighbours", title, note, (*columns, "hardware"), tuple(rows), data, shown)


def compared(config: RunConfig, ledger: Ledger) -> tuple[Run, ...]:
    """The runs of `config` at the seeds of the comparison with neighbours."""
    return tuple(run for run in ledger.runs(config) if run.seed < COMPARED)


def neighbour_differences(ledger: Ledger) -> dict[str, dict[int, float]]:
    """By method, then by seed: the last epoch's error at the chosen strength less the baseline's, in points."""
    baseline, *others = grid("neighbours", "cpu", 1)
    every = {config.methods: paired(config, baseline, ledger) for config in others}
    return {m: {seed: d for seed, d in by_seed.items() if seed < COMPARED} for m, by_seed in every.items()}


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


TABLES: dict[str, Callable[[Ledger], Table]] = {
    "table-1": _printed("table-1", "table1"),
    "table-2": _printed("table-2", "table2"),
    "table-3": _printed("table-3", "table3"),
    "figure-2": _figure_2,
    "study": _study,
    "decisions": _decisions,
    "neighbours": neighbours_table,
}


# --- how they are written -------------------------------------------------------------------------------------------


def signed(value: float | None) -> str:
    """`+0.12` or, with a true minus sign, `−0.12`; nothing for None."""
    return "" if value is None else f"{value:+.2f}".replace("-", "\N{MINUS SIGN}")


def _plus_minus(deviation: float | None) -> str:
    return "" if deviation is None else f" ± {deviation:.2f}"


def _method(methods: str) -> str:
    return NAMES.get(methods, methods.replace("+", " + "))


def _escaped(text: str) -> str:
    return html.escape(text)


def _html_head(cell: Cell) -> str:
    first, *rest = map(_escaped, cell.lines)
    return f'<th scope="row"{" class=imcl-lines" * bool(rest)}>{"<br>".join([f"<b>{first}</b>", *rest])}</th>'


def _html_cell(cell: Cell, kind: str, base: str | Path) -> str:
    value = "" if cell.value is None else f' data-value="{cell.value:.6g}"'
    lines = "<br>".join(map(_escaped, cell.lines))
    return f"<td{kind}{value}>{lines}{_html_runs(cell, base) if cell.runs else ''}</td>"


def _html_runs(cell: Cell, base: str | Path) -> str:
    """What a cell rests on, folded: profile, hardware, and a link to each record."""
    paths = [_escaped(Path(os.path.relpath(run.path, base)).as_posix()) for run in cell.runs]
    names = [_escaped(name) for name in cell.links or (f"seed {run.seed}" for run in cell.runs)]
    links = ", ".join(f'<a href="{path}">{name}</a>' for path, name in zip(paths, names, strict=True))
    devices = ", ".join(sorted({run.device for run in cell.runs}))
    return (
        f"<details><summary>{len(cell.runs)} record{'s' * (len(cell.runs) > 1)}</summary>"
        f"profile {_escaped(cell.profile)}<br>{_escaped(devices)}<br>{links}</details>"
    )


_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "\N{MINUS SIGN}": "$-$", "≥": r"$\geq$",
    "<": "$<$", ">": "$>$", "×": r"$\times$",
}  # fmt: skip


def _latex(text: str) -> str:
    return re.sub("|".join(map(re.escape, _LATEX)), lambda match: _LATEX[match.group()], text)


# Colours come from the page: the book's theme or JupyterLab's where there is one, else the browser's own pair. In the
# dark, the book's theme lays a bright ground under every output that is not pandas's; the last rule takes it away.
_STYLE = """
.imcl-table { margin: 1rem 0; }
.imcl-table .imcl-box { overflow-x: auto; max-width: 100%; }
.imcl-table table.imcl { display: table; width: auto; max-width: none; margin: 0;
  border-collapse: separate; border-spacing: 0;
  overflow: visible; font-size: 0.85rem; font-variant-numeric: tabular-nums; }
.imcl-table table.imcl caption { caption-side: top; text-align: left; font-weight: bold; padding: 0.3rem 0; }
.imcl-table table.imcl :is(th, td) { padding: 0.35rem 0.6rem; text-align: right; vertical-align: top;
  border-bottom: 1px solid rgba(128, 128, 128, 0.4); line-height: 1.35; white-space: nowrap; }
.imcl-table table.imcl thead th { white-space: normal; vertical-align: bottom; min-width: 3.5rem; }
.imcl-table table.imcl tr > :first-child { position: sticky; left: 0; z-index: 1; text-align: left; white-space: normal;
  min-width: 5.5rem; max-width: 14rem;
  background: var(--pst-color-background, var(--jp-layout-color0, Canvas));
  color: var(--pst-color-text-base, var(--jp-content-font-color1, CanvasText)); }
.imcl-table table.imcl tbody th { font-weight: normal; }
.imcl-table table.imcl tr > th.imcl-lines:first-child { white-space: nowrap; }
.imcl-table table.imcl .imcl-text { text-align: left; }
.imcl-table table.imcl button { all: unset; cursor: pointer; font: inherit; }
.imcl-table table.imcl button:focus-visible, .imcl-table .imcl-box:focus-visible { outline: 2px solid currentColor;
  outline-offset: 2px; }
.imcl-table table.imcl th[aria-sort=ascending] button::after { content: " \\2191"; }
.imcl-table table.imcl th[aria-sort=descending] button::after { content: " \\2193"; }
.imcl-table details { text-align: left; white-space: normal; min-width: 6rem; }
.imcl-table p { font-size: 0.85rem; margin: 0.5rem 0; }
html[data-theme=dark] .bd-content div.cell_output .text_html:has(table.imcl) { background: none; color: inherit;
  padding: 0; }
"""

# Heads become buttons here, so that where scripts do not run there is nothing that does not work.
_SCRIPT = """
for (const table of document.querySelectorAll("table.imcl:not([data-sortable])")) {
  table.dataset.sortable = "";
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  const compare = (a, b, sign) => {
    if (!a.textContent || !b.textContent) return !a.textContent - !b.textContent;
    if (a.dataset.value && b.dataset.value) return sign * (a.dataset.value - b.dataset.value);
    return sign * a.textContent.localeCompare(b.textContent, "en", {numeric: true});
  };
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
      body.append(...[...body.rows].sort((a, b) => compare(a.cells[column], b.cells[column], sign)));
    });
  });
}
"""
