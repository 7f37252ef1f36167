"""The yardstick of every table: a cell's mean over seeds, differences seed by seed, and bounds of their mean.

Runs of one seed share initial weights, order, augmentation and noise, so that two settings are compared seed by seed,
at the last epoch. The mean of such differences lies between one-sided bounds of Student's t at `CONFIDENCE`, which is
honest about how little a handful of seeds says of their own deviation. ± is the deviation over seeds, everywhere.

The test of a claim, stated before the data. A claim is a sum of errors with signs, such as the baseline's less that of
`out`, to which the paper gives a size:

- *supported*: the lower bound is above zero, and the upper one not below half of the paper's size;
- *not supported*: the upper bound is below half of the paper's size: whatever there is, it is not what is claimed;
- *refuted*: not supported by the paper's own protocol, with each of the seeds below that half, and a baseline that errs
  as often as the paper's, to `AGREES` of it. Smaller runs, a proxy, never refute: what fails there may hold at scale;
- *too little evidence (n of m runs)*: neither yet, or fewer than three seeds. m is an estimate of the runs that settle
  it at the deviation seen: enough for bounds a quarter of the paper's size from the mean.

Half, because the paper's sizes are of single runs at their best epochs.
"""

import itertools
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from imcl_core.study.ledger import Ledger, Run
from imcl_core.training.config import RunConfig

SEEDS = 3  # fewer settle nothing
CONFIDENCE = 0.95
AGREES = 0.1  # of the paper's error
SUPPORTED, NOT_SUPPORTED, TOO_LITTLE = "supported", "not supported", "too little evidence"
REFUTED = "refuted"
EXACT = "paper"  # the profile whose runs follow the paper's protocol


@dataclass(frozen=True)
class Verdict:
    """An outcome, and what it rests on: `n` seeds, their mean with its bounds, `runs` of the `needed` ones."""

    outcome: str
    n: int = 0
    mean: float | None = None
    lower: float | None = None
    upper: float | None = None
    runs: int = 0
    needed: int = 0

    def __str__(self) -> str:
        return f"{self.outcome} ({self.runs} of {self.needed} runs)" if self.outcome == TOO_LITTLE else self.outcome


def metric_of(dataset: str) -> str:
    """What the paper reports on a data set: top-5 errors on ImageNet32, top-1 errors elsewhere."""
    return "top5_error" if dataset == "imagenet32" else "top1_error"


def summarise(config: RunConfig, runs: Sequence[Run]) -> dict[str, Any]:
    """What a cell rests on and shows: mean and deviation over seeds of its metric, %; None where there is none."""
    metric = metric_of(config.dataset)
    last, best = ([run.errors[metric][i] for run in runs] for i in (0, 1))
    return {
        "dataset": config.dataset, "model": config.model, "method": config.methods, "noise": config.noise,
        "metric": metric, "profile": config.profile, "n": len(runs),
        "last_mean": statistics.fmean(last) if last else None,
        "last_deviation": statistics.stdev(last) if len(last) > 1 else None,
        "best_mean": statistics.fmean(best) if best else None,
        "hardware": "; ".join(sorted({run.device for run in runs})),
        "records": " ".join(run.path.name for run in runs),
    }  # fmt: skip


def last_errors(config: RunConfig, ledger: Ledger) -> dict[int, float]:
    """By seed: the last epoch's error of the runs of `config`, %."""
    metric = metric_of(config.dataset)
    return {run.seed: run.errors[metric][0] for run in ledger.runs(config)}


def paired(configs: Sequence[RunConfig], ledger: Ledger) -> dict[int, tuple[Run, ...]]:
    """By seed, where all have a run of it: a run of each of the configurations, as alike in their devices as there are.

    A GPU draws other dropout masks than a processor. So where a run has outcomes of several devices, those are
    taken that make the fewest pairs of a GPU and a processor, and among these the fewest of two devices.
    """
    found = [ledger.outcomes(config) for config in configs]
    seeds = sorted(set.intersection(*map(set, found)))
    return {seed: _most_alike([by_seed[seed] for by_seed in found]) for seed in seeds}


def _most_alike(outcomes: Sequence[tuple[Run, ...]]) -> tuple[Run, ...]:
    """One outcome of each run, the most alike; among equals those made first, in whatever order the runs are."""
    if all(len(of_one) == 1 for of_one in outcomes):
        return tuple(run for (run,) in outcomes)
    places = itertools.product(*(range(len(of_one)) for of_one in outcomes))
    choices = {place: tuple(runs[i] for i, runs in zip(place, outcomes, strict=True)) for place in places}
    return choices[min(choices, key=lambda place: (_mixture(choices[place]), sum(place), _devices(choices[place])))]


