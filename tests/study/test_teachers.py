"""A batch trains a teacher once, before those it teaches, as a run of its own."""

import time
from concurrent.futures import ThreadPoolExecutor

import torch
from made_records import RUN, record, write
from runs import tiny

from imcl_core import ImclError, Record
from imcl_core.cli import main
from imcl_core.study import batch
from imcl_core.study.grids import GRIDS
from imcl_core.study.speeds import Measured, Speeds

TAUGHT = [tiny(methods="kd", kd_alpha=alpha) for alpha in (0.25, 0.75)]
TEACHER = TAUGHT[0].teacher


def pretended(monkeypatch):
    """The names of what is trained, which takes a while and leaves a record alone."""
    trained = []

    def train(config, out, **options):
        if config.teacher and not (out / f"{config.teacher.name}.json").exists():
            raise ImclError("its teacher is not there yet")
        trained.append(config.name)
        time.sleep(0.1)
        return write(out, Record(config, record().curve, RUN))

    monkeypatch.setattr(batch, "train", train)
    return trained


def test_runs_at_the_same_time_share_their_teacher(tmp_path, monkeypatch):
    trained = pretended(monkeypatch)
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda config: batch.run_one(config, batch.Job(tmp_path)), TAUGHT))
    assert [result.state for result in results] == ["done", "done"]
    assert trained[0] == TEACHER.name and sorted(trained[1:]) == sorted(config.name for config in TAUGHT)


def test_what_its_teacher_died_of_is_told(tmp_path, monkeypatch):
    def train(config, **options):
        raise ImclError(f"no memory for {config.methods}")

    monkeypatch.setattr(batch, "train", train)
    outcome = batch.run_batch(TAUGHT[:1], tmp_path, progress=False)
    assert "no memory for baseline" in outcome.failed[TAUGHT[0].name]


def test_a_budget_has_to_hold_the_teacher(tmp_path, monkeypatch):
    trained = pretended(monkeypatch)
    speeds = Speeds(torch.device("cpu"), [])
    speeds.measured = {TEACHER.like: [Measured(1e-3, 1.0, 1.0)], TAUGHT[0].like: [Measured(1e9, 0.0, 0.0)]}
    outcome = batch.run_batch(TAUGHT[:1], tmp_path, progress=False, budget=60, speeds=speeds)
    assert (outcome.postponed, trained) == ([TAUGHT[0].name], [])


def test_the_time_that_is_left_has_the_teachers_in_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    monkeypatch.setitem(GRIDS, "search", lambda profile, seeds: TAUGHT[:1])

    def unmeasured():
        assert main(["status", "--device", "cpu"]) == 0
        (row,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("search"))
        return row.split(" and ")[1:]

    assert unmeasured() == ["2 unmeasured"]
    write(tmp_path / "runs", Record(TEACHER, record().curve, RUN))
    assert unmeasured() == ["1 unmeasured"]
