"""The paper's tables and figure as lists of runs, and the order in which a scarce GPU should work through them."""

import itertools
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from imcl_core.errors import ImclError, check_choice
from imcl_core.methods import NEIGHBOURS, PAPER, TERMS
from imcl_core.training.config import RunConfig

SINGLES = tuple(term.name for term in PAPER)
BEST = ("out+mid+pull-push", "mid+pull-push+kernel")  # the two combinations of Tables I and II
COLUMNS = ("baseline", *SINGLES, *BEST)
NOISY = ("baseline", *SINGLES, BEST[0])  # the lines of Figure 2
BEFORE = ("baseline-2x", "tree", "multi-instance")  # what the paper compares with or argues against
COMBINATIONS = tuple("+".join(c) for n in (1, 2, 3, 4) for c in itertools.combinations(SINGLES, n))  # Table III's order
MODELS = ("vgg16", "resnet18")
WITHOUT_PROJECTION = {"pp_projection": "none"}  # of `pull-push`, which then costs hardly an operation
NOISE = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)


def grid(name: str, profile: str = "paper", seeds: int = 1, dataset: str | None = None) -> list[RunConfig]:
    """The runs of a table of `GRIDS`, the most wanted first, for seeds 0, 1, …; each run once.

    With `dataset`, those on it; a table that has none is made for it, by that data set's recipe.
    """
    check_choice("table", name, GRIDS)
    if seeds < 1:
        raise ImclError(f"There is no run of {seeds} seeds: use --seeds 1 or more.")
    runs = GRIDS[name](profile, seeds)
    if dataset is not None:
        runs = [r for r in runs if r.dataset == dataset] or [_moved(r, dataset) for r in runs]
    return list({run.key: run for run in runs}.values())


def _moved(run: RunConfig, dataset: str) -> RunConfig:
    """The run on another data set by its recipe, at the same multiple of the recipe's rate."""
    usual = replace(run, **dict.fromkeys(("epochs", "batch_size", "lr", "milestones")))
    recipe = dict.fromkeys(("train_size", "lr", "milestones", "side"))  # filled in anew
    recipe |= {name: None for name in ("epochs", "batch_size") if getattr(run, name) == getattr(usual, name)}
    moved = replace(run, dataset=dataset, held_out=0, **recipe)
    return replace(moved, lr=moved.lr * (run.lr / usual.lr))


def with_teachers(runs: Iterable[RunConfig]) -> list[RunConfig]:
    """The runs, and before each the baseline that teaches it where one does; each once."""
    return list({run.key: run for taught in runs for run in (taught.teacher, taught) if run}.values())


def _runs(profile, seeds, *, datasets=("cifar100",), models=MODELS, methods=COLUMNS, noise=(0.0,), first=0):
    """Seed by seed, so that a queue cut short leaves whole columns."""
    return [
        RunConfig(dataset=d, model=m, methods=t, seed=s, noise=n, profile=profile)
        for s, d, m, n, t in itertools.product(range(first, seeds), datasets, models, noise, methods)
    ]


def _table_1(profile: str, seeds: int) -> list[RunConfig]:
    return _runs(profile, seeds, datasets=("cifar10", "cifar100"), methods=(*COLUMNS, "baseline-2x"))


def _table_2(profile: str, seeds: int) -> list[RunConfig]:
    """STL-10 without augmentation too, of which the paper says nothing."""
    runs = _runs(profile, seeds, datasets=("stl10", "imagenet32"), methods=(*COLUMNS, "baseline-2x"))
    return runs + [replace(run, augment=False) for run in runs if run.dataset == "stl10"]


def _table_3(profile: str, seeds: int) -> list[RunConfig]:
    return _runs(profile, seeds, methods=("baseline", *COMBINATIONS))


def _figure_2(profile: str, seeds: int) -> list[RunConfig]:
    return _runs(profile, seeds, models=("vgg16",), methods=NOISY, noise=NOISE)


def _study(profile: str, seeds: int) -> list[RunConfig]:
    """CIFAR-100 as far as a laptop goes, the baseline at half its rate beside it, since `out` halves gradients."""
    clean = _runs(profile, seeds)
    noisy = _runs(profile, seeds, models=("vgg16",), methods=("baseline", BEST[0]), noise=(0.5,))
    return clean + noisy + _slow(clean)


def _before(profile: str, seeds: int) -> list[RunConfig]:
    """Song & Chai's patterns and the wide baseline, with label noise too, beside what they are compared with."""
    clean = _runs(profile, seeds, methods=("baseline", "out", *BEFORE))
    return clean + _runs(profile, seeds, models=("vgg16",), methods=("baseline", "out", "tree"), noise=(0.5,))


