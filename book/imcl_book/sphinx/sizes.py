"""How large a run is and how long it takes, for the page that says how to start: from the code and from records.

The directive `profiles` is a table of the sizes of runs. `{took}` shows what notebooks took when they last ran: one by
its path, `longest`, or `all` of them together. `{coverage}` shows how many of the cells of the paper's tables have a
run at the paper's scale, and how far the narrow reproduction has come. The directive `timm-step` says what L_kernel
adds to a step of a network of timm.
"""

import json
import statistics
from collections.abc import Iterable
from fractions import Fraction

import pandas as pd
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from imcl_book.sphinx.pages import RESULTS, ROOT, executions
from imcl_book.sphinx.role import LookedUp
from imcl_core.errors import ImclError, nearest
from imcl_core.methods import NEIGHBOURS
from imcl_core.study.grids import TUNED_BASELINE
from imcl_core.study.ledger import read
from imcl_core.study.tables import coverage, open_ledger, table
from imcl_core.study.tables.claims import BEST_OF
from imcl_core.study.tables.judge import NOT_SUPPORTED, SEEDS, SUPPORTED, TOO_LITTLE, bounds, gained
from imcl_core.study.tables.narrow import PROFILE, Gain, gains, reached
from imcl_core.study.tables.write import in_points, signed
from imcl_core.training.config import RunConfig
from imcl_core.training.recipes import PROFILES

TIMM_STEP = ROOT / "benchmarks" / "timm_step.json"
SHOWN = {  # the data sets on which each profile is shown
    "smoke": ["digits"],
    "cpu": ["cifar100"],
    "narrow": ["cifar100", "stl10"],
    "t4": ["cifar100", "stl10"],
    "paper": ["cifar100", "stl10"],
}


def profiles_table() -> str:
    """The profiles as a Markdown table, a row a data set; times are medians over the baselines in `results/`."""
    runs = read(RESULTS)
    runs = runs[runs.methods == "baseline"]
    lines = [
        "| profile | data set | width | images | side | epochs | evaluations | a baseline took |",
        "|---|---|--:|--:|--:|--:|--:|---|",
    ]
    for profile in PROFILES:
        for dataset in SHOWN[profile]:
            config = RunConfig(dataset=dataset, profile=profile)
            lines.append(
                f"| `{profile}` | {dataset} | {Fraction(config.width)} | {config.images:,} | {config.side} "
                f"| {config.epochs} | {config.evaluations} | {_run_took(runs, config)} |"
            )
    return "\n".join(lines)


def _run_took(runs: pd.DataFrame, config: RunConfig) -> str:
    """The median of the recorded `runs` that are as large as `config`; of the chapters, the longest.

    Runs that had their device for themselves, where there are any.
    """
    size = ["profile", "dataset", "epochs", "train_size", "width"]
    same = runs[(runs[size] == [getattr(config, name) for name in size]).all(axis=1)]
    if same.empty:
        return f"a chapter at most {took('longest')}" if config.profile == "smoke" else "not yet run"
    alone = same[same.at_once == 1]
    shown, how = (same, ", shared by several runs") if alone.empty else (alone, "")
    return f"{duration(statistics.median(shown.seconds))} ({', '.join(sorted(set(shown.device)))}{how})"


def duration(seconds: float) -> str:
    """`40 s`, `5 min` or `2.5 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def took(what: str) -> str:
    """What the last runs of notebooks took; `ImclError` for one that has no recorded run."""
    seconds = {path: run["seconds"] for path, run in executions().items()}
    totals = {"all": sum(seconds.values()), "longest": max(seconds.values(), default=0)}
    if what not in totals | seconds:
        raise ImclError(f"No run of {what!r} is recorded.{nearest(what, seconds)}")
    return duration((totals | seconds)[what])


def narrow_coverage() -> str:
    """How far the narrow reproduction has come, in a sentence."""
    return reached(open_ledger(RESULTS))


def tested_gains() -> str:
    """What became of the paper's gains in the narrow reproduction, in a sentence; nothing where none was tested."""
    found = [gain.verdict for gain in gains(open_ledger(RESULTS)) if gain.verdict.n and gain.verdict.outcome]
    if not found:
        return ""
    outcomes = [verdict.outcome for verdict in found]
    less = sum(verdict.outcome == NOT_SUPPORTED and verdict.lower > 0 for verdict in found)
    return (
        f"Of {len(found)} tests of the paper's gains, with augmentation or without, {outcomes.count(SUPPORTED)} "
        f"support them, {outcomes.count(NOT_SUPPORTED)} find less than half of what is printed (in {less} of them "
        f"still a gain), and {outcomes.count(TOO_LITTLE)} are open."
    )


