"""Run records on disk, read together: as objects, as one table, or by what a table's cell asks for."""

import copy
import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from imcl_core.training.config import RunConfig
from imcl_core.training.record import Record, checked, damage_reported, read_record


def _paths(*folders: str | Path) -> dict[str, Path]:
    return {path.stem: path for folder in folders for path in sorted(Path(folder).rglob("*.json"))}


def records(*folders: str | Path) -> list[Record]:
    """All records below the folders, by path; one that lies in several folders is taken once."""
    return [read_record(path) for path in _paths(*folders).values()]


def read(*folders: str | Path) -> pd.DataFrame:
    """All records below the folders as a table, a row a run: the configuration, last and best error (%), speed."""
    return pd.DataFrame([record.row() for record in records(*folders)])


@dataclasses.dataclass(frozen=True, slots=True)
class Run:
    """What a table needs of one record."""

    seed: int
    errors: dict[str, tuple[float, float]]  # last and lowest of those evaluated, %: "top1_error", "top5_error"
    device: str
    path: Path

    @classmethod
    def of(cls, seed: int, content: dict[str, Any], path: Path) -> "Run":
        columns = {"top1_error": "test_error", "top5_error": "test_error_top5"}
        evaluated = [epoch for epoch in content["curve"] if columns.values() & epoch.keys()]
        by_epoch = {metric: [float(epoch[name]) for epoch in evaluated] for metric, name in columns.items()}
        errors = {metric: (values[-1], min(values)) for metric, values in by_epoch.items()}
        return cls(seed, errors, content["run"]["device"], path)


class Ledger:
    """The record files below some folders, found by configuration.

    Files are told apart by their names, which end in a hash of all settings, and read when a table asks for their
    cell. So ten thousand records of a search for weights cost a table of other runs next to nothing.
    """

    _NAME = re.compile(r"(([^-]+)-([^-]+)-(.+?)(?:-noise([\d.e-]+))?-([a-z0-9]+))-seed(\d+)-[0-9a-f]{12}")

    def __init__(self, *folders: str | Path):
        self._files: dict[str, list[tuple[int, Path]]] = {}
        self._runs: dict[str, tuple[Run, ...]] = {}
        self._cells: dict[str, dict[str, Any]] = {}
        for name, path in _paths(*folders).items():
            if match := self._NAME.fullmatch(name):
                cell, dataset, model, methods, noise, profile, seed = match.groups()
                self._files.setdefault(cell, []).append((int(seed), path))
                self._cells[cell] = {
                    "dataset": dataset, "model": model, "methods": methods, "noise": float(noise or 0),
                    "profile": profile,
                }  # fmt: skip

    def cells(self, profile: str) -> list[RunConfig]:
        """A configuration with default settings, at seed 0, for whatever lies here in a profile."""
        return [RunConfig(**cell) for cell in self._cells.values() if cell["profile"] == profile]

    def runs(self, config: RunConfig) -> tuple[Run, ...]:
        """The runs of `config` at any seed, by seed; none with any other setting that could influence it.

        A damaged file among them is moved aside and reported by an `ImclError`.
        """
        cell = config.name.rsplit("-seed", 1)[0]
        key = f"{cell} {config.key}"
        if key not in self._runs:
            self._runs[key] = tuple(sorted(self._read(config, self._files.get(cell, [])), key=lambda run: run.seed))
        return self._runs[key]

    def _read(self, config: RunConfig, files: list[tuple[int, Path]]) -> Iterator[Run]:
        config, names, settings = copy.copy(config), {}, _as_json(dataclasses.asdict(config))
        for seed, path in files:
            if seed not in names:
                object.__setattr__(config, "seed", seed)  # faster than `replace`, which checks every setting anew
                names[seed] = config.name
            if path.stem == names[seed]:
                yield _read_run(path, settings | {"seed": seed})


def _read_run(path: Path, expected: dict[str, Any]) -> Run:
    """As `read_record`, but settings that are the `expected` ones need not be checked anew."""
    with damage_reported(path):
        text = path.read_text()
        content = json.loads(text)
        if content["config"] != expected:
            checked(Record.from_json(text), path)  # other settings of methods that are off; fewer, in an old record
        return Run.of(expected["seed"], content, path)


def _as_json(settings: dict[str, Any]) -> dict[str, Any]:
    """As they would be read from a file: tuples are lists."""
    return json.loads(json.dumps(settings))
