"""What is planned before it is run: operations, hours, and the search for weights by halving."""

import dataclasses
from itertools import product

import made_records
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from imcl_core import RunConfig
from imcl_core.cli import main
from imcl_core.errors import ImclError
from imcl_core.methods import TERMS
from imcl_core.networks import build
from imcl_core.study import plan as planning
from imcl_core.study.grids import GRIDS, SEARCH, grid
from imcl_core.study.plan import GPUS, SHARE, core_hours, hours, operations, plan, work
from imcl_core.study.search import apart, candidates_of, halve
from imcl_core.training.record import Record
from imcl_core.training.run import assemble

CASE = {"dataset": "cifar100", "profile": "paper"}


def record(config, error=50.0, device="NVIDIA H100 80GB HBM3", seconds=400.0):
    curve = [{"epoch": e + 1, "test_error": error} for e in range(config.epochs)]
    return Record(config, curve, {"device": device, "seconds": seconds})


@pytest.mark.parametrize(("model", "forward"), [("resnet18", 1.11e9), ("vgg16", 0.63e9)])
def test_operations_are_those_of_the_field_and_of_pytorchs_counter(model, forward):
    config = RunConfig(model=model, **CASE)
    network = build(model, 100, 1.0, config.hidden, config.dropout)
    with FlopCounterMode(display=False) as counter:
        loss = network(torch.randn(2, 3, 32, 32)).sum()
        assert counter.get_total_flops() / 2 == pytest.approx(forward, rel=0.01)
        loss.backward()
    assert operations(config) == pytest.approx(counter.get_total_flops() / 2, rel=1e-9)


def test_operations_of_joined_methods_add_up():
    config = RunConfig(methods="out+mid+pull-push+kernel", model="vgg16", **CASE, width=0.125)
    assert operations(config) == pytest.approx(_counted(config), rel=1e-9)


def _counted(config):
    """Of a step that is really computed, without its local backward passes' shortcuts."""
    side = config.recipe.side
    collaboration = assemble(config, config.recipe.classes, (3, side, side))
    with FlopCounterMode(display=False) as counter:
        images, labels = torch.randn(config.batch_size, 3, side, side), torch.randint(10, (config.batch_size,))
        collaboration(images, labels).backward()
    return counter.get_total_flops() / config.batch_size


@pytest.mark.parametrize("methods", ["mid", "pull-push"])
def test_operations_of_local_terms_behind_blocks_are_counted(methods):
    plain, blocks = (operations(RunConfig(methods=m, attach="blocks", **CASE)) for m in ("baseline", methods))
    assert plain < blocks


def test_operations_do_not_depend_on_what_does_not_change_a_step():
    config = RunConfig(**CASE)
    other = dataclasses.replace(config, seed=3, noise=0.5, epochs=7, milestones=(2,), train_size=640, validation=True)
    assert operations(other) == operations(config)


def test_work_counts_training_and_evaluation():
    config = RunConfig(model="vgg16", **CASE)
    one = work([config])
    assert (one.runs, one.images) == (1, 200 * 50_000)
    assert one.operations == pytest.approx(200 * (50_000 + 10_000 / 3) * operations(config))
    assert work([dataclasses.replace(config, validation=True)]).images == 200 * 45_000
    few, many = (dataclasses.replace(config, validation=True, train_size=9, held_out=n) for n in (10, 1000))
    assert work([many]).operations > 10 * work([few]).operations
    assert work([config, dataclasses.replace(config, seed=1)]).operations == pytest.approx(2 * one.operations)


def test_hours_rest_on_the_records_of_like_runs_and_else_on_a_share_of_the_peak():
    config, other = RunConfig(**CASE), RunConfig(methods="mid", **CASE)
    assert hours([config], "A100") == (work([config]).operations / (SHARE["A100"] * GPUS["A100"]) / 3600, False)
    known = [record(config, seconds=400), record(dataclasses.replace(config, epochs=100), seconds=200)]
    assert hours([config], "H100", known) == (pytest.approx(400 / 3600), True)
    assert hours([config, other], "H100", known)[1] is False
    tenth = dataclasses.replace(config, train_size=5_000)
    assert hours([config], "H100", [record(tenth, seconds=40)]) == (pytest.approx(400 / 3600), True)
    assert hours([config], "A100", known) == hours([config], "A100")
    shared = record(config, seconds=4000)
    assert hours([config], "T4", [record(config, device="NVIDIA T400")]) == hours([config], "T4")
    shared.run["at_once"] = 10  # runs on one GPU, each with a part of its time
    assert hours([config], "H100", [shared]) == hours([config], "H100")


