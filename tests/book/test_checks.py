"""The gate before the book sees each fault of a notebook, and asks for no more."""

import pytest
from imcl_book import checks, cli
from nbformat.v4 import new_code_cell, new_markdown_cell, new_output
from small_notebooks import good, write

from imcl_core.study.notebook import dumps, normalise, read

PICTURE = {"mystnb": {"image": {"alt": "A line that rises"}, "figure": {"caption": "A line."}}}


SPOILS = {
    "holds an error": lambda nb: nb.cells[1].outputs.append(new_output("error", ename="E", evalue="", traceback=[])),
    "failed run": lambda nb: nb.cells.append(new_markdown_cell("!", metadata={"tags": [checks.FAILED]})),
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
    assert checks.check([path]) == []
    notebook = read(path)
    SPOILS[finding](notebook)
    path.write_text(dumps(normalise(notebook)), encoding="utf-8")
    (found,) = checks.check([path])
    assert finding in found
    assert found.startswith(str(path))
    assert cli.main(["check", str(path)]) == 1


def test_the_gate_asks_for_the_normal_form_and_normalise_gives_it(tmp_path):
    path = good(tmp_path / "chapter.ipynb")
    notebook = read(path)
    notebook.metadata["widgets"] = {"state": {}}
    notebook.cells[1].metadata["papermill"] = {"duration": 1.5}
    path.write_text(dumps(notebook), encoding="utf-8")
    assert ["not in normal form" in finding for finding in checks.check([path])] == [True]
    assert cli.main(["normalise", str(path)]) == 0
    assert checks.check([path]) == []


def test_a_title_in_code_is_no_title_and_a_captioned_picture_is_welcome(tmp_path):
    picture = new_output("display_data", {"image/png": "AA=="})
    cell = new_code_cell("draw()", execution_count=1, outputs=[picture], metadata=PICTURE)
    path = write(tmp_path / "chapter.ipynb", new_markdown_cell("```bash\n# a comment\n```"), cell)
    cli.main(["normalise", str(path)])
    assert checks.check([path]) == []
