"""A re-run changes no byte, mistakes stop before anything runs, and what has not changed is left alone."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time

import pytest
from imcl_book import checks, cli, execute, stamps
from small_notebooks import chapter, outputs

from imcl_core.errors import ImclError
from imcl_core.study.pools import Here


def test_a_rerun_changes_no_byte_and_does_not_touch_the_file(tmp_path):
    bar = "print('10%|#  | 1/10 [00:01<00:09]', end='\\r', file=sys.stderr)"
    code = f"import sys\nprint(seed)\n{bar}\nprint(rate)"
    path = chapter(tmp_path / "chapter.ipynb", code, "import os\nos.path.basename(os.getcwd())", "")
    assert execute.execute(path)
    first, written = path.read_bytes(), path.stat().st_mtime_ns
    assert not execute.execute(path)
    assert path.read_bytes() == first
    assert path.stat().st_mtime_ns == written
    assert [output.get("text") or output.data["text/plain"] for output in outputs(path)] == [
        "0\n0.5\n", repr(tmp_path.name)
    ]  # fmt: skip
    assert checks.check([path]) == []


def test_parameters_replace_defaults_in_another_file_and_leave_the_source_alone(tmp_path):
    path, out = chapter(tmp_path / "chapter.ipynb", "print(seed, rate)"), tmp_path / "made" / "out.ipynb"
    before = path.read_bytes()
    execute.execute(path, out, {"seed": 3, "rate": 1})
    assert path.read_bytes() == before
    assert outputs(out)[0].text == "3 1\n"
    first = out.read_bytes()
    execute.execute(path, out, {"seed": 3, "rate": 1})
    assert out.read_bytes() == first
    execute.execute(out)  # without parameters a notebook goes back to its defaults
    assert outputs(out)[0].text == "0 0.5\n"


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"sead": 1}, r"no parameter 'sead'. Did you mean 'seed'\? Known: dataset, seed, rate, show"),
        ({"seed": "1"}, "'seed' must be of type int"),
        ({"seed": True}, "'seed' must be of type int"),
        ({"show": "false"}, "'show' must be of type bool"),
        ({"dataset": 10}, "'dataset' must be of type str"),
    ],
)
def test_a_wrong_parameter_stops_before_anything_runs(tmp_path, monkeypatch, parameters, message):
    path = chapter(tmp_path / "chapter.ipynb")
    monkeypatch.setattr(execute, "run_notebook", lambda *_: pytest.fail("it ran"))
    with pytest.raises(ImclError, match=message):
        execute.execute(path, parameters=parameters)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("raise ValueError('no such thing')", "ValueError: no such thing"),
        ("import sys\nsys.exit(0)", "stopped before its last cell"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", "The kernel died"),
    ],
)
def test_a_failed_run_raises_and_writes_nothing(tmp_path, code, message):
    path = chapter(tmp_path / "chapter.ipynb", code, "print(1)")
    before = path.read_bytes()
    with pytest.raises(ImclError, match=message):
        execute.execute(path, attempts=1)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_dead_kernel_is_started_again(tmp_path, monkeypatch):
    runs = []

    def run(notebook, *_args, **_options):
        runs.append(notebook)
        if len(runs) == 1:
            raise RuntimeError("Kernel died before replying to kernel_info")
        for cell in notebook.cells[1:]:
            cell.execution_count = 1
        return notebook

    monkeypatch.setattr("papermill.execute_notebook", run)
    assert execute.execute(chapter(tmp_path / "chapter.ipynb"))
    assert len(runs) == 2


def test_a_notebook_is_run_by_the_interpreter_that_is_named(tmp_path):
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nINTERPRETER=another exec {shlex.quote(sys.executable)} "$@"\n')
    python.chmod(0o755)
    path = chapter(tmp_path / "chapter.ipynb", "import os\nprint(os.environ['INTERPRETER'])")
    execute.execute(path, python=python)
    assert outputs(path)[0].text == "another\n"


def test_what_has_not_changed_is_not_run_again(tmp_path, capsys, monkeypatch):
    path, cache = chapter(tmp_path / "chapter.ipynb", "print(1)"), tmp_path / "cache" / "stamps.json"
    assert cli.main(["execute", "--cache", str(cache), str(path)]) == 0
    assert "[1/1]" in capsys.readouterr().out
    monkeypatch.setattr(execute, "Slots", lambda _: Here())  # faster
    assert cli.main(["execute", "--cache", str(cache), str(path)]) == 0
    assert capsys.readouterr().out == "1 of 1 notebooks are up to date.\n"
    path.write_text(path.read_text().replace("print(1)", "1 / 0"))
    assert cli.main(["execute", "--cache", str(cache), str(path)]) == 2
    assert "ZeroDivisionError" in capsys.readouterr().err
    assert cli.main(["execute", "--cache", str(cache), str(path)]) == 2  # a failure is never up to date


@pytest.fixture
def here(monkeypatch):
    """This process in place of others, whose start takes a while; no notebook is really run."""
    monkeypatch.setattr(execute, "Slots", lambda _: Here())
    return monkeypatch


def test_a_notebook_that_was_changed_while_it_ran_keeps_the_change(tmp_path, monkeypatch):
    path = chapter(tmp_path / "chapter.ipynb", "print(1)")

    def run(notebook, *_):
        path.write_text(path.read_text().replace("print(1)", "print(2)"))
        return notebook

    monkeypatch.setattr(execute, "run_notebook", run)
    with pytest.raises(ImclError, match="changed while it ran"):
        execute.execute(path)
    assert "print(2)" in path.read_text()


def test_code_that_was_changed_during_the_run_counts_as_changed(tmp_path, here, capsys):
    path, cache = chapter(tmp_path / "chapter.ipynb", "print(1)"), tmp_path / "stamps.json"
    code = tmp_path / "clone" / "imcl_core" / "losses.py"
    code.parent.mkdir(parents=True)
    code.write_text("old")
    here.setattr(stamps, "ROOT", tmp_path / "clone")
    here.setattr(execute, "execute", lambda path: code.write_text("new"))
    execute.execute_all([path], cache=cache)
    execute.execute_all([path], cache=cache)
    execute.execute_all([path], cache=cache)
    said = capsys.readouterr().out.splitlines()
    assert [line for line in said if "up to date" in line] == [
        "0 of 1 notebooks are up to date.", "0 of 1 notebooks are up to date.", "1 of 1 notebooks are up to date.",
    ]  # fmt: skip


def test_whatever_goes_wrong_the_others_are_run_and_recorded(tmp_path, here, capsys):
    paths, record = [chapter(tmp_path / f"{name}.ipynb", "1") for name in "abc"], tmp_path / "executions.json"

    def run(path):
        if path.stem == "b":
            raise OSError("the disk is full")

    here.setattr(execute, "execute", run)
    with pytest.raises(ImclError, match="1 of 3 notebooks failed"):
        execute.execute_all(paths, record=record)
    assert "the disk is full" in capsys.readouterr().err
    assert [*json.loads(record.read_text())] == [path.as_posix() for path in paths if path.stem != "b"]


@pytest.mark.skipif(sys.platform != "linux", reason="signals as on Linux")
def test_a_worker_that_is_killed_takes_no_other_notebook_with_it(tmp_path, capsys):
    kill = "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)"
    paths = [
        chapter(tmp_path / "a.ipynb", kill),
        chapter(tmp_path / "b.ipynb", "1"),
        chapter(tmp_path / "c.ipynb", "1"),
    ]
    record = tmp_path / "executions.json"
    with pytest.raises(ImclError, match="1 of 3 notebooks failed"):
        execute.execute_all(paths, record=record)
    assert f"{paths[0]}: its process was killed" in capsys.readouterr().err
    assert [*json.loads(record.read_text())] == [path.as_posix() for path in paths[1:]]


@pytest.mark.skipif(sys.platform != "linux", reason="signals as on Linux")
def test_an_interruption_starts_no_other_notebook(tmp_path):
    sleep = "import pathlib, time\npathlib.Path(f'{n}.began').touch()\ntime.sleep(60)"
    paths = [chapter(tmp_path / f"{n}.ipynb", f"n = {n}\n{sleep}") for n in range(3)]
    code = (  # what a shell starts in the background ignores interruptions, and so would all that is started here
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from imcl_book.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    program = [sys.executable, "-c", code, "execute", *map(str, paths)]
    process = subprocess.Popen(program, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("*.began")) and time.monotonic() < deadline:
        time.sleep(0.1)
    interrupted = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    try:
        assert process.wait(timeout=120) != 0
    finally:
        process.kill()
        process.wait()
    assert time.monotonic() - interrupted < 50  # the notebook that ran takes a minute
    assert len(list(tmp_path.glob("*.began"))) == 1


def test_no_notebook_at_a_time_is_refused(tmp_path, capsys):
    assert cli.main(["execute", "--jobs", "0", str(chapter(tmp_path / "chapter.ipynb", "1"))]) == 2
    assert "set jobs to 1 or more" in capsys.readouterr().err
