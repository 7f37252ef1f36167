"""One run as an executed notebook: `run.ipynb` with the settings of the run, through papermill."""

import dataclasses
import importlib.util
import os
import re
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from imcl_core.errors import ImclError
from imcl_core.files import write_whole
from imcl_core.training.config import RunConfig

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "run.ipynb"
NAMED = ("dataset", "profile", "seed", "model", "methods", "noise", "validation")  # parameters of the same names


def obstacle() -> str | None:
    """Why runs cannot be executed as notebooks here, and the remedy; None where they can."""
    for name in ("papermill", "ipykernel", "matplotlib"):
        if importlib.util.find_spec(name) is None:
            return f"Notebooks need {name}: install it (pip install 'imcl-core[book]'), or use --no-notebook."
    if not NOTEBOOK.exists():
        return f"There is no notebook {NOTEBOOK}: work in a clone of the project, or use --no-notebook."
    return None


def parameters(config: RunConfig) -> dict[str, Any]:
    """What `run.ipynb` needs for this run; all that is not there by name goes into `settings`, defaults left out."""
    values = dataclasses.asdict(config)
    named = {name: values.pop(name) for name in NAMED}
    usual = dataclasses.asdict(RunConfig(**named))
    settings = {name: value for name, value in values.items() if value != usual[name]}
    if RunConfig(**named, **settings) != config:  # a setting's default follows from another one
        settings = values
    return named | {"settings": {k: list(v) if isinstance(v, tuple) else v for k, v in settings.items()}}


def execute(config: RunConfig, out: Path, device: str | None = None, attempts: int = 2) -> None:
    """Executes the run in a kernel and leaves `<name>.ipynb` in `out` beside its record, whether it fails or not.

    A kernel that dies is started anew, `attempts` kernels in all; the run resumes from its checkpoint. Raises
    `ImclError` where a cell raises (the traceback follows the message), where it stops early, and where the kernel
    dies again.
    """
    from imcl_book import notebooks

    notebook = notebooks.normalise(notebooks.read(NOTEBOOK))
    values = parameters(config) | {"out": "."} | ({} if device is None else {"device": device})
    notebooks._check_parameters(NOTEBOOK, notebook, values)
    _prepare_environment()
    with TemporaryDirectory() as folder:
        live = Path(folder) / "run.ipynb"
        try:
            _run(notebook, live, values, out, attempts)
        finally:
            if live.exists():
                executed = notebooks.normalise(notebooks.read(live))
                write_whole(out / f"{config.name}.ipynb", notebooks.dumps(executed).encode())
    if any(cell.execution_count is None for cell in notebooks._code(executed)):
        raise ImclError(f"{NOTEBOOK.name} stopped before its last cell: take the call of exit() out of it.")


def _run(notebook: Any, live: Path, values: dict[str, Any], folder: Path, attempts: int) -> None:
    import papermill

    options: dict[str, Any] = {"kernel_name": "python3", "cwd": str(folder), "progress_bar": False}
    options["extra_arguments"] = ["--log-level=CRITICAL"]  # ipykernel 7 warns of TCP at every start
    if sys.platform == "linux":
        from imcl_book.forks import ForkedKernelManager

        options["kernel_manager_class"] = ForkedKernelManager
    try:
        papermill.execute_notebook(notebook, str(live), values, **options)
    except papermill.PapermillExecutionError as error:
        trace = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(error.traceback))
        kind = "" if error.ename == "ImclError" else f"{error.ename}: "
        raise ImclError(f"{kind}{error.evalue}\n{trace}") from None
    except RuntimeError as error:  # the kernel died: it was killed, or another process took one of its ports
        if attempts > 1:
            return _run(notebook, live, values, folder, attempts - 1)
        raise ImclError(f"The kernel died twice ({error}): run it again, with more memory free.") from error


def _prepare_environment() -> None:
    """For kernels of this process: this package and this process's number of threads; figures drawn inline."""
    package = str(Path(__file__).parents[2])
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path not in ("", package)]
    os.environ |= {
        "PYTHONPATH": os.pathsep.join([package, *paths]),
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    }