def test_hours_of_a_core_are_those_of_like_runs_and_the_rest_is_counted():
    config = RunConfig(dataset="stl10", profile="narrow")
    plain, half = (
        dataclasses.replace(config, seed=1, **change) for change in ({"augment": False}, {"train_size": 2_500})
    )
    known = record(config, device="Processor", seconds=720.0)
    known.run["threads"] = 1
    assert core_hours([config, plain, half], [known]) == (pytest.approx(2.5 * 0.2), 0)
    others = [
        dataclasses.replace(config, **change) for change in ({"methods": "mid"}, {"side": 96}, {"precision": "float32"})
    ]
    assert core_hours([*others, config], [known]) == (pytest.approx(0.2), 3)
    known.run.update({"device": "Tesla T4", "at_once": 1})  # one thread beside a GPU is no core
    assert core_hours([config], [known]) == (0.0, 1)


def test_the_plan_of_a_narrow_profile_names_what_is_unmeasured(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["plan", "figure-2", "--profile", "cpu", "--seeds", "1"]) == 0
    count = len(grid("figure-2", "cpu", 1))
    assert f"0.0 h and {count} unmeasured" in capsys.readouterr().out


def test_the_plan_of_some_runs_tells_what_is_left_of_them(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = made_records.record(methods="baseline", profile="cpu")
    made_records.write(tmp_path, dataclasses.replace(done, run=done.run | {"seconds": 7200.0, "threads": 1}))
    command = ["plan", "figure-2", "--profile", "cpu", "--results", ".", "--only"]
    assert main([*command, "cifar100-vgg16-baseline-cpu-seed*"]) == 0
    assert "figure-2             3.0 h; of it left: 2.0 h\n" in capsys.readouterr().out  # of three seeds on two cores
    assert main(["plan", "table-2", *command[1:], "cifar100-vgg16-*-noise0.5-*"]) == 0
    assert "table-2" not in capsys.readouterr().out  # which has none of them
    assert main([*command, "cifar10-*"]) == 2
    assert "No run of figure-2 has a name that matches 'cifar10-*'" in capsys.readouterr().err


def test_the_plan_counts_teachers_too(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    taught = RunConfig(methods="kd", profile="cpu")
    monkeypatch.setitem(GRIDS, "search", lambda profile, seeds: [taught])
    assert main(["plan", "search", "--profile", "cpu", "--seeds", "1"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:2] == ["search", "2"]


def test_a_plan_counts_a_run_once_in_the_sum():
    grids = {name: grid(name, "cpu", 1) for name in ("table-3", "figure-2")}
    table = plan(grids)
    assert list(table.runs[:2]) == [len(grids["table-3"]), len(grids["figure-2"])]
    assert table.runs.iloc[-1] == len({c.name for configs in grids.values() for c in configs}) < table.runs[:2].sum()
    assert (table.filter(like=", h") > 0).all(axis=None)


def test_the_command_prints_the_plan_and_its_price(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["plan", "figure-2", "--profile", "smoke", "--seeds", "1", "--price", "2.5"]) == 0
    out = capsys.readouterr().out
    assert f"{len(grid('figure-2', 'smoke', 1))}" in out and "at 2.5 an hour" in out
    assert main(["plan", "figure-3"]) == 2
    assert "figure-2" in capsys.readouterr().err


def test_every_table_can_be_planned():
    assert all(grid(name, "paper", 1) for name in GRIDS)


# The search


def trainer(quality, trained):
    """Pretends to train: the error is the quality of the weight, and less for longer runs."""

    def train(configs):
        trained.append(configs)
        return {c.name: quality(c.kernel_weight) + 10 / c.epochs + c.seed for c in configs}

    return train


def candidates(count, seeds=2, **changes):
    settings = {"methods": "kernel", "validation": True, "epochs": 9, **changes}
    return [
        tuple(RunConfig(kernel_weight=(i + 1) / 100, seed=s, **settings) for s in range(seeds)) for i in range(count)
    ]


def test_halving_trains_the_best_third_three_times_as_long():
    trained = []
    rungs = halve(candidates(9), trainer(lambda w: abs(w - 0.04), trained))
    assert [(rung.epochs, len(rung.candidates)) for rung in rungs] == [(3, 9), (9, 3)]
    assert [len(configs) for configs in trained] == [18, 6]
    assert rungs[-1].candidates[0][0].kernel_weight == 0.04
    assert list(rungs[-1].errors) == sorted(rungs[-1].errors)
    assert rungs[-1].errors[0] == pytest.approx(10 / 9 + 0.5)  # the mean over its two seeds
    assert rungs[-1].candidates[0] in candidates(9)  # with its own epochs


def test_a_short_rung_has_a_short_schedule():
    trained = []
    halve(candidates(9, seeds=1, epochs=30), trainer(lambda w: w, trained))
    assert {c.milestones for c in trained[0]} == {(8, 9)} and {c.milestones for c in trained[1]} == {(24, 28)}


@pytest.mark.parametrize(("count", "sizes"), [(1, [1]), (2, [2]), (5, [5]), (15, [15, 5]), (18, [18, 6, 2])])
def test_two_candidates_at_least_run_to_the_end(count, sizes):
    rungs = halve(candidates(count), trainer(lambda w: w, []))
    assert [len(rung.candidates) for rung in rungs] == sizes
    assert rungs[-1].epochs == 9


def test_the_search_refuses_the_test_set_and_lost_runs():
    with pytest.raises(ImclError, match="never on the test set"):
        halve(candidates(3, validation=False), trainer(lambda w: w, []))
    with pytest.raises(ImclError, match="has no record"):
        halve(candidates(3), lambda configs: {})
    with pytest.raises(ImclError, match="2 or more"):
        halve(candidates(3), trainer(lambda w: w, []), factor=1)


def test_candidates_are_judged_on_all_networks_and_seeds_together():
    found = candidates_of(grid("search", "narrow", 2))
    for group in found.values():
        assert all({(c.model, c.seed) for c in each} == {*product(("vgg16", "resnet18"), (0, 1))} for each in group)
    assert apart(found["cifar10 kernel"])[found["cifar10 kernel"][1]] == "kernel_weight=0.003"
    both = {"validation": True}
    pairs = [(RunConfig(lr=lr, weight_decay=d, **both),) for lr, d in ((0.1, 0.0), (0.1, 0.1), (0.2, 0.1))]
    assert list(apart(pairs).values())[1] == "lr=0.1, weight_decay=0.1"
    pulls = [(RunConfig(methods="pull-push", pp_pull=(0.1 * w, w)),) for w in (0.1, 1.0)]
    assert [*apart(pulls).values()] == ["pp_pull=0.01…0.1", "pp_pull=0.1…1"]


def test_the_command_searches_and_goes_on_where_it_stopped(tmp_path, capsys, monkeypatch):
    tiny = {"methods": "kernel", "width": 1 / 16, "epochs": 2, "train_size": 64, "validation": True}
    runs = [RunConfig(kernel_weight=w, **tiny) for w in (0.01, 0.1, 1.0)] + [RunConfig(methods="out")]
    monkeypatch.setitem(GRIDS, "search", lambda profile, seeds: runs)

    def search():
        arguments = ["batch", "search", "--halving", "--out", str(tmp_path / "runs"), "--results", str(tmp_path)]
        assert main([*arguments, "--quiet", "--no-notebook", "--device", "cpu"]) == 0
        return capsys.readouterr().out

    first = search()
    assert "digits kernel, 2 epochs" in first and "kernel_weight=0.01\n" in first and "kernel_weight=0.1\n" in first
    records = sorted((tmp_path / "runs").glob("*.json"))
    assert len(records) == 3
    assert search() and sorted((tmp_path / "runs").glob("*.json")) == records
    assert main(["batch", "search", "--only", "nothing"]) == 2
    assert "matches 'nothing'" in capsys.readouterr().err


def test_the_search_tries_nine_strengths_of_everything_on_training_images_alone():
    cases = candidates_of(grid("search", "narrow"))
    assert cases.keys() == {f"cifar10 {methods}" for methods in ("baseline", *TERMS)}
    for case, tried in cases.items():
        assert all({run.model for run in each} == {"resnet18", "vgg16"} for each in tried)
        runs = [each[0] for each in tried]
        assert len({run.key for run in runs}) == 9, case
        assert all(run.validation and (run.train_size, run.held_out) == (5_000, 10_000) for run in runs)
        methods = runs[0].methods
        usual = RunConfig(model=runs[0].model, methods=methods, profile="narrow", **SEARCH)
        assert usual in runs, f"{case}: the default is not among what is tried"


def test_counting_shows_how_far_it_is(monkeypatch):
    shown = []
    monkeypatch.setattr(planning, "tqdm", lambda configs, **_: shown.append(len(configs)) or configs)
    planning.plan({"one": [RunConfig(**CASE)], "two": [RunConfig(**CASE), RunConfig(methods="mid", **CASE)]})
    assert shown == [2]


def test_an_evaluation_is_a_pass_of_the_plain_network():
    plain, mid = (RunConfig(dataset="cifar100", profile="paper", model="vgg16", methods=m) for m in ("baseline", "mid"))
    trained, tested = 200 * 50_000 * operations(mid), 200 * 10_000 * operations(plain) / 3
    assert work([mid]).operations == pytest.approx(trained + tested)
