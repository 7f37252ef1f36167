"""The records and failures that a batch leaves in a folder: taken into the results, and held against what is wanted."""

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from imcl_core.errors import ImclError
from imcl_core.files import write_whole
from imcl_core.study import ledger
from imcl_core.training import files
from imcl_core.training.sheets import Sheet

COPIES_AT_ONCE = 32


def merge(source: str | Path, target: str | Path) -> list[Path]:
    """Takes the records below `source`, and the small arrays beside them, into `target`; returns the new records.

    What another device made of a run that is there goes to a folder of that device, and is told. What is damaged is
    told and left where it is, as are arrays that are links. `ImclError`, and nothing is taken, where a run has
    different outcomes on one device, in both folders or in one.
    """
    source, target = Path(source).expanduser(), Path(target).expanduser()
    if not source.is_dir():
        raise ImclError(f"There is no folder {source} to take records from.")
    incoming, here = (files.of_runs(files.RECORD, *existing(folder)) for folder in (source, target))
    sound = {name: found for name, paths in incoming.items() if (found := ledger.sound(paths))}
    known = {name: ledger.sound(here.get(name, [])) for name in sound}
    _refuse_clashes({name: [*found, *known[name]] for name, found in sound.items()})
    new: dict[Path, Path] = {}  # by where they go
    for name, found in sound.items():
        if known[name] or name not in here:  # else a damaged file is in its place
            new |= _places(found, known[name], target)
    small = {path for paths in files.of_runs(files.ARRAYS, source).values() for path in paths if not path.is_symlink()}
    beside = {to.with_suffix(files.ARRAYS): path.with_suffix(files.ARRAYS) for to, path in new.items()}
    arrays = {to: path for to, path in beside.items() if path in small}
    with ThreadPoolExecutor(COPIES_AT_ONCE) as pool:  # a copy waits for the disk, which takes many at a time
        for paths in (arrays, new):  # records last: what has one is complete
            list(pool.map(lambda pair: write_whole(pair[0], pair[1].read_bytes()), paths.items()))
    if others := sorted({str(to.parent) for to in new if to.parent != target}):
        files.tell(f"Some runs have outcomes of several devices: those beside the first are in {', '.join(others)}.")
    return [*new]


def _places(found: Iterable[Sheet], known: Iterable[Sheet], target: Path) -> dict[Path, Path]:
    """The files of a run by another `maker` than the known ones, by where they go."""
    taken, places = [*known], {}
    for sheet in ledger.outcomes(sheet.path for sheet in found):
        if not any(_are_one(sheet, other) for other in taken):
            folders = _folders(target / _named_after(*sheet.maker)) if taken else iter([target])
            free = (path for folder in folders if (path := folder / sheet.path.name) not in places)
            places[next(path for path in free if not path.exists())] = sheet.path
            taken.append(sheet)
    return places


def _are_one(sheet: Sheet, other: Sheet) -> bool:
    """Whether both are of one maker, or of one device on which other threads made the same of it."""
    return sheet.maker == other.maker or (sheet.maker[:2] == other.maker[:2] and sheet.curve == other.curve)


def _folders(first: Path) -> Iterator[Path]:
    """`first`, and further ones where it has such a file already."""
    yield first
    yield from (first.with_name(f"{first.name}-{number}") for number in itertools.count(2))


def _named_after(device: str, processes: int, threads: str) -> str:
    """Such as `on-nvidia-h200`."""
    several = f"{processes} processes" if processes > 1 else ""
    return "on-" + re.sub("[^a-z0-9]+", "-", " ".join([device, several, threads]).lower()).strip("-")


def _refuse_clashes(sheets: dict[str, list[Sheet]]) -> None:
    """`ImclError` where one device made two outcomes of a run; `sheets`: all that there are, by name."""
    clashes = {
        name: found
        for name, found in sheets.items()
        if any(s.curve != o.curve for s, o in itertools.combinations(found, 2) if s.maker == o.maker)
    }  # fmt: skip
    if clashes:
        told = ", ".join(f"{name}: {' and '.join(str(s.path) for s in c)}" for name, c in [*clashes.items()][:3])
        raise ImclError(
            f"{len(clashes)} runs have two outcomes on one device, so nothing is taken ({told}): keep one of the two "
            "files, remove the other and merge again."
        )


class Standing:
    """How runs stand, as the files below some folders tell, which are read once."""

    def __init__(self, *folders: str | Path):
        here = existing(*folders)
        self.sheets = ledger.every_sheet(*here)
        self.done = {sheet.path.name.removesuffix(files.RECORD) for sheet in self.sheets}
        self._begun = files.of_runs(files.CHECKPOINT, *here)
        several = {name: paths for name, paths in files.of_runs(files.RECORD, *here).items() if len(paths) > 1}
        rejected = {name: ledger.sound(paths) for name, paths in several.items() if name not in self.done}
        self._disputed = {name: sheets for name, sheets in rejected.items() if len(sheets) > 1}
        self._failed = files.of_runs(files.FAILURE, *here)

    def of(self, names: Iterable[str]) -> dict[str, list[str]]:
        """These runs by their state: done, failed, begun (a checkpoint lies there) or missing.

        Failed is also one of which a device made two outcomes, none of which counts.
        """
        states: dict[str, list[str]] = {"done": [], "failed": [], "begun": [], "missing": []}
        known = {"done": self.done, "failed": self._failed | self._disputed, "begun": self._begun}
        for name in names:
            states[next((state for state, names in known.items() if name in names), "missing")].append(name)
        return states

    def why(self, name: str) -> str:
        """The sentence that a failed run left, or which two outcomes it has."""
        if name in self._disputed:
            return f"it has two outcomes on one device, {' and '.join(str(s.path) for s in self._disputed[name])}"
        return sentence(self._failed[name][0])


def sentence(failure: Path) -> str:
    """The first line of the file that a failed run left; below it stands the traceback, if there is one."""
    return first_line(failure.read_text(encoding="utf-8", errors="replace"))


def first_line(text: str) -> str:
    """The sentence of a failure, without its traceback."""
    return text.strip().partition("\n")[0]


def existing(*folders: str | Path) -> list[Path]:
    """Those of the folders that are there."""
    return [folder for folder in map(Path, folders) if folder.is_dir()]


def folders_given(folders: Sequence[str | Path], usual: Sequence[str]) -> list[Path]:
    """Those of the folders that are there; `ImclError` for a file, and for one that lacks though it is asked for."""
    for folder in map(Path, folders):
        if not folder.is_dir() and (folder.exists() or str(folder) not in usual):
            raise ImclError(f"{folder} is no folder: name one that holds records.")
    return existing(*folders)
