"""The records and failures that a batch leaves in a folder: taken into the results, and held against what is wanted."""

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

    What is damaged is told and left where it is, as are arrays that are links. `ImclError`, and nothing is taken, where
    a run has different outcomes, in both folders or in one.
    """
    source, target = Path(source), Path(target)
    if not source.is_dir():
        raise ImclError(f"There is no folder {source} to take records from.")
    incoming, here = (files.of_runs(files.RECORD, *existing(folder)) for folder in (source, target))
    sound = {name: found for name, paths in incoming.items() if (found := ledger.sound(paths))}
    _refuse_clashes({name: [*found, *ledger.sound(here.get(name, []))] for name, found in sound.items()})
    small = files.of_runs(files.ARRAYS, source)
    new = {name: found[0].path for name, found in sound.items() if name not in here}
    arrays = [path for name in new for path in small.get(name, [])[:1] if not path.is_symlink()]
    with ThreadPoolExecutor(COPIES_AT_ONCE) as pool:  # a copy waits for the disk, which takes many at a time
        for paths in (arrays, [*new.values()]):  # records last: what has one is complete
            list(pool.map(lambda path: write_whole(target / path.name, path.read_bytes()), paths))
    return [target / path.name for path in new.values()]


def _refuse_clashes(sheets: dict[str, list[Sheet]]) -> None:
    """Takes runs by name with all that is said of them."""
    clashes = {
        name: found
        for name, found in sheets.items()
        if any(other.curve != found[0].curve for other in found[1:])
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
