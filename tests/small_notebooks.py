"""Small notebooks to try things on."""

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from imcl_core.study.notebook import dumps, normalise, read

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
    path.write_text(dumps(normalise(read(path))), encoding="utf-8")
    return path


def outputs(path):
    return [output for cell in read(path).cells if cell.cell_type == "code" for output in cell.outputs]
