"""A batch where something is missing, interrupted or set up by others: nothing is lost, and what is said is true."""

import dataclasses
import io
import json
import math
import os
import signal
import subprocess
import sys
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from made_records import RUN, record, write
from runs import outcome, tiny
from runs import run as trained

from imcl_core import ImclError, RunConfig
from imcl_core import cli as command_line
from imcl_core.cli import main
from imcl_core.study import batch, executed, records, search
from imcl_core.study.commands import _halve
from imcl_core.study.grids import GRIDS
from imcl_core.study.notebook import read
from imcl_core.study.pools import DeviceLost, Died, Here, Slots, _interrupts_wait
from imcl_core.study.ray import RayPool
from imcl_core.training import machine
from imcl_core.training.record import read_record
from imcl_core.training.step import GraphedStep


def run(configs, out, **options):
    return batch.run_batch(configs, out, progress=False, **options)


# --- what made a run


class Stop(Exception):
    pass


def stop(at):
    if len(at.curve) == 1:
        raise Stop


def begun(folder):
    """The configuration of a run that was stopped in its second epoch."""
    config = tiny(epochs=2)
    with pytest.raises(Stop):
        trained(config, out=folder, after_epoch=stop)
    return config


def test_a_run_that_goes_on_with_other_threads_or_code_says_so_and_so_does_its_record(tmp_path, monkeypatch, capsys):
    config = begun(tmp_path)
    environment = machine.environment
    monkeypatch.setattr(machine, "environment", lambda device: environment(device) | {"threads": 7, "project": "new"})
    makers = trained(config, out=tmp_path).run["makers"]
    assert [maker["threads"] for maker in makers][1:] == [7] != [maker["threads"] for maker in makers][:1]
    assert makers[1]["project"] == "new" != makers[0]["project"]
    assert f"{config.name}.checkpoint.pt was made otherwise (threads " in (told := capsys.readouterr().err)
    assert "now 7; project " in told and "now new" in told
    assert read_record(tmp_path / f"{config.name}.json").run["makers"] == makers


def test_a_run_that_goes_on_where_it_began_says_nothing(tmp_path, capsys):
    config = begun(tmp_path)
    record = trained(config, out=tmp_path)
    assert "makers" not in record.run and capsys.readouterr().err == ""
    assert outcome(record) == outcome(trained(config))


def test_a_run_does_not_go_on_with_other_data(tmp_path, monkeypatch):
    config = begun(tmp_path)
    from imcl_core.training import run as training

    class Another(training.Run):
        def __init__(self, *given, **named):
            super().__init__(*given, **named)
            self.makers[-1]["data"] = "another"

    monkeypatch.setattr(training, "Run", Another)
    with pytest.raises(ImclError, match=r"The data is not that of .*: put the same back, or remove the checkpoint"):
        trained(config, out=tmp_path)
    assert (tmp_path / f"{config.name}.checkpoint.pt").exists()


def made(folder, last, **how):
    return write(folder, dataclasses.replace(record(last=last), run=RUN | how))[0]


def test_other_threads_make_another_outcome_and_no_clash(tmp_path):
    for threads, last in ((1, 25.0), (2, 26.0)):
        made(tmp_path / f"threads-{threads}", last, threads=threads)
    assert len(records.merge(tmp_path / "threads-1", tmp_path / "results")) == 1
    (second,) = records.merge(tmp_path / "threads-2", tmp_path / "results")
    assert second.parent.name == "on-device-1-threads-2"


def test_merge_overwrites_no_record_that_has_the_folder_of_its_device(tmp_path):
    made(tmp_path / "results", 25.0, device="GPU", at_once=1)
    there = made(tmp_path / "results" / "on-device-1-threads-1", 26.0, threads=2)
    held = there.read_bytes()
    made(tmp_path / "source", 27.0, threads=1)
    (new,) = records.merge(tmp_path / "source", tmp_path / "results")
    assert new.parent.name == "on-device-1-threads-1-2" and there.read_bytes() == held


def test_the_same_outcome_of_other_threads_is_taken_once(tmp_path):
    for threads in (1, 2):
        made(tmp_path / f"threads-{threads}", 25.0, threads=threads)
    assert len(records.merge(tmp_path / "threads-1", tmp_path / "results")) == 1
    assert records.merge(tmp_path / "threads-2", tmp_path / "results") == []


