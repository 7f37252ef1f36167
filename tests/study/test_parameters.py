"""A notebook's parameters are read as Python, whatever stands in them."""

from pathlib import Path

import nbformat
import pytest

from imcl_core.errors import ImclError
from imcl_core.study.notebook import check_parameters

CELL = """a = "x=1"
b = "p;q"  # a note: this = that; or not
c = 3  # c = 4
d: int = 5; e = f = 2.0
g = (1,
     2)  # two
h = -1
"""
PLACE = Path("some.ipynb")


def notebook(source=CELL):
    cell = nbformat.v4.new_code_cell(source, metadata={"tags": ["parameters"]})
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("z = 1"), cell])


@pytest.mark.parametrize(
    ("name", "value"), [("a", "y=;"), ("b", ""), ("c", 7), ("d", 8), ("e", 1), ("f", 1.5), ("g", (3, 4)), ("h", 0)]
)
def test_it_is_taken(name, value):
    check_parameters(PLACE, notebook(), {name: value})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"z": 2}, "no parameter 'z'.* Known: a, b, c, d, e, f, g, h"),
        ({"c": "7"}, "'c' must be of type int, like 3; got '7'"),
        ({"a": 1}, "'a' must be of type str, like 'x=1'"),
    ],
)
def test_it_is_refused(given, message):
    with pytest.raises(ImclError, match=message):
        check_parameters(PLACE, notebook(), given)


def test_a_cell_that_is_no_python_is_named():
    with pytest.raises(ImclError, match="line 2 of the cell of parameters is not Python"):
        check_parameters(PLACE, notebook("a = 1\n%load x = 2\n"), {"a": 2})
