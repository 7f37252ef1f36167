"""No share and no difference of errors is typed by hand on a page of the book."""

import re
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[2]

# A share or a difference of errors in words around a number. Settings and results alike are looked up: {paper},
# {setting}, or printed by a cell. A share that is part of a sentence's sense can be written out, "half of the labels".
TYPED = re.compile(r"\d(?:[\d.,]*\d)?\s*(?:\\?%|per\s?cent|percentage points)|\d\.\d+\s*points")
QUOTED = {"errata.ipynb": ["9.28%"]}  # the paper's own words, on the page about them; all others are looked up
NOT_PROSE = re.compile(r"^(```|~~~).*?^\1|`[^`\n]+`", re.MULTILINE | re.DOTALL)
PROSE = (*sorted((ROOT / "book").glob("*.md")), *sorted((ROOT / "notebooks").glob("*.ipynb")))


def typed_percentages(path):
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = nbformat.reads(text, as_version=4).cells
        text = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    return TYPED.findall(NOT_PROSE.sub("", text))


@pytest.mark.parametrize("path", PROSE, ids=lambda path: path.name)
def test_no_percentage_is_typed(path):
    assert typed_percentages(path) == QUOTED.get(path.name, [])


def test_typed_percentages_are_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "5 % and 3.5%, $7\\%$, 12 per cent, 0.96 points; not `5 %`, {paper}`table1/x` %, 3 points\n```\n9 %\n```"
    )
    assert typed_percentages(page) == ["5 %", "3.5%", "7\\%", "12 per cent", "0.96 points"]
