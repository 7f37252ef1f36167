"""Whether a notebook is up to date: what its outputs depend on as one hash, and what its last run took."""

import datetime
import hashlib
import importlib.metadata
import json
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nbformat import NotebookNode

from imcl_book.first_cell import is_for_colab
from imcl_core.files import write_if_changed
from imcl_core.study.notebook import code_cells, read
from imcl_core.training.machine import choose_device, device_name

ROOT = Path(__file__).parents[2]
PACKAGES = ("imcl_core", "book/imcl_book")
CODE = (".py", ".csv", ".css", ".js")
VERSIONS = ("torch", "torchvision", "numpy", "scipy", "scikit-learn", "pandas", "matplotlib", "pillow")


def stamp(path: Path, depended_on: str = "") -> str:
    """Hash of a notebook's file and of everything its outputs depend on: now, or when `depends_on` was asked."""
    content = path.read_bytes() if path.exists() else b""
    return hashlib.sha256(content + (depended_on or depends_on(path)).encode()).hexdigest()


def depends_on(path: Path) -> str:
    """Hash of everything that a notebook's outputs depend on beside its own file.

    That is both packages, the tables in `book/`, `results/` and the measurements in `benchmarks/` where its code names
    them, and the versions of what computes and draws.
    """
    digest = hashlib.sha256()
    packages = [file for name in PACKAGES for file in (ROOT / name).rglob("*") if file.suffix in CODE]
    inputs = [*sorted(packages), *sorted((ROOT / "book").glob("*.csv"))]
    code = "\n".join(cell.source for cell in code_cells(read(path)))
    if "results" in code:
        inputs += sorted(file for file in (ROOT / "results").rglob("*") if file.is_file())
    if "benchmarks" in code:
        inputs += sorted((ROOT / "benchmarks").rglob("*.json"))
    for file in inputs:
        digest.update(f"{file.name}\n".encode() + (file.read_bytes() if file.exists() else b""))
    versions = map(importlib.metadata.version, VERSIONS)
    digest.update(" ".join([sys.version, *versions]).encode())
    return digest.hexdigest()


def code_digest(path: Path) -> str:
    """Hash of what a notebook's code cells say: tells whether a recorded execution is of this code.

    The cell for Colab does nothing in an execution, and does not count.
    """
    return digest_of_code(read(path))


def digest_of_code(notebook: NotebookNode) -> str:
    """As `code_digest`, of a notebook that was read."""
    return _digest("\0".join(cell.source for cell in _counted(notebook)))


def digest_of_outputs(notebook: NotebookNode) -> str:
    """Hash of all that the code cells put out: tells whether any of it was changed after the execution."""
    return _digest(json.dumps([cell.outputs for cell in _counted(notebook)], sort_keys=True))


def _counted(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in code_cells(notebook) if not is_for_colab(cell)]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def execution(path: Path, seconds: float) -> dict[str, str | int]:
    """What the book says of a run that has just ended: seconds, hardware, versions, day, two digests."""
    notebook = read(path)
    return {
        "seconds": max(1, round(seconds)),
        "hardware": device_name(choose_device()),
        "python": platform.python_version(),
        "torch": importlib.metadata.version("torch"),
        "date": datetime.date.today().isoformat(),
        "code": digest_of_code(notebook),
        "outputs": digest_of_outputs(notebook),
    }


def read_object(path: Path | None) -> dict[str, Any]:
    """What a JSON file holds; nothing where there is no file, or none that can be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path else {}
    except (FileNotFoundError, ValueError):
        return {}


def note(path: Path, notebook: str, value: Any) -> None:
    """Writes what is to be kept of a notebook into a JSON file, as it is now; notebooks that are gone leave it."""
    kept = {name: of_it for name, of_it in read_object(path).items() if Path(name).exists()}
    write_object(path, kept | {notebook: value})


def write_object(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file whole, unless it holds this already."""
    write_if_changed(path, json.dumps(content, indent=1, sort_keys=True) + "\n")
