"""What a run's files are called, and which files below a folder are those of runs."""

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

NAME = re.compile(r"(([^-]+)-([^-]+)-(.+?)(?:-noise(\d+\.?\d*(?:e-?\d+)?))?-([a-z0-9]+))-seed(\d+)-[0-9a-f]{12}")
RECORD, ARRAYS, NETWORK, CHECKPOINT = ".json", ".npz", ".network.pt", ".checkpoint.pt"
FAILURE, NOTEBOOK = ".failed.txt", ".ipynb"


class Files:
    """Where a run of this name keeps what it writes."""

    def __init__(self, folder: Path, name: str):
        self.folder = folder
        self.record = folder / f"{name}{RECORD}"
        self.network = folder / f"{name}{NETWORK}"
        self.arrays = folder / f"{name}{ARRAYS}"
        self.checkpoint = folder / f"{name}{CHECKPOINT}"
        self.failure = folder / f"{name}{FAILURE}"
        self.notebook = folder / f"{name}{NOTEBOOK}"


def of_runs(kind: str, *folders: str | Path) -> dict[str, list[Path]]:
    """The files of one kind, such as `RECORD`, below the folders: by name of the run, each file once.

    Whatever is not named like a run is passed over, as are hidden files and folders and links to nothing. Links to
    folders are followed. A folder that cannot be read is told.
    """
    found: dict[str, list[Path]] = {}
    seen: set[tuple[int, int]] = set()
    for folder in folders:
        for path in _below(str(folder), seen):
            name = path.rpartition(os.sep)[2]
            if name.endswith(kind) and NAME.fullmatch(stem := name.removesuffix(kind)):
                found.setdefault(stem, []).append(Path(path))
    return found


def _below(folder: str, seen: set[tuple[int, int]]) -> Iterator[str]:
    """All files, by path; a folder that several links lead to is entered once."""
    try:
        status = os.stat(folder)
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        tell(f"The folder {folder} cannot be read ({error.strerror}): what lies in it is left out.")
        return
    if (status.st_dev, status.st_ino) in seen:
        return
    seen.add((status.st_dev, status.st_ino))
    for entry in entries:
        if entry.name.startswith("."):
            continue
        try:
            if entry.is_dir():
                yield from _below(entry.path, seen)
            elif entry.is_file():
                yield entry.path
        except OSError:  # a link that leads in a circle
            continue


def tell(sentence: str) -> None:
    """Writes a sentence to the error stream, above the progress bars."""
    tqdm.write(f"imcl: {sentence}", file=sys.stderr)
