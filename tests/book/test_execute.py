"""A re-run changes no byte, mistakes stop before anything runs, and what has not changed is left alone."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from imcl_book import checks, cli, execute
from small_notebooks import chapter, outputs

from imcl_core.errors import ImclError


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


def test_what_has_not_changed_is_not_run_again(tmp_path, capsys, monkeypatch):
    path, cache = chapter(tmp_path / "chapter.ipynb", "print(1)"), tmp_path / "cache" / "stamps.json"
    assert cli.main(["execute", "--cache", str(cache), str(path)]) == 0
    assert "[1/1]" in capsys.readouterr().out
    monkeypatch.setattr(execute, "ProcessPoolExecutor", lambda jobs, **_: ThreadPoolExecutor(jobs))  # faster
    assert cli.main(["execute", "--cache", str(cache), str(path)]) == 0
    assert capsys.readouterr().out == "1 of 1 notebooks are up to date.\n"
    path.write_text(path.read_text().replace("print(1)", "1 / 0"))
    assert cli.main(["execute", "--cache", str(cache), str(path)]) == 2
    assert "ZeroDivisionError" in capsys.readouterr().err
    assert cli.main(["execute", "--cache", str(cache), str(path)]) == 2  # a failure is never up to date
