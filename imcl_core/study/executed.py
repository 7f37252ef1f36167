"""One run as an executed notebook: `run.ipynb` with the settings of the run, through papermill."""

import dataclasses
import importlib.util
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import TYPE_CHECKING, Any

import torch

from imcl_core.errors import ImclError
from imcl_core.files import write_whole
from imcl_core.training.config import RunConfig
from imcl_core.training.files import Files

if TYPE_CHECKING:  # neither Jupyter nor papermill is needed where runs are bare
    from nbformat import NotebookNode

CLONE = Path(__file__).parents[2]
NOTEBOOK = CLONE / "notebooks" / "run.ipynb"
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


def execute(config: RunConfig, out: Path, device: str | None = None) -> None:
    """Executes the run in a kernel and leaves `<name>.ipynb` in `out` beside its record, whether it fails or not.

    Raises `ImclError` as `run_notebook` does; a run whose kernel died resumes from its checkpoint.
    """
    from imcl_core.study.notebook import NOT_WHOLE, check_parameters, dumps, normalise, parse, read

    notebook = normalise(read(NOTEBOOK))
    values = parameters(config) | {"out": "."} | ({} if device is None else {"device": device})
    check_parameters(NOTEBOOK, notebook, values)
    _prepare_environment()
    with _room_for_temporary_files(), TemporaryDirectory() as folder:
        live = Path(folder) / "run.ipynb"
        try:
            run_notebook(notebook, live, values, out)
        finally:
            with suppress(FileNotFoundError, *NOT_WHOLE):
                write_whole(Files(out, config.name).notebook, dumps(normalise(parse(live))).encode())


@contextmanager
def _room_for_temporary_files() -> Iterator[None]:
    """A notebook is written there cell by cell, while it runs."""
    try:
        yield
    except OSError as error:
        raise ImclError(
            f"No temporary file could be written ({error.strerror or error}): free some space, or let TMPDIR name a "
            "folder that has some."
        ) from error


def run_notebook(
    notebook: "NotebookNode",
    live: Path | None,
    values: dict[str, Any],
    folder: Path,
    attempts: int = 2,
    python: Path | str = sys.executable,
    **options: Any,
) -> "NotebookNode":
    """Runs a notebook in a fresh kernel that works in `folder`, and returns it executed, in normal form.

    `values` replace those of its cell tagged `parameters`. `live`: a file that gets each cell as it ends, and keeps
    what there is of a run that fails. The kernel is of the interpreter `python`, whichever one Jupyter's folders have
    under the name `python3`; one that dies is started anew, `attempts` kernels in all. `options` go to papermill's
    `execute_notebook`. Raises `ImclError` where a cell raises (the traceback follows the message), where
    the notebook stops early, and where the last kernel dies too.
    """
    import papermill

    from imcl_core.study.notebook import code_cells, normalise

    usual = {"kernel_name": "python3", "kernel_manager_class": _kernel_of(python), "cwd": str(folder)}
    usual["progress_bar"] = False
    usual["extra_arguments"] = ["--log-level=CRITICAL"]  # ipykernel 7 warns of TCP at every start
    try:
        executed = papermill.execute_notebook(notebook, live and str(live), values, **usual | options)
    except papermill.PapermillExecutionError as error:
        trace = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(error.traceback))
        kind = "" if error.ename == "ImclError" else f"{error.ename}: "
        raise ImclError(f"{kind}{error.evalue}\n{trace}") from None
    except RuntimeError as error:  # the kernel died: it was killed, or another process took one of its ports
        if attempts > 1:
            return run_notebook(notebook, live, values, folder, attempts - 1, python, **options)
        raise ImclError(f"The kernel died ({error}): run it again, with more memory free.") from error
    executed = normalise(executed)
    if any(cell.execution_count is None for cell in code_cells(executed)):
        raise ImclError("The notebook stopped before its last cell: take the call of exit() out of it.")
    return executed


def _kernel_of(python: Path | str) -> type:
    """The manager of a kernel of that interpreter."""
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager

    class KernelOf(AsyncKernelManager):
        @property
        def kernel_spec(self) -> KernelSpec:
            argv = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
            return KernelSpec(argv=argv, language="python", display_name="Python 3")

    return KernelOf


def _prepare_environment() -> None:
    """For kernels of this process: these packages and this process's number of threads; figures drawn inline."""
    _name_the_user()
    ours = [str(CLONE), str(CLONE / "book")]
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path not in ("", *ours)]
    os.environ |= {
        "PYTHONPATH": os.pathsep.join([*ours, *paths]),
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    }


def _name_the_user() -> None:
    """For a user whose number has no entry in passwd, as in many containers: Jupyter and PyTorch ask for both."""
    try:
        import pwd  # not on Windows

        pwd.getpwuid(os.getuid())
    except ImportError:
        return
    except KeyError:
        os.environ.setdefault("USER", f"user{os.getuid()}")
        if not os.access(os.environ.get("HOME", ""), os.W_OK):
            os.environ["HOME"] = gettempdir()
