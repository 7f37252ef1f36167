"""The queue: in order, nothing twice, within the budget, and no record lost."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from imcl_book import execute

from imcl_core import ImclError, RunConfig, train
from imcl_core.study import batch, executed, ledger, records
from imcl_core.study.grids import GRIDS, grid
from imcl_core.study.notebook import dumps, read
from imcl_core.study.pools import Died, Here, Slots
from imcl_core.study.speeds import Speeds
from imcl_core.training import files
from imcl_core.training.machine import AT_ONCE, choose_device
from imcl_core.training.record import read_record, write_record

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


def test_a_run_whose_speed_cannot_be_tried_fails_alone(tmp_path, monkeypatch):
    broken, sound = tiny(seed=3), tiny(seed=4)

    def fits(self, config, seconds):
        if config == broken:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return True

    monkeypatch.setattr(Speeds, "fits", fits)
    outcome = run([broken, sound], tmp_path, budget=60)
    assert (outcome.done, list(outcome.failed)) == ([sound.name], [broken.name])
    assert "out of memory" in (tmp_path / f"{broken.name}.failed.txt").read_text()


def test_why_a_run_failed_may_be_written_in_any_bytes(tmp_path):
    (tmp_path / f"{tiny().name}.failed.txt").write_bytes(b"\xff\xfe\n")
    assert list(run([tiny()], tmp_path).failed_before) == [tiny().name]
    assert records.Standing(tmp_path).of([tiny().name])["failed"] == [tiny().name]


def test_without_records_a_trial_tells_the_speed(tmp_path):
    config = tiny(model="vgg16", epochs=10_000)
    outcome = run([config, dataclasses.replace(config, epochs=1)], tmp_path, budget=60)
    assert outcome.postponed == [config.name]
    assert len(outcome.done) == 1


def test_the_estimate_is_near_the_truth(three):
    configs, folder = three
    record = ledger.records(folder)[0]
    speeds = Speeds(choose_device(), [record])
    whole = record.run["seconds"] + record.run["rest_seconds"]  # the rest: to start, and to keep checkpoints
    assert speeds.seconds(configs[0]) == pytest.approx(whole, rel=0.2, abs=0.05)
    assert speeds.seconds(tiny(model="vgg16")) is None


def test_the_estimate_counts_the_evaluations_there_are(three):
    configs, folder = three
    record = ledger.records(folder)[0]
    config = dataclasses.replace(configs[0], epochs=20, evaluate_every=5)
    run = record.run | {"evaluation_seconds": 6.0, "images_per_s": 10.0}
    speeds = Speeds(choose_device(), [dataclasses.replace(record, config=config, run=run)])
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
    first, *trace = files.Files(tmp_path, config.name).failure.read_text().splitlines()
    assert first == "ZeroDivisionError: division by zero"
    assert "Traceback" in trace[0]
    outcome = run([config, other], tmp_path)
    assert (outcome.done, outcome.failed_before) == ([other.name], {config.name: first})
    assert records.Standing(tmp_path).of([config.name, other.name])["failed"] == [config.name]
    assert run([config, other], tmp_path, retry_failed=True).done == [config.name]
    assert records.Standing(tmp_path).of([config.name, other.name])["failed"] == []
    assert not files.Files(tmp_path, config.name).failure.exists()


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
    assert {e["IMCL_AT_ONCE"] for e in Slots.on_gpus(2).environments} == {"2"}
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
    outcome = batch.run_batch(configs, tmp_path, pool=Slots.on_cores(2), progress=False)
    assert sorted(outcome.done) == sorted(config.name for config in configs)
    assert curves(tmp_path) == curves(folder)


def test_a_killed_batch_goes_on_where_it_stopped(tmp_path):
    configs = [tiny(seed=seed, epochs=4) for seed in range(2)]
    program = (
        "import json, sys, torch; torch.set_num_threads(1)\n"
        "from imcl_core import RunConfig\n"
        "from imcl_core.study import batch\n"
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
    assert len(records.merge(folder, tmp_path)) == 3
    assert records.merge(folder, tmp_path) == []
    assert {p.stem for p in tmp_path.glob("*.npz")} == {p.stem for p in tmp_path.glob("*.json")}
    assert curves(tmp_path) == curves(folder)
    changed = next(tmp_path.glob("*.json"))
    record = read_record(changed)
    record.curve[0]["test_error"] += 1
    write_record(record, tmp_path)
    with pytest.raises(ImclError, match="two outcomes on one device"):
        records.merge(folder, tmp_path)
    with pytest.raises(ImclError, match="no folder"):
        records.merge(tmp_path / "nowhere", tmp_path)


def test_status_tells_done_begun_and_missing(three, tmp_path):
    configs, folder = three
    begun = tiny(seed=5)
    (tmp_path / f"{begun.name}.checkpoint.pt").touch()
    cells = records.Standing(folder, tmp_path).of(config.name for config in [*configs, begun, tiny(seed=6)])
    assert [len(cells[state]) for state in ("done", "begun", "missing")] == [3, 1, 1]


def test_a_process_that_died_with_nothing_to_do_is_replaced():
    with Slots.on_cores(1) as pool:
        (died,) = {pool.result(pool.submit(os.getpid))}
        os.kill(died, signal.SIGKILL)
        executor, _ = pool._idle[0]
        while not executor._broken:  # the thread that watches it has seen it
            time.sleep(0.01)
        assert pool.result(pool.submit(os.getpid)) != died


def test_jobs_on_one_gpu_know_of_each_other():
    assert {environment[AT_ONCE] for environment in Slots.on_cores(3).environments} == {"3"}