def surest_gain() -> str:
    """The gain of the narrow reproduction with the highest lower bound, in a sentence; nothing where there is none."""
    best = _surest(gain for gain in gains(open_ledger(RESULTS)) if gain.printed)
    said = "The surest gain of the paper's methods is of"
    return f"{said} {_told(best)}; the paper prints {signed(best.printed)}." if best else ""


def surest_neighbour() -> str:
    """The same of the losses of other papers."""
    names = {term.name for term in NEIGHBOURS}
    found = [gain for gain in gains(open_ledger(RESULTS)) if gain.config.methods in names]
    best, run = _surest(found), {gain.config.methods for gain in found}
    beside = f"Of {len(names)} methods of other papers {len(run)} have been run beside them"
    return f"{beside}; their surest gain is of {_told(best)}." if best else ""


def _surest(found: Iterable[Gain]) -> Gain | None:
    """Of those that have seeds enough."""
    enough = [gain for gain in found if gain.verdict.n >= SEEDS]
    return max(enough, key=lambda gain: gain.verdict.lower, default=None)


def over_tuned() -> str:
    """What the paper's combination for each network gains over a tuned baseline, in a sentence; nothing where unknown.

    On STL-10, with augmentation and without, the least and the most of the networks' means over enough seeds, and how
    many of them are surely gains.
    """
    ledger, ranges, sure = open_ledger(RESULTS), [], []
    for augment in (True, False):
        places = [{"dataset": "stl10", "model": m, "profile": PROFILE, "augment": augment} for m in BEST_OF]
        pairs = [(RunConfig(methods=BEST_OF[p["model"]], **p), RunConfig(**TUNED_BASELINE, **p)) for p in places]
        found = [[*gained(best, tuned, ledger).values()] for best, tuned in pairs]
        if min(map(len, found)) < SEEDS:
            return ""
        means = sorted(map(statistics.fmean, found))
        ranges.append(f"from {signed(means[0])} to {signed(means[-1])} points")
        sure.append(sum(bounds(each)[0] > 0 for each in found))
    return (
        "Over a baseline whose rate and weight decay were searched too, the combinations that the paper recommends "
        f"gain {ranges[0]} with augmentation (bounds above zero for {sure[0]} of {len(BEST_OF)} networks) and "
        f"{ranges[1]} without (for {sure[1]} of {len(BEST_OF)})."
    )


def _told(gain: Gain) -> str:
    found = gain.verdict
    return f"{gain.method}, {gain.case}: {in_points(found.mean, found.lower, found.upper, found.n)}"


def covered(name: str) -> str:
    """`run` or `all`, of the cells of the paper's tables, or one of the sentences of `SENTENCES`, by its name."""
    if name in SENTENCES:
        return SENTENCES[name]()
    counts = dict(zip(("run", "all"), map(str, coverage(open_ledger(RESULTS))), strict=True))
    if name not in counts:
        raise ImclError(f"There is no coverage {name!r}.{nearest(name, [*SENTENCES, *counts])}")
    return counts[name]


SENTENCES = {
    "narrow": narrow_coverage,
    "tested": tested_gains,
    "surest": surest_gain,
    "tuned": over_tuned,
    "neighbour": surest_neighbour,
}


def timm_step() -> str:
    """What `benchmarks/timm_step.py` measured, in two sentences."""
    found = json.loads(TIMM_STEP.read_text(encoding="utf-8"))
    baseline_s, gb = found["baseline_s"], found["peak_gb"]
    kernel_s = baseline_s * found["kernel_over_baseline"]
    return (
        f"Measured by `benchmarks/timm_step.py` on one core, {found['model']} on {found['batch']} images of "
        f"{found['side']}×{found['side']} pixels: a step of the baseline takes {baseline_s:.2f} s and "
        f"{gb['baseline']:.2f} GB at its peak. With `kernel` it takes {kernel_s:.2f} s, by the median of "
        f"{found['turns']} pairs, and {gb['kernel']:.2f} GB."
    )


class TimmStep(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        return self.parse_text_to_nodes(timm_step())


class Profiles(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        return self.parse_text_to_nodes(profiles_table())


class Search(SphinxDirective):
    """The trials of the search for strengths, from their records."""

    def run(self) -> list[nodes.Node]:
        page = table("search", open_ledger(RESULTS)).html(ROOT / "book")
        return [nodes.raw("", page, format="html")]


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("profiles", Profiles)
    app.add_directive("timm-step", TimmStep)
    app.add_directive("search", Search)
    app.add_role("took", LookedUp(took))
    app.add_role("coverage", LookedUp(covered))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