def _mixture(runs: Sequence[Run]) -> tuple[int, ...]:
    """How unlike the devices are: within each difference, of runs 1 and 2, 3 and 4, and so on; then over all."""
    pairs = [*zip(runs[::2], runs[1::2], strict=False)]
    kinds, devices = (sum(a.on_gpu != b.on_gpu for a, b in pairs), sum(a.device != b.device for a, b in pairs))
    return kinds, devices, len({run.on_gpu for run in runs}), len(set(_devices(runs)))


def _devices(runs: Iterable[Run]) -> list[str]:
    return sorted(run.device for run in runs)


def gained(config: RunConfig, over: RunConfig, ledger: Ledger) -> dict[int, float]:
    """By seed, where both have a run of it: the last epoch's error of `over` less that of `config`, as `paired`.

    The one sign of the book: above zero, `config` errs less often.
    """
    metric = metric_of(config.dataset)
    return {
        seed: theirs.errors[metric][0] - ours.errors[metric][0]
        for seed, (theirs, ours) in paired((over, config), ledger).items()
    }


def mixed(pairs: Iterable[Sequence[Run]]) -> int:
    """How many pairs are of a processor and a GPU, and so differ in their dropout masks too."""
    return sum(one.on_gpu != other.on_gpu for one, other in pairs)


def moments(gains: Iterable[float]) -> dict[str, float | None]:
    """Mean and deviation of gains, as tables name them; None where there are too few."""
    values = list(gains)
    return {
        "gain_mean": statistics.fmean(values) if values else None,
        "gain_deviation": statistics.stdev(values) if len(values) > 1 else None,
    }


def verdict(terms: Sequence[tuple[int, RunConfig]], size: float, ledger: Ledger, agrees: bool = False) -> Verdict:
    """The test of a claim of a `size`: of the sum of the errors of `terms`, pairs of a sign and a run.

    `agrees`: the baseline errs as often as the paper's. Where there is no claim, of a size of 0 or less, the outcome is
    empty: the bounds stand alone.
    """
    signs, configs = zip(*terms, strict=True)
    errors = [
        [run.errors[metric_of(config.dataset)][0] for run, config in zip(runs, configs, strict=True)]
        for runs in paired(configs, ledger).values()
    ]
    values = [sum(sign * error for sign, error in zip(signs, of_seed, strict=True)) for of_seed in errors]
    by_seed = [ledger.outcomes(config) for config in configs]
    summary = {"n": len(values), "mean": statistics.fmean(values) if values else None}
    if len(values) > 1:
        summary |= dict(zip(("lower", "upper"), bounds(values), strict=True))
    if size <= 0:
        return Verdict("", **summary)
    if len(values) < SEEDS:
        return _unsettled(by_seed, SEEDS, **summary)
    outcome = settle(summary["lower"], summary["upper"], size)
    if outcome == TOO_LITTLE:
        needed = seeds_needed(statistics.stdev(values), size / 4)
        return _unsettled(by_seed, max(len(values) + 1, needed), **summary)
    exact = all(config.profile == EXACT for _, config in terms)
    if outcome == NOT_SUPPORTED and exact and agrees and max(values) < size / 2:
        outcome = REFUTED
    return Verdict(outcome, **summary)


def _unsettled(by_seed: list[dict[int, tuple[Run, ...]]], seeds: int, **summary: Any) -> Verdict:
    """Counts the runs of the seeds that have most of them: only whole sets of one seed are of use."""
    present = sorted((sum(s in runs for runs in by_seed) for s in set().union(*by_seed)), reverse=True)
    return Verdict(TOO_LITTLE, runs=sum(present[:seeds]), needed=seeds * len(by_seed), **summary)


def bounds(values: Sequence[float]) -> tuple[float, float]:
    """The one-sided bounds of the mean of at least two values: `CONFIDENCE` that it is above, or below."""
    mean, n = statistics.fmean(values), len(values)
    reach = float(stats.t.ppf(CONFIDENCE, n - 1)) * statistics.stdev(values) / n**0.5
    return mean - reach, mean + reach


def settle(lower: float, upper: float, size: float) -> str:
    """The outcome for a claim of a positive `size`."""
    if upper < size / 2:
        return NOT_SUPPORTED
    return SUPPORTED if lower > 0 else TOO_LITTLE


def seeds_needed(deviation: float, reach: float) -> int:
    """The seeds that bring the bounds within `reach` of the mean; from 30 on, by the normal distribution."""
    n = np.arange(SEEDS, 30)
    enough = stats.t.ppf(CONFIDENCE, n - 1) * deviation / n**0.5 <= reach
    if enough.any():
        return int(n[enough.argmax()])
    return max(30, math.ceil((stats.norm.ppf(CONFIDENCE) * deviation / reach) ** 2))
