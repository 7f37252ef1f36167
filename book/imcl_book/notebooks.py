"""Notebooks: executed through papermill, normalised so that a re-run changes no byte, and checked.

`python -m imcl_book.notebooks execute|check|normalise|colab` is what the Makefile and CONTRIBUTING.md call.
"""

import argparse
import datetime
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import sys
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell

from imcl_book import colab
from imcl_core.errors import ImclError
from imcl_core.files import write_whole
from imcl_core.study.executed import run_notebook
from imcl_core.study.notebook import check_parameters, code_cells, dumps, normalise, read, tags

INJECTED, FAILED = "injected-parameters", "papermill-error-cell-tag"
LARGEST_OUTPUT = 1_000_000  # bytes of one cell's outputs

_FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
_TITLE = re.compile(r"^#\s+\S", re.MULTILINE)
_MYST = re.compile(r"^\s*(```+\{|~~~+\{|:::+)|\{[a-z][\w:-]*\}`", re.MULTILINE)
_LOCAL_PATH = re.compile(
    r"(?<![\w.:/])/(?:home|Users|root|tmp|var|opt|mnt|srv|private|work|content)/[\w.@-]+|[A-Z]:\\Users\\"
)
_ADDRESS = re.compile(r"\bat 0x[0-9a-fA-F]{6,}")


def _write_if_changed(path: Path, text: str) -> bool:
    """Write a file whole, unless it holds this text already; whether it was written."""
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return False
    write_whole(path, text.encode())
    return True


def execute(
    path: Path | str,
    out: Path | str | None = None,
    parameters: Mapping[str, Any] | None = None,
    cwd: Path | str | None = None,
    attempts: int = 2,
) -> bool:
    """Run a notebook in a fresh kernel and write it, normalised, to `out` (default: in place).

    `parameters` replace those of its cell tagged `parameters`; the kernel runs in `cwd` (default: the
    notebook's folder) and is started again if it dies. Returns whether the file changed: a re-run of an
    unchanged notebook leaves it untouched. Raises `ImclError`, and writes nothing, on an unknown parameter,
    one of another type, a cell that fails, or a run that stops early.
    """
    path, parameters = Path(path), dict(parameters or {})
    notebook = normalise(read(path))
    notebook.cells = [cell for cell in notebook.cells if not {INJECTED, FAILED} & tags(cell)]
    check_parameters(path, notebook, parameters)
    try:
        executed = run_notebook(notebook, None, parameters, Path(cwd or path.parent), attempts)
    except ImclError as error:
        raise ImclError(f"{path}: {error}") from None
    return _write_if_changed(Path(out or path), dumps(executed))


def execute_all(paths: Iterable[Path], jobs: int = 1, cache: Path | None = None, record: Path | None = None) -> None:
    """Run notebooks in place with their default parameters, `jobs` at a time, each kernel on one thread.

    With a `cache` file, a notebook is skipped when neither its file nor what it depends on has changed
    since it last ran: this package, the versions of what computes and draws, and `results/` where its code
    names it. A `record` file gets what each run took (`execution`). Every notebook is tried; raises `ImclError`
    at the end if any failed.
    """
    paths = list(paths)
    stamps, executions = _read_object(cache), _read_object(record)
    todo = [path for path in paths if stamps.get(str(path)) != stamp(path)]
    print(f"{len(paths) - len(todo)} of {len(paths)} notebooks are up to date.", flush=True)
    failures = []
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_quiet_kernels) as pool:
        running = {pool.submit(_timed, path): path for path in todo}
        for done, future in enumerate(as_completed(running), start=1):
            path, (seconds, failure) = running[future], future.result()
            result = f"{'FAILED' if failure else 'ran'} in {seconds:.0f} s"
            print(f"[{done}/{len(todo)}] {path} {result}", flush=True)
            if failure:
                failures.append(failure)
                print(failure, file=sys.stderr, flush=True)
                continue
            if cache:
                stamps[str(path)] = stamp(path)
                _write_object(cache, stamps)
            if record:
                executions[path.as_posix()] = execution(path, seconds)
                _write_object(record, executions)
    if failures:
        raise ImclError(f"{len(failures)} of {len(todo)} notebooks failed: see above.")


