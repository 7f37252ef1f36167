"""Run records on disk, read together: as objects, as one table, or by what a table's cell asks for."""

import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from imcl_core.errors import ImclError
from imcl_core.training import files
from imcl_core.training.config import RunConfig
from imcl_core.training.machine import on_gpu
from imcl_core.training.record import Record
from imcl_core.training.sheets import Sheet, read_sheet


def sheets(*folders: str | Path) -> list[Sheet]:
    """What the record files below the folders say, by path, each run once: where several devices made it, the first.

    Files are left as they are. Those that are damaged, of a newer version, or at odds with another of the same run on
    the same device are told on the error stream and left out.
    """
    return [found[0] for found in _all_outcomes(*folders)]


def every_sheet(*folders: str | Path) -> list[Sheet]:
    """The same with what each device made of a run, of which each tells how fast it is."""
    return [sheet for found in _all_outcomes(*folders) for sheet in found]


def _all_outcomes(*folders: str | Path) -> Iterator[list[Sheet]]:
    for paths in files.of_runs(files.RECORD, *folders).values():
        if found := outcomes(paths):
            yield found


def sound(paths: Iterable[Path]) -> list[Sheet]:
    """The sheets in these files; what is wrong with any other is told."""
    found = []
    for path in paths:
        try:
            found.append(read_sheet(path))
        except ImclError as error:
            files.tell(str(error))
    return found


def outcomes(paths: Iterable[Path]) -> list[Sheet]:
    """The sheets in files of one name, one of each `maker`, the one that was finished first in front.

    Two of one maker that differ are told on the error stream, and none is returned.
    """
    by_maker: dict[tuple, Sheet] = {}
    for sheet in sorted(sound(paths), key=lambda sheet: (sheet.run.get("finished", ""), str(sheet.path))):
        first = by_maker.setdefault(sheet.maker, sheet)
        if first is not sheet and first.curve != sheet.curve:  # a curve is parsed when it is asked for
            told = f"{first.path} and {sheet.path} are two outcomes of one run on one device"
            files.tell(f"{told}: it is left out until you remove one.")
            return []
    return [*by_maker.values()]


def records(*folders: str | Path) -> list[Record]:
    """The records of `sheets`, their curves included."""
    return [Record(sheet.config, sheet.curve, sheet.run) for sheet in sheets(*folders)]


def read(*folders: str | Path) -> pd.DataFrame:
    """All records below the folders as a table, a row a run: the configuration, last and best error (%), speed."""
    return pd.DataFrame([record.row() for record in records(*folders)])


@dataclasses.dataclass(frozen=True, slots=True)
class Run:
    """What a table needs of one record."""

    seed: int
    errors: dict[str, tuple[float, float]]  # last and lowest of those evaluated, %: "top1_error", "top5_error"
    device: str
    on_gpu: bool  # which draws other dropout masks than a processor
    path: Path
    data: str | None  # digest of what it was trained on; of earlier records unknown

    @classmethod
    def of(cls, sheet: Sheet) -> "Run":
        columns = {"top1_error": sheet.column("test_error"), "top5_error": sheet.column("test_error_top5")}
        errors = {metric: (values[-1], min(values)) for metric, values in columns.items()}
        run = sheet.run
        return cls(sheet.config.seed, errors, run["device"], on_gpu(run), sheet.path, run.get("data"))


class Ledger:
    """The record files below some folders, found by configuration.

    Files are told apart by their names, which end in a hash of all settings, and read when a table asks for their
    cell. So ten thousand records of a search for weights cost a table of other runs next to nothing. Without `again`
    it knows the first outcome of a run alone, whatever other devices made of it.
    """

    def __init__(self, *folders: str | Path, again: bool = True):
        self._again = again
        self._files: dict[str, list[tuple[int, str, list[Path]]]] = {}
        self._outcomes: dict[str, dict[int, tuple[Run, ...]]] = {}
        self._cells: dict[str, dict[str, Any]] = {}
        for name, paths in files.of_runs(files.RECORD, *folders).items():
            cell, dataset, model, methods, noise, profile, seed = files.NAME.fullmatch(name).groups()
            self._files.setdefault(cell, []).append((int(seed), name, paths))
            self._cells[cell] = {
                "dataset": dataset, "model": model, "methods": methods, "noise": float(noise or 0), "profile": profile
            }  # fmt: skip

    def cells(self, profile: str) -> list[RunConfig]:
        """A configuration with default settings, at seed 0, for whatever lies here in a profile."""
        found = []
        for cell in self._cells.values():
            try:
                found += [RunConfig(**cell)] if cell["profile"] == profile else []
            except ImclError:  # of a newer version, or only named like a run: told where it is read
                continue
        return found

    def runs(self, config: RunConfig) -> tuple[Run, ...]:
        """The runs of `config` at any seed, by seed; none with any other setting that could influence it.

        A damaged file among them is told on the error stream and left out, as is one of several processes, each of
        which saw a part of every batch.
        """
        return tuple(first for first, *_ in self.outcomes(config).values())

    def outcomes(self, config: RunConfig) -> dict[int, tuple[Run, ...]]:
        """The same by seed, with what other devices made of the run behind the first."""
        name = config.name
        if name not in self._outcomes:
            cell = name.rsplit("-seed", 1)[0]
            found = dict(sorted(self._read(config, self._files.get(cell, []))))
            if len(data := {run.data: run.path for runs in found.values() for run in runs if run.data}) > 1:
                one, other, *_ = data.values()
                files.tell(f"{one} and {other} were trained on other data, though it has one name: compare the files.")
            self._outcomes[name] = found
        return self._outcomes[name]

    def _read(
        self, config: RunConfig, named: list[tuple[int, str, list[Path]]]
    ) -> Iterator[tuple[int, tuple[Run, ...]]]:
        name_at = config.names()
        for seed, name, paths in named:
            if name == name_at(seed) and (sheets := [*filter(_of_one_process, outcomes(paths))]):
                yield seed, tuple(map(Run.of, sheets if self._again else sheets[:1]))


def _of_one_process(sheet: Sheet) -> bool:
    _, processes, _ = sheet.maker
    if processes > 1:
        files.tell(
            f"{sheet.path} was trained by {processes} processes, each with a part of every batch: it enters no table. "
            "To have it in one, train it again in one process, into another folder."
        )
    return processes == 1
