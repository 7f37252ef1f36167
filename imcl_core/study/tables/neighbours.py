"""The four and their neighbours on equal terms: as the search judged them, and what they gain on STL-10."""

import itertools
import statistics
from collections.abc import Mapping
from typing import Any

import pandas as pd

from imcl_core.methods import TERMS
from imcl_core.study.grids import COMPARED, SEARCH, TUNED_BASELINE, as_judged
from imcl_core.study.ledger import Ledger
from imcl_core.study.tables.judge import CONFIDENCE, bounds, gained, last_errors, moments, paired
from imcl_core.study.tables.write import NAMES, NO_RUN, Cell, Table, method_name, plus_minus, signed
from imcl_core.training.config import RunConfig

NETWORKS = ("resnet18", "vgg16")
BASELINE, TUNED = "baseline", "baseline tuned"
ROWS: dict[str, dict[str, Any]] = {BASELINE: {}, TUNED: TUNED_BASELINE} | {m: {} for m in COMPARED if m != BASELINE}


def _judged(name: str, model: str) -> RunConfig:
    return as_judged(name.split()[0], model, **ROWS[name])


def _tested(name: str, model: str, augment: bool) -> RunConfig:
    place = {"dataset": "stl10", "model": model, "augment": augment, "profile": "narrow"}
    return RunConfig(methods=name.split()[0], **place, **ROWS[name])


def held_out(ledger: Ledger) -> dict[str, dict[str, float]]:
    """By row, then by network: the error on the images by which the search judges, %, as far as it was run.

    Every method at its default strength.
    """
    errors = {name: {model: last_errors(_judged(name, model), ledger).get(0) for model in NETWORKS} for name in ROWS}
    return {name: {model: e for model, e in of_each.items() if e is not None} for name, of_each in errors.items()}


def held_out_gains(ledger: Ledger) -> dict[str, dict[str, float]]:
    """By row, then by network: the baseline's error on those images less the method's, in points."""
    gains = {
        name: {m: gained(_judged(name, m), _judged(BASELINE, m), ledger).get(0) for m in NETWORKS}
        for name in ROWS
        if name != BASELINE
    }
    some = {name: {m: gain for m, gain in of_each.items() if gain is not None} for name, of_each in gains.items()}
    return {name: of_each for name, of_each in some.items() if of_each}


def stl10_gains(ledger: Ledger, augment: bool = True) -> dict[str, dict[str, dict[int, float]]]:
    """By row, then by network and seed: the gain over the baseline on STL-10's test images, in points.

    `augment`: with random crops and flips of the training images, or without.
    """
    gains = {
        name: {m: gained(_tested(name, m, augment), _tested(BASELINE, m, augment), ledger) for m in NETWORKS}
        for name in ROWS
        if name != BASELINE
    }
    some = {name: {m: by_seed for m, by_seed in of_each.items() if by_seed} for name, of_each in gains.items()}
    return {name: of_each for name, of_each in some.items() if of_each}


def neighbours_table(ledger: Ledger, operations: Mapping[str, float] | None = None) -> Table:
    """A row a method: its strength, its error on held-out images, its gain on STL-10 by network.

    `operations` of a training step by method, relative to the baseline's, as `imcl_core.study.plan` counts
    them: one column more. Counting takes seconds, so it is left to the caller.
    """
    errors, tested = held_out(ledger), {augment: stl10_gains(ledger, augment) for augment in (True, False)}
    lines = [
        _row(
            name, errors[name], {augment: gains.get(name, {}) for augment, gains in tested.items()}, operations, ledger
        )
        for name in ROWS
    ]
    rows, data = zip(*lines, strict=True)
    note = (
        "Networks of a quarter of the width, every method at its default strength. Held-out error: in percent, the "
        f"mean of both networks, then each; trained on {SEARCH['train_size']:,} of CIFAR-10's training images and "
        f"judged by {SEARCH['held_out']:,} others, one seed; {sum(map(len, errors.values()))} of "
        f"{len(NETWORKS) * len(rows)} such runs are there. Gain on STL-10: the baseline's error on the test images "
        "less the method's, in points, at the last epoch: mean and deviation over seeds, their number in brackets; "
        f"below, the bounds of the mean, each one-sided at {CONFIDENCE:.0%}; trained on images randomly "
        "cropped and flipped, then on plain ones. Above zero is better."
    )
    if operations is not None:
        note += (
            " Operations: multiplications and additions of a training step, as a multiple of the baseline's; the "
            "training of a teacher, and the linear systems of hsic, are not in them."
        )
    priced = [] if operations is None else ["operations"]
    columns = ("method, its strength", "held-out error", *priced, "gain on STL-10", "… without augmentation")
    tests = (f"{way}{key}_{m}" for way in ("", "plain_") for m in NETWORKS for key in ("gain_mean", "pairs"))
    shown = ("method", "strength", "held_out", *priced, *tests)
    title = "The four and their neighbours on equal terms, in narrow networks (not the paper's scale)"
    return Table("neighbours", title, note, columns, rows, pd.DataFrame(data), shown)


