"""The commands about many runs: mistakes are one line, what is missing is named, and a bare machine is enough."""

import importlib.util
import os
import subprocess
import sys
import time
import types
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from made_records import RUN, record, write

from imcl_core import ImclError, Record, RunConfig, train
from imcl_core.cli import main
from imcl_core.files import locked
from imcl_core.study import batch, commands
from imcl_core.study.grids import GRIDS

TINY = {"width": 1 / 16, "epochs": 1, "train_size": 64, "hidden": 16}


def tiny(**settings):
    return RunConfig(**TINY | settings)


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
        (["--quiet", "train"], "Unknown argument '--quiet'"),
        (["train", "digits", "--device", "cpu:foo"], "Unknown device 'cpu:foo'"),
        (["train", "digits", "--out", "x" * 300], "File name too long"),
        (["batch", "table-3", "--halving"], "nothing to choose"),
        (["batch", "study", "--seeds", "0"], "no run of 0 seeds"),
        (["plan", "table-3", "--seeds", "-1"], "no run of -1 seeds: use --seeds 1 or more"),
        (["status", "--seeds", "0"], "no run of 0 seeds"),
        (["batch", "study", "--budget", "nans"], "not 'nans'"),
        (["gpu", "--minutes", "inf"], "not inf"),
        (["gpu", "--results", "nowhere"], "nowhere"),
        (["gpu", "--minutes", "1", "--device", "cpu", "--out", "file"], "choose another one"),
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


def test_halving_has_one_budget_for_all_its_rungs(tmp_path, monkeypatch):
    given, clock = [], iter(range(0, 10**6, 100))
    monkeypatch.setattr(commands.time, "monotonic", lambda: next(clock))

    def run_batch(configs, out, **options):
        given.append(options["budget"])
        write(tmp_path, *(Record(config, record(50.0).curve, RUN) for config in configs))
        return batch.Outcome()

    monkeypatch.setattr(batch, "run_batch", run_batch)
    only = ["--only", "cifar10-*-kernel-*", "--profile", "narrow", "--results", str(tmp_path), "--out", str(tmp_path)]
    assert main(["batch", "search", "--halving", "--budget", "150s", *only]) == 0
    assert given == [50.0, 0.0, 0.0, 0.0]  # two rungs, and each a second time for what others are at


def test_two_halvings_share_their_runs_and_both_come_to_an_end(tmp_path, monkeypatch, capsys):
    tiny_ones = {"methods": "kernel", "validation": True, **TINY, "epochs": 3}
    runs = [RunConfig(kernel_weight=w, **tiny_ones) for w in (0.01, 0.1)]
    monkeypatch.setitem(GRIDS, "search", lambda profile, seeds: runs)
    out, deadline = tmp_path / "runs", time.monotonic() + 60
    options = {"halving": 3, "results": str(tmp_path), "notebook": False, "device": "cpu", "quiet": True}
    with ThreadPoolExecutor(1) as pool:
        with locked(out / ".locks" / runs[0].name):  # another process is at it
            halving = pool.submit(commands.batch, "search", out=str(out), **options)
            while not (out / f"{runs[1].name}.json").exists() and time.monotonic() < deadline:
                time.sleep(0.01)
            time.sleep(0.2)
            assert not halving.done()
            train(runs[0], out=out, progress=False)
        assert halving.result(timeout=60) == 0
    assert "kernel_weight=0.01" in capsys.readouterr().out


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path):
    program = (
        "import sys; from imcl_core.cli import main; sys.exit(main(['tables', 'table-1', '--results', sys.argv[1]]))"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=-1, stderr=-1, text=True) as process:
        process.stdout.close()
        assert "Traceback" not in process.stderr.read() and process.wait() == 1


def test_an_interrupted_run_has_the_status_of_one(monkeypatch):
    def interrupted(*_, **__):
        raise ImclError("interrupted") from KeyboardInterrupt()

    monkeypatch.setattr("imcl_core.training.run.train", interrupted)
    assert main(["train", "digits", "--profile", "smoke"]) == 130


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
    assert "1 failed before (why: runs/*.failed.txt): --retry-failed tries them again." in capsys.readouterr().out
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


def test_a_ray_that_does_not_start_is_told_in_a_sentence(monkeypatch, capsys, tmp_path):
    def init(*_, **__):
        raise Exception("The current node timed out during startup.")  # as Ray does on a busy machine

    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "ray", types.SimpleNamespace(init=init))
    assert main(["batch", "study", "--dataset", "digits", "--ray", "--no-notebook"]) == 2
    error = capsys.readouterr().err
    assert "timed out during startup" in error and "ray start --head" in error and error.count("\n") == 1


def test_runs_where_only_torch_numpy_pandas_and_tqdm_are_installed(tmp_path):
    """As on a lent GPU: nothing of Jupyter, matplotlib, scikit-learn or Ray may be imported, and no flag be needed."""
    random = np.random.default_rng(0)
    arrays = {f"x_{part}": random.integers(0, 256, (100, 32, 32, 3), dtype=np.uint8) for part in ("train", "test")} | {
        f"y_{part}": np.arange(100) % 10 for part in ("train", "test")
    }
    np.savez(tmp_path / "cifar10.npz", **arrays, classes=[f"class {i}" for i in range(10)])
    program = (
        "import sys\n"
        "for name in 'matplotlib scipy sklearn papermill nbformat jupyter_client IPython PIL ray imcl_book'.split():\n"
        "    sys.modules[name] = None\n"
        "import dataclasses\n"
        "from imcl_core import RunConfig\n"
        "from imcl_core.study import grids\n"
        "from imcl_core.training.recipes import RECIPES\n"
        "RECIPES['cifar10'] = dataclasses.replace(RECIPES['cifar10'], images=100, test_images=100)\n"
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


@pytest.mark.parametrize(("command", "missing"), [("status", "pandas"), ("tables", "scipy"), ("plan", "pandas")])
def test_without_the_extra_a_command_says_which_and_its_help_is_there(command, missing, tmp_path):
    program = (
        f"import sys\nsys.modules[{missing!r}] = None\nfrom imcl_core.cli import main\nsys.exit(main(sys.argv[1:]))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    (tmp_path / "results").mkdir()
    told, helped = (
        subprocess.run([sys.executable, "-c", program, *arguments], env=environment, cwd=tmp_path, capture_output=True)
        for arguments in ([command], [command, "--help"])
    )
    assert told.returncode == 2, told.stderr
    assert told.stderr.decode() == f"imcl: imcl {command} needs {missing}: pip install 'imcl-core[study]'.\n"
    assert helped.returncode == 0 and b"examples:" in helped.stdout
