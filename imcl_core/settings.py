"""Typed settings: dataclasses whose fields carry their own help and range, and which refuse what they do not know."""

import dataclasses
import functools
import math
import types
import typing
from typing import Any

from imcl_core.errors import ImclError, check_choice, nearest


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers from `least`, or from `above` a bound, to `most`; or one of some words. Of a tuple, each entry."""

    least: float | None = None
    above: float | None = None
    most: float | None = None
    one_of: tuple[str, ...] = ()

    def check(self, name: str, value: Any) -> None:
        """`ImclError` for a value outside, or for a number that is not finite."""
        for entry in value if isinstance(value, tuple) else (value,):
            if self.one_of:
                check_choice(f"value of setting {name}", entry, self.one_of)
            if type(entry) is float and not math.isfinite(entry):
                raise ImclError(f"Setting {name} must be a finite number, not {entry}.")
            if type(entry) in (int, float) and not self._holds(entry):
                raise ImclError(f"Setting {name} must {self._words()}, not {entry}.")

    def _holds(self, number: float) -> bool:
        high_enough = (self.least is None or number >= self.least) and (self.above is None or number > self.above)
        return high_enough and (self.most is None or number <= self.most)

    def _words(self) -> str:
        if self.least is not None and self.most is not None:
            return f"lie between {_shown(self.least)} and {_shown(self.most)}"
        words = {"at least": self.least, "more than": self.above, "at most": self.most}
        bounds = [f"{word} {_shown(bound)}" for word, bound in words.items() if bound is not None]
        return f"be {' and '.join(bounds)}"


def _shown(number: float) -> str:
    return f"{number:,}" if abs(number) < 2**31 else f"{number:.3g}"


def setting(
    default: Any,
    help: str,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    one_of: tuple[str, ...] = (),
) -> Any:
    """A dataclass field with its explanation, shown by `imcl train --help` and in the book, and its `Range`.

    A number is finite in any case; a tuple's entries are checked one by one, and None never is.
    """
    return dataclasses.field(default=default, metadata={"help": help, "range": Range(least, above, most, one_of)})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Base of every settings object: unknown names, values of the wrong type and out of range raise `ImclError`.

    Whole numbers are taken where a real one is wanted, and lists where a tuple is.
    """

    def __new__(cls, **values: Any):
        known = _hints(cls)
        for name in values:
            if name not in known:
                raise ImclError(f"Unknown setting {name!r}.{nearest(name, known)} Known: {', '.join(known)}.")
        return super().__new__(cls)

    def __post_init__(self) -> None:
        for name, hint in _hints(type(self)).items():
            value = getattr(self, name)
            if type(value) is not hint:
                object.__setattr__(self, name, _as_type(name, value, hint))
        for name, allowed in _ranges(type(self)):
            allowed.check(name, getattr(self, name))


_LARGEST = 10**308  # no whole number above it fits into a real one


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    """The type of each setting, by name."""
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


@functools.cache
def _ranges(kind: type) -> list[tuple[str, Range]]:
    return [(f.name, f.metadata["range"]) for f in dataclasses.fields(kind) if "range" in f.metadata]


def _as_type(name: str, value: Any, hint: Any) -> Any:
    wanted = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if value is None and types.NoneType in wanted:
        return None
    kind = next(h for h in wanted if h is not types.NoneType)
    if kind is float and type(value) in (int, float):
        return value if type(value) is float else float(max(min(value, _LARGEST), -_LARGEST))
    if typing.get_origin(kind) is tuple and isinstance(value, list | tuple):
        return _as_tuple(name, value, typing.get_args(kind))
    if type(value) is kind:
        return value
    shown = kind.__name__ if typing.get_origin(kind) is None else str(kind)
    raise ImclError(f"Setting {name} must be of type {shown}, not {type(value).__name__} ({value!r}).")


def _as_tuple(name: str, value: list | tuple, kinds: tuple) -> tuple:
    if kinds[-1] is not Ellipsis and len(value) != len(kinds):
        raise ImclError(f"Setting {name} needs {len(kinds)} values, not {len(value)} ({value!r}).")
    return tuple(_as_type(name, v, kinds[0]) for v in value)
