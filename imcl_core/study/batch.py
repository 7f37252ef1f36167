"""A queue of runs that wastes no time: the wanted ones first, none twice, none started that cannot end in time."""

import os
import time
import traceback
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent import futures
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tqdm import tqdm

from imcl_core.data.sets import is_ready, make_ready
from imcl_core.errors import ImclError
from imcl_core.files import locked, write_whole
from imcl_core.study import executed, ledger
from imcl_core.study.pools import DeviceLost, Died, Here, Slots
from imcl_core.study.ray import RayPool
from imcl_core.study.records import existing, first_line, sentence
from imcl_core.study.speeds import Speeds
from imcl_core.training import files
from imcl_core.training.config import RunConfig
from imcl_core.training.machine import choose_device
from imcl_core.training.record import Record, finished_record, read_record, write_record
from imcl_core.training.run import train
from imcl_core.training.sheets import DamagedRecord

TRIES = 3  # of a run whose process dies


@dataclass
class Outcome:
    """What a batch did, by name of the run."""

    done: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)  # had a record, or is being run by another process
    postponed: list[str] = field(default_factory=list)  # would not have ended in time
    failed: dict[str, str] = field(default_factory=dict)
    failed_before: dict[str, str] = field(default_factory=dict)  # in an earlier batch; not tried again


@dataclass(frozen=True)
class Job:
    """What the runs of a batch share."""

    out: Path
    data_folder: Path | None = None
    device: str | None = None
    notebook: bool = False  # execute run.ipynb, in place of a bare run
    wait: bool = False  # for a run that another process is at
    progress: bool = False
    ends: float | None = None  # on the monotonic clock: no run is started that would end later
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
    own = files.Files(job.out, config.name)
    with _locked(job.out, config.name, wait or job.wait) as ours:
        if not ours or _is_complete(own, job):
            return Result("skipped")
        if own.record.exists():  # its notebook alone was lost, and takes seconds
            return Result("skipped", _attempt(config, job))
        if lacking := _lacks_teacher(config, job):
            return lacking
        if job.ends is not None:
            try:
                fits = job.speeds.fits(config, job.ends - time.monotonic())
            except Exception as error:  # of the few steps that tell how fast it is
                return Result("failed", _why(error))
            if not fits:
                return Result("postponed", speed=job.speeds.known(config))
        why = _attempt_afresh(config, job)
        if not own.record.exists():
            return Result("failed", why or "it ended without a record: take the call of exit() out of the notebook.")
        text = own.notebook.read_text(encoding="utf-8") if job.notebook and own.notebook.exists() else None
        return Result("done", why, read_record(own.record), text, job.speeds and job.speeds.known(config))


def _is_complete(own: files.Files, job: Job) -> bool:
    """Whether a run has all that it is to leave."""
    return own.record.exists() and (own.notebook.exists() or not job.notebook)


def _lacks_teacher(config: RunConfig, job: Job) -> Result | None:
    """Trains the teacher of a run first, as a run of its own that no two processes are at; what kept it from that."""
    if not config.teacher:
        return None
    taught = run_one(config.teacher, job, wait=True)
    if taught.state == "failed":
        return Result("failed", f"Its teacher {config.teacher.name} failed: {taught.why}")
    return taught if taught.state == "postponed" else None


def _attempt_afresh(config: RunConfig, job: Job) -> str:
    """As `_attempt`, and once more where that found the checkpoint damaged and moved it aside."""
    checkpoint = files.Files(job.out, config.name).checkpoint
    begun = checkpoint.exists()
    why = _attempt(config, job)
    if why and begun and not checkpoint.exists():
        files.tell(f"{first_line(why)} It is run again now.")
        return _attempt(config, job)
    return why


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
        return _why(error)
    return ""


def _why(error: Exception) -> str:
    """What to say of a run that raised `error`, which is being handled; an interruption is raised again.

    `DeviceLost` where a GPU failed: every further run of this process would fail too.
    """
    if isinstance(error.__cause__, KeyboardInterrupt):
        raise error
    if isinstance(error, getattr(torch, "AcceleratorError", ())):  # PyTorch has it from 2.8 on
        raise DeviceLost(f"its GPU failed: {' '.join(str(error).split())[:120]}") from error
    if isinstance(error, ImclError):
        return str(error)
    return f"{type(error).__name__}: {' '.join(str(error).split())}\n{traceback.format_exc()}"


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
    wait: bool = False,
    speeds: Speeds | None = None,
) -> Outcome:
    """Works through `configs` in their order; each record is written to `out` the moment its run ends.

    Runs with a record in `out` or below one of the folders `done` are skipped, as are those that another process is
    at (with `wait` that one is waited for), and those that failed in an earlier batch, unless `retry_failed`. A teacher
    is trained before those it teaches. With a `budget`, in seconds from now, a run is started only if its estimated
    time fits into what is left. A run that fails leaves `<name>.failed.txt` and stops no other; one whose process died
    resumes from its checkpoint. With `notebook` each run leaves `run.ipynb` executed. `pool`: where to work; default:
    here. `speeds`: what a budget is planned with; default: the records' and trials'.

    Raises:
        ImclError: `out` cannot be written to, there is no data for any of the runs, no such device.
    """
    out, *done = map(_absolute, (out, *done))
    pool = pool or (Slots.on_cores(1) if notebook else Here())
    data_folder = _absolute(data_folder or os.environ.get("IMCL_DATA") or None)
    speeds = speeds or _speeds(pool, device, budget, [out, *done], data_folder)
    todo = _todo(configs, out, done, retry_failed, outcome := Outcome())
    if not pool.remote:
        lost = _without_notebook(configs, out, data_folder, outcome) if notebook else []
        todo = [*_with_data(todo, data_folder, progress, outcome), *lost]
    shown = progress and isinstance(pool, Here) and not notebook
    ends = None if budget is None else time.monotonic() + budget
    job = Job(out, data_folder, device and str(device), notebook, wait, shown, ends, speeds)
    _work_through(todo, job, pool, progress, outcome)
    return outcome


