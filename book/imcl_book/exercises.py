"""Exercises that tell the reader whether an answer is right; each notebook's solutions pass the same check."""

import functools
from collections.abc import Callable
from types import FunctionType
from typing import Any

from imcl_book.wrapped import say


class _Open(Exception):
    """A function that the reader has yet to write was called."""


def check(number: int, test: Callable[..., None], *answers: Any) -> None:
    """Print whether `test(*answers)` passes: "Exercise 1: right.", or that the answer is not right yet, and why.

    `test` asserts what must hold of the answers; an assertion's message is the hint that the reader sees. An answer
    left as `...`, or a function that returns nothing or `...`, is an open one. Nothing is raised, so that a notebook
    with open exercises runs to its end.
    """
    try:
        test(*map(_written, answers))
    except _Open:
        say(f"Exercise {number}: open.")
    except AssertionError as error:
        say(f"Exercise {number}: not yet. {error}".rstrip())
    except Exception as error:  # whatever a half-written answer raises
        reason = f"{type(error).__name__}: {error}".strip().splitlines()[0]
        say(f"Exercise {number}: not yet ({reason.rstrip(':. ')}).")
    else:
        say(f"Exercise {number}: right.")


def _written(answer: Any) -> Any:
    """The answer; raises `_Open` if there is none, and a function does when it is called and returns none."""
    if answer is ...:
        raise _Open
    if not isinstance(answer, FunctionType):
        return answer

    @functools.wraps(answer)
    def called(*args: Any, **options: Any) -> Any:
        result = answer(*args, **options)
        if result is None or result is ...:
            raise _Open
        return result

    return called
