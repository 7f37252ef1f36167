"""The narrow reproduction: what each method gains over the baseline there, beside what the paper prints."""

import dataclasses
import itertools
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from imcl_core.methods.pull_push import PullPush
from imcl_core.study.grids import COLUMNS, TUNED_BASELINE, WITHOUT_PROJECTION, grid
from imcl_core.study.ledger import Ledger, Run
from imcl_core.study.tables.judge import (
    CONFIDENCE,
    EXACT,
    SEEDS,
    Verdict,
    gained,
    mixed,
    moments,
    paired,
    summarise,
    verdict,
)
from imcl_core.study.tables.paper import paper_figures
from imcl_core.study.tables.write import NAMES, Cell, Table, between, in_points, method_name, plus_minus, signed
from imcl_core.training.config import RunConfig

PROFILE = "narrow"


@dataclasses.dataclass(frozen=True)
class Gain:
    """The gain of `config` over the `baseline` of its seed, in points: positive is better.

    `printed`: what the paper prints of it at its own scale, None where it prints nothing. `by_seed`: ours.
    """

    config: RunConfig
    baseline: RunConfig
    printed: float | None
    by_seed: dict[int, float]
    verdict: Verdict

    @property
    def case(self) -> str:
        """What stays the same in a comparison."""
        return case_of(self.config)

    @property
    def method(self) -> str:
        return _method(self.config)


def reproduced(ledger: Ledger) -> list[RunConfig]:
    """What has records of the grid `narrow`, in its order, then of anything else by default, augmented or not."""
    others = [config for cell in ledger.cells(PROFILE) for config in (cell, dataclasses.replace(cell, augment=False))]
    cells = {config.key: config for config in (*grid("narrow", PROFILE), *others)}
    return [config for config in cells.values() if ledger.runs(config)]


def reached(ledger: Ledger) -> str:
    """How far the grid `narrow` has come, in a sentence."""
    seeds = [len(ledger.runs(config)) for config in grid("narrow", PROFILE)]
    run, enough = sum(n > 0 for n in seeds), sum(n >= SEEDS for n in seeds)
    if not run:
        return f"None of its {len(seeds)} cells has been run yet."
    if run == enough:
        return f"Of its {len(seeds)} cells, {run} have been run, each with {SEEDS} seeds or more."
    return f"Of its {len(seeds)} cells, {run} have a run and {enough} have {SEEDS} seeds or more."


def gains(ledger: Ledger) -> Iterator[Gain]:
    """Of every run in `narrow` that has a record."""
    for config in reproduced(ledger):
        same = {name: getattr(config, name) for name in ("dataset", "model", "noise", "augment", "profile")}
        baseline = RunConfig(**same)
        if config.key != baseline.key:
            printed = _printed(config)
            found = verdict(((1, baseline), (-1, config)), printed or 0.0, ledger)
            yield Gain(config, baseline, printed, gained(config, baseline, ledger), found)


def beside_the_paper(
    ledger: Ledger, methods: Sequence[str] = COLUMNS[1:], dataset: str = "stl10"
) -> dict[str, dict[str, dict[str, list[float]]]]:
    """What is known with clean labels, by network, method, and way: a gain a seed.

    Ways: `paper`, printed; `augmented` and `not augmented`, the narrow runs; `wide`, at the paper's scale, not
    augmented. Of the `methods`, which the paper prints; all of them where there is any narrow run of the network.
    """
    found: dict[str, dict[str, dict[str, list[float]]]] = {}
    runs = [gain for gain in gains(ledger) if gain.config.dataset == dataset and not gain.config.noise]
    for model in dict.fromkeys(gain.config.model for gain in runs):
        printed = {m: _printed(RunConfig(dataset=dataset, model=model, methods=m, profile=PROFILE)) for m in methods}
        found[f"{NAMES[model]} on {NAMES[dataset]}"] = {m: {"paper": [size]} for m, size in printed.items()}
    for gain in (gain for gain in runs if gain.printed is not None and gain.config.methods in methods):
        way = "augmented" if gain.config.augment else "not augmented"
        place = f"{NAMES[gain.config.model]} on {NAMES[dataset]}"
        found[place][gain.config.methods][way] = list(gain.by_seed.values())
    for model, method in itertools.product(dict.fromkeys(gain.config.model for gain in runs), methods):
        plain = RunConfig(dataset=dataset, model=model, profile=EXACT, augment=False)
        if wide := gained(dataclasses.replace(plain, methods=method), plain, ledger):
            found[f"{NAMES[model]} on {NAMES[dataset]}"][method]["wide"] = list(wide.values())
    return found


def told(ledger: Ledger, method: str) -> list[str]:
    """A sentence for each network and data set on which `method` has a pair of runs: its gain, and a verdict if any."""
    found = [gain for gain in gains(ledger) if gain.method == method_name(method) and gain.by_seed]
    return [f"{gain.case}: {_told(gain.verdict)}" for gain in found] or ["No pair of runs yet."]


def _told(verdict: Verdict) -> str:
    """The gain in words, then the outcome, of which there is none where the paper claims nothing."""
    gained = in_points(verdict.mean, verdict.lower, verdict.upper, verdict.n)
    return f"{gained}: {verdict}" if verdict.outcome else gained


