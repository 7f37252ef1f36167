"""The gate before the book: faults that were planted into executed notebooks, each of them refused."""

import json

import pytest
from imcl_book import checks, cli, stamps
from nbformat.v4 import new_code_cell, new_output
from small_notebooks import good

from imcl_core.study.notebook import dumps, normalise, read

SLASH = "/"  # no tracked file holds a path of a machine
SVG = '<svg xmlns="http://www.w3.org/2000/svg"><circle r="1"/>{}</svg>'


@pytest.fixture
def recorded(tmp_path):
    """A notebook that passes, and the record of its execution."""
    path, record = good(tmp_path / "chapter.ipynb"), tmp_path / "executions.json"
    stamps.write_object(record, {path.as_posix(): stamps.execution(path, 1.0)})
    assert checks.check([path], record) == []
    return path, record


def shown(text, kind="text/html"):
    def plant(notebook):
        notebook.cells[1].outputs.append(new_output("display_data", {kind: text}))

    return plant


def changed_code(notebook):
    notebook.cells[1].source = "2"


def edited_output(notebook):
    notebook.cells[1].outputs[0].data["text/plain"] = "2"


def deleted_output(notebook):
    notebook.cells[1].outputs = []


def added_number(notebook):
    notebook.cells[1].outputs.append(new_output("stream", text="error 12.34 %\n"))


def injected(notebook):
    notebook.cells.insert(1, new_code_cell("seed = 1", execution_count=1, metadata={"tags": [checks.INJECTED]}))


def large(notebook):
    for i in range(6):
        output = new_output("stream", text=str(i) * 900_000)
        notebook.cells.append(new_code_cell(f"draw({i})", execution_count=2 + i, outputs=[output]))


def picture_in_text(notebook):
    notebook.cells[0].source += "\n\n![a cat](https://elsewhere.example/cat.png)"


AFTER_THE_RUN = {
    changed_code: "has code that was changed",
    edited_output: "outputs that are not those",
    deleted_output: "outputs that are not those",
    added_number: "outputs that are not those",
    injected: "parameters that papermill put into",
}
ANYWHERE = {
    "a script of another host": (shown('<script src="https://cdn.example/x.js"></script>'), "from another host"),
    "one without a scheme": (shown("<script async src=//cdn.example/x.js></script>"), "from another host"),
    "an image": (shown('<img alt="" src="http://elsewhere.example/a.png">'), "from another host"),
    "an image in a text": (picture_in_text, "from another host"),
    "a frame": (shown('<iframe src="https://elsewhere.example"></iframe>'), "from another host"),
    "a style": (shown("<style>@import 'https://elsewhere.example/a.css'</style>"), "from another host"),
    "a font": (shown("<style>a { src: url(//elsewhere.example/a.woff) }</style>"), "from another host"),
    "a module": (shown("import('https://cdn.example/m.js')", "application/javascript"), "from another host"),
    "a drawing with a script": (shown(SVG.format("<script>1</script>"), "image/svg+xml"), "runs a script"),
    "a drawing with a handler": (shown(SVG.format('<a onclick="x()"/>')), "runs a script"),
    "/nfs": (shown("read /nfs/home/me", "text/plain"), "path of this machine, '/nfs/home'"),
    "/data": (shown("read /data/cifar10.npz", "text/plain"), "path of this machine, '/data/cifar10.npz'"),
    "C:/Users": (shown(f"read C:{SLASH}Users/me", "text/plain"), "path of this machine, 'C:/Users/'"),
    "C:\\Users": (shown("read C:\\Users\\me", "text/plain"), "path of this machine"),
    "a file's address": (shown(f"file://{SLASH}home/me/a.png", "text/plain"), "path of this machine, 'file:///home"),
    "six large outputs": (large, "MB of output in all"),
}


@pytest.mark.parametrize("plant", AFTER_THE_RUN, ids=lambda plant: plant.__name__)
def test_what_was_changed_after_the_run_is_refused(recorded, plant):
    path, record = recorded
    notebook = read(path)
    plant(notebook)
    path.write_text(dumps(normalise(notebook)), encoding="utf-8")
    found = checks.check([path], record)
    (finding,) = (finding for finding in found if AFTER_THE_RUN[plant] in finding)
    assert finding.endswith(f"imcl-book execute --record {record} {path}`.")
    assert cli.main(["check", "--record", str(record), str(path)]) == 1


@pytest.mark.parametrize("fault", ANYWHERE)
def test_what_must_not_be_shown_is_refused(tmp_path, fault):
    path = good(tmp_path / "chapter.ipynb")
    notebook, (plant, finding) = read(path), ANYWHERE[fault]
    plant(notebook)
    path.write_text(dumps(normalise(notebook)), encoding="utf-8")
    (found,) = checks.check([path])
    assert finding in found


def test_a_link_and_our_own_script_and_drawing_pass(tmp_path):
    path = good(tmp_path / "chapter.ipynb")
    notebook = read(path)
    notebook.cells[0].source += "\n\nSee [it](https://elsewhere.example/a)."
    for text in ('<a href="https://elsewhere.example">it</a><script>draw()</script>', SVG.format("")):
        shown(text)(notebook)
    shown("see ../data/x and https://elsewhere.example/data/x", "text/plain")(notebook)
    path.write_text(dumps(normalise(notebook)), encoding="utf-8")
    assert checks.check([path]) == []


def test_a_notebook_without_a_record_is_refused_and_an_execution_records_one(recorded):
    path, record = recorded
    run = json.loads(record.read_text())[path.as_posix()]
    assert len(run["code"]) == len(run["outputs"]) == 12
    record.write_text("{}")
    assert ["none is recorded" in finding for finding in checks.check([path], record)] == [True]


def test_white_space_on_the_error_stream_is_told_too(tmp_path):
    path = good(tmp_path / "chapter.ipynb")
    notebook = read(path)
    notebook.cells[1].outputs.append(new_output("stream", name="stderr", text="\n"))
    path.write_text(dumps(notebook), encoding="utf-8")
    assert any("prints to the error stream" in finding for finding in checks.check([path]))