# --- what a run leaves


@pytest.fixture
def as_notebook(monkeypatch):
    """Runs as notebooks, without a kernel: how often each was executed."""
    counts = {}

    def execute(config, out, device=None):
        counts[config.name] = counts.get(config.name, 0) + 1
        trained(config, out=out)
        (out / f"{config.name}.ipynb").write_text("{}")

    monkeypatch.setattr(executed, "execute", execute)
    return counts


def test_a_run_whose_notebook_was_lost_gets_one_and_is_not_trained_again(tmp_path, as_notebook):
    config = tiny(epochs=1)
    options = {"notebook": True, "pool": Here()}
    assert run([config], tmp_path, **options).done == [config.name]
    made = (tmp_path / f"{config.name}.json").read_bytes()
    (tmp_path / f"{config.name}.ipynb").unlink()
    assert run([config], tmp_path, **options).skipped == [config.name]
    assert (tmp_path / f"{config.name}.ipynb").exists() and (tmp_path / f"{config.name}.json").read_bytes() == made
    assert run([config], tmp_path, **options).skipped == [config.name]
    assert as_notebook == {config.name: 2}


def test_a_notebook_that_cannot_be_made_leaves_the_record_what_it_is(tmp_path, monkeypatch, capsys):
    config = tiny(epochs=1)
    trained(config, out=tmp_path)

    def fails(*_):
        raise ImclError("There is no kernel.")

    monkeypatch.setattr(executed, "execute", fails)
    found = run([config], tmp_path, notebook=True, pool=Here())
    assert found.skipped == [config.name] and not found.failed and not list(tmp_path.glob("*.failed.txt"))
    assert "There is no kernel." in capsys.readouterr().err


def test_a_lost_notebook_of_data_that_is_not_here_is_let_go(tmp_path, as_notebook):
    place = {"dataset": "stl10", "model": "resnet18", "methods": "baseline", "profile": "narrow"}
    write(tmp_path / "out", record(**place))
    config = RunConfig(**place)
    found = run([config], tmp_path / "out", notebook=True, pool=Here(), data_folder=tmp_path)
    assert found.skipped == [config.name] and not as_notebook


def test_a_record_among_the_results_needs_no_notebook_here(tmp_path, as_notebook):
    config = tiny(epochs=1)
    trained(config, out=tmp_path / "results")
    found = run([config], tmp_path / "out", notebook=True, pool=Here(), done=[tmp_path / "results"])
    assert found.skipped == [config.name] and not as_notebook


def test_a_damaged_record_among_the_results_is_left_there_and_is_no_record(tmp_path, capsys):
    config = tiny(epochs=1)
    trained(config, out=tmp_path / "results")
    file = tmp_path / "results" / f"{config.name}.json"
    file.write_text(file.read_text()[:-200])
    found = run([config], tmp_path / "out", done=[tmp_path / "results"])
    assert found.done == [config.name] and file.exists()
    assert f"{file} is damaged" in capsys.readouterr().err


