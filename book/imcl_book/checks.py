"""What must not go into the book, told before it is built: a sentence for each fault of a notebook."""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nbformat import NotebookNode

from imcl_book.first_cell import for_colab
from imcl_book.stamps import digest_of_code, digest_of_outputs, read_object
from imcl_core.errors import ImclError
from imcl_core.study.notebook import code_cells, dumps, normalise, read, tags

FAILED = "papermill-error-cell-tag"
INJECTED = "injected-parameters"  # papermill's tag
LARGEST_OUTPUT = 1_000_000  # bytes of one cell's outputs
LARGEST_NOTEBOOK = 3_000_000  # of all of them

_FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
_TITLE = re.compile(r"^#\s+\S", re.MULTILINE)
_MYST = re.compile(r"^\s*(```+\{|~~~+\{|:::+)|\{[a-z][\w:-]*\}`", re.MULTILINE)
_LOCAL_PATH = re.compile(
    r"(?<![\w.:/])/(?:home|Users|root|tmp|var|opt|mnt|nfs|data|scratch|export|media|Volumes|srv|private|work|content)"
    r"/[\w.@-]+|\b[A-Z]:[\\/]+Users[\\/]|\bfile://\S+"
)
_FROM_ELSEWHERE = re.compile(
    r"<(?:script|img|iframe|link|embed|object|source|video|audio|image|use)\b[^>]*?\b(?:src|srcset|href|data)\s*=\s*"
    r"[\"'\\]*\s*(?:https?:)?//[^\s\"'>]+|(?:\burl\(|@import|\bimport\s*\(|\bfetch\s*\()\s*[\"'\\]*(?:https?:)?//[^\s\"'>)]+"
    r"|!\[[^\]]*\]\(\s*(?:https?:)?//[^\s)]+",
    re.IGNORECASE,
)
_SVG_SCRIPT = re.compile(r"<svg\b(?:(?!</svg).)*?(<script\b|\son\w+\s*=|javascript:)", re.IGNORECASE | re.DOTALL)
_ADDRESS = re.compile(r"\bat 0x[0-9a-fA-F]{6,}")


def check(paths: Iterable[Path | str], record: Path | None = None) -> list[str]:
    """What must be mended before these notebooks go into the book: a sentence a finding, or nothing.

    With a `record` file of executions, as `execute` writes it, code and outputs must be those of the recorded one.
    """
    findings, executions = [], read_object(record)
    for path in paths:
        try:
            notebook = read(path)
        except ImclError as error:
            findings.append(str(error))
            continue
        found = [*_check_run(notebook), *_check_outputs(notebook), *_check_text(notebook)]
        if record:
            run = executions.get(Path(path).as_posix(), {})
            again = f"run `.venv/bin/imcl-book execute --record {record} {path}`."
            found += [f"{finding} {again}" for finding in _check_execution(notebook, run)]
        if _lacks_the_cell_for_colab(notebook):
            found.append(f"must begin with the cell for Colab: run `.venv/bin/imcl-book colab {path}`.")
        if dumps(normalise(notebook)) != Path(path).read_text(encoding="utf-8"):
            found.append(f"is not in normal form: run `.venv/bin/imcl-book normalise {path}`.")
        findings += [f"{path} {finding}" for finding in found]
    return findings


def _lacks_the_cell_for_colab(notebook: NotebookNode) -> bool:
    """Whether it uses this package, and its first code cell is not the one that fetches it where it is missing."""
    now, right = ([(c.source, c.get("outputs")) for c in n.cells] for n in (notebook, for_colab(notebook)))
    return now != right and any(re.search(r"\bimcl_core\b", cell.source) for cell in code_cells(notebook))


def _check_execution(notebook: NotebookNode, run: dict[str, Any]) -> Iterable[str]:
    if any(INJECTED in tags(cell) for cell in notebook.cells):
        yield "holds the parameters that papermill put into a run: take the cell out, or"
    if run.get("code") != digest_of_code(notebook):
        yield "has code that was changed after its recorded run, or none is recorded:"
    elif run.get("outputs") != digest_of_outputs(notebook):
        yield "has outputs that are not those of its recorded run:"


def _check_run(notebook: NotebookNode) -> Iterable[str]:
    if any(FAILED in tags(cell) for cell in notebook.cells):
        yield "is what papermill left of a failed run: execute it again."
    for cell in code_cells(notebook):
        name = _first_line(cell)
        if cell.execution_count is None:
            yield f"was not executed to its end: {name} has no execution count."
        for output in cell.outputs:
            if output.output_type == "error":
                yield f"holds an error, {output.ename}, in {name}."
            if output.output_type == "stream" and output.name == "stderr":
                yield f"prints to the error stream in {name}: {_first(output.text)!r}."


def _check_outputs(notebook: NotebookNode) -> Iterable[str]:
    for cell in code_cells(notebook):
        name, text = _first_line(cell), "\n".join(_texts(cell))
        for pattern, what in ((_LOCAL_PATH, "a path of this machine"), (_ADDRESS, "an address in memory")):
            if match := pattern.search(text):
                yield f"shows {what}, {match.group()!r}, in {name}: print what is the same everywhere."
        if match := _FROM_ELSEWHERE.search(text):
            yield f"fetches from another host, {match.group()[:80]!r}, in {name}: put what it needs into the output."
        if match := _SVG_SCRIPT.search(text):
            yield f"has a drawing that runs a script, {match.group(1).strip()!r}, in {name}: draw it without."
        if (size := len(json.dumps(cell.outputs))) > LARGEST_OUTPUT:
            yield f"has {size / 1e6:.1f} MB of output in {name}: draw fewer points."
        if any("image/png" in output.get("data", {}) for output in cell.outputs):
            shown = cell.metadata.get("mystnb", {})
            if not shown.get("image", {}).get("alt") or not shown.get("figure", {}).get("caption"):
                yield f"has a picture without alt text or caption (cell metadata `mystnb`) in {name}."
    if (size := sum(len(json.dumps(cell.outputs)) for cell in code_cells(notebook))) > LARGEST_NOTEBOOK:
        yield f"has {size / 1e6:.1f} MB of output in all: draw fewer points."


def _check_text(notebook: NotebookNode) -> Iterable[str]:
    prose = [_FENCE.sub("", cell.source) if cell.cell_type == "markdown" else "" for cell in notebook.cells]
    titles = [len(_TITLE.findall(text)) for text in prose]
    if sum(titles) != 1 or titles[0] != 1:
        yield f"must have one title (`# …`), in its first cell; it has {sum(titles)}."
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and (match := _MYST.search(cell.source)):
            yield f"uses MyST, which Jupyter shows raw, at {match.group().strip()!r}: use plain Markdown."
        if cell.cell_type == "markdown" and (match := _FROM_ELSEWHERE.search(_FENCE.sub("", cell.source))):
            yield f"fetches from another host, {match.group()[:80]!r}, in a text: draw it in a cell, or link to it."


def _texts(cell: NotebookNode) -> Iterable[str]:
    """The text of a cell's outputs, pictures left out."""
    for output in cell.outputs:
        yield output.get("text", "")
        for kind, data in output.get("data", {}).items():
            if not kind.startswith("image/") or kind == "image/svg+xml":
                yield data if isinstance(data, str) else json.dumps(data)


def _first(text: str) -> str:
    """Its first line, as far as it is shown."""
    return text.strip().partition("\n")[0][:80]


def _first_line(cell: NotebookNode) -> str:
    return f"the cell that starts {_first(cell.source)[:60]!r}"
