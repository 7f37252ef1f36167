"""Should I use it? What the narrow reproduction's records advise, by a rule that is stated before them."""

import functools
import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from imcl_core.measure import memory
from imcl_core.study.ledger import Ledger
from imcl_core.study.tables.judge import SEEDS
from imcl_core.study.tables.narrow import PROFILE, Gain, gains
from imcl_core.study.tables.write import in_points, method_name
from imcl_core.training.config import RunConfig

HELPS, HURTS, OPEN, UNKNOWN = "helps", "hurts", "no difference seen", "too few runs"


def word(pairs: int, lower: float | None, upper: float | None) -> str:
    """The rule: by the bounds of the mean gain, and by nothing where there are fewer than three pairs."""
    if pairs < SEEDS or lower is None:
        return UNKNOWN
    return HELPS if lower > 0 else HURTS if upper < 0 else OPEN


def choices(ledger: Ledger, times: Mapping[tuple[str, str], float]) -> pd.DataFrame:
    """A row for every method with a gain in a case: network and data. The best of a case by its lower bound first.

    Prices are of a training step, as multiples of the baseline's: `memory` counted for a GPU, which takes a second or
    two a method, `time` from `times`, by network and methods (or as a row is headed), NaN where it is not measured.
    """
    rows: list[dict[str, Any]] = []
    for gain in gains(ledger):
        config, found = gain.config, gain.verdict
        rows.append(
            {
                "network and data": gain.case, "method": gain.method, "n": found.n, "gain": found.mean,
                "lower": found.lower, "upper": found.upper, "word": word(found.n, found.lower, found.upper),
                "time": 1.0 if config.methods == "baseline" else _time(gain, times),
                "memory": _memory(config.dataset, config.model, config.methods, config.pp_projection),
            }
        )  # fmt: skip
    columns = ("network and data", "method", "n", "gain", "lower", "upper", "word", "time", "memory")
    frame = pd.DataFrame(rows, columns=columns).astype({"gain": float, "lower": float, "upper": float})
    order = {case: place for place, case in enumerate(dict.fromkeys(frame["network and data"]))}
    frame["place"] = frame["network and data"].map(order)
    return frame.sort_values(["place", "lower", "gain"], ascending=[True, False, False]).drop(columns="place")


def _time(gain: Gain, times: Mapping[tuple[str, str], float]) -> float:
    config = gain.config
    named = config.methods if gain.method == method_name(config.methods) else gain.method
    return times.get((config.model, named), math.nan)


@functools.cache
def _memory(dataset: str, model: str, methods: str, projection: str) -> float:
    """Of a step in `narrow` on a GPU, as a multiple of the baseline's."""
    place = {"dataset": dataset, "model": model, "profile": PROFILE, "pp_projection": projection}
    configs = [RunConfig(methods=m, **place) for m in (methods, "baseline")]
    held, of_baseline = (memory.count(config, half=True).total for config in configs)
    return held / of_baseline


def _price(row: Mapping[str, Any], told: str = ", at {:.2f} times the time of a step") -> str:
    return "" if math.isnan(row["time"]) else told.format(row["time"])


def advice(found: pd.DataFrame) -> list[str]:
    """A sentence a case, from `choices`: what to use, what helps too, what to leave, and of what nothing is known."""
    sentences = []
    for case, rows in found.groupby("network and data", sort=False):
        by_word = {name: rows[rows["word"] == name] for name in (HELPS, HURTS, OPEN, UNKNOWN)}
        parts = []
        if len(best := by_word[HELPS]):
            top, *others = best.to_dict("records")
            gained = in_points(top["gain"], top["lower"], top["upper"], top["n"])
            parts.append(f"use {top['method']}: {gained}{_price(top)}")
            if others:
                parts.append(
                    "helps too: "
                    + ", ".join(f"{r['method']} by {r['gain']:.2f}{_price(r, ' at {:.2f} times')}" for r in others)
                )
        elif len(rows) > len(by_word[UNKNOWN]):
            parts.append("nothing has been shown to help: stay with the baseline")
        for name, text in ((HURTS, "leave out"), (OPEN, "no difference seen with"), (UNKNOWN, "too few runs yet of")):
            if len(by_word[name]):
                parts.append(f"{text} {', '.join(by_word[name]['method'])}")
        sentences.append(f"{case}: {'; '.join(parts)}.")
    return sentences