def _slow(runs: list[RunConfig]) -> list[RunConfig]:
    """The baselines among `runs` at half their rate, since `out` halves gradients."""
    return [replace(run, lr=run.lr / 2) for run in runs if run.methods == "baseline"]


def _tuned(runs: list[RunConfig]) -> list[RunConfig]:
    """The baselines among `runs` at the rate and decay that the search chose for them."""
    return [replace(run, **TUNED_BASELINE) for run in runs if run.methods == "baseline"]


def _without_projection(runs: list[RunConfig]) -> list[RunConfig]:
    """Those of `pull-push` among `runs`, which then compares the layers' own maps."""
    return [replace(run, **WITHOUT_PROJECTION) for run in runs if run.methods == "pull-push"]


def _narrow(profile: str, seeds: int) -> list[RunConfig]:
    """What two cores can train to the end, by worth: STL-10 with and without augmentation first."""
    networks = ("resnet18", "vgg16")
    small = [(s, m, a) for s, m, a in itertools.product(range(seeds), networks, (True, False))]

    def stl10(seed: int, model: str, augment: bool, methods: Iterable[str]) -> list[RunConfig]:
        runs = _runs(profile, seed + 1, datasets=("stl10",), models=(model,), methods=methods, first=seed)
        return [replace(run, augment=augment) for run in runs]

    columns = [stl10(*place, methods=COLUMNS) for place in small]
    return [
        *(run for runs in columns for run in [*runs[:2], *_slow(runs), *runs[2:]]),
        *(run for runs in columns for run in _tuned(runs)),
        *(run for runs in columns for run in _without_projection(runs)),
        *(run for place in small for run in stl10(*place, methods=("baseline-2x", "tree"))),
        *_runs(profile, seeds, models=("vgg16",), methods=NOISY, noise=(0.5,)),
        *(run for s in range(seeds) for run in stl10(s, "resnet18", True, ("baseline", *COMBINATIONS))),
        *_runs(profile, seeds, datasets=("cifar100",), models=networks),
        *_runs(profile, seeds, datasets=("cifar10",), models=networks),
    ]


# A method, and settings of which the last is the decision taken the other way; both runs have those before it.
ABLATIONS = (
    ("baseline", {"nesterov": True}),
    ("baseline", {"hidden": 256}),
    ("baseline", {"pool": 2}),
    ("baseline", {"dataset": "imagenet32", "weight_decay": 1e-4}),
    ("baseline", {"dataset": "stl10", "augment": False}),
    ("out", {"out_detach": False}),
    ("out", {"out_t_squared": True}),
    ("mid", {"mid_pool": 2}),
    ("mid", {"mid_width": 32}),
    ("mid", {"mid_own": True}),
    ("mid", {"attach": "blocks"}),
    ("pull-push", {"pp_centre": "batch"}),
    ("pull-push", {"pp_normalise": False}),
    ("pull-push", {"pp_projection": "1x1"}),
    ("pull-push", WITHOUT_PROJECTION),
    ("pull-push", {"model": "vgg16"} | WITHOUT_PROJECTION),
    *(
        ("pull-push", {"dataset": "stl10", "model": model, "augment": False} | WITHOUT_PROJECTION)
        for model in ("resnet18", "vgg16")
    ),
    ("pull-push", {"pp_push": (0.1, 0.0)}),
    ("pull-push", {"pp_push": (0.1, 0.0), "pp_input": "pixels"}),
    ("pull-push", {"attach": "blocks"}),
    ("kernel", {"kernel_pointwise": True}),
    ("kernel", {"kernel_biased": False}),
    ("tree", {"pop_splits": ("trunk.stage3.block1", "trunk.stage4.block1")}),
    ("tree", {"pop_sum": False}),
    ("tree", {"pop_rescale": False}),
    ("tree", {"pop_detach": False}),
    ("tree", {"pop_t_squared": True}),
)


def ablation(methods: str, change: dict, profile: str, seed: int = 0) -> tuple[RunConfig, RunConfig]:
    """A run with a decision taken the other way, and the same run as decided.

    Of ResNet-18 unless `change` says otherwise; in the profile `narrow` on STL-10, where most runs as decided are
    there already, else on CIFAR-100.
    """
    dataset = "stl10" if profile == "narrow" else "cifar100"
    both = {"dataset": dataset, "model": "resnet18", "seed": seed, "profile": profile} | change
    decided = {name: value for name, value in both.items() if name != next(reversed(change))}
    return RunConfig(methods=methods, **both), RunConfig(methods=methods, **decided)


