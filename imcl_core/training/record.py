"""The record of a run: what it was and what came out of it, in one small JSON file, written once and whole."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

from imcl_core.files import move_aside, write_whole
from imcl_core.training.config import RunConfig
from imcl_core.training.files import Files
from imcl_core.training.sheets import FORMAT, DamagedRecord, curve_text, digest, read_sheet


@dataclasses.dataclass(frozen=True)
class Record:
    """What one run was and what came out of it.

    `curve` and `config` are the outcome: a run repeated, or interrupted and resumed, gives the same ones. `run` is how
    it went: versions, hardware, wall time, images a second, peak memory, and the digest of the data.
    """

    config: RunConfig
    curve: list[dict[str, Any]]  # an epoch each: lr, loss, terms, train_error, and test_* where it was evaluated
    run: dict[str, Any]

    @property
    def evaluated(self) -> list[dict[str, Any]]:
        """The epochs of the curve that were evaluated, the last among them: test_loss, test_error, test_error_top5."""
        return [epoch for epoch in self.curve if "test_error" in epoch]

    @property
    def last_error(self) -> float:
        """Top-1 error of the last epoch, %."""
        return self.curve[-1]["test_error"]

    @property
    def best_error(self) -> float:
        """Lowest top-1 error of the epochs evaluated, %: what the paper reports, and an optimistic figure."""
        return min(epoch["test_error"] for epoch in self.evaluated)

    @property
    def images_per_s(self) -> float:
        return self.run["images_per_s"]

    def to_json(self) -> str:
        """The text of its file; a number that is not finite is written as null."""
        curve, run = finite(self.curve), finite(self.run)
        content = {
            "name": self.config.name,
            "format": FORMAT,
            "config": dataclasses.asdict(self.config),
            "curve": curve,
            "run": run,
            "digest": digest(curve_text(curve)),
        }
        return json.dumps(content, indent=1, allow_nan=False) + "\n"

    def row(self) -> dict[str, Any]:
        """The configuration and the summary, flat."""
        last = self.curve[-1]
        return dataclasses.asdict(self.config) | {
            "name": self.config.name,
            "last_error": self.last_error,
            "best_error": self.best_error,
            "last_error_top5": last["test_error_top5"],
            "best_error_top5": min(epoch["test_error_top5"] for epoch in self.evaluated),
            **{k: self.run[k] for k in ("device", "seconds", "images_per_s", "peak_memory_gb")},
            "at_once": self.run.get("at_once", 1),
        }


def finite(value: Any) -> Any:
    """The same lists and dictionaries with None for every number that is not finite, which JSON does not know."""
    if isinstance(value, dict):
        return {key: finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_record(record: Record, folder: str | Path) -> Path:
    """Writes a record to `folder/<name>.json`."""
    path = Files(Path(folder), record.config.name).record
    write_whole(path, record.to_json().encode())
    return path


def read_record(path: str | Path) -> Record:
    """One record; `ImclError` where its file is damaged or of a newer version. The file is left as it is."""
    sheet = read_sheet(Path(path))
    return Record(sheet.config, sheet.curve, sheet.run)


def finished_record(path: Path) -> Record:
    """As `read_record`, for who can run it again: a damaged file is moved aside."""
    try:
        return read_record(path)
    except DamagedRecord as error:
        raise DamagedRecord(path, error.why, move_aside(path)) from error
