"""The normal form of a notebook is valid, unique and stable; what is no notebook is said in a sentence."""

import nbformat
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from imcl_book import checks
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from imcl_core.errors import ImclError
from imcl_core.study.notebook import dumps, normalise, read


@pytest.mark.parametrize("content", ["", "{}", "[1]", "not json"])
def test_what_is_no_notebook_is_said_in_a_sentence(tmp_path, content):
    path = tmp_path / "chapter.ipynb"
    path.write_text(content)
    with pytest.raises(ImclError, match="not a notebook"):
        read(path)
    assert len(checks.check([path, tmp_path / "none.ipynb"])) == 2


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
    normal = normalise(new_notebook(cells=cells))
    nbformat.validate(normal)
    assert len({cell.id for cell in normal.cells}) == len(cells)
    assert [cell.source for cell in normal.cells] == [cell.source for cell in cells]
    assert dumps(normalise(normal)) == dumps(normal)
    assert dumps(normalise(nbformat.v4.reads(dumps(normal)))) == dumps(normal)