def _decisions(profile: str, seeds: int) -> list[RunConfig]:
    """Each ablation beside its method as decided, and the baseline at half its rate, since `out` halves gradients."""
    runs = []
    for s in range(seeds):
        changed, decided = zip(*(ablation(m, change, profile, s) for m, change in ABLATIONS), strict=True)
        runs += [*decided, *changed, replace(decided[0], lr=decided[0].lr / 2)]
    return runs


SEARCH = {  # STL-10's recipe in fewer epochs, on CIFAR-10's training images; its test images have no part
    "dataset": "cifar10", "validation": True, "held_out": 10_000, "train_size": 5_000,
    "epochs": 30, "lr": 0.05, "milestones": (9, 18, 27), "evaluate_every": 0,
}  # fmt: skip
TUNING = tuple({"lr": lr, "weight_decay": d} for lr in (0.02, 0.05, 0.1) for d in (5e-4, 1e-3, 2e-3))  # of the baseline
TUNED_BASELINE = {"lr": 0.02, "weight_decay": 2e-3}  # which of them the search chose


def _search(profile: str, seeds: int) -> list[RunConfig]:
    """The strengths of every method and the baseline's rate and decay, as many of each: candidates for halving."""
    first = ("kernel", "pull-push")  # whose weights the paper does not print
    strengths = {name: TERMS[name].strengths for name in first} | {"baseline": TUNING}
    strengths |= {name: term.strengths for name, term in TERMS.items()}
    return [
        RunConfig(model=model, methods=methods, seed=s, profile=profile, **SEARCH | strength)
        for s in range(seeds)
        for methods, tried in strengths.items()
        for model in ("resnet18", "vgg16")
        for strength in tried
    ]


def as_judged(methods: str, model: str, profile: str = "narrow", **settings: Any) -> RunConfig:
    """A method at its default strength, and at full length, on the images that the search trains on and judges by."""
    return RunConfig(model=model, methods=methods, profile=profile, **SEARCH | settings)


COMPARED = ("baseline", *SINGLES, *(term.name for term in NEIGHBOURS))


def _neighbours(profile: str, seeds: int) -> list[RunConfig]:
    """The four and their neighbours at their default strengths: on held-out images, then on STL-10's test images.

    There without augmentation too, which is where the paper's gains are larger here.
    """
    networks = ("resnet18", "vgg16")
    tested = _runs(profile, seeds, datasets=("stl10",), models=networks, methods=COMPARED)
    return [
        *(as_judged(methods, model, profile) for methods in COMPARED for model in networks),
        *tested,
        *(replace(run, augment=False) for run in tested),
    ]


def _memory(profile: str, seeds: int) -> list[RunConfig]:
    """The paper's comparison of memory, an epoch each, on the data set's own images: a record keeps the peak."""
    shared = {"dataset": "stl10", "model": "resnet101", "batch_size": 64, "epochs": 1, "profile": profile}
    methods = ("baseline", "out", "tree", "multi-instance")
    return [RunConfig(methods=m, seed=s, **shared) for s in range(seeds) for m in methods]


def _queue(profile: str, seeds: int) -> list[RunConfig]:
    """Everything for a scarce GPU, the most wanted first.

    STL-10 without augmentation, where its baselines come near the paper's; with it the baseline and pull-push; either
    way pull-push without its projection; then both data sets' columns, Table III, more seeds, label noise, CIFAR-10.
    """
    both, networks = ("stl10", "cifar100"), ("resnet18", "vgg16")
    plain, usual = (
        _runs(profile, 1, datasets=("stl10",), models=networks, methods=methods)
        for methods in (("baseline", "pull-push", *COLUMNS), ("baseline", "pull-push"))
    )
    noisy = _runs(profile, 1, models=("vgg16",), methods=NOISY, noise=(0.5,))
    return [
        *(first := [*(replace(run, augment=False) for run in plain), *usual]),
        *_without_projection(first),
        *(run for m in COLUMNS for run in _runs(profile, 1, datasets=both, models=networks, methods=(m,))),
        *_table_3(profile, 1),
        *_before(profile, 1),
        *_runs(profile, seeds, datasets=both, first=1),
        *noisy,
        *_runs(profile, 1, datasets=("cifar10",)),
    ]


BEYOND = ("search", "neighbours", "narrow")  # run in `narrow`, and so not planned at the paper's scale

GRIDS: dict[str, Callable[[str, int], list[RunConfig]]] = {
    "table-1": _table_1,
    "table-2": _table_2,
    "table-3": _table_3,
    "figure-2": _figure_2,
    "memory": _memory,
    "before": _before,
    "decisions": _decisions,
    "neighbours": _neighbours,
    "study": _study,
    "narrow": _narrow,
    "search": _search,
    "queue": _queue,
}
