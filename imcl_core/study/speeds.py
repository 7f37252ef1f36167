"""How long a run takes on a device: what a budget, and what is left of a table, are reckoned with."""

import io
import math
import statistics
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from imcl_core.training.config import RunConfig
from imcl_core.training.machine import at_once, device_name, own_random_numbers
from imcl_core.training.record import Record
from imcl_core.training.run import SAVE_EVERY, Run, load_for, memory_errors

TRIAL_STEPS = 8  # timed after as many untimed ones, where no record tells how fast a run is
TRIAL_SECONDS = 20  # with less time left no trial is worth it


class Measured(NamedTuple):
    """What one run tells of the time that runs like it take."""

    images_per_s: float
    evaluation: float  # seconds for an image
    rest: float  # seconds beside both: starting, checkpoints
    threads: int | None = None  # of a processor
    at_once: int = 1  # runs that shared the GPU

    def shared_by(self, runs: int) -> "Measured":
        """The same where so many runs share the GPU in place of one: each gets at least its part of the time."""
        return self._replace(images_per_s=self.images_per_s / runs, evaluation=self.evaluation * runs, at_once=runs)


class Speeds:
    """Seconds a run takes on a device, from the records of like runs, else from a few steps of its own."""

    def __init__(self, device: torch.device, records: Iterable[Record], data_folder: str | Path | None = None):
        self.device, self.data_folder = device, data_folder
        self.for_trials = math.inf  # seconds that trials may take yet
        self.measured: dict[tuple, list[Measured]] = {}
        own = device_name(device)
        for record in records:
            if record.run["device"] == own and record.run.get("processes", 1) == 1:
                self.measured.setdefault(record.config.like, []).append(_measured(record, device))

    def seconds(self, config: RunConfig) -> float | None:
        """From records alone; None where there is none like it.

        On a GPU of those that shared it with as many runs as this process does; where there are none, of those that
        had it for themselves, as if each run now got no more than its part. On a processor of those with as many
        threads as there are here; of the others where there are none.
        """
        here, like = at_once(self.device), self.measured.get(config.like, [])
        like = [each for each in like if each.at_once == here] or [e.shared_by(here) for e in like if e.at_once == 1]
        like = [each for each in like if each.threads in (None, torch.get_num_threads())] or like
        if not like:
            return None
        seconds = config.epochs * config.images / statistics.median(each.images_per_s for each in like)
        seconds += config.evaluations * config.evaluated_images * statistics.median(each.evaluation for each in like)
        return seconds + statistics.median(each.rest for each in like)

    def fits(self, config: RunConfig, left: float) -> bool:
        """Whether the run would end within `left` seconds; where nothing is known, a trial tells, if there is time.

        When `for_trials` is used up, none has: the end of a budget is for training.
        """
        if self.for_trials > 0 and self.seconds(config) is None and left > TRIAL_SECONDS:
            began = time.monotonic()
            self.measure(config)
            took = time.monotonic() - began
            left, self.for_trials = left - took, self.for_trials - took
        seconds = self.seconds(config)
        return seconds is not None and seconds <= left

    def known(self, config: RunConfig) -> tuple[tuple, list[Measured]] | None:
        """What is measured of runs like it, to be told to another process."""
        like = config.like
        return (like, self.measured[like]) if like in self.measured else None

    def measure(self, config: RunConfig) -> None:
        """Times a few steps and an evaluation of the run, and a checkpoint of it, as `train` writes one."""
        began = time.monotonic()
        data = load_for(config, self.data_folder, self.device)
        with own_random_numbers(self.device), memory_errors(config):
            run = Run(config, data, self.device)
            images_per_s, evaluation = run.trial(TRIAL_STEPS)
        saving = time.monotonic()
        torch.save(run.state_dict(), io.BytesIO())
        ended = time.monotonic()
        slower = 1 + (ended - saving) / SAVE_EVERY
        found = Measured(
            images_per_s / slower,
            evaluation / config.evaluated_images,
            ended - began,
            _threads(self.device),
            at_once(self.device),
        )
        self.measured.setdefault(config.like, []).append(found)

    def time_left(self, configs: Sequence[RunConfig]) -> str:
        """What the runs take together, as `imcl status` says it: hours, and how many of them nothing is known of."""
        known = [seconds for config in configs if (seconds := self.seconds(config)) is not None]
        return told_hours(sum(known) / 3600, len(configs) - len(known))


def told_hours(hours: float, unmeasured: int) -> str:
    """Hours as commands say them, and how many runs are not among them, since none like them was measured."""
    return f"{hours:.1f} h" + (f" and {unmeasured} unmeasured" if unmeasured else "")


def alone(record: Record) -> bool:
    """Whether the run was one process that had its device for itself."""
    return record.run.get("at_once", 1) == record.run.get("processes", 1) == 1


def _measured(record: Record, device: torch.device) -> Measured:
    config, run = record.config, record.run
    all_of_it = run["seconds"] + run.get("rest_seconds", 0.0)
    rest = all_of_it - run["evaluation_seconds"] - config.epochs * config.images / record.images_per_s
    threads = run.get("threads") if device.type == "cpu" else None
    evaluation = run["evaluation_seconds"] / (config.evaluations * config.evaluated_images)
    return Measured(record.images_per_s, evaluation, max(0.0, rest), threads, run.get("at_once", 1))


def _threads(device: torch.device) -> int | None:
    return torch.get_num_threads() if device.type == "cpu" else None
