"""A session of a device: to the end of its time, and not beyond; what fails is told, what was done is kept."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from runs import outcome, run, tiny

from imcl_core import ImclError
from imcl_core.study import batch, ledger
from imcl_core.study.gpu import checks, session, speeds
from imcl_core.study.speeds import Measured
from imcl_core.training import machine

CPU = torch.device("cpu")
ROW = {"what": "training step", "model": "resnet18", "methods": "baseline", "images_per_s": 1000.0}
ROW |= {"evaluation_seconds": 0.1, "start_seconds": 0.1, "peak_memory_gb": 1.0}


@pytest.fixture
def quick(monkeypatch):
    """No checks but one that fails, and a speed."""

    def broken():
        raise AssertionError("float32 is 1e-1 off")

    monkeypatch.setattr(checks, "checks", lambda device: iter([("wrong", broken), ("right", lambda: None)]))
    monkeypatch.setattr(speeds, "rows", lambda *_: iter([ROW]))
    monkeypatch.setattr(session, "RESERVE", 1)


def test_all_is_done_and_a_check_that_fails_is_told_but_stops_nothing(tmp_path, quick):
    configs = [tiny(epochs=1, seed=seed) for seed in range(2)]
    found = session.session(configs, 2, tmp_path, device=CPU, results=tmp_path / "none")
    assert found["failed"] == {"wrong": "AssertionError: float32 is 1e-1 off"}
    assert json.loads((tmp_path / "gpu.json").read_text())["speeds"] == [ROW]
    assert {record.config for record in ledger.records(tmp_path / "records")} == set(configs)
    log = (tmp_path / "gpu-log.txt").read_text()
    assert "FAILED wrong" in log
    assert "checks: 1 of 2 passed" in log
    assert "all runs are done" in log


def test_a_session_whose_runs_fail_says_so(tmp_path, quick, monkeypatch):
    def broken(*_, **__):
        raise ImclError("no such luck")

    monkeypatch.setattr(batch, "train", broken)
    found = session.session([tiny(epochs=1)], 2, tmp_path, device=CPU, results=tmp_path / "none")
    assert found["failed_runs"] == [tiny(epochs=1).name]
    log = (tmp_path / "gpu-log.txt").read_text()
    assert "1 runs failed" in log and "all runs are done" not in log
    # the next session leaves it alone, and tells
    again = session.session([tiny(epochs=1)], 2, tmp_path, device=CPU, results=tmp_path / "none")
    assert again["failed_runs"] == found["failed_runs"]


def test_a_run_that_failed_is_told_though_the_time_ended_the_queue(tmp_path, quick, monkeypatch):
    train = batch.train

    def broken(config, **how):
        if config.seed == 0:
            raise ImclError("no such luck")
        return train(config, **how)

    monkeypatch.setattr(batch, "train", broken)
    monkeypatch.setattr(session, "run_batch", lambda *of, budget=None, **how: batch.run_batch(*of, **how))
    configs = [tiny(epochs=1), tiny(epochs=400, seed=1)]
    found = session.session(configs, 7 / 60, tmp_path, device=CPU, results=tmp_path / "none")
    assert found["failed_runs"] == [configs[0].name]
    assert f"1 runs failed, the folder of records says why: {configs[0].name}" in (tmp_path / "gpu-log.txt").read_text()


def test_what_an_earlier_session_measured_stays_until_it_is_measured_again(tmp_path, quick, monkeypatch):
    other = ROW | {"methods": "mid"}
    for rows, expected in (
        ([ROW, other], [ROW, other]),
        ([], [ROW, other]),
        ([faster := ROW | {"images_per_s": 2e3}], None),
    ):
        monkeypatch.setattr(speeds, "rows", lambda *_, rows=rows: iter(rows))
        session.session([], 1, tmp_path, device=CPU, results=tmp_path / "none")
        found = json.loads((tmp_path / "gpu.json").read_text())["speeds"]
        assert found == (expected or [other, faster])
    (tmp_path / "gpu.json").write_text("{")
    session.session([], 1, tmp_path, device=CPU, results=tmp_path / "none")
    assert json.loads((tmp_path / "gpu.json").read_text())["speeds"] == [faster]


def test_speeds_of_a_rehearsal_plan_no_other_profile(tmp_path, quick, monkeypatch):
    session.session([], 1, tmp_path, device=CPU, results=tmp_path / "none", profile="smoke")
    monkeypatch.setattr(speeds, "rows", lambda *_: iter([]))
    again = session.session([], 1, tmp_path, device=CPU, results=tmp_path / "none", profile="paper")
    assert again["speeds"] == []


def test_what_earlier_checks_found_stays_where_the_next_are_interrupted(tmp_path, quick, monkeypatch):
    found = session.session([], 1, tmp_path, device=CPU, results=tmp_path / "none")
    assert found["failed"]

    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(checks, "checks", lambda device: iter([("right", interrupted)]))
    with pytest.raises(KeyboardInterrupt):
        session.session([], 1, tmp_path, device=CPU, results=tmp_path / "none")
    assert json.loads((tmp_path / "gpu.json").read_text())["failed"] == found["failed"]


def test_a_run_that_failed_and_was_done_elsewhere_is_no_failure(tmp_path, quick):
    config = tiny(epochs=1)
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / f"{config.name}.failed.txt").write_text("There was no room.\n")
    run(config, out=tmp_path / "results")
    found = session.session([config], 1, tmp_path, device=CPU, results=tmp_path / "results")
    assert found["failed_runs"] == []
    assert "all runs are done" in (tmp_path / "gpu-log.txt").read_text()


def test_a_session_ends_in_time_and_another_goes_on(tmp_path, quick):
    config = tiny(epochs=60, train_size=512)
    began = time.monotonic()
    session.session([config], 9 / 60, tmp_path, device=CPU, results=tmp_path / "none")
    assert time.monotonic() - began < 20
    assert "another session can finish" in (tmp_path / "gpu-log.txt").read_text()
    assert "the time is over" in (tmp_path / "gpu-log.txt").read_text()
    (kept,) = (tmp_path / "records").glob("*.checkpoint.pt")
    assert kept.name.startswith(config.name)
    assert signal.getsignal(signal.SIGALRM) is not signal.default_int_handler


def test_a_session_that_is_killed_leaves_what_it_had(tmp_path):
    configs = [tiny(epochs=1), tiny(epochs=400, seed=1)]
    program = (
        "import sys, torch; torch.set_num_threads(1)\n"
        "from runs import tiny\n"
        "from imcl_core.study.gpu import checks, session, speeds\n"
        "checks.checks, speeds.rows = lambda device: iter([]), lambda *_: iter([])\n"
        "configs = [tiny(epochs=1), tiny(epochs=400, seed=1)]\n"
        "session.session(configs, 10, sys.argv[1], device=torch.device('cpu'), results='none')"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], env=environment)
    begun = tmp_path / "records" / f"{configs[1].name}.checkpoint.pt"
    deadline = time.monotonic() + 90
    while not begun.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert begun.exists()
    (record,) = ledger.records(tmp_path / "records")
    assert outcome(record) == outcome(run(configs[0]))
    assert json.loads((tmp_path / "gpu.json").read_text())["device"] == machine.device_name(CPU)


def test_what_was_measured_plans_runs_like_it():
    found = [Measured(1000.0, 0.1 / 10_000, 0.1)]
    configs = [tiny(), tiny(methods="mid"), tiny(model="vgg16")]
    assert session._as_measured(ROW, configs) == {tiny().like: found}
    projected = tiny(methods="pull-push", pp_pull=(0.1, 0.5))
    configs = [projected, tiny(methods="pull-push", pp_projection="none")]
    assert session._as_measured(ROW | {"methods": "pull-push"}, configs) == {projected.like: found}
