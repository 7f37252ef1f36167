"""How a table is written: as a piece of a page, and as CSV, LaTeX and plain text."""

import functools
import html
import os
import re
import textwrap
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from urllib.parse import quote

import pandas as pd

from imcl_core.files import write_whole
from imcl_core.study.ledger import Run

NO_RUN = "no run yet"
NAMES = {
    "cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "stl10": "STL-10", "imagenet32": "ImageNet32", "digits": "digits",
    "vgg16": "VGG-16", "resnet18": "ResNet-18", "resnet101": "ResNet-101", "baseline-2x": "baseline (2x)",
}  # fmt: skip


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
            f'<div class="imcl-table">\n<style>{_file("table.css")}</style>\n'
            f'<div class="imcl-box" role="region" aria-label="{title}" tabindex="0"><table class="imcl">\n'
            f"<caption>{title}</caption>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>\n"
            f"<p>{_escaped(self.note)}</p>\n<script>{_file('table.js')}</script>\n</div>\n"
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
        if "lr" in shown:
            shown["lr"] = shown["lr"].map("{:g}".format)
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


def signed(value: float | None) -> str:
    """`+0.12` or, with a true minus sign, `−0.12`; nothing for None."""
    return "" if value is None else f"{value:+.2f}".replace("-", "\N{MINUS SIGN}")


def in_points(mean: float, lower: float | None, upper: float | None, n: int) -> str:
    """A gain over n pairs in words, with its bounds where it has any."""
    bounds = "" if lower is None else f", from {between(lower, upper)}"
    return f"{signed(mean)} points{bounds}, n = {n}"


def between(lower: float | None, upper: float | None) -> str:
    """`+0.12 to +0.34`; nothing where there are no bounds."""
    return "" if lower is None else f"{signed(lower)} to {signed(upper)}"


def plus_minus(deviation: float | None) -> str:
    """` ± 0.12`; nothing for None."""
    return "" if deviation is None else f" ± {deviation:.2f}"


def method_name(methods: str) -> str:
    """As a table's row is headed: `out + mid`."""
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
    paths = [_escaped(quote(os.path.relpath(run.path, base).replace(os.sep, "/"), safe="/+")) for run in cell.runs]
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


@functools.cache
def _file(name: str) -> str:
    """The style or the script of a table on a page.

    Colours come from the page: the book's theme or JupyterLab's where there is one, else the browser's own pair. In the
    dark, the book's theme lays a bright ground under every output that is not pandas's; the style's last rule takes it
    away. Heads become buttons in the script, so that where scripts do not run there is nothing that does not work.
    """
    return "\n" + (resources.files(__package__) / name).read_text(encoding="utf-8")
