"""Notebooks executed through papermill: one, or all that are not up to date, several at a time."""

import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, wait
from pathlib import Path
from typing import Any

from imcl_book.checks import FAILED, INJECTED
from imcl_book.stamps import depends_on, execution, note, read_object, stamp
from imcl_core.errors import ImclError
from imcl_core.files import write_if_changed
from imcl_core.study.executed import run_notebook
from imcl_core.study.notebook import check_parameters, dumps, normalise, read, tags
from imcl_core.study.pools import Died, Slots

KERNELS = {  # one thread each, so that sums round alike in every run; figures drawn inline
    "OMP_NUM_THREADS": "1",
    "PYTHONHASHSEED": "0",
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",
}


def execute(
    path: Path | str,
    out: Path | str | None = None,
    parameters: Mapping[str, Any] | None = None,
    cwd: Path | str | None = None,
    attempts: int = 2,
    python: Path | str = sys.executable,
) -> bool:
    """Run a notebook in a fresh kernel and write it, normalised, to `out` (default: in place).

    `parameters` replace those of its cell tagged `parameters`; the kernel is of the
    interpreter `python`, runs in `cwd` (default: the notebook's folder) and is started again if it dies.
    Returns whether the file changed: a re-run of an unchanged notebook leaves it untouched. Raises
    `ImclError`, and writes nothing, on an unknown parameter, one of another type, a cell that fails, a run
    that stops early, or a file that was changed meanwhile.
    """
    path, parameters = Path(path), dict(parameters or {})
    before = path.read_bytes() if path.exists() else b""
    notebook = normalise(read(path))
    notebook.cells = [cell for cell in notebook.cells if not {INJECTED, FAILED} & tags(cell)]
    check_parameters(path, notebook, parameters)
    try:
        executed = run_notebook(notebook, None, parameters, Path(cwd or path.parent), attempts, python)
    except ImclError as error:
        raise ImclError(f"{path}: {error}") from None
    if out is None and path.read_bytes() != before:
        raise ImclError(f"{path} was changed while it ran, so that its outputs are not written: run it again.")
    return write_if_changed(Path(out or path), dumps(executed))


def execute_all(paths: Iterable[Path], jobs: int = 1, cache: Path | None = None, record: Path | None = None) -> None:
    """Run notebooks in place with their default parameters, `jobs` at a time, each kernel on one thread.

    With a `cache` file, a notebook is skipped when neither its file nor what it depends on has changed since it last
    ran (`stamp`). A `record` file gets what each run took (`execution`). Every notebook is tried; raises `ImclError` at
    the end if any failed. An interruption ends those that run, and starts no other.
    """
    if jobs < 1:
        raise ImclError(f"{jobs} notebooks at a time run none: set jobs to 1 or more.")
    paths, stamps = list(paths), read_object(cache)
    todo = [path for path in paths if stamps.get(str(path)) != stamp(path)]
    print(f"{len(paths) - len(todo)} of {len(paths)} notebooks are up to date.", flush=True)
    failures = []
    for done, (path, seconds, failure, depended_on) in enumerate(_as_they_end(todo, jobs), start=1):
        result = f"{'FAILED' if failure else 'ran'} in {seconds:.0f} s"
        print(f"[{done}/{len(todo)}] {path} {result}", flush=True)
        if failure:
            failures.append(failure)
            print(failure, file=sys.stderr, flush=True)
            continue
        if cache:
            note(cache, str(path), stamp(path, depended_on))
        if record:
            note(record, path.as_posix(), execution(path, seconds))
    if failures:
        raise ImclError(f"{len(failures)} of {len(todo)} notebooks failed: see above.")


def _as_they_end(todo: Iterable[Path], jobs: int) -> Iterator[tuple[Path, float, str, str]]:
    """Executes notebooks; gives each with its seconds, why it failed, and what it depended on when it began."""
    waiting, running = deque(todo), {}
    with Slots([KERNELS] * jobs) as pool:
        while waiting or running:
            while waiting and len(running) < jobs:
                path = waiting.popleft()
                running[pool.submit(_timed, path)] = path
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                path = running.pop(future)
                try:
                    result = pool.result(future)
                except Died as error:
                    result = 0.0, f"{path}: {error}: run it again.", ""
                yield path, *result


def _timed(path: Path) -> tuple[float, str, str]:
    start, depended_on, failure = time.perf_counter(), "", ""
    try:
        depended_on = depends_on(path)
        execute(path)
    except ImclError as error:
        failure = str(error)
    except Exception as error:  # a full disk, say: the others are tried all the same
        failure = f"{path}: {type(error).__name__}: {error}"
    return time.perf_counter() - start, failure, depended_on
