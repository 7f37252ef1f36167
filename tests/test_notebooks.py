"""Notebooks: a re-run changes no byte, mistakes stop before anything runs, and the gate sees what it must."""

from concurrent.futures import ThreadPoolExecutor

import nbformat
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from imcl_book import notebooks
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from imcl_core.errors import ImclError

PICTURE = {"mystnb": {"image": {"alt": "A line that rises"}, "figure": {"caption": "A line."}}}
PARAMETERS = 'dataset = "digits"\nseed = 0\nrate = 0.5\nshow = True'


def write(path, *cells):
    path.write_text(nbformat.v4.writes(new_notebook(cells=[new_markdown_cell("# Title"), *cells])), encoding="utf-8")
    return path


def chapter(path, *code):
    return write(path, new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}), *map(new_code_cell, code))


def good(path):
    """A notebook that passes the gate."""
    output = new_output("execute_result", {"text/plain": "1"}, execution_count=7)
    cell = new_code_cell("1", execution_count=7, outputs=[output])
    write(path, cell)
    path.write_text(notebooks.dumps(notebooks.normalise(notebooks.read(path))), encoding="utf-8")
    return path


def outputs(path):
    return [output for cell in notebooks.read(path).cells if cell.cell_type == "code" for output in cell.outputs]


def test_a_rerun_changes_no_byte_and_does_not_touch_the_file(tmp_path):
    bar = "print('10%|#  | 1/10 [00:01<00:09]', end='\\r', file=sys.stderr)"
    code = f"import sys\nprint(seed)\n{bar}\nprint(rate)"
    path = chapter(tmp_path / "chapter.ipynb", code, "import os\nos.path.basename(os.getcwd())", "")
    assert notebooks.execute(path)
    first, written = path.read_bytes(), path.stat().st_mtime_ns
    assert not notebooks.execute(path)
    assert path.read_bytes() == first
    assert path.stat().st_mtime_ns == written
    assert [output.get("text") or output.data["text/plain"] for output in outputs(path)] == [
        "0\n0.5\n", repr(tmp_path.name)
    ]  # fmt: skip
    assert notebooks.check([path]) == []


def test_parameters_replace_defaults_in_another_file_and_leave_the_source_alone(tmp_path):
    path, out = chapter(tmp_path / "chapter.ipynb", "print(seed, rate)"), tmp_path / "made" / "out.ipynb"
    before = path.read_bytes()
    notebooks.execute(path, out, {"seed": 3, "rate": 1})
    assert path.read_bytes() == before
    assert outputs(out)[0].text == "3 1\n"
    first = out.read_bytes()
    notebooks.execute(path, out, {"seed": 3, "rate": 1})
    assert out.read_bytes() == first
    notebooks.execute(out)  # without parameters a notebook goes back to its defaults
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
    monkeypatch.setattr(notebooks, "run_notebook", lambda *_: pytest.fail("it ran"))
    with pytest.raises(ImclError, match=message):
        notebooks.execute(path, parameters=parameters)


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
        notebooks.execute(path, attempts=1)
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
    assert notebooks.execute(chapter(tmp_path / "chapter.ipynb"))
    assert len(runs) == 2


def test_what_has_not_changed_is_not_run_again(tmp_path, capsys, monkeypatch):
    path, cache = chapter(tmp_path / "chapter.ipynb", "print(1)"), tmp_path / "cache" / "stamps.json"
    assert notebooks.main(["execute", "--cache", str(cache), str(path)]) == 0
    assert "[1/1]" in capsys.readouterr().out
    monkeypatch.setattr(notebooks, "ProcessPoolExecutor", lambda jobs, **_: ThreadPoolExecutor(jobs))  # faster
    assert notebooks.main(["execute", "--cache", str(cache), str(path)]) == 0
    assert capsys.readouterr().out == "1 of 1 notebooks are up to date.\n"
    path.write_text(path.read_text().replace("print(1)", "1 / 0"))
    assert notebooks.main(["execute", "--cache", str(cache), str(path)]) == 1
    assert "ZeroDivisionError" in capsys.readouterr().err
    assert notebooks.main(["execute", "--cache", str(cache), str(path)]) == 1  # a failure is never up to date


@pytest.mark.parametrize("folder", ["results", "benchmarks"])
def test_the_stamp_follows_the_package_and_the_records_a_notebook_names(folder, tmp_path, monkeypatch):
    package = tmp_path / "imcl_core"
    package.mkdir()
    (package / "losses.py").write_text("a = 1")
    monkeypatch.setattr(notebooks, "__file__", str(package / "notebooks.py"))
    plain, reader = chapter(tmp_path / "a.ipynb", "1"), chapter(tmp_path / "b.ipynb", f"read('../{folder}')")
    old = notebooks.stamp(plain), notebooks.stamp(reader)
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "run.json").write_text("{}")
    assert notebooks.stamp(plain) == old[0]
    assert notebooks.stamp(reader) != old[1]
    (package / "losses.py").write_text("a = 2")
    assert notebooks.stamp(plain) != old[0]


