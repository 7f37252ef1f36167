"""The records and failures that a batch leaves in a folder: taken into the results, and held against what is wanted."""

from collections.abc import Sequence
from pathlib import Path

from imcl_core.errors import ImclError
from imcl_core.files import write_whole
from imcl_core.study import ledger
from imcl_core.training.config import RunConfig
from imcl_core.training.record import write_record


def merge(source: str | Path, target: str | Path) -> list[Path]:
    """Takes the records below `source`, and the small arrays beside them, into `target`; returns the new records.

    `ImclError`, and nothing is taken, where a run lies in both with different outcomes.
    """
    source, target = Path(source), Path(target)
    if not source.is_dir():
        raise ImclError(f"There is no folder {source} to take records from.")
    incoming = ledger.records(source)
    here = {record.config.key: record for record in ledger.records(target)} if target.is_dir() else {}
    clashes = [r.config.name for r in incoming if r.config.key in here and here[r.config.key].curve != r.curve]
    if clashes:
        raise ImclError(
            f"{len(clashes)} runs have another outcome in {target} already ({', '.join(clashes[:3])}): keep one of "
            "the two, remove the other and merge again."
        )
    new = [record for record in incoming if record.config.key not in here]
    small = {path.stem: path for path in source.rglob("*.npz")}
    for record in new:
        if record.config.name in small:
            write_whole(target / f"{record.config.name}.npz", small[record.config.name].read_bytes())
    return [write_record(record, target) for record in new]


def status(configs: Sequence[RunConfig], *folders: str | Path) -> dict[str, list[str]]:
    """The names of the runs that are done, failed, begun (a checkpoint lies there) and missing."""
    here = existing(*folders)
    done = {record.config.key for record in ledger.records(*here)}
    begun = {path.name.removesuffix(".checkpoint.pt") for f in here for path in f.rglob("*.checkpoint.pt")}
    failed = failures(configs, *here)
    cells: dict[str, list[str]] = {"done": [], "failed": [], "begun": [], "missing": []}
    for config in configs:
        state = "done" if config.key in done else "failed" if config.name in failed else "missing"
        cells["begun" if state == "missing" and config.name in begun else state].append(config.name)
    return cells


def failures(configs: Sequence[RunConfig], *folders: str | Path) -> dict[str, str]:
    """Why the runs failed that did, by name."""
    files = [(config, failure_file(folder, config)) for folder in existing(*folders) for config in configs]
    return {config.name: first_line(file.read_text(encoding="utf-8")) for config, file in files if file.exists()}


def failure_file(folder: Path, config: RunConfig) -> Path:
    """Where a run that failed says why: a sentence in the first line, then the traceback if there is one."""
    return folder / f"{config.name}.failed.txt"


def first_line(text: str) -> str:
    """The sentence of a failure, without its traceback."""
    return text.strip().partition("\n")[0]


def existing(*folders: str | Path) -> list[Path]:
    """Those of the folders that are there."""
    return [folder for folder in map(Path, folders) if folder.is_dir()]
