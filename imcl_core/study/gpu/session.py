"""A session on a GPU that ends in time: checks, speeds, then the queue, with everything written as it comes."""

import datetime
import json
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from imcl_core.errors import ImclError
from imcl_core.files import write_whole
from imcl_core.study import ledger
from imcl_core.study.batch import run_batch
from imcl_core.study.gpu import checks, speeds
from imcl_core.study.records import existing
from imcl_core.study.speeds import Measured, Speeds
from imcl_core.training.config import RunConfig, as_fast, fields_of
from imcl_core.training.files import RECORD, Files, of_runs
from imcl_core.training.machine import environment

CHECKS_SECONDS = 85
RESERVE = 20  # seconds to write what an interrupted run has


class Session:
    """What happens in `minutes` on a device, written into `out` as it comes: `gpu-log.txt`, `gpu.json`, `records/`."""

    def __init__(self, out: Path, minutes: float, device: torch.device, profile: str):
        self.out, self.records, self.device = out, out / "records", device
        self.ends = time.monotonic() + 60 * minutes
        self.found: dict[str, Any] = {**environment(device), "minutes": minutes, "profile": profile, "speeds": []}
        self.found |= {"failed": None, "failed_runs": []}  # checks, and runs
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ImclError(f"Could not make the folder {out} ({error.strerror}): choose another one.") from error
        with suppress(OSError, ValueError, KeyError, TypeError):
            earlier = json.loads((out / "gpu.json").read_bytes())
            if all(earlier[name] == self.found[name] for name in ("device", "profile")):
                self.found |= {name: earlier[name] for name in ("speeds", "failed", "failed_runs")}

    def tell(self, line: str) -> None:
        """Prints a line, and adds it to the log."""
        now = datetime.datetime.now(datetime.UTC).strftime("%H:%M:%S")
        print(f"{now} {line}", flush=True)
        with (self.out / "gpu-log.txt").open("a", encoding="utf-8") as log:
            log.write(f"{now} {line}\n")

    def write(self) -> None:
        write_whole(self.out / "gpu.json", (json.dumps(self.found, indent=1) + "\n").encode())

    @property
    def left(self) -> float:
        """Seconds that runs may take yet."""
        return self.ends - RESERVE - time.monotonic()

    def check(self) -> None:
        self.found["failed"] = checks.run_checks(self.device, min(CHECKS_SECONDS, self.left / 3), self.tell)
        self.write()

    def measure(self, steps: int) -> None:
        """The table of speeds, as far as a third of the time goes."""
        until = time.monotonic() + self.left / 3
        for row in speeds.rows(self.found["profile"], self.device, steps):
            self.found["speeds"] = [each for each in self.found["speeds"] if _of(each) != _of(row)] + [row]
            self.write()
            self.tell("  ".join(f"{k} {v:.4g}" if isinstance(v, float) else str(v) for k, v in row.items()))
            if time.monotonic() > until:
                self.tell("speeds: no time for the rest")
                break

    def work(self, configs: Sequence[RunConfig], results: str | Path, data_folder: str | None) -> None:
        """The runs that end in time, then the first of the others, for another session to finish."""
        known = Speeds(self.device, ledger.every_sheet(*existing(self.records, results)), data_folder)
        for row in self.found["speeds"]:
            if "start_seconds" in row:
                known.measured.update(_as_measured(row, configs))
        options = {"done": [results], "data_folder": data_folder, "device": self.device, "progress": False}
        outcome = run_batch(configs, self.records, budget=max(0.0, self.left), speeds=known, **options)
        self.tell(f"{len(outcome.done)} runs done")
        begun = [config for config in configs if config.name in outcome.postponed]
        for config in begun:
            if self.left > 0:
                self.tell(f"begins {config.name}, which another session can finish")
                run_batch([config], self.records, **options)

    def failed(self, configs: Sequence[RunConfig], results: str | Path) -> list[str]:
        """Runs that failed, now or before, without a record in `results`.

        One whose `<name>.failed.txt` is removed is tried again.
        """
        failed = [config.name for config in configs if Files(self.records, config.name).failure.exists()]
        done = of_runs(RECORD, *existing(results)) if failed else {}
        return [name for name in failed if name not in done]


def session(
    configs: Sequence[RunConfig],
    minutes: float,
    out: str | Path,
    *,
    device: torch.device,
    profile: str = "paper",
    results: str | Path = "results",
    data_folder: str | None = None,
    steps: int = 100,
) -> dict[str, Any]:
    """Checks the device, measures it, works through `configs`, and is back after `minutes`: what `gpu.json` holds.

    What a run has at the end is in its checkpoint: the same call goes on with it. A check that fails stops nothing.
    """
    at = Session(Path(out).expanduser(), minutes, device, profile)
    at.tell(f"{minutes:g} minutes on {at.found['device']}")
    try:
        with _interrupted_after(at.left):
            at.check()
            at.measure(steps)
            at.work(configs, results, data_folder)
        if not at.failed(configs, results):
            at.tell("all runs are done")
    except (KeyboardInterrupt, ImclError) as error:
        if isinstance(error, ImclError) and not isinstance(error.__cause__, KeyboardInterrupt):
            at.tell(f"stopped: {error}")
            raise
        at.tell("the time is over" if at.left <= 0 else "interrupted")
        if at.left > 0:
            raise
    finally:
        if failed := at.failed(configs, results):
            at.tell(f"{len(failed)} runs failed, the folder of records says why: {'; '.join(failed)}")
        at.found["failed_runs"] = failed
        at.write()
    return at.found


@contextmanager
def _interrupted_after(seconds: float) -> Iterator[None]:
    """Interrupts what runs in here, as Ctrl-C does, when the time is over; not where the system has no alarm."""
    if not hasattr(signal, "setitimer"):
        print("imcl: no alarm on this system: the session ends with its last run.", file=sys.stderr)
        yield
        return
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, max(0.01, seconds))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _of(row: dict[str, Any]) -> tuple:
    """What a row is a measurement of."""
    return row["what"], row.get("model"), row.get("methods")


def _as_measured(row: dict[str, Any], configs: Sequence[RunConfig]) -> dict[tuple, list[Measured]]:
    """What a row says of the runs like it: those of this network and methods on images of 32 pixels."""
    found = Measured(row["images_per_s"], row["evaluation_seconds"] / speeds.EVALUATED, row["start_seconds"])
    alike = (c for c in configs if (c.model, c.methods, c.side) == (row["model"], row["methods"], 32))
    return {config.like: [found] for config in alike if _by_default(config)}


def _by_default(config: RunConfig) -> bool:
    """Whether its methods are as they were measured, in all that a step's time depends on."""
    slower = fields_of(config.terms) - as_fast()
    return all(getattr(config, name) == getattr(RunConfig, name) for name in slower)
