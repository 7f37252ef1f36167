"""The routes of the reading map: each step exists, and uses no symbol and no word that its reader has not met."""

import re
from functools import cache
from pathlib import Path

import formulas
import nbformat
import pytest

ROOT = Path(__file__).parents[2]
ROUTES = ["In 20 minutes", "In 2 hours"]  # the second goes on where the first ends; the third reads everything
# The field's words that a route may need, as stems. What the page of prerequisites asks about is known.
WORDS = (
    "auxiliary classifier", "baseline", "branch", "covariance", "detached", "distillation", "dropout", "ensemble",
    "feature map", "filter", "Frobenius", "generalises", "group", "head", "hierarchical dropout", "kernel", "layer",
    "local classifier", "local loss", "logits", "mask", "multi-instance", "peers", "population", "profile",
    "projection", "pull", "push", "recipe", "seed", "similarity matching", "similarity matrix", "split",
    "standard deviation", "teacher", "temperature", "total variation", "tree", "trunk", "typical covariance", "verdict",
)  # fmt: skip


@cache
def prose(file: str) -> str:
    """A page, or the Markdown cells of a notebook."""
    text = (ROOT / file).read_text(encoding="utf-8")
    if file.endswith(".md"):
        return text
    return "\n\n".join(cell.source for cell in nbformat.reads(text, 4).cells if cell.cell_type == "markdown")


def slug(title: str) -> str:
    return re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-")


def section(file: str, anchor: str) -> str:
    """What stands below a heading, as far as the next of its level; without an anchor, the whole page."""
    if not anchor:
        return prose(file)
    level, found = 0, []
    for part in re.split(r"(?m)^(?=#{1,3} )", prose(file)):
        marks, _, title = part.split("\n", 1)[0].partition(" ")
        if level and len(marks) <= level:
            break
        level = level or (len(marks) if slug(title) == anchor else 0)
        found += [part] if level else []
    return "".join(found)


def steps(route: str) -> list[tuple[str, str]]:
    """File and anchor of each step, with the titles of what lies between where a step says "as far as"."""
    (part,) = re.findall(rf"^## {route}.*?\n(.*?)(?=^## )", prose("book/reading-map.md"), re.MULTILINE | re.DOTALL)
    links = re.findall(r"\]\(([^)#\s]+)#?([\w-]*)\)", part)
    return [((ROOT / "book" / file).resolve().relative_to(ROOT).as_posix(), anchor) for file, anchor in links]


def walked(route: str) -> list[tuple[str, str]]:
    """The steps of a route and of those that come before it."""
    return [step for before in ROUTES[: ROUTES.index(route) + 1] for step in steps(before)]


def symbols(text: str) -> set[str]:
    """Those of all formulas of a text."""
    return set().union(*(formulas.symbols(formula) for formula in re.findall(r"\$+([^$]+)\$+", text)))


def glossary() -> set[str]:
    return set(re.findall(r"^(\S.*)\n  \S", prose("book/glossary.md"), re.MULTILINE))


@pytest.mark.parametrize("route", ROUTES)
def test_each_step_of_a_route_exists(route):
    assert len(steps(route)) >= 5
    for file, anchor in steps(route):
        assert section(file, anchor).strip(), f"{file}#{anchor}"


@pytest.mark.parametrize("route", ROUTES)
def test_each_symbol_of_a_route_is_on_the_page_of_notation(route):
    known = symbols(prose("book/notation.md"))
    for file, anchor in walked(route):
        assert not symbols(section(file, anchor)) - known, f"{file}#{anchor}"


@pytest.mark.parametrize("route", ROUTES)
def test_each_word_of_a_route_is_in_the_glossary_or_defined_on_the_way(route):
    """Defined is what stands in bold or italics, which is how the book introduces a word."""
    met = {name.lower() for name in glossary()}
    known = (prose("book/prerequisites.md") + prose("book/notation.md")).lower()
    for file, anchor in walked(route):
        text = section(file, anchor)
        met |= {" ".join(word.lower().split()) for word in re.findall(r"(?:\*\*|(?<!\*)\*)([^*\s][^*]*)\*", text)}
        plain = re.sub(r"\]\([^)]*\)|`[^`]*`", "", text).lower()
        used = {word for word in WORDS if re.search(rf"\b{word.lower()}", plain)}
        missing = {word for word in used if word.lower() not in known and not any(word.lower() in m for m in met)}
        assert not missing, f"{file}#{anchor}"