def _absolute(folder: str | Path | None) -> Path | None:
    """For kernels and nodes, which work in other folders."""
    return None if folder is None else Path(folder).expanduser().absolute()


def _speeds(
    pool: Here | Slots | RayPool,
    device: str | torch.device | None,
    budget: float | None,
    folders: Sequence[Path | str],
    data_folder: Path | None,
) -> Speeds | None:
    """What a budget is planned with; `ImclError` where there is no such device here, or the work is elsewhere."""
    chosen = None if pool.remote else choose_device(device)
    if budget is None:
        return None
    if pool.remote:
        raise ImclError("A budget plans the time of one machine: leave it out on a Ray cluster.")
    return Speeds(chosen, ledger.every_sheet(*existing(*folders)), data_folder)


def _todo(
    configs: Sequence[RunConfig], out: Path, done: Sequence[Path], retry_failed: bool, outcome: Outcome
) -> list[RunConfig]:
    """Those without a record, and without a failure that is to be left alone; a damaged record is no record."""
    found, todo = files.of_runs(files.RECORD, *existing(*done, out)), []
    for config in configs:
        failure = files.Files(out, config.name).failure
        if any(_is_record(path, out) for path in found.get(config.name, [])):
            outcome.skipped.append(config.name)
        elif failure.exists() and not retry_failed and config.name not in found:
            outcome.failed_before[config.name] = sentence(failure)
        else:
            todo.append(config)
    if todo:
        with _locked(out, ".batch"):  # can it be written to?
            pass
    return todo


def _without_notebook(
    configs: Sequence[RunConfig], out: Path, data_folder: Path | None, outcome: Outcome
) -> list[RunConfig]:
    """Those whose record in `out` has no notebook beside it, which an interruption kept from being written."""
    found = []
    for config in configs:
        own = files.Files(out, config.name)
        here = is_ready(config.dataset, data_folder)
        if config.name in outcome.skipped and here and own.record.exists() and not own.notebook.exists():
            outcome.skipped.remove(config.name)
            found.append(config)
    return found


def _is_record(path: Path, out: Path) -> bool:
    """False for a damaged file, which is moved aside in `out`; one of a newer version is a record. Both are told."""
    try:
        (finished_record if path.is_relative_to(out) else read_record)(path)
    except ImclError as error:
        files.tell(str(error))
        return not isinstance(error, DamagedRecord)
    return True


def _with_data(
    configs: list[RunConfig], folder: str | Path | None, progress: bool, outcome: Outcome
) -> list[RunConfig]:
    """Those whose data is here or can be downloaded now; `ImclError` where that holds for none of them."""
    missing: dict[str, ImclError] = {}
    names = {config.dataset for config in configs}
    for name in sorted(names):
        try:
            make_ready(name, folder, progress)
        except ImclError as error:
            missing[name] = error
    if missing and len(missing) == len(names):
        raise next(iter(missing.values()))
    for name, error in missing.items():
        files.tell(str(error))
        outcome.failed |= {config.name: str(error) for config in configs if config.dataset == name}
    return [config for config in configs if config.dataset not in missing]


def _work_through(
    todo: list[RunConfig], job: Job, pool: Here | Slots | RayPool, progress: bool, outcome: Outcome
) -> None:
    options = {"desc": "batch", "unit": " run", "disable": not progress or not todo, "dynamic_ncols": True}
    with pool if todo else Here() as pool, tqdm(total=len(todo), **options) as bar:
        for config, result, running in _work(todo, job, pool):
            if result:
                _take(config, result, job, outcome)
                bar.update()
            bar.set_postfix(done=len(outcome.done), failed=len(outcome.failed), running=running)


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
            try:
                running[pool.submit(run_one, config, job, deaths[config.name] > 0)] = config
            except DeviceLost as error:  # to this very process
                yield config, Result("failed", f"It ended the batch ({error})."), len(running)
                raise ImclError(
                    f"The batch ended at {config.name} ({error}): the same command goes on with the others, and with "
                    f"this one too once its {config.name}.failed.txt is removed."
                ) from error
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
    name, failure = config.name, files.Files(job.out, config.name).failure
    if result.speed:
        job.speeds.measured.update([result.speed])
    if result.state == "postponed":  # what is left is mostly for runs whose speed is known
        job.speeds.for_trials = min(job.speeds.for_trials, (job.ends - time.monotonic()) / 10)
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
        files.tell(f"{name}: {first_line(result.why)}")


def _bring(config: RunConfig, result: Result, out: Path) -> None:
    """Writes what a node of a cluster has that does not share the folder."""
    own = files.Files(out, config.name)
    if not own.record.exists():
        write_record(result.record, out)
    if result.notebook and not own.notebook.exists():
        write_whole(own.notebook, result.notebook.encode())
