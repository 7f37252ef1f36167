"""The reference of the code: every public name is on it, every setting, every command."""

import argparse
import dataclasses
import importlib
import inspect
import re
from pathlib import Path

import pytest
import yaml
from imcl_book.sphinx import reference

import imcl_core
from imcl_core import cli

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "book/api.md").read_text(encoding="utf-8")
SHOWN = re.findall(r"^\.\. auto(?:class|function|exception):: imcl_core\.([\w.]+)", PAGE, re.MULTILINE)
MODULES = dict(re.findall(r"^\.\. automodule:: imcl_core\.([\w.]+)\n   :members:(.*)$", PAGE, re.MULTILINE))


def find(name: str) -> object:
    """What `name` or `module.name` stands for in the package."""
    module, _, last = name.rpartition(".")
    return getattr(importlib.import_module(f"imcl_core.{module}") if module else imcl_core, last)


def named() -> list[str]:
    members = [f"{module}.{name.strip()}" for module, names in MODULES.items() for name in names.split(",") if name]
    return [*SHOWN, *members]


def test_each_public_name_is_on_the_page_and_each_loss():
    assert set(imcl_core.__all__) <= {*SHOWN, *re.findall(r"imcl_core\.(\w+)\(", PAGE)}
    assert MODULES["losses"] == ""  # all of them
    assert {"measure.memory.count", "study.tables.table", "study.tables.claims.judge", "study.ledger.read"} <= set(
        named()
    )


@pytest.mark.parametrize("name", named())
def test_each_name_on_the_page_exists_and_explains_itself(name):
    assert (find(name).__doc__ or "").strip(), name


@pytest.mark.parametrize("module", [name for name, members in MODULES.items() if not members])
def test_each_function_of_a_module_shown_whole_explains_itself(module):
    imported = importlib.import_module(f"imcl_core.{module}")
    for name, thing in vars(imported).items():
        own = getattr(thing, "__module__", "") == imported.__name__
        if own and not name.startswith("_") and (inspect.isfunction(thing) or inspect.isclass(thing)):
            assert thing.__doc__, name


def test_each_setting_is_in_one_table_with_its_default():
    tables = [reference.settings_table(name) for name in re.findall(r"\{settings\} (\w+)", PAGE)]
    for field in dataclasses.fields(imcl_core.RunConfig):
        (row,) = [line for table in tables for line in table.splitlines() if line.startswith(f"| `{field.name}` |")]
        assert field.metadata["help"] in row
        assert field.default is None or f"`{field.default!r}`" in row


def test_each_command_is_on_the_page_as_it_explains_itself():
    parser = cli._parser([])
    (choices,) = [action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    assert re.findall(r"\{command\} (\w+)", PAGE) == re.findall(r"^### imcl (\w+)", PAGE, re.MULTILINE)
    assert set(re.findall(r"\{command\} (\w+)", PAGE)) == set(choices)
    shown = reference.command_help("data")
    assert shown.startswith("usage: imcl data") and "examples:" in shown


def test_the_book_shows_defaults_as_they_are_written():
    """A default that is a path would be one of the machine that builds the book."""
    assert yaml.safe_load((ROOT / "_config.yml").read_text())["sphinx"]["config"]["autodoc_preserve_defaults"] is True
