"""A queue of runs that wastes no time: the wanted ones first, none twice, none started that cannot end in time."""

import os
import statistics
import sys
import time
import traceback
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent import futures
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tqdm import tqdm

from imcl_core.data.download import prepare
from imcl_core.data.sets import data_folder as data_folder_of
from imcl_core.data.sets import load
from imcl_core.errors import ImclError
from imcl_core.files import locked, write_whole
from imcl_core.study import executed, ledger
from imcl_core.study.pools import Died, Here, RayPool, Slots
from imcl_core.training.config import RunConfig
from imcl_core.training.record import Record, read_record, write_record
from imcl_core.training.run import Run, choose_device, device_name, train

TRIAL_STEPS = 8  # timed after as many untimed ones, where no record tells how fast a run is
TRIAL_SECONDS = 20  # with less time left no trial is worth it
TRIES = 3  # of a run whose process dies


@dataclass
class Outcome:
    """What a batch did, by name of the run."""

    done: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)  # had a record, or is being run by another process
    postponed: list[str] = field(default_factory=list)  # would not have ended in time
    failed: dict[str, str] = field(default_factory=dict)
    failed_before: dict[str, str] = field(default_factory=dict)  # in an earlier batch; not tried again


class Speeds:
    """Seconds a run takes on a device, from the records of like runs, else from a few steps of its own."""

    def __init__(self, device: torch.device, records: Iterable[Record], data_folder: str | Path | None = None):
        self.device, self.data_folder = device, data_folder
        self.measured: dict[tuple, list[tuple[float, float]]] = {}
        for record in records:
            if record.run["device"] == device_name(device):
                evaluation = record.run["evaluation_seconds"] / record.config.evaluations
                self.measured.setdefault(record.config.like, []).append((record.images_per_s, evaluation))

    def seconds(self, config: RunConfig) -> float | None:
        """From records alone; None where there is none like it."""
        like = self.measured.get(config.like)
        if not like:
            return None
        images_per_s, evaluation = (statistics.median(column) for column in zip(*like, strict=True))
        images = config.train_size or config.recipe.images * (0.9 if config.validation else 1)
        return config.epochs * images / images_per_s + config.evaluations * evaluation

    def fits(self, config: RunConfig, left: float) -> bool:
        """Whether the run would end within `left` seconds; where nothing is known, a trial tells, if there is time."""
        if config.like not in self.measured and left > TRIAL_SECONDS:
            began = time.monotonic()
            self.measure(config)
            left -= time.monotonic() - began
        seconds = self.seconds(config)
        return seconds is not None and seconds <= left

    def known(self, config: RunConfig) -> tuple[tuple, list[tuple[float, float]]] | None:
        """What is measured of runs like it, to be told to another process."""
        like = config.like
        return (like, self.measured[like]) if like in self.measured else None

    def measure(self, config: RunConfig) -> None:
        """Times a few steps and an evaluation of the run."""
        data = load(
            config.dataset,
            folder=self.data_folder,
            train_size=config.train_size or None,
            validation=config.validation,
            side=config.side,
            device=self.device,
        )
        cuda = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda):
            self.measured[config.like] = [Run(config, data, self.device).trial(TRIAL_STEPS)]


@dataclass(frozen=True)
class Job:
    """What the runs of a batch share."""

    out: Path
    data_folder: Path | None = None
    device: str | None = None
    notebook: bool = False  # execute run.ipynb, in place of a bare run
    progress: bool = False
    ends: float | None = None  # seconds since the epoch: no run is started that would end later
    speeds: Speeds | None = None


@dataclass(frozen=True)
class Result:
    """What became of one run."""

    state: str  # done, skipped, postponed or failed
    why: str = ""
    record: Record | None = None
    notebook: str | None = None  # the text of the executed notebook
    speed: tuple[tuple, list] | None = None  # for `Speeds.measured`


def run_one(config: RunConfig, job: Job, wait: bool = False) -> Result:
    """Works on one run, unless it has a record, or another process is at it (with `wait`: once that one is not).

    Whatever the run raises is its result, but for an interruption; `ImclError` where `job.out` cannot be written to.
    """
    record, notebook = (job.out / f"{config.name}.{kind}" for kind in ("json", "ipynb"))
    with _locked(job.out, config.name, wait) as ours:
        if not ours or record.exists():
            return Result("skipped")
        if job.ends is not None and not job.speeds.fits(config, job.ends - time.time()):
            return Result("postponed", speed=job.speeds.known(config))
        why = _attempt(config, job)
        if not record.exists():
            return Result("failed", why or "it ended without a record: take the call of exit() out of the notebook.")
        text = notebook.read_text(encoding="utf-8") if job.notebook and notebook.exists() else None
        return Result("done", why, read_record(record), text, job.speeds and job.speeds.known(config))


