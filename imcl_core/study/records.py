"""The records and failures that a batch leaves in a folder: taken into the results, and held against what is wanted."""

import itertools
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from imcl_core.errors import ImclError
from imcl_core.files import write_whole
from imcl_core.study import ledger
from imcl_core.training import files
from imcl_core.training.config import RunConfig
from imcl_core.training.sheets import Sheet

COPIES_AT_ONCE = 32


def merge(source: str | Path, target: str | Path) -> list[Path]:
    """Takes the records below `source`, and the small arrays beside them, into `target`; returns the new records.

    What is damaged is told and left where it is, as are arrays that are links, and what another device made of a run
    whose file `target` has. `ImclError`, and nothing is taken, where a run has different outcomes on one device, in
    both folders or in one.
    """
    source, target = Path(source), Path(target)
    if not source.is_dir():
        raise ImclError(f"There is no folder {source} to take records from.")
    incoming, here = (files.of_runs(files.RECORD, *existing(folder)) for folder in (source, target))
    sound = {name: found for name, paths in incoming.items() if (found := ledger.sound(paths))}
    known = {name: ledger.sound(here.get(name, [])) for name in sound}
    _refuse_clashes({name: [*found, *known[name]] for name, found in sound.items()})
    new = {name: path for name, found in sound.items() if (path := _new(found, known[name], target))}
    _tell_what_stays({name: found for name, found in sound.items() if name not in new}, known, target)
    small = files.of_runs(files.ARRAYS, source)
    beside = [path for name, record in new.items() for path in small.get(name, []) if path.parent == record.parent]
    arrays = [path for path in beside if not path.is_symlink()]
    with ThreadPoolExecutor(COPIES_AT_ONCE) as pool:  # a copy waits for the disk, which takes many at a time
        for paths in (arrays, [*new.values()]):  # records last: what has one is complete
            list(pool.map(lambda path: write_whole(target / path.name, path.read_bytes()), paths))
    return [target / path.name for path in new.values()]


def _new(found: list[Sheet], known: list[Sheet], target: Path) -> Path | None:
    """The first file of a run that no known one is of the same device as, if its place in `target` is free."""
    others = _of_other_devices(found, known)
    return others[0].path if others and not (target / others[0].path.name).exists() else None


def _of_other_devices(found: Iterable[Sheet], known: Iterable[Sheet]) -> list[Sheet]:
    devices = {sheet.run["device"] for sheet in known}
    return [sheet for sheet in found if sheet.run["device"] not in devices]


def _tell_what_stays(left: dict[str, list[Sheet]], known: dict[str, list[Sheet]], target: Path) -> None:
    """Tells which of the runs that were not taken another device made, and what could be done with them."""
    others = [sheet for name, found in left.items() if known[name] for sheet in _of_other_devices(found, known[name])]
    if others:
        files.tell(
            f"{len(others)} runs were made in {target} before, on another device, and stay where they are "
            f"({others[0].path}). To keep both, so that tables compare runs of one device, merge them into a folder "
            "of its own below the results."
        )


def _refuse_clashes(sheets: dict[str, list[Sheet]]) -> None:
    """Takes runs by name with all that is said of them."""
    clashes = {
        name: found
        for name, found in sheets.items()
        if any(s.curve != o.curve for s, o in itertools.combinations(found, 2) if s.run["device"] == o.run["device"])
    }  # fmt: skip
    if clashes:
        told = ", ".join(f"{name}: {' and '.join(str(s.path) for s in c)}" for name, c in [*clashes.items()][:3])
        raise ImclError(
            f"{len(clashes)} runs have another outcome in a second file, so nothing is taken ({told}): keep one of the "
            "two, remove the other and merge again."
        )


def status(configs: Sequence[RunConfig], *folders: str | Path) -> dict[str, list[str]]:
    """The names of the runs that are done, failed, begun (a checkpoint lies there) and missing."""
    return Standing(*folders).of(config.name for config in configs)


class Standing:
    """How runs stand, as the files below some folders tell, which are read once."""

    def __init__(self, *folders: str | Path):
        here = existing(*folders)
        self.sheets = ledger.sheets(*here)
        self.done = {sheet.path.name.removesuffix(files.RECORD) for sheet in self.sheets}
        self._begun = files.of_runs(files.CHECKPOINT, *here)
        self._failed = files.of_runs(files.FAILURE, *here)

    def of(self, names: Iterable[str]) -> dict[str, list[str]]:
        """These runs by their state: done, failed, begun or missing."""
        states: dict[str, list[str]] = {"done": [], "failed": [], "begun": [], "missing": []}
        for name in names:
            known = {"done": self.done, "failed": self._failed, "begun": self._begun}
            states[next((state for state, names in known.items() if name in names), "missing")].append(name)
        return states

    def why(self, name: str) -> str:
        """The sentence that a failed run left."""
        return _sentence(self._failed[name][0])


def failures(configs: Sequence[RunConfig], *folders: str | Path) -> dict[str, str]:
    """Why the runs failed that did, by name."""
    paths = [(config, failure_file(folder, config)) for folder in existing(*folders) for config in configs]
    return {config.name: _sentence(file) for config, file in paths if file.exists()}


def _sentence(failure: Path) -> str:
    """The first line of what a failed run left."""
    return first_line(failure.read_text(encoding="utf-8", errors="replace"))


def failure_file(folder: Path, config: RunConfig) -> Path:
    """Where a run that failed says why: a sentence in the first line, then the traceback if there is one."""
    return files.Files(folder, config.name).failure


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
