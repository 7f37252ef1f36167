"""The record of a run: what it was and what came out of it, in one small JSON file, written once and whole."""

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from imcl_core.errors import ImclError
from imcl_core.files import move_aside, write_whole
from imcl_core.training.config import RunConfig


@dataclasses.dataclass(frozen=True)
class Record:
    """What one run was and what came out of it.

    `curve` and `config` are the outcome: a run repeated, or interrupted and resumed, gives the same ones. `run` is how
    it went: versions, hardware, wall time, images a second, peak memory.
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
        content = {
            "name": self.config.name,
            "config": dataclasses.asdict(self.config),
            "curve": self.curve,
            "run": self.run,
        }
        return json.dumps(content, indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Record":
        content = json.loads(text)
        return cls(RunConfig(**content["config"]), content["curve"], content["run"])

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
        }


def write_record(record: Record, folder: str | Path) -> Path:
    """Writes a record to `folder/<name>.json`."""
    path = Path(folder) / f"{record.config.name}.json"
    write_whole(path, record.to_json().encode())
    return path


def read_record(path: str | Path) -> Record:
    """One record; a damaged file is moved aside and reported by an `ImclError`."""
    path = Path(path)
    with damage_reported(path):
        return checked(Record.from_json(path.read_text()), path)


def checked(record: Record, path: Path) -> Record:
    """The record, where it is the one that its file is named for; else `ValueError`."""
    if record.config.name != path.stem or not record.curve:
        raise ValueError("its name and its content differ")
    return record


@contextmanager
def damage_reported(path: Path) -> Iterator[None]:
    """Moves a file aside whose content makes no sense in here, and raises `ImclError`."""
    try:
        yield
    except (ValueError, LookupError, TypeError, ImclError) as error:
        aside = move_aside(path)
        raise ImclError(f"The record {path} is damaged ({error}); it is now {aside.name}: run it again.") from error
