"""The search for weights by successive halving (Jamieson and Talwalkar, 2016), on images held out of training."""

import dataclasses
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from imcl_core.errors import ImclError
from imcl_core.training.config import RunConfig

Candidate = tuple[RunConfig, ...]  # the same settings, one network and one seed after the other


class NoRecord(ImclError):
    """A rung that cannot be judged yet."""


@dataclasses.dataclass(frozen=True)
class Rung:
    """A round: so many epochs for every candidate still in it, the best first, with its held-out error in %."""

    epochs: int
    candidates: tuple[Candidate, ...]
    errors: tuple[float, ...]


def halve(
    candidates: Sequence[Candidate],
    train: Callable[[list[RunConfig]], Mapping[str, float]],
    factor: int = 3,
    seen: Callable[[Rung], None] = lambda rung: None,
) -> list[Rung]:
    """Trains all candidates briefly, the best 1/`factor` of them for `factor` times as long, and so on.

    The last rung has the candidates' own epochs and at least two of them, where there are two. Every rung trains from
    the start, with a schedule as short as itself. `train` gives the last epoch's errors of runs by name. A candidate's
    error is that on the held-out images, the mean over its networks and seeds. Returns the rungs, the winner first in
    the last; each is shown to `seen` as it comes.

    Raises:
        ImclError: a candidate would be judged by the test set, a factor below 2, or a run without a record.
    """
    if factor < 2:
        raise ImclError(f"Halving keeps one of so many: the factor must be 2 or more, not {factor}.")
    if any(not config.validation for candidate in candidates for config in candidate):
        raise ImclError("Weights are chosen on held-out images, never on the test set: set validation.")
    rungs: list[Rung] = []
    left = list(candidates)
    for shorter in reversed(range(_rungs(len(left), factor))):
        left = left[: max(2, len(candidates) // factor ** len(rungs))]
        epochs = max(1, left[0][0].epochs // factor**shorter)
        left, errors = _ranked(left, epochs, train)
        rungs.append(Rung(epochs, tuple(left), tuple(errors)))
        seen(rungs[-1])
    return rungs


def _rungs(candidates: int, factor: int) -> int:
    """How many there are, so that two candidates or more are left for the last."""
    rungs = 1
    while candidates // factor**rungs >= 2:
        rungs += 1
    return rungs


def _ranked(
    candidates: Sequence[Candidate], epochs: int, train: Callable[[list[RunConfig]], Mapping[str, float]]
) -> tuple[list[Candidate], list[float]]:
    """The candidates by their error after so many epochs."""
    short = {c: [shortened(run, epochs) for run in c] for c in candidates}
    errors = train([run for runs in short.values() for run in runs])
    for run in (run for runs in short.values() for run in runs if run.name not in errors):
        raise NoRecord(
            f"{run.name} has no record, so its rung cannot be judged: it failed, and its .failed.txt says why, or the "
            "budget is used up, and the same command goes on."
        )
    error = {c: statistics.mean(errors[run.name] for run in runs) for c, runs in short.items()}
    ranked = sorted(candidates, key=error.get)
    return ranked, [error[c] for c in ranked]


def shortened(run: RunConfig, epochs: int) -> RunConfig:
    """The run in so many epochs, its milestones in proportion."""
    milestones = tuple(round(m * epochs / run.epochs) for m in run.milestones)
    return dataclasses.replace(run, epochs=epochs, milestones=milestones)


def candidates_of(configs: Sequence[RunConfig]) -> dict[str, list[Candidate]]:
    """The candidates among `configs` by data set and methods; where there is one only, there is no choice.

    A candidate is judged on all networks together, since a default is one for all of them.
    """
    groups: dict[str, dict[RunConfig, list[RunConfig]]] = {}
    for config in configs:
        case = f"{config.dataset} {config.methods}"
        same = dataclasses.replace(config, seed=0, model=configs[0].model)
        groups.setdefault(case, {}).setdefault(same, []).append(config)
    return {case: list(map(tuple, found.values())) for case, found in groups.items() if len(found) > 1}


def apart(candidates: Sequence[Candidate]) -> dict[Candidate, str]:
    """What tells each of them from the others, as `name=value`."""
    firsts = [candidate[0] for candidate in candidates]
    names = [name for name in vars(firsts[0]) if len({getattr(config, name) for config in firsts}) > 1]
    return {c: ", ".join(f"{name}={_short(getattr(c[0], name))}" for name in names) for c in candidates}


def _short(value: Any) -> str:
    """A setting in as few digits as tell it, 0.1 · 0.1 as 0.01; several numbers from the first on, as 0.1…1."""
    if isinstance(value, tuple):
        return "…".join(map(_short, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