def test_a_damaged_record_in_out_is_run_again_though_it_lies_among_the_results(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = tiny(epochs=1)
    trained(config, out="results/own")
    file = tmp_path / "results" / "own" / f"{config.name}.json"
    file.write_text(file.read_text()[:-200])
    assert run([config], "results/own", done=["results"]).done == [config.name]
    assert read_record(file).config == config


@pytest.mark.parametrize("where", ["train", "batch", "merge"])
def test_a_folder_below_home_may_be_written_with_a_tilde(where, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    config = tiny(epochs=1)
    if where == "train":
        trained(config, out="~/runs")
    else:
        run([config], "~/runs")
    if where == "merge":
        records.merge("~/runs", "~/results")
        assert (tmp_path / "results" / f"{config.name}.json").exists()
    assert (tmp_path / "runs" / f"{config.name}.json").exists() and not list((tmp_path / "here").iterdir())


# --- what is missing


def test_without_scikit_learn_no_run_on_digits_begins(tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "sklearn"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if "site-packages" not in path])
    with pytest.raises(ImclError, match="scikit-learn"):
        run([tiny(epochs=1)], tmp_path)
    assert not list(tmp_path.glob("*.failed.txt"))


def test_a_candidate_that_diverges_comes_last(tmp_path, monkeypatch, capsys):
    candidates = [tiny(epochs=1, validation=True, lr=lr) for lr in (0.03, 0.1, 1e30)]
    how = {"budget": None, "done": [], "retry_failed": False, "progress": False}
    for _ in range(2):  # a second time it has failed before
        assert _halve(candidates, 3, str(tmp_path), how) == 0
        rows = [line.split() for line in capsys.readouterr().out.splitlines() if "lr=" in line]
        assert [math.isinf(float(error)) for error, _ in rows] == [False, False, True]
        assert rows[-1][1] == "lr=1e+30"


def test_a_search_in_a_folder_below_home_finds_its_records(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    candidates = [tiny(epochs=1, validation=True, lr=lr) for lr in (0.03, 0.1)]
    how = {"budget": None, "done": [], "retry_failed": False, "progress": False}
    assert _halve(candidates, 3, "~/runs", how) == 0


def test_a_candidate_that_failed_for_another_reason_is_not_judged(tmp_path):
    candidates = [tiny(epochs=1, validation=True, lr=lr) for lr in (0.03, 0.1)]
    (tmp_path / f"{candidates[0].name}.failed.txt").write_text("There was no room.\n")
    how = {"budget": None, "done": [], "retry_failed": False, "progress": False}
    with pytest.raises(search.NoRecord, match=r"its \.failed\.txt says why"):
        _halve(candidates, 3, str(tmp_path), how)


def test_what_failed_before_is_told_with_its_reason_and_where(tmp_path, monkeypatch, capsys):
    config = tiny(epochs=1)
    monkeypatch.setitem(GRIDS, "study", lambda profile, seeds: [config])
    (tmp_path / f"{config.name}.failed.txt").write_text("There was no room.\n")
    assert main(["batch", "study", "--quiet", "--no-notebook", "--out", str(tmp_path)]) == 1
    told = capsys.readouterr().out
    assert f"1 failed before (why: {tmp_path}/*.failed.txt): --retry-failed tries them again." in told
    assert f"The first, {config.name}: There was no room." in told


# --- how others set up the machine


def test_a_notebook_runs_by_this_interpreter_whatever_jupyter_has_under_its_name(tmp_path, monkeypatch):
    spec = tmp_path / "kernels" / "python3"
    spec.mkdir(parents=True)
    argv = [sys.executable, "-c", "raise SystemExit", "{connection_file}"]
    (spec / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "x", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    notebook = read(executed.NOTEBOOK)
    notebook.cells = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])][:1]
    notebook.cells[0].source = "import sys\nprint(sys.executable)"
    done = executed.run_notebook(notebook, None, {}, tmp_path, attempts=1)
    assert done.cells[-1].outputs[0].text == f"{sys.executable}\n"


needs_accelerator_error = pytest.mark.skipif(not hasattr(torch, "AcceleratorError"), reason="PyTorch before 2.8")


@needs_accelerator_error
def test_a_gpu_that_failed_fails_no_other_run(tmp_path, monkeypatch):
    def fails(*_, **__):
        raise torch.AcceleratorError("CUDA error: unspecified launch failure")

    monkeypatch.setattr(batch, "train", fails)
    first, second = tiny(epochs=1), tiny(epochs=1, seed=1)
    with pytest.raises(
        ImclError, match=rf"ended at {first.name} \(its GPU failed: CUDA error: .*{first.name}.failed.txt is removed"
    ):
        run([first, second], tmp_path)
    assert [path.name for path in tmp_path.glob("*.failed.txt")] == [f"{first.name}.failed.txt"]
    monkeypatch.undo()
    again = run([first, second], tmp_path)
    assert again.done == [second.name] and "CUDA error" in again.failed_before[first.name]


