"""The lists of runs: the paper's cells, in the order of their worth, and what is searched and ablated."""

import dataclasses
import itertools

import pytest

from imcl_core import PopulationSettings, RunConfig
from imcl_core.methods import PAPER
from imcl_core.study.grids import ABLATIONS, BEFORE, COLUMNS, COMBINATIONS, ablation, grid, with_teachers


@pytest.mark.parametrize(
    ("name", "count"),
    [("table-1", 32), ("table-2", 48), ("table-3", 32), ("figure-2", 36), ("study", 18), ("queue", 91)],
)
def test_grids_hold_the_papers_cells(name, count):
    configs = grid(name)
    assert len(configs) == count
    assert len({config.key for config in configs}) == len(configs)
    assert all(config.profile == "paper" for config in configs)


def test_table_3_is_in_the_papers_order_and_the_queue_starts_with_what_settles_most():
    assert COMBINATIONS[4:10] == (
        "out+mid",
        "out+pull-push",
        "out+kernel",
        "mid+pull-push",
        "mid+kernel",
        "pull-push+kernel",
    )
    assert len(COMBINATIONS) == 15
    queue = grid("queue", seeds=3)
    plain, usual = queue[:14], queue[14:18]
    networks, methods = ("resnet18", "vgg16"), ("baseline", "pull-push")
    assert not any(config.augment for config in plain) and all(config.augment for config in usual)
    assert {(c.model, c.methods) for c in plain} == {(model, name) for model in networks for name in COLUMNS}
    assert [(c.model, c.methods) for c in usual] == [(model, name) for model in networks for name in methods]
    bare = [(c.model, c.methods, c.augment, c.pp_projection) for c in queue[18:22]]
    assert {*bare} == {(m, "pull-push", a, "none") for m, a in itertools.product(networks, (True, False))}
    assert {config.dataset for config in queue[:22]} == {"stl10"}
    columns = [*usual, *queue[22:46]]
    assert {c.methods for c in columns} == {*COLUMNS} and {c.dataset for c in columns} == {"stl10", "cifar100"}


def test_double_width_is_in_the_tables():
    doubled = {(c.dataset, c.model): c.batch_size for c in grid("table-2") if c.methods == "baseline-2x"}
    assert doubled[("stl10", "resnet18")] == 64
    assert doubled[("stl10", "vgg16")] == 128


def test_what_came_before_is_compared_on_the_same_runs_and_with_noise():
    runs = {(c.model, c.noise, c.methods) for c in grid("before")}
    assert {m for model, noise, m in runs if model == "resnet18"} == {"baseline", "out", *BEFORE}
    assert {m for model, noise, m in runs if noise} == {"baseline", "out", "tree"}
    assert {c.key for c in grid("before")} <= {c.key for c in grid("queue")}


def test_an_ablation_differs_from_its_method_in_what_it_names():
    runs = grid("decisions")
    keys = {r.key for r in runs}
    for methods, change in ABLATIONS:
        changed, decided = ablation(methods, change, "paper")
        last = next(reversed(change))
        assert {changed.key, decided.key} <= keys, f"{methods} lacks {change}, or the run beside it"
        assert changed.key != decided.key, f"{change} does not influence {methods}"
        assert dataclasses.replace(changed, **{last: getattr(RunConfig(), last)}).key == decided.key
    assert {r.lr for r in runs if r.methods == "baseline"} == {0.1, 0.05}


def test_each_decision_that_is_a_switch_has_its_ablation():
    own = [field for term in PAPER for field in dataclasses.fields(term.Settings)]
    switches = {f.name for f in (*own, *dataclasses.fields(PopulationSettings)) if type(f.default) in (bool, str)}
    switches -= {"kernel_tf32"}  # how a GPU rounds: no decision of the method
    others = {"nesterov", "augment", "weight_decay", "pool", "hidden", "mid_pool", "mid_width", "pp_push", "pop_splits"}
    ablated = {name for _, change in ABLATIONS for name in change} - {"dataset", "model"}
    assert switches == ablated - others and others < ablated


def test_on_another_data_set_a_rate_stays_the_same_part_of_the_recipes():
    rates = {run.lr for run in grid("study", dataset="stl10") if run.methods == "baseline"}
    assert rates == {0.05, 0.025}
    usual = {run.key for run in grid("table-3", dataset="stl10")}
    assert usual == {RunConfig(dataset="stl10", methods=r.methods, model=r.model, profile="paper").key
                     for r in grid("table-3")}  # fmt: skip


def test_a_table_that_sets_its_own_epochs_keeps_them_on_another_data_set():
    assert {(run.epochs, run.batch_size) for run in grid("memory", dataset="cifar100")} == {(1, 64)}


def test_a_search_on_a_smaller_data_set_holds_out_a_part_of_it():
    assert all(run.evaluated_images < run.images for run in grid("search", "narrow", dataset="digits"))


def test_teachers_come_before_those_they_teach_and_once():
    taught = [RunConfig(methods="kd", kd_alpha=a, seed=s) for s in (0, 1) for a in (0.25, 0.75)]
    runs = with_teachers([*taught, taught[0].teacher])
    assert [run.methods for run in runs] == ["baseline", "kd", "kd"] * 2
    assert [run.seed for run in runs] == [1, 0, 0, 2, 1, 1]
