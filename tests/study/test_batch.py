"""The queue: in order, nothing twice, within the budget, and no record lost."""

import dataclasses
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from imcl_book import execute

from imcl_core import ImclError, PopulationSettings, RunConfig, train
from imcl_core.cli import main
from imcl_core.methods import PAPER
from imcl_core.study import batch, executed, ledger
from imcl_core.study.grids import ABLATIONS, BEFORE, COMBINATIONS, GRIDS, grid
from imcl_core.study.notebook import dumps, read
from imcl_core.study.pools import Died, Here, Slots
from imcl_core.training.record import read_record
from imcl_core.training.run import choose_device

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


def test_the_estimate_counts_the_evaluations_there_are(three):
    configs, folder = three
    record = ledger.records(folder)[0]
    config = dataclasses.replace(configs[0], epochs=20, evaluate_every=5)
    run = record.run | {"evaluation_seconds": 6.0, "images_per_s": 10.0}
    speeds = batch.Speeds(choose_device(), [dataclasses.replace(record, config=config, run=run)])
    trained = 20 * config.train_size / 10.0
    assert speeds.seconds(config) == pytest.approx(trained + 6.0)
    assert speeds.seconds(dataclasses.replace(config, evaluate_every=1)) == pytest.approx(trained + 10.0)


def test_a_failing_run_does_not_stop_the_rest(tmp_path):
    bad, good = tiny(lr=1e30, epochs=2), tiny()
    outcome = run([bad, good], tmp_path)
    assert outcome.done == [good.name]
    assert "not finite" in outcome.failed[bad.name]


def test_a_failed_run_is_left_alone_until_it_is_asked_for(tmp_path, monkeypatch):
    config, other = tiny(), tiny(seed=1)
    with monkeypatch.context() as broken:
        broken.setattr(batch, "train", lambda *_, **__: 1 / 0)
        assert run([config], tmp_path).failed.keys() == {config.name}
    first, *trace = batch.failure_file(tmp_path, config).read_text().splitlines()
    assert first == "ZeroDivisionError: division by zero"
    assert "Traceback" in trace[0]
    outcome = run([config, other], tmp_path)
    assert (outcome.done, outcome.failed_before) == ([other.name], {config.name: first})
    assert batch.status([config, other], tmp_path)["failed"] == [config.name]
    assert run([config, other], tmp_path, retry_failed=True).done == [config.name]
    assert batch.status([config, other], tmp_path)["failed"] == []
    assert not batch.failure_file(tmp_path, config).exists()


class Deadly(Here):
    """A pool in which the runs of `lethal` always lose their process."""

    def __init__(self, lethal):
        self.lethal = lethal

    def submit(self, function, config, *arguments):
        return super().submit(lambda *a: None if config == self.lethal else function(*a), config, *arguments)

    def result(self, future):
        if future.result() is None:
            raise Died("killed")
        return future.result()


def test_a_run_that_always_dies_is_given_up_and_the_rest_goes_on(tmp_path):
    lethal, other = tiny(), tiny(seed=1)
    outcome = run([lethal, other], tmp_path, pool=Deadly(lethal))
    assert outcome.done == [other.name]
    assert outcome.failed == {
        lethal.name: "It died 3 times (killed): try again with more memory, or fewer runs at once."
    }


def test_a_record_made_elsewhere_is_brought_home_with_its_notebook(three, tmp_path):
    """As from a node of a cluster that does not share the folder."""
    (config, *_), folder = three
    record = read_record(folder / f"{config.name}.json")
    result = batch.Result("done", record=record, notebook="text")
    batch._take(config, result, batch.Job(tmp_path), batch.Outcome())
    assert curves(tmp_path) == {config.name: record.curve}
    assert (tmp_path / f"{config.name}.ipynb").read_text() == "text"


def test_without_data_a_batch_does_not_begin_and_with_some_it_does_the_rest(tmp_path, monkeypatch):
    monkeypatch.setattr("imcl_core.data.download.fetch", lambda *_: ["nowhere"])
    monkeypatch.setenv("IMCL_DATA", str(tmp_path / "data"))
    missing = RunConfig(dataset="cifar10", profile="cpu")
    with pytest.raises(ImclError, match=r"Could not download cifar10: put .*cifar10.npz"):
        run([missing], tmp_path / "runs")
    outcome = run([missing, tiny()], tmp_path / "runs")
    assert outcome.done == [tiny().name]
    assert "cifar10.npz" in outcome.failed[missing.name]