def case_of(config: RunConfig) -> str:
    """Network, data and what was done to them, such as `ResNet-18 on STL-10, no augmentation`."""
    noise = f", {config.noise:.0%} noisy labels" if config.noise else ""
    return f"{NAMES[config.model]} on {NAMES[config.dataset]}{noise}" + ("" if config.augment else ", no augmentation")


def narrow_table(ledger: Ledger) -> Table:
    """The runs in `narrow` by network and data: errors, gains with bounds, the paper's gains, a verdict by a proxy."""
    known, shown = {gain.config.key: gain for gain in gains(ledger)}, reproduced(ledger)
    cases = list(dict.fromkeys(map(case_of, shown)))
    shown.sort(key=lambda config: cases.index(case_of(config)))
    pairs = [pair for gain in known.values() for pair in paired((gain.baseline, gain.config), ledger).values()]
    lines = [_row(config, ledger.runs(config), known.get(config.key)) for config in shown]
    rows, data = zip(*lines, strict=True) if lines else ((), ())
    note = (
        "The paper's recipe in fewer epochs, on networks of a quarter of its width and images of 32×32 pixels. "
        f"{reached(ledger)} Errors in percent: of the last epoch, mean ± deviation over n seeds; below, the best epoch "
        "of those evaluated. Gain: the baseline's error less the method's, seed by seed, at the last epoch, so that "
        "above zero is better; below, the bounds of its mean, each one-sided at "
        f"{CONFIDENCE:.0%}. Some baselines were trained on a "
        "processor and again on a GPU, which draws other dropout masks: the error shown is of the first run, and a "
        f"gain is over the baseline of the method's kind of device. In {mixed(pairs)} of {len(pairs)} pairs, "
        "which have none of that kind, the masks differ too. "
        "The verdict is that of the test of the ledger of claims, by a proxy, which may support a claim of the paper "
        "but never refutes it."
    )
    columns = ("network and data", "method", "n", "error", "gain", "paper's gain", "verdict (proxy)")
    text = (
        "dataset", "model", "augment", "noise", "method", "lr", "projection", "n", "last_mean", "last_deviation",
        "gain", "lower", "upper", "pairs", "paper_gain", "verdict",
    )  # fmt: skip
    frame = pd.DataFrame(data, columns=None if data else ("table", *text))
    return Table("narrow", "The narrow reproduction", note, columns, rows, frame, text)


def _row(config: RunConfig, runs: tuple[Run, ...], gain: Gain | None) -> tuple[tuple[Cell, ...], dict[str, Any]]:
    """A run's line, and its figures."""
    found, printed = (gain.verdict, gain.printed) if gain else (Verdict(""), None)
    summary = summarise(config, runs) | moments(gain.by_seed.values() if gain else ())
    mean = signed(found.mean) + plus_minus(summary["gain_deviation"])
    ours = tuple(filter(None, (mean, between(found.lower, found.upper)))) or ("",)
    best = f"best {summary['best_mean']:.2f}"
    judged, name = str(found) if printed and printed > 0 else "", _method(config)
    line = (
        Cell((case_of(config),)),
        Cell(tuple(textwrap.wrap(name, 14, break_on_hyphens="+" not in name)), None, runs, config.profile),
        Cell((str(len(runs)),), len(runs)),
        Cell((f"{summary['last_mean']:.2f}" + plus_minus(summary["last_deviation"]), best), summary["last_mean"]),
        Cell(ours, found.mean),
        Cell((signed(printed),), printed),
        Cell(tuple(textwrap.wrap(judged, 14))),  # narrow lines
    )
    projection = config.pp_projection if PullPush in config.terms else ""
    figures = {"table": "narrow", "augment": config.augment, "lr": config.lr, "projection": projection} | summary
    figures |= {"gain": found.mean, "lower": found.lower, "upper": found.upper, "pairs": found.n}
    return line, figures | {"paper_gain": printed, "verdict": judged}


def _method(config: RunConfig) -> str:
    """As a row is headed: a baseline at another rate or decay, and pull-push without its projection, say so."""
    changed = _changed(config)
    if changed == WITHOUT_PROJECTION:
        return f"{method_name(config.methods)} without projection"
    if changed.keys() & {"lr", "weight_decay"}:
        tuned = (config.lr, config.weight_decay) == tuple(TUNED_BASELINE.values())
        return method_name(config.methods) + (" tuned" if tuned else " at half its rate")
    return method_name(config.methods)


def _changed(config: RunConfig) -> dict[str, Any]:
    """The settings in which it differs from its method by the recipe and by default, in the same place."""
    place = ("dataset", "model", "methods", "noise", "augment", "profile", "seed")
    usual = RunConfig(**{name: getattr(config, name) for name in place})
    names = config.identity().keys() | usual.identity().keys()
    return {name: getattr(config, name) for name in names if getattr(config, name) != getattr(usual, name)}


def _printed(config: RunConfig) -> float | None:
    """The paper's gain over its baseline, in points."""
    figures = paper_figures()
    if _changed(config):
        return None
    if config.noise:
        key = f"figure2/{config.dataset}-noise{100 * config.noise:.0f}/{config.model}/{config.methods}"
        return figures[key].value if key in figures else None
    errors = {f.method: f.value for f in figures.values() if (f.dataset, f.model) == (config.dataset, config.model)}
    return round(errors["baseline"] - errors[config.methods], 2) if config.methods in errors else None
