"""Printing that fits a page of the book."""

import textwrap
from typing import Any

COLUMNS = 80


def say(*words: Any) -> None:
    """As `print`, in lines of at most 80 columns: what does not fit goes on in the next one, further in."""
    for line in " ".join(map(str, words)).split("\n"):
        within = " " * (len(line) - len(line.lstrip()) + 4)
        print(textwrap.fill(line, COLUMNS, subsequent_indent=within, break_on_hyphens=False, replace_whitespace=False))