def execution(path: Path, seconds: float) -> dict[str, str | int]:
    """What the book says of a run that has just ended: whole seconds, hardware, versions, day and code digest."""
    from imcl_core.training.run import choose_device, device_name

    return {
        "seconds": max(1, round(seconds)),
        "hardware": device_name(choose_device()),
        "python": platform.python_version(),
        "torch": importlib.metadata.version("torch"),
        "date": datetime.date.today().isoformat(),
        "code": code_digest(path),
    }


def code_digest(path: Path) -> str:
    """Hash of what a notebook's code cells say: tells whether a recorded execution is of this code.

    The cell for Colab does nothing in an execution, and does not count.
    """
    sources = [cell.source for cell in code_cells(read(path)) if not _is_for_colab(cell)]
    return hashlib.sha256("\0".join(sources).encode()).hexdigest()[:12]


def _timed(path: Path) -> tuple[float, str]:
    start = time.perf_counter()
    try:
        execute(path)
        failure = ""
    except ImclError as error:
        failure = str(error)
    return time.perf_counter() - start, failure


def _quiet_kernels() -> None:
    """In a worker: one thread a kernel, so that sums round alike in every run; figures drawn inline."""
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0", "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    os.environ.pop("MPLBACKEND", None)


def stamp(path: Path) -> str:
    """Hash of a notebook's file and of everything its outputs depend on."""
    digest = hashlib.sha256()
    package = Path(__file__).parent
    inputs = [path, *sorted(package.rglob("*.py")), *sorted((package.parent / "book").glob("*.csv"))]
    code = "\n".join(cell.source for cell in code_cells(read(path)))
    if "results" in code:
        inputs += sorted(file for file in (package.parent / "results").rglob("*") if file.is_file())
    if "benchmarks" in code:
        inputs += sorted((package.parent / "benchmarks").glob("*.json"))
    for file in inputs:
        digest.update(f"{file.name}\n".encode() + (file.read_bytes() if file.exists() else b""))
    versions = [importlib.metadata.version(name) for name in ("torch", "numpy", "matplotlib", "pandas")]
    digest.update(" ".join([sys.version, *versions]).encode())
    return digest.hexdigest()


def _read_object(path: Path | None) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path else {}
    except (FileNotFoundError, ValueError):
        return {}


def _write_object(path: Path, content: Mapping[str, Any]) -> None:
    _write_if_changed(path, json.dumps(content, indent=1, sort_keys=True) + "\n")


def for_colab(notebook: NotebookNode) -> NotebookNode:
    """A copy in normal form whose first code cell, below the title, is the one of `colab.cell`.

    Any older one goes. The new one counts as executed, without outputs: that is what executing it here gives.
    """
    rest = [cell for cell in notebook.cells if not _is_for_colab(cell)]
    source = colab.cell(Path(__file__).parents[2] / "_config.yml")
    first = new_code_cell(source, execution_count=1, metadata={"tags": colab.TAGS})
    return normalise(nbformat.from_dict({**notebook, "cells": [*rest[:1], first, *rest[1:]]}))


def _is_for_colab(cell: NotebookNode) -> bool:
    return colab.TAGS[0] in tags(cell)


def check(paths: Iterable[Path | str]) -> list[str]:
    """What must be mended before these notebooks go into the book: a sentence a finding, or nothing."""
    findings = []
    for path in paths:
        try:
            notebook = read(path)
        except ImclError as error:
            findings.append(str(error))
            continue
        found = [*_check_run(notebook), *_check_outputs(notebook), *_check_text(notebook)]
        if _lacks_the_cell_for_colab(notebook):
            found.append(f"must begin with the cell for Colab: run `python -m imcl_book.notebooks colab {path}`.")
        if dumps(normalise(notebook)) != Path(path).read_text(encoding="utf-8"):
            found.append(f"is not in normal form: run `python -m imcl_book.notebooks normalise {path}`.")
        findings += [f"{path} {finding}" for finding in found]
    return findings


