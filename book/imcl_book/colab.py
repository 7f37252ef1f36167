"""The first code cell of the notebooks, and what it does on Colab: fetch the book, install what is missing.

Where `imcl_core` can be imported the cell does nothing. Elsewhere it looks for a clone of the book, unpacks
`imcl-book.zip` or makes a clone if there is none, and runs this file from there. That happens before anything is
installed, so this file imports nothing but the standard library.
"""

import importlib.metadata
import os
import platform
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

LIST = Path(__file__).parents[1] / "colab-preinstalled.txt"
EXTRAS = ("digits", "study")  # of pyproject.toml: what the chapters need beside what the package does
TAGS = ["colab", "remove-cell"]  # of the cell: told by the first; the second keeps it out of the book's pages
_CELL = """\
# On Colab this fetches the book and what Colab lacks. Where imcl_core is
# installed, it does nothing.
import importlib.util
import os
import runpy
import shutil
import subprocess
from pathlib import Path

if importlib.util.find_spec("imcl_core") is None:
    address = "ADDRESS"
    book = Path(os.environ.get("IMCL_SOURCE", "..")).resolve()
    if not (book / "book" / "imcl_book").is_dir():
        book = Path("imcl-book").resolve()
    if not book.is_dir() and Path("imcl-book.zip").exists():
        shutil.unpack_archive("imcl-book.zip")
    if not book.is_dir() and not address:
        raise RuntimeError(
            "This book has no public address yet: upload imcl-book.zip, made "
            "as its page Start says, and run this cell again."
        )
    if not book.is_dir():
        clone = ["git", "clone", "--quiet", "--depth=1", "--branch=BRANCH"]
        subprocess.run([*clone, address, str(book)], check=True)
    colab = runpy.run_path(str(book / "book" / "imcl_book" / "colab.py"))
    colab["prepare"](book)"""


def cell(config: Path) -> str:
    """The source of the cell, with the repository's address and branch as the book's `_config.yml` has them."""
    text = config.read_text(encoding="utf-8") if config.exists() else ""
    found = re.search(r'^repository:\n  url: "?([^"\s]*)"?\n  branch: (\S+)$', text, re.MULTILINE)
    address, branch = found.groups() if found else ("", "main")
    return _CELL.replace("ADDRESS", address).replace("BRANCH", branch)


def prepare(book: Path) -> None:
    """Makes this session one that runs the notebooks of `book`, a clone, and says what it found.

    Missing packages are installed. Notebooks read files relative to their own folder, so that becomes the working
    folder. `IMCL_PROFILE` names the profile that fits: `t4` with a GPU, else `smoke`. Raises `RuntimeError` where the
    session has too old a version of something, or no PyTorch.
    """
    project = tomllib.loads((book / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    install_missing([*project["dependencies"], *(need for name in EXTRAS for need in extras[name])])
    folders = [str(book), str(book / "book")]  # of imcl_core and of imcl_book
    sys.path[:0] = folders
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [*folders, os.environ.get("PYTHONPATH")]))
    os.chdir(book / "notebooks")
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    os.environ["IMCL_PROFILE"] = "t4" if gpu else "smoke"
    versions = ", ".join(f"{name} {_installed(name)}" for name in ("torch", "numpy"))
    print(f"Python {platform.python_version()}, {versions}, {gpu or 'no GPU'}.")
    if gpu:
        print('This GPU fits profile = "t4": runs planned for 20 minutes at most. To resume one after a disconnect,')
        print("mount your Drive, let `out` name a folder there, and start the same run again.")


def install_missing(requirements: list[str]) -> None:
    """Installs those of `requirements`, each `name>=version`, that are not there, and changes nothing that is.

    PyTorch, torchvision and NumPy are never installed: on Colab they fit one another and the GPU as they are.
    """
    wanted = dict(requirement.split(">=") for requirement in requirements)
    there = {name: version for name in wanted if (version := _installed(name))}
    old = [f"{name} {there[name]}" for name in there if _numbers(there[name]) < _numbers(wanted[name])]
    if old:
        raise RuntimeError(
            f"This session has {', '.join(old)}, too old for this book: on Colab choose the latest version under "
            "Runtime, Change runtime type; elsewhere upgrade them."
        )
    missing = [name for name in wanted if name not in there]
    if never := sorted({"torch", "torchvision", "numpy"}.intersection(missing)):
        raise RuntimeError(f"This session has no {' and no '.join(never)}: install PyTorch first, see pytorch.org.")
    if missing:
        _install([f"{name}>={wanted[name]}" for name in missing], [f"{name}=={there[name]}" for name in there])


def _install(requirements: list[str], keep: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "constraints.txt"
        constraints.write_text("\n".join(keep) + "\n", encoding="utf-8")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--constraint", str(constraints)]
        subprocess.run([*command, *requirements], check=True)
    importlib.invalidate_caches()


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> list[int]:
    """`2.11.0+cu128` as [2, 11, 0, 128], to compare with [2, 11]."""
    return [int(number) for number in re.findall(r"\d+", version)]


def preinstalled(listed: str, freeze: str) -> str:
    """The text of `book/colab-preinstalled.txt` brought up to `freeze`, what `pip freeze` prints on Colab.

    Versions are kept to their first two numbers; what Colab has no longer goes; comments stay.
    """
    found = re.findall(r"^([\w.-]+)(?:==| @ .*?-)(\d+\.\d+)", freeze, re.MULTILINE)
    versions = {name.lower().replace("_", "-"): version for name, version in found}
    lines = []
    for line in listed.splitlines():
        name, pinned, _ = line.partition("==")
        if not pinned or name in versions:
            lines.append(f"{name}=={versions[name]}.*" if pinned else line)
    return "\n".join(lines) + "\n"