@pytest.mark.parametrize("profile", ["smoke", "cpu", "paper"])
def test_a_notebooks_parameters_say_all_of_a_run(profile):
    for name in GRIDS:
        for config in grid(name, profile, seeds=2):
            values = executed.parameters(config)
            assert RunConfig(**values.pop("settings"), **values) == config
    odd = RunConfig(epochs=1000, milestones=(60, 120, 160, 200))
    values = executed.parameters(odd)
    assert RunConfig(**values.pop("settings"), **values) == odd


def test_a_run_as_a_notebook_is_the_notebook_run_by_hand(tmp_path, monkeypatch):
    """A failed cell's traceback is in the notebook."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    good, bad = tiny(methods="mid"), tiny(lr=1e30, epochs=2)
    outcome = run([good, bad], tmp_path, notebook=True)
    assert outcome.done == [good.name]
    assert "not finite" in outcome.failed[bad.name]
    assert "not finite" in (tmp_path / f"{bad.name}.ipynb").read_text()
    (tmp_path / "by-hand").mkdir()
    values = executed.parameters(good) | {"out": "."}
    monkeypatch.setenv("PYTHONPATH", str(executed.NOTEBOOK.parents[1]))
    execute.execute(executed.NOTEBOOK, tmp_path / "by-hand.ipynb", values, cwd=tmp_path / "by-hand")
    assert (tmp_path / f"{good.name}.ipynb").read_text() == (tmp_path / "by-hand.ipynb").read_text()
    assert curves(tmp_path)[good.name] == curves(tmp_path / "by-hand")[good.name]


def test_exit_in_a_cell_is_a_failure(tmp_path, monkeypatch):
    notebook = read(executed.NOTEBOOK)
    for cell in notebook.cells:
        cell.source = cell.source.replace("record = train(", "import sys\nsys.exit(0)\nrecord = train(")
    (tmp_path / "run.ipynb").write_text(dumps(notebook))
    monkeypatch.setattr(executed, "NOTEBOOK", tmp_path / "run.ipynb")
    for name in ("PYTHONPATH", "OMP_NUM_THREADS", "MPLBACKEND", "PYDEVD_DISABLE_FILE_VALIDATION"):
        monkeypatch.setenv(name, os.environ.get(name, ""))  # what the notebook's process sets is taken back
    result = batch.run_one(tiny(), batch.Job(tmp_path, notebook=True))
    assert result.state == "failed"
    assert "exit()" in result.why


def test_slots_on_gpus_see_one_gpu_each(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [e["CUDA_VISIBLE_DEVICES"] for e in Slots.on_gpus(2).environments] == ["0", "1", "0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b")
    with Slots.on_gpus(1) as pool:
        waiting = [pool.submit(os.getenv, "CUDA_VISIBLE_DEVICES") for _ in range(2)]
        assert [pool.result(future) for future in waiting] == ["GPU-a", "GPU-b"]


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
    assert {p.stem for p in tmp_path.glob("*.npz")} == {p.stem for p in tmp_path.glob("*.json")}
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
    [("table-1", 32), ("table-2", 32), ("table-3", 32), ("figure-2", 36), ("study", 18), ("queue", 80)],
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
    keys = {r.key for r in runs}
    for methods, change in ABLATIONS:
        changed = [r for r in runs if r.methods == methods and all(getattr(r, k) == v for k, v in change.items())]
        undone = {name: getattr(RunConfig(), name) for name in change.keys() - {"dataset"}}
        plain = {dataclasses.replace(r, **undone).key for r in changed}
        assert changed and plain <= keys, f"{methods} lacks {change}, or the run beside it"
        assert not plain & {r.key for r in changed}, f"{change} does not influence {methods}"
    assert {r.lr for r in runs if r.methods == "baseline"} == {0.1, 0.05}


def test_each_decision_that_is_a_switch_has_its_ablation():
    own = [field for term in PAPER for field in dataclasses.fields(term.Settings)]
    switches = {f.name for f in (*own, *dataclasses.fields(PopulationSettings)) if type(f.default) in (bool, str)}
    numbers = {
        "nesterov",
        "augment",
        "weight_decay",
        "pool",
        "hidden",
        "mid_pool",
        "mid_width",
        "pop_splits",
    }  # and others
    ablated = {name for _, change in ABLATIONS for name in change} - {"dataset"}
    assert switches == ablated - numbers and numbers < ablated


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
        (["batch", "study", "--jobs", "0"], "--jobs 1"),
        (["batch", "study", "--device", "cuda"], "leave out the device, or use cpu"),
        (["batch", "study", "--per-gpu", "1"], "use --jobs in place of --per-gpu"),
        (["batch", "study", "--per-gpu", "1", "--jobs", "2"], "leave out --jobs"),
        (["batch", "study", "--ray", "nowhere"], "host:port"),
        (["batch", "study", "--ray", "127.0.0.1:1"], "ray start --head"),
        (["batch", "study", "--ray", "--budget", "9m"], "leave it out"),
        (["batch", "study", "--dataset", "digits", "--out", "file/runs"], "another folder"),
        (["merge", "nowhere"], "nowhere"),
    ],
)
def test_mistakes_are_one_line_and_status_2(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    if "--ray" in arguments and importlib.util.find_spec("ray") is None:
        message = "pip install 'imcl-core[cluster]'" if "--budget" not in arguments else message
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


def test_failures_are_listed_and_tried_again_on_demand(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(GRIDS, "study", lambda profile, seeds: [tiny(lr=1e30, epochs=2), tiny()])
    batch_bare = ["batch", "study", "--quiet", "--no-notebook"]
    assert main(batch_bare) == 1
    assert main(batch_bare) == 1
    assert "1 failed before: imcl status lists them, --retry-failed" in capsys.readouterr().out
    assert main(["status"]) == 0
    assert f"failed: {tiny(lr=1e30, epochs=2).name}: The loss is not finite" in capsys.readouterr().out
    assert main([*batch_bare, "--retry-failed"]) == 1
    assert "0 runs done, 1 had a record or another process at them, 0 did not fit into the budget, 1 failed" in (
        capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("missing", "arguments", "remedy"),
    [("papermill", ["--notebook"], "--no-notebook"), ("ray", ["--ray", "--no-notebook"], "'imcl-core[cluster]'")],
)
def test_what_is_not_installed_is_named_with_the_remedy(missing, arguments, remedy, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, missing, None)
    assert main(["batch", "study", "--dataset", "digits", *arguments]) == 2
    error = capsys.readouterr().err
    assert remedy in error
    assert error.count("\n") == 1


def test_runs_where_only_torch_numpy_pandas_and_tqdm_are_installed(tmp_path):
    """As on a lent GPU: nothing of Jupyter, matplotlib, scikit-learn or Ray may be imported, and no flag be needed."""
    random = np.random.default_rng(0)
    arrays = {f"x_{part}": random.integers(0, 256, (100, 32, 32, 3), dtype=np.uint8) for part in ("train", "test")} | {
        f"y_{part}": np.arange(100) % 10 for part in ("train", "test")
    }
    np.savez(tmp_path / "cifar10.npz", **arrays, classes=[f"class {i}" for i in range(10)])
    program = (
        "import sys\n"
        "for name in ('matplotlib', 'sklearn', 'papermill', 'nbformat', 'jupyter_client', 'IPython', 'PIL', 'ray'):\n"
        "    sys.modules[name] = None\n"
        "from imcl_core import RunConfig\nfrom imcl_core.study import grids\n"
        f"tiny = RunConfig(dataset='cifar10', batch_size=32, **{TINY})\n"
        "grids.GRIDS['study'] = lambda profile, seeds: [tiny]\n"
        "from imcl_core.cli import main\n"
        "sys.exit(main(['batch', 'study', '--quiet']) or main(['status']))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "IMCL_DATA": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "1 runs done" in done.stdout
    assert "queue" in done.stdout