def _row(
    name: str,
    errors: Mapping[str, float],
    tested: Mapping[bool, Mapping[str, Mapping[int, float]]],
    operations: Mapping[str, float] | None,
    ledger: Ledger,
) -> tuple[tuple[Cell, ...], dict[str, Any]]:
    """A method's line, and its figures."""
    source, strength = TERMS[name].source if name in TERMS else "", _strength(name)
    cost = (operations or {}).get(name.split()[0])
    price = [] if operations is None else [Cell(("" if cost is None else f"{cost:.2f}",), cost)]
    cells = (Cell((method_name(name), *filter(None, [source]), *strength)), _errors(name, errors, ledger), *price)
    figures = {"table": "neighbours", "method": name, "source": source, "strength": ", ".join(strength)}
    figures |= {"operations": cost, "held_out": _mean(errors)}
    figures |= {f"held_out_{model}": errors.get(model) for model in NETWORKS}
    for augment, model in itertools.product(tested, NETWORKS):
        by_seed, way = tested[augment].get(model, {}), "" if augment else "plain_"
        figures |= {f"{way}{key}_{model}": value for key, value in moments(by_seed.values()).items()}
        figures[f"{way}pairs_{model}"] = len(by_seed)
    return (*cells, *(_gains(name, gains, ledger, augment) for augment, gains in tested.items())), figures


def _strength(name: str) -> tuple[str, ...]:
    """The settings of which a search tries the values, as they are here."""
    tried = TERMS[name].strengths if name in TERMS else (ROWS[name],)
    config = _judged(name, NETWORKS[0])
    return tuple(f"{setting} {_last(getattr(config, setting)):g}" for setting in (tried[0] if tried else ()))


def _last(value: Any) -> float:
    """Of a setting that changes with depth: at the last layer."""
    return value[-1] if isinstance(value, tuple) else value


def _errors(name: str, by_network: Mapping[str, float], ledger: Ledger) -> Cell:
    mean = _mean(by_network)
    lines = [NO_RUN if mean is None else f"{mean:.2f}", *(f"{NAMES[m]} {error:.2f}" for m, error in by_network.items())]
    runs = tuple(run for model in by_network for run in ledger.runs(_judged(name, model)) if run.seed == 0)
    return Cell(tuple(lines), mean, runs, "narrow", tuple(NAMES[model] for model in by_network))


def _mean(by_network: Mapping[str, float]) -> float | None:
    """None until every network has a run."""
    return statistics.fmean(by_network.values()) if len(by_network) == len(NETWORKS) else None


def _gains(name: str, gains: Mapping[str, Mapping[int, float]], ledger: Ledger, augment: bool) -> Cell:
    """Three lines a network: its name and the seeds, the mean gain over them, its bounds."""
    lines, runs, links = [], [], []
    for model, by_seed in ((model, by_seed) for model, by_seed in gains.items() if by_seed):
        values = list(by_seed.values())
        found = moments(values)
        lines += [f"{NAMES[model]} ({len(values)})", signed(found["gain_mean"]) + plus_minus(found["gain_deviation"])]
        lines += [" to ".join(map(signed, bounds(values)))] if len(values) > 1 else []
        pairs = paired([_tested(row, model, augment) for row in (name, BASELINE)], ledger)
        here = [run for run, _ in pairs.values()]
        runs, links = [*runs, *here], [*links, *(f"{NAMES[model]}, seed {run.seed}" for run in here)]
    means = [statistics.fmean(by_seed.values()) for by_seed in gains.values() if by_seed]
    mean = statistics.fmean(means) if len(means) == len(NETWORKS) else None
    return Cell(tuple(lines) or ("" if name == BASELINE else NO_RUN,), mean, tuple(runs), "narrow", tuple(links))