def _attempt(config: RunConfig, job: Job) -> str:
    """Why it failed: a sentence, and the traceback below it where there is one; nothing where all went well."""
    try:
        if job.notebook:
            if job.data_folder is not None:  # in the notebook it would be a path of this machine
                os.environ["IMCL_DATA"] = str(job.data_folder)
            executed.execute(config, job.out, job.device)
        else:
            train(config, out=job.out, data_folder=job.data_folder, device=job.device, progress=job.progress)
    except Exception as error:
        if isinstance(error.__cause__, KeyboardInterrupt):
            raise
        if isinstance(error, ImclError):
            return str(error)
        return f"{type(error).__name__}: {' '.join(str(error).split())}\n{traceback.format_exc()}"
    return ""


@contextmanager
def _locked(out: Path, name: str, wait: bool = False) -> Iterator[bool]:
    with ExitStack() as stack:
        try:
            ours = stack.enter_context(locked(out / ".locks" / name, wait))
        except OSError as error:
            raise ImclError(f"Could not write into {out} ({error.strerror}): choose another folder for out.") from error
        yield ours


def run_batch(
    configs: Sequence[RunConfig],
    out: str | Path,
    *,
    pool: Here | Slots | RayPool | None = None,
    done: Sequence[str | Path] = (),
    budget: float | None = None,
    data_folder: str | Path | None = None,
    device: str | torch.device | None = None,
    progress: bool = True,
    notebook: bool = False,
    retry_failed: bool = False,
) -> Outcome:
    """Works through `configs` in their order; each record is written to `out` the moment its run ends.

    Runs with a record in `out` or below one of the folders `done` are skipped, as are those that another process is
    at, and those that failed in an earlier batch, unless `retry_failed`. With a `budget`, in seconds from now, a run is
    started only if its estimated time fits into what is left. A run that fails is reported, leaves `<name>.failed.txt`
    and does not stop the rest; one that was interrupted, or whose process died, resumes from its checkpoint. With
    `notebook` each run leaves `run.ipynb` executed beside its record. `pool`: where to work; default: this process, or
    one beside it for notebooks.

    Raises:
        ImclError: `out` cannot be written to, there is no data for any of the runs, no such device.
    """
    out, pool = Path(out).absolute(), pool or (Slots.on_cores(1) if notebook else Here())
    if data_folder := data_folder or os.environ.get("IMCL_DATA"):
        data_folder = Path(data_folder).expanduser().absolute()  # kernels and nodes work in other folders
    speeds = None
    if not pool.remote:
        chosen = choose_device(device)
        if budget is not None:
            speeds = Speeds(chosen, ledger.records(*_folders(out, *done)), data_folder)
    elif budget is not None:
        raise ImclError("A budget plans the time of one machine: leave it out on a Ray cluster.")
    outcome = Outcome()
    todo = _todo(configs, out, done, retry_failed, outcome)
    if todo:
        with _locked(out, ".batch"):  # can it be written to?
            pass
    if not pool.remote:
        todo = _with_data(todo, data_folder, progress, outcome)
    bare_here = isinstance(pool, Here) and not notebook
    job = Job(
        out,
        data_folder or None,
        None if device is None else str(device),
        notebook,
        progress and bare_here,
        None if budget is None else time.time() + budget,
        speeds,
    )
    options = {"desc": "batch", "unit": " run", "disable": not progress or not todo, "dynamic_ncols": True}
    with pool if todo else Here() as pool, tqdm(total=len(todo), **options) as bar:
        for config, result, running in _work(todo, job, pool):
            if result:
                _take(config, result, job, outcome)
                bar.update()
            bar.set_postfix(done=len(outcome.done), failed=len(outcome.failed), running=running)
    return outcome


def _folders(*folders: str | Path) -> list[Path]:
    return [folder for folder in map(Path, folders) if folder.is_dir()]


def _todo(
    configs: Sequence[RunConfig], out: Path, done: Sequence[str | Path], retry_failed: bool, outcome: Outcome
) -> list[RunConfig]:
    """Those without a record, and without a failure that is to be left alone; a damaged record is no record."""
    files = {path.stem: path for folder in _folders(*done, out) for path in sorted(folder.rglob("*.json"))}
    todo = []
    for config in configs:
        failure = failure_file(out, config)
        try:
            if config.name in files:
                read_record(files[config.name])
                outcome.skipped.append(config.name)
            elif failure.exists() and not retry_failed:
                outcome.failed_before[config.name] = _first_line(failure.read_text(encoding="utf-8"))
            else:
                todo.append(config)
        except ImclError as error:
            tqdm.write(f"imcl: {error}", file=sys.stderr)
            todo.append(config)
    return todo


