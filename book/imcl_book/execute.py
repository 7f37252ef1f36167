"""Notebooks executed through papermill: one, or all that are not up to date, several at a time."""

import os
import sys
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from imcl_book.checks import FAILED, INJECTED
from imcl_book.stamps import execution, read_object, stamp, write_object
from imcl_core.errors import ImclError
from imcl_core.files import write_if_changed
from imcl_core.study.executed import run_notebook
from imcl_core.study.notebook import check_parameters, dumps, normalise, read, tags


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
    return write_if_changed(Path(out or path), dumps(executed))


def execute_all(paths: Iterable[Path], jobs: int = 1, cache: Path | None = None, record: Path | None = None) -> None:
    """Run notebooks in place with their default parameters, `jobs` at a time, each kernel on one thread.

    With a `cache` file, a notebook is skipped when neither its file nor what it depends on has changed since it last
    ran (`stamp`). A `record` file gets what each run took (`execution`). Every notebook is tried; raises `ImclError` at
    the end if any failed.
    """
    paths = list(paths)
    stamps, executions = read_object(cache), read_object(record)
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
                write_object(cache, stamps)
            if record:
                executions[path.as_posix()] = execution(path, seconds)
                write_object(record, executions)
    if failures:
        raise ImclError(f"{len(failures)} of {len(todo)} notebooks failed: see above.")


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
