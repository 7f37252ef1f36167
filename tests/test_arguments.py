"""Commands from functions: what the signature says is what the command takes."""

import argparse
import dataclasses
from typing import Annotated

import pytest

from imcl_core.arguments import Option, add_command
from imcl_core.settings import Settings, setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class Made(Settings):
    lr: float = setting(0.5, "the rate, 50 % of it")
    splits: tuple[int, ...] = setting((), "where")


def given(*names: Annotated[str, "names"], alone: Annotated[int | None, Option("so many", "N", 3)] = None,
          some: Annotated[tuple[int, ...], "numbers"] = (1, 2), loud: Annotated[bool, "shout"] = False,
          maybe: Annotated[bool | None, "or not"] = None, **settings: Made):  # fmt: skip
    """Give back what was asked for.

    examples:
      imcl given a b --loud
    """
    return names, alone, some, loud, maybe, settings


@pytest.fixture
def parse():
    parser = argparse.ArgumentParser()
    add_command(parser.add_subparsers(), given)

    def run(line: str):
        parsed = parser.parse_args(line.split())
        return parsed.run(parsed)

    return run


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("given", ((), None, (1, 2), False, None, {})),
        ("given a b --alone --some 4 --loud --maybe", (("a", "b"), 3, [4], True, True, {})),
        ("given --alone 5 --no-maybe --lr 1 --splits 2 3", ((), 5, (1, 2), False, False, {"lr": 1, "splits": [2, 3]})),
    ],
)
def test_a_command_is_called_with_what_was_given(parse, line, expected):
    assert parse(line) == expected


def test_its_help_is_the_docstring_and_the_annotations(parse, capsys):
    with pytest.raises(SystemExit):
        parse("given --help")
    shown = capsys.readouterr().out
    for text in (
        "give back what was asked for", "examples:\n  imcl given a b --loud", "--alone [N]", "so many",
        "numbers (default: 1 2)", "settings of the run", "the rate, 50 % of it (default: 0.5)", "--no-maybe",
    ):  # fmt: skip
        assert text in shown
