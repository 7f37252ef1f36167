"""A queue of runs that wastes no time: the wanted ones first, none twice, none started that cannot end in time."""

import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tqdm import tqdm

from imcl_core import ledger
from imcl_core.data import load
from imcl_core.errors import ImclError
from imcl_core.files import locked
from imcl_core.ledger import Record
from imcl_core.recipes import RunConfig
from imcl_core.training import Run, choose_device, device_name, train

TRIAL_STEPS = 8  # timed after as many untimed ones, where no record tells how fast a run is
TRIAL_SECONDS = 20  # with less time left no trial is worth it


@dataclass
class Outcome:
    """What a batch did, by name of the run."""

    done: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)  # had a record, or is being run by another process
    postponed: list[str] = field(default_factory=list)  # would not have ended in time
    failed: dict[str, str] = field(default_factory=dict)


class Speeds:
    """Seconds a run takes on a device, from the records of like runs, else from a few steps of its own."""

    def __init__(self, device: torch.device, records: Iterable[Record], data_folder: str | Path | None = None):
        self.device, self.data_folder = device, data_folder
        self.measured: dict[tuple, list[tuple[float, float]]] = {}
        for record in records:
            if record.run["device"] == device_name(device):
                evaluation = record.run["evaluation_seconds"] / len(record.curve)
                self.measured.setdefault(_like(record.config), []).append((record.images_per_s, evaluation))

    def seconds(self, config: RunConfig) -> float | None:
        """From records alone; None where there is none like it."""
        like = self.measured.get(_like(config))
        if not like:
            return None
        images_per_s, evaluation = (statistics.median(column) for column in zip(*like, strict=True))
        images = config.train_size or config.recipe.images * (0.9 if config.validation else 1)
        return config.epochs * (images / images_per_s + evaluation)

    def fits(self, config: RunConfig, left: float) -> bool:
        """Whether the run would end within `left` seconds; where nothing is known, a trial tells, if there is time."""
        if _like(config) not in self.measured and left > TRIAL_SECONDS:
            began = time.monotonic()
            self.measure(config)
            left -= time.monotonic() - began
        seconds = self.seconds(config)
        return seconds is not None and seconds <= left

    def measure(self, config: RunConfig) -> None:
        """Times a few steps and an evaluation of the run."""
        data = load(
            config.dataset,
            folder=self.data_folder,
            train_size=config.train_size or None,
            validation=config.validation,
            device=self.device,
        )
        cuda = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda):
            self.measured[_like(config)] = [Run(config, data, self.device).trial(TRIAL_STEPS)]


def _like(config: RunConfig) -> tuple:
    """Runs that share this are equally fast."""
    return config.dataset, config.model, config.methods, config.width, config.batch_size, config.attach


def run_batch(
    configs: Sequence[RunConfig],
    out: str | Path,
    *,
    done: Sequence[str | Path] = (),
    budget: float | None = None,
    data_folder: str | Path | None = None,
    device: str | torch.device | None = None,
    progress: bool = True,
) -> Outcome:
    """Works through `configs` in their order; each record is written to `out` the moment its run ends.

    Runs with a record in `out` or below one of the folders `done` are skipped, as are those that another process is
    at. With a `budget`, in seconds from now, a run is started only if its estimated time fits into what is left. A run
    that fails is reported, and does not stop the rest; one that was interrupted resumes from its checkpoint.
    """
    began, out, device = time.monotonic(), Path(out), choose_device(device)
    folders = [folder for folder in (out, *map(Path, done)) if folder.is_dir()]
    records = ledger.records(*folders)
    finished, speeds, outcome = (
        {record.config.key for record in records},
        Speeds(device, records, data_folder),
        Outcome(),
    )
    for config in configs:
        if config.key in finished:
            outcome.skipped.append(config.name)
            continue
        try:
            with locked(out / ".locks" / config.name) as ours:
                if not ours or (out / f"{config.name}.json").exists():
                    outcome.skipped.append(config.name)
                    continue
                if budget is not None and not speeds.fits(config, budget - (time.monotonic() - began)):
                    outcome.postponed.append(config.name)
                    continue
                record = train(config, out=out, data_folder=data_folder, device=device, progress=progress)
        except OSError as error:
            raise ImclError(f"Could not write into {out} ({error.strerror}): choose another folder for out.") from error
        except ImclError as error:
            if isinstance(error.__cause__, KeyboardInterrupt):
                raise
            outcome.failed[config.name] = str(error)
            tqdm.write(f"imcl: {config.name}: {error}", file=sys.stderr)
            continue
        outcome.done.append(config.name)
        tqdm.write(f"{record.last_error:6.2f} %  {record.run['seconds']:7.1f} s  {config.name}")
    return outcome


def run_parallel(configs: Sequence[RunConfig], out: str | Path, *, jobs: int, **options) -> Outcome:
    """`run_batch` by several processes that share the list, each with its share of the cores."""
    threads = max(1, (os.cpu_count() or 1) // jobs)
    context = multiprocessing.get_context("spawn")
    with context.Pool(jobs, torch.set_num_threads, (threads,)) as pool:
        waiting = [pool.apply_async(run_batch, (configs, out), options | {"progress": False}) for _ in range(jobs)]
        parts = [result.get() for result in waiting]
    outcome = Outcome(failed={name: why for part in parts for name, why in part.failed.items()})
    outcome.done = [name for part in parts for name in part.done]
    tried = {*outcome.done, *outcome.failed}
    outcome.postponed = [n for n in dict.fromkeys(n for part in parts for n in part.postponed) if n not in tried]
    tried.update(outcome.postponed)
    outcome.skipped = [config.name for config in configs if config.name not in tried]
    return outcome


def merge(source: str | Path, target: str | Path) -> list[Path]:
    """Takes the records below `source` into the folder `target`; returns the new ones.

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
    return [ledger.write(record, target) for record in incoming if record.config.key not in here]


def status(configs: Sequence[RunConfig], *folders: str | Path) -> dict[str, list[str]]:
    """The names of the runs that are done, begun (a checkpoint lies there) and missing."""
    existing = [Path(folder) for folder in folders if Path(folder).is_dir()]
    done = {record.config.key for record in ledger.records(*existing)}
    begun = {path.name.removesuffix(".checkpoint.pt") for f in existing for path in f.rglob("*.checkpoint.pt")}
    cells: dict[str, list[str]] = {"done": [], "begun": [], "missing": []}
    for config in configs:
        cells["done" if config.key in done else "begun" if config.name in begun else "missing"].append(config.name)
    return cells