def _with_data(
    configs: list[RunConfig], folder: str | Path | None, progress: bool, outcome: Outcome
) -> list[RunConfig]:
    """Those whose data is here or can be downloaded now; `ImclError` where that holds for none of them."""
    missing: dict[str, ImclError] = {}
    names = {config.dataset for config in configs}
    for name in names - {"digits"}:
        try:
            prepare(name, data_folder_of(folder), progress)
        except ImclError as error:
            missing[name] = error
    if missing and len(missing) == len(names):
        raise next(iter(missing.values()))
    for name, error in missing.items():
        tqdm.write(f"imcl: {error}", file=sys.stderr)
        outcome.failed |= {config.name: str(error) for config in configs if config.dataset == name}
    return [config for config in configs if config.dataset not in missing]


def _work(
    configs: Sequence[RunConfig], job: Job, pool: Here | Slots | RayPool
) -> Iterator[tuple[RunConfig, Result | None, int]]:
    """A run that was started, with None, or that ended, with its result; and how many are being worked on.

    A run whose process dies is tried again.
    """
    waiting, running, deaths = deque(configs), {}, Counter()
    while waiting or running:
        while waiting and len(running) < pool.slots:
            config = waiting.popleft()
            running[pool.submit(run_one, config, job, deaths[config.name] > 0)] = config
            yield config, None, len(running)
        for future in futures.wait(running, return_when=futures.FIRST_COMPLETED).done:
            config = running.pop(future)
            try:
                yield config, pool.result(future), len(running)
            except Died as error:
                deaths[config.name] += 1
                if deaths[config.name] < TRIES:
                    waiting.appendleft(config)
                    continue
                why = f"It died {TRIES} times ({error}): try again with more memory, or fewer runs at once."
                yield config, Result("failed", why), len(running)


def _take(config: RunConfig, result: Result, job: Job, outcome: Outcome) -> None:
    """Enters a result into the outcome and the folder, and tells it."""
    name, failure = config.name, failure_file(job.out, config)
    if result.speed:
        job.speeds.measured.update([result.speed])
    if result.state == "failed":
        outcome.failed[name] = result.why
        write_whole(failure, f"{result.why}\n".encode())
    else:
        getattr(outcome, result.state).append(name)
    if result.state == "done":
        failure.unlink(missing_ok=True)
        _bring(config, result, job.out)
        tqdm.write(f"{result.record.last_error:6.2f} %  {result.record.run['seconds']:7.1f} s  {name}")
    if result.why:
        tqdm.write(f"imcl: {name}: {_first_line(result.why)}", file=sys.stderr)


def _bring(config: RunConfig, result: Result, out: Path) -> None:
    """Writes what a node of a cluster wrote into a folder of its own."""
    if not (out / f"{config.name}.json").exists():
        write_record(result.record, out)
    notebook = out / f"{config.name}.ipynb"
    if result.notebook and not notebook.exists():
        write_whole(notebook, result.notebook.encode())


def failure_file(folder: Path, config: RunConfig) -> Path:
    """Where a run that failed says why: a sentence in the first line, then the traceback if there is one."""
    return folder / f"{config.name}.failed.txt"


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]


def run_parallel(configs: Sequence[RunConfig], out: str | Path, *, jobs: int, **options) -> Outcome:
    """`run_batch` in several processes, each with its share of the cores."""
    return run_batch(configs, out, pool=Slots.on_cores(jobs), **{"progress": False} | options)


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
    existing = _folders(*folders)
    done = {record.config.key for record in ledger.records(*existing)}
    begun = {path.name.removesuffix(".checkpoint.pt") for f in existing for path in f.rglob("*.checkpoint.pt")}
    failed = failures(configs, *existing)
    cells: dict[str, list[str]] = {"done": [], "failed": [], "begun": [], "missing": []}
    for config in configs:
        state = "done" if config.key in done else "failed" if config.name in failed else "missing"
        cells["begun" if state == "missing" and config.name in begun else state].append(config.name)
    return cells


def failures(configs: Sequence[RunConfig], *folders: str | Path) -> dict[str, str]:
    """Why the runs failed that did, by name."""
    files = [(config, failure_file(folder, config)) for folder in _folders(*folders) for config in configs]
    return {config.name: _first_line(file.read_text(encoding="utf-8")) for config, file in files if file.exists()}
