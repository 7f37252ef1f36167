"""The queue: in order, nothing twice, within the budget, and no record lost."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from imcl_core import ImclError, RunConfig, batch, ledger, train
from imcl_core.cli import main
from imcl_core.grids import ABLATIONS, BEFORE, COMBINATIONS, GRIDS, grid
from imcl_core.training import choose_device

TINY = {"width": 1 / 16, "epochs": 1, "train_size": 64, "hidden": 16}


def tiny(**settings):
    return RunConfig(**TINY | settings)


def run(configs, out, **options):
    return batch.run_batch(configs, out, progress=False, **options)


def curves(folder):
    return {record.config.name: record.curve for record in ledger.records(folder)}


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """Three configurations and the folder of an undisturbed batch of them."""
    configs = [tiny(seed=seed) for seed in range(3)]
    folder = tmp_path_factory.mktemp("undisturbed")
    run(configs, folder)
    return configs, folder


def test_a_batch_leaves_a_record_for_each_run_and_does_none_twice(three, tmp_path):
    configs, folder = three
    assert set(curves(folder)) == {config.name for config in configs}
    again = run(configs, folder)
    assert again.done == []
    assert again.skipped == [config.name for config in configs]
    elsewhere = run(configs, tmp_path, done=[folder])
    assert elsewhere.skipped == again.skipped
    assert not list(tmp_path.glob("*.json"))


def test_runs_that_cannot_end_in_time_are_not_started(three, tmp_path):
    _, folder = three
    long, short = tiny(seed=7, epochs=10_000), tiny(seed=8)
    outcome = run([long, short], tmp_path, done=[folder], budget=15)
    assert outcome.postponed == [long.name]
    assert outcome.done == [short.name]
    assert run([tiny(seed=9)], tmp_path, budget=0).postponed == [tiny(seed=9).name]


def test_without_records_a_trial_tells_the_speed(tmp_path):
    config = tiny(model="vgg16", epochs=10_000)
    outcome = run([config, dataclasses.replace(config, epochs=1)], tmp_path, budget=60)
    assert outcome.postponed == [config.name]
    assert len(outcome.done) == 1


def test_the_estimate_is_near_the_truth(three):
    configs, folder = three
    record = ledger.records(folder)[0]
    speeds = batch.Speeds(choose_device(), [record])
    assert speeds.seconds(configs[0]) == pytest.approx(record.run["seconds"], rel=0.2, abs=0.05)
    assert speeds.seconds(tiny(model="vgg16")) is None


def test_a_failing_run_does_not_stop_the_rest(tmp_path):
    bad, good = tiny(lr=1e30, epochs=2), tiny()
    outcome = run([bad, good], tmp_path)
    assert outcome.done == [good.name]
    assert "not finite" in outcome.failed[bad.name]


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ImclError, match=r"Could not write into .*file.*another folder"):
        run([tiny()], tmp_path / "file" / "runs")


def test_two_processes_share_a_list(three, tmp_path):
    configs, folder = three
    outcome = batch.run_parallel(configs, tmp_path, jobs=2)
    assert sorted(outcome.done) == sorted(config.name for config in configs)
    assert curves(tmp_path) == curves(folder)


def test_a_killed_batch_goes_on_where_it_stopped(tmp_path):
    configs = [tiny(seed=seed, epochs=4) for seed in range(2)]
    program = (
        "import json, sys, torch; torch.set_num_threads(1)\n"
        "from imcl_core import RunConfig, batch\n"
        "batch.run_batch([RunConfig(**c) for c in json.loads(sys.argv[1])], sys.argv[2], progress=False)"
    )
    settings = json.dumps([dataclasses.asdict(config) for config in configs])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([sys.executable, "-c", program, settings, str(tmp_path)], env=environment)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("*.checkpoint.pt")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(list(tmp_path.glob("*.json"))) < 2
    run(configs, tmp_path)
    assert curves(tmp_path) == {config.name: train(config, progress=False).curve for config in configs}


def test_merge_takes_new_records_and_refuses_those_that_differ(three, tmp_path):
    _, folder = three
    assert len(batch.merge(folder, tmp_path)) == 3
    assert batch.merge(folder, tmp_path) == []
    assert curves(tmp_path) == curves(folder)
    changed = next(tmp_path.glob("*.json"))
    content = json.loads(changed.read_text())
    content["curve"][0]["test_error"] += 1
    changed.write_text(json.dumps(content))
    with pytest.raises(ImclError, match="another outcome"):
        batch.merge(folder, tmp_path)
    with pytest.raises(ImclError, match="no folder"):
        batch.merge(tmp_path / "nowhere", tmp_path)


def test_status_tells_done_begun_and_missing(three, tmp_path):
    configs, folder = three
    begun = tiny(seed=5)
    (tmp_path / f"{begun.name}.checkpoint.pt").touch()
    cells = batch.status([*configs, begun, tiny(seed=6)], folder, tmp_path)
    assert [len(cells[state]) for state in ("done", "begun", "missing")] == [3, 1, 1]


@pytest.mark.parametrize(
    ("name", "count"),
    [("table-1", 32), ("table-2", 32), ("table-3", 32), ("figure-2", 36), ("study", 5), ("queue", 80)],
)
def test_grids_hold_the_papers_cells(name, count):
    configs = grid(name)
    assert len(configs) == count if name != "queue" else len(configs) > 40
    assert len({config.key for config in configs}) == len(configs)
    assert all(config.profile == "paper" for config in configs)


def test_table_3_is_in_the_papers_order_and_the_queue_starts_with_the_baselines():
    assert COMBINATIONS[4:10] == (
        "out+mid",
        "out+pull-push",
        "out+kernel",
        "mid+pull-push",
        "mid+kernel",
        "pull-push+kernel",
    )
    assert len(COMBINATIONS) == 15
    first = [(config.dataset, config.model, config.methods) for config in grid("queue", seeds=3)[:2]]
    assert first == [("cifar100", "resnet18", "baseline"), ("cifar100", "vgg16", "baseline")]


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
    for methods, change in ABLATIONS:
        plain, changed = (RunConfig(**shared, methods=methods) for shared in ({}, change))
        assert plain.key != changed.key, f"{change} does not influence {methods}"
        assert any(r.methods == methods and all(getattr(r, k) == v for k, v in change.items()) for r in runs)
        assert any(r.methods == methods and r.key == dataclasses.replace(r, **_defaults(change)).key for r in runs)
    assert {r.lr for r in runs if r.methods == "baseline"} == {0.1, 0.05}


def _defaults(change):
    return {name: getattr(RunConfig(), name) for name in change}


def test_weights_are_searched_on_held_out_images_around_the_defaults():
    runs = grid("weights", profile="cpu", seeds=2)
    assert all(r.validation for r in runs)
    for method, setting in (("mid", "mid_alpha"), ("pull-push", "pp_pull"), ("kernel", "kernel_weight")):
        values = [getattr(r, setting) for r in runs if r.methods == method]
        assert getattr(RunConfig(), setting) in values and len(set(values)) >= 3
    assert len({r.key for r in runs}) == len(runs)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["batch", "table-9"], "Did you mean 'table-"),
        (["batch", "study", "--budget", "nine"], "9m"),
        (["batch", "study", "--profile", "cpus"], "Did you mean 'cpu'"),
        (["merge", "nowhere"], "nowhere"),
    ],
)
def test_mistakes_are_one_line_and_status_2(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_batch_merge_and_status_from_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(GRIDS, "study", lambda profile, seeds: [tiny(seed=s) for s in range(seeds)])
    assert main(["batch", "study", "--seeds", "2", "--quiet"]) == 0
    assert main(["merge", "runs"]) == 0
    assert main(["status"]) == 0
    assert "2 new records" in capsys.readouterr().out
    assert len(list((tmp_path / "results").glob("*.json"))) == 2


def test_runs_where_only_torch_numpy_pandas_and_tqdm_are_installed(tmp_path):
    """As on a lent GPU: nothing of Jupyter, matplotlib or scikit-learn may be imported."""
    program = (
        "import sys\n"
        "for name in ('matplotlib', 'sklearn', 'papermill', 'nbformat', 'IPython', 'PIL', 'scipy'):\n"
        "    sys.modules[name] = None\n"
        "from imcl_core.cli import main\n"
        "sys.exit(main(['status']))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "queue" in done.stdout
