"""Words and numbers as a page of the book shows them."""

import textwrap
from typing import Any

import pandas as pd

COLUMNS = 80


def say(*words: Any) -> None:
    """As `print`, in lines of at most 80 columns: what does not fit goes on in the next one, further in."""
    for line in " ".join(map(str, words)).split("\n"):
        within = " " * (len(line) - len(line.lstrip()) + 4)
        print(textwrap.fill(line, COLUMNS, subsequent_indent=within, break_on_hyphens=False, replace_whitespace=False))


def written(table: pd.DataFrame, digits: int = 2) -> pd.DataFrame:
    """A table to be shown: fractions to so many digits, and nothing where there is no number."""
    return table.map(lambda value: _written(value, digits))


def _written(value: Any, digits: int) -> Any:
    if pd.isna(value):
        return ""
    return f"{value:.{digits}f}" if isinstance(value, float) else value
