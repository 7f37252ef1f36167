"""Words and numbers as a page of the book shows them."""

import html
import textwrap
from collections.abc import Iterable
from typing import Any

import pandas as pd

COLUMNS = 80


def say(*words: Any) -> None:
    """As `print`, in lines of at most 80 columns: what does not fit goes on in the next one, further in."""
    for line in " ".join(map(str, words)).split("\n"):
        print(_filled(line))


class Sentences:
    """Sentences to be read: a list on a page, which a phone wraps; elsewhere as `say` has them."""

    def __init__(self, sentences: Iterable[str]):
        self.sentences = list(sentences)

    def __repr__(self) -> str:
        return "\n".join(map(_filled, self.sentences))

    def _repr_html_(self) -> str:
        items = (f"<li>{html.escape(sentence)}</li>" for sentence in self.sentences)
        return "\n".join(['<ul class="imcl-sentences">', *items, "</ul>"])


def _filled(line: str) -> str:
    within = " " * (len(line) - len(line.lstrip()) + 4)
    return textwrap.fill(line, COLUMNS, subsequent_indent=within, break_on_hyphens=False, replace_whitespace=False)


def written(table: pd.DataFrame, digits: int = 2) -> pd.DataFrame:
    """A table to be shown: fractions to so many digits, and nothing where there is no number."""
    return table.map(lambda value: _written(value, digits))


def _written(value: Any, digits: int) -> Any:
    if pd.isna(value):
        return ""
    if not isinstance(value, float):
        return value
    return f"{value:.{digits}f}".replace("-", "−")  # as in sentences