def _lacks_the_cell_for_colab(notebook: NotebookNode) -> bool:
    """Whether it uses this package, and its first code cell is not the one that fetches it where it is missing."""
    now, right = ([(c.source, c.get("outputs")) for c in n.cells] for n in (notebook, for_colab(notebook)))
    return now != right and any(re.search(r"\bimcl_core\b", cell.source) for cell in code_cells(notebook))


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
                yield f"prints to the error stream in {name}: {output.text.strip().splitlines()[0][:80]!r}."


def _check_outputs(notebook: NotebookNode) -> Iterable[str]:
    for cell in code_cells(notebook):
        name, text = _first_line(cell), "\n".join(_texts(cell))
        for pattern, what in ((_LOCAL_PATH, "a path of this machine"), (_ADDRESS, "an address in memory")):
            if match := pattern.search(text):
                yield f"shows {what}, {match.group()!r}, in {name}: print what is the same everywhere."
        if (size := len(json.dumps(cell.outputs))) > LARGEST_OUTPUT:
            yield f"has {size / 1e6:.1f} MB of output in {name}: draw fewer points."
        if any("image/png" in output.get("data", {}) for output in cell.outputs):
            shown = cell.metadata.get("mystnb", {})
            if not shown.get("image", {}).get("alt") or not shown.get("figure", {}).get("caption"):
                yield f"has a picture without alt text or caption (cell metadata `mystnb`) in {name}."


def _check_text(notebook: NotebookNode) -> Iterable[str]:
    prose = [_FENCE.sub("", cell.source) if cell.cell_type == "markdown" else "" for cell in notebook.cells]
    titles = [len(_TITLE.findall(text)) for text in prose]
    if sum(titles) != 1 or titles[0] != 1:
        yield f"must have one title (`# …`), in its first cell; it has {sum(titles)}."
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and (match := _MYST.search(cell.source)):
            yield f"uses MyST, which Jupyter shows raw, at {match.group().strip()!r}: use plain Markdown."


def _texts(cell: NotebookNode) -> Iterable[str]:
    """The text of a cell's outputs, pictures left out."""
    for output in cell.outputs:
        yield output.get("text", "")
        for kind, data in output.get("data", {}).items():
            if not kind.startswith("image/") or kind == "image/svg+xml":
                yield data if isinstance(data, str) else json.dumps(data)


def _first_line(cell: NotebookNode) -> str:
    return f"the cell that starts {cell.source.strip().splitlines()[0][:60]!r}"


def main(arguments: list[str] | None = None) -> int:
    """`python -m imcl_book.notebooks`: 0 if all is well, 1 with a sentence on the error stream if not."""
    parser = argparse.ArgumentParser(prog="python -m imcl_book.notebooks", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("execute", help="run notebooks in place with their default parameters")
    run.add_argument("--jobs", type=int, default=1, help="how many at a time (default 1)")
    run.add_argument("--cache", type=Path, help="file of stamps: skip what has not changed since it last ran")
    run.add_argument("--record", type=Path, help="file that gets each run's seconds, hardware, versions and day")
    commands.add_parser("check", help="refuse what must not go into the book")
    commands.add_parser("normalise", help="take out what differs from one run to the next")
    commands.add_parser("colab", help="put in, or bring up to date, the first code cell, which readies Colab")
    for command in commands.choices.values():
        command.add_argument("paths", nargs="+", type=Path)
    options = parser.parse_args(arguments)
    try:
        if options.command == "execute":
            execute_all(options.paths, options.jobs, options.cache, options.record)
        elif options.command in ("normalise", "colab"):
            change = {"normalise": normalise, "colab": for_colab}[options.command]
            for path in options.paths:
                _write_if_changed(path, dumps(change(read(path))))
        elif findings := check(options.paths):
            print("\n".join(findings), file=sys.stderr)
            return 1
    except ImclError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
