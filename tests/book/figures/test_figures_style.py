"""The house of figures: methods told apart, settings left alone, and every chapter's figures in its own file."""

import importlib
import json
import re
from itertools import combinations
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
from imcl_book.figures.style import COLOURS, STYLE, blank, colour, looks, marker, styled

ROOT = Path(__file__).parents[3]
IMPORT = re.compile(r"^from imcl_book\.figures import (\w+) as figures$", re.MULTILINE)
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def test_every_method_has_a_colour_and_a_shape_of_its_own():
    methods = [*COLOURS, "out+mid"]
    assert len({colour(name) for name in methods}) == len(methods)
    assert len({marker(name) for name in methods}) == len(methods)


def test_every_combination_drawn_with_others_has_a_look_of_its_own():
    singles = ("out", "mid", "pull-push", "kernel")
    combined = ["+".join(names) for n in (2, 3, 4) for names in combinations(singles, n)]  # two of them in COLOURS
    found = looks([*COLOURS, *combined])
    assert len({tuple(look.values()) for look in found.values()}) == len(COLOURS) + 9
    assert found["out"] == {"color": colour("out"), "marker": marker("out")}
    assert looks(["mid", "out+mid"])["out+mid"] == {"color": colour("out+mid"), "marker": marker("out+mid")}


def test_a_figure_is_drawn_in_the_books_style_and_leaves_matplotlibs_settings_alone():
    before = dict(plt.rcParams)
    figure = styled(lambda: blank(2, 1))()
    assert figure.dpi == STYLE["figure.dpi"] and figure.get_layout_engine() is not None
    assert dict(plt.rcParams) == before
    assert not plt.get_fignums()  # shown once: by the cell that asked for it


def drawn_by(notebook):
    """The module that a notebook draws with, by its one import, and the functions that it calls there."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    (module,) = IMPORT.findall(code)
    return module, set(re.findall(r"\bfigures\.(\w+)\(", code))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_shows_all_figures_of_its_own_file_and_no_others(notebook):
    name, called = drawn_by(notebook)
    module = importlib.import_module(f"imcl_book.figures.{name}")
    offered = {name for name, thing in vars(module).items() if hasattr(thing, "__wrapped__")}
    if notebook.stem == "run":  # one of the shared figures
        assert name == "shared" and called <= offered
    else:
        assert name == re.sub(r"^\d+-", "", notebook.stem).replace("-", "_")
        assert called == offered