SPOILS = {
    "holds an error": lambda nb: nb.cells[1].outputs.append(new_output("error", ename="E", evalue="", traceback=[])),
    "failed run": lambda nb: nb.cells.append(new_markdown_cell("!", metadata={"tags": [notebooks.FAILED]})),
    "not executed to its end": lambda nb: nb.cells.append(new_code_cell("2")),
    "error stream": lambda nb: nb.cells[1].outputs.append(new_output("stream", name="stderr", text="Warning: x\n")),
    "path of this machine": lambda nb: nb.cells[1].outputs.append(new_output("stream", text="in /home/me/data\n")),
    "address in memory": lambda nb: nb.cells[1].outputs.append(new_output("stream", text="<A at 0x7f0123456789>\n")),
    "MB of output": lambda nb: nb.cells[1].outputs.append(new_output("stream", text="x" * 1_000_001)),
    "without alt text": lambda nb: nb.cells[1].outputs.append(new_output("display_data", {"image/png": "AA=="})),
    "one title": lambda nb: nb.cells.append(new_markdown_cell("# Second")),
    "in its first cell": lambda nb: nb.cells.insert(0, new_markdown_cell("Text")),
    "'```{'": lambda nb: nb.cells.append(new_markdown_cell("```{note}\nx\n```")),
    "':::'": lambda nb: nb.cells.append(new_markdown_cell(":::{note}\nx\n:::")),
    "'{cite}`'": lambda nb: nb.cells.append(new_markdown_cell("see {cite}`x`")),
}


@pytest.mark.parametrize("finding", SPOILS)
def test_the_gate_names_each_fault_alone(tmp_path, finding):
    path = good(tmp_path / "chapter.ipynb")
    assert notebooks.check([path]) == []
    notebook = notebooks.read(path)
    SPOILS[finding](notebook)
    path.write_text(notebooks.dumps(notebooks.normalise(notebook)), encoding="utf-8")
    (found,) = notebooks.check([path])
    assert finding in found
    assert found.startswith(str(path))
    assert notebooks.main(["check", str(path)]) == 1


def test_the_gate_asks_for_the_normal_form_and_normalise_gives_it(tmp_path):
    path = good(tmp_path / "chapter.ipynb")
    notebook = notebooks.read(path)
    notebook.metadata["widgets"] = {"state": {}}
    notebook.cells[1].metadata["papermill"] = {"duration": 1.5}
    path.write_text(notebooks.dumps(notebook), encoding="utf-8")
    assert ["not in normal form" in finding for finding in notebooks.check([path])] == [True]
    assert notebooks.main(["normalise", str(path)]) == 0
    assert notebooks.check([path]) == []


def test_a_title_in_code_is_no_title_and_a_captioned_picture_is_welcome(tmp_path):
    picture = new_output("display_data", {"image/png": "AA=="})
    cell = new_code_cell("draw()", execution_count=1, outputs=[picture], metadata=PICTURE)
    path = write(tmp_path / "chapter.ipynb", new_markdown_cell("```bash\n# a comment\n```"), cell)
    notebooks.main(["normalise", str(path)])
    assert notebooks.check([path]) == []


@pytest.mark.parametrize("content", ["", "{}", "[1]", "not json"])
def test_what_is_no_notebook_is_said_in_a_sentence(tmp_path, content):
    path = tmp_path / "chapter.ipynb"
    path.write_text(content)
    with pytest.raises(ImclError, match="not a notebook"):
        notebooks.read(path)
    assert len(notebooks.check([path, tmp_path / "none.ipynb"])) == 2


CELLS = st.lists(
    st.one_of(
        st.builds(new_markdown_cell, st.text(max_size=20)),
        st.builds(
            lambda source, count, parts: new_code_cell(
                source,
                execution_count=count,
                outputs=[new_output("stream", name=n, text=t) for n, t in parts],
            ),
            st.sampled_from(["", "x = 1", "print(x)"]),
            st.one_of(st.none(), st.integers(1, 99)),
            st.lists(st.tuples(st.sampled_from(["stdout", "stderr"]), st.text(max_size=12)), max_size=4),
        ),
    ),
    max_size=6,
)


@given(CELLS)
@settings(derandomize=True, deadline=None)
def test_normal_form_is_valid_unique_and_stable(cells):
    normal = notebooks.normalise(new_notebook(cells=cells))
    nbformat.validate(normal)
    assert len({cell.id for cell in normal.cells}) == len(cells)
    assert [cell.source for cell in normal.cells] == [cell.source for cell in cells]
    assert notebooks.dumps(notebooks.normalise(normal)) == notebooks.dumps(normal)
    assert notebooks.dumps(notebooks.normalise(nbformat.v4.reads(notebooks.dumps(normal)))) == notebooks.dumps(normal)
