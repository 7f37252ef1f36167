"""The symbols of a formula in LaTeX."""

import re

LAYOUT = re.compile(
    r"\\(?:tag\{\d+\}|(?:begin|end)\{aligned\}|mathrm\{diag\}|text\{[^}]*\}|underbrace|q?quad|Big|big|[lr]Vert|left|right|frac|sum|log|exp|sqrt"
    r"|cdot|dots|times|pm|max|ge|le|top|ne|[,;!])(?![a-zA-Z])"
)
WORDS = ("hard", "soft", "out", "mid", "pull-push", "pull", "push", "kernel")
SYMBOL = re.compile(r"(\\mathcal\{L\}|\\tilde [a-zA-Z]|\\[a-zA-Z]+|diag|[a-zA-Z])(?:_\{([^}]*)\}|_(\w))?(\^\{?mid\}?)?")


def symbols(formula: str) -> set[str]:
    """The symbols of a formula: a subscript that is a word belongs to its symbol, one that is an index does not."""
    found = set()
    for base, subscript, _, power in SYMBOL.findall(re.sub(r"_F\b", "", LAYOUT.sub(" ", formula))):
        found.add(base + (f"_{{{subscript}}}" if subscript in WORDS else "") + ("^{mid}" if power else ""))
    return found