@needs_accelerator_error
def test_a_step_that_cannot_be_captured_fails_its_own_run_alone(tmp_path, monkeypatch):
    """CUDA tells it by the error that a GPU which failed raises."""
    train, state = batch.train, []

    def fails(*_, **__):
        raise torch.AcceleratorError("CUDA error: operation not permitted when stream is capturing")

    def captured(config, **how):
        if config.seed == 0:
            step = object.__new__(GraphedStep)
            step.device, step.stream, step.start = torch.device("cuda", 0), None, 0
            step.optimizer = torch.optim.SGD([torch.zeros(1)], 0.1)
            step._capture()
        return train(config, **how)

    generator = SimpleNamespace(clone_state=lambda: "usual", graphsafe_set_state=state.append)
    for name, value in {
        "graph": fails, "CUDAGraph": object, "default_generators": [generator], "synchronize": lambda _: None,
        "current_stream": lambda _: None, "stream": nullcontext,
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(batch, "train", captured)
    first, second = tiny(epochs=1), tiny(epochs=1, seed=1)
    outcome = run([first, second], tmp_path)
    assert outcome.done == [second.name] and state == ["usual"]
    assert outcome.failed[first.name].endswith("when stream is capturing): set captured to False.")


def test_on_ray_a_gpu_that_failed_is_a_process_that_died():
    class TaskError(Exception):
        cause = DeviceLost("it failed")

    future = Future()
    future.set_exception(TaskError())
    errors = SimpleNamespace(RayTaskError=TaskError, RayError=OSError)
    with pytest.raises(Died, match="it failed"):
        RayPool.result(SimpleNamespace(_ray=SimpleNamespace(exceptions=errors)), future)


def test_a_slot_whose_gpu_failed_is_replaced():
    with Slots.on_cores(1) as pool:
        before = pool.result(pool.submit(os.getpid))
        lost = "from imcl_core.study.pools import DeviceLost; raise DeviceLost('it failed')"
        with pytest.raises(Died, match="it failed"):
            pool.result(pool.submit(exec, lost))
        assert pool.result(pool.submit(os.getpid)) != before


def test_a_table_comes_where_the_encoding_lacks_its_signs(monkeypatch):
    out = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr(sys, "stdout", out)
    assert main(["plan", "table-3", "--profile", "smoke", "--seeds", "1"]) == 0
    out.flush()
    assert b"table-3" in out.buffer.getvalue()


def test_ctrl_c_while_the_command_line_is_read_is_an_interruption(monkeypatch, capsys):
    def interrupted(chosen):
        raise KeyboardInterrupt

    monkeypatch.setattr(command_line, "_parser", interrupted)
    assert main(["train"]) == 130
    assert capsys.readouterr().err == "imcl: Interrupted.\n"


def test_a_process_that_is_being_started_does_not_see_ctrl_c(monkeypatch):
    blocked = "import signal; print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))"
    with _interrupts_wait():
        child = subprocess.run([sys.executable, "-c", blocked], capture_output=True, text=True, check=True)
    assert child.stdout == "True\n"
    submit, seen = ProcessPoolExecutor.submit, []

    def watched(*arguments):
        seen.append(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))
        return submit(*arguments)

    monkeypatch.setattr(ProcessPoolExecutor, "submit", watched)
    with Slots.on_cores(1) as pool:
        pool.result(pool.submit(os.getpid))
    assert seen == [True]
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_a_gpus_threads_make_no_other_outcome(tmp_path):
    for threads, last in ((1, 25.0), (2, 26.0)):
        made(tmp_path / f"threads-{threads}", last, device="GPU", at_once=1, threads=threads)
    records.merge(tmp_path / "threads-1", tmp_path / "results")
    with pytest.raises(ImclError, match="1 runs have two outcomes on one device"):
        records.merge(tmp_path / "threads-2", tmp_path / "results")


def test_a_run_whose_process_died_waits_for_whoever_still_holds_it(tmp_path):
    waits = []

    class Once(Here):
        def submit(self, function, config, job, wait):
            waits.append(wait)
            return super().submit(lambda: function(config, job, wait) if len(waits) > 1 else None)

        def result(self, future):
            if future.result() is None:
                raise Died("killed")
            return future.result()

    config = tiny(epochs=1)
    assert run([config], tmp_path, pool=Once()).done == [config.name]
    assert waits == [False, True]


def test_a_slot_leaves_ctrl_c_to_its_parent():
    asked = (
        (signal.getsignal, signal.SIGINT),
        (signal.getsignal, signal.SIGTERM),
        (signal.pthread_sigmask, signal.SIG_BLOCK, []),
    )
    with Slots.on_cores(1) as pool:
        interrupted, ended, blocked = (pool.result(pool.submit(*call)) for call in asked)
    assert (interrupted, ended) == (signal.SIG_IGN, signal.SIG_DFL) and signal.SIGINT not in blocked
