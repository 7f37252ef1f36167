"""Typed settings: dataclasses whose fields carry their own help, and which refuse what they do not know."""

import dataclasses
import functools
import types
import typing
from typing import Any

from imcl_core.errors import ImclError, nearest


def setting(default: Any, help: str) -> Any:
    """A dataclass field with its explanation, shown by `imcl train --help` and in the book."""
    return dataclasses.field(default=default, metadata={"help": help})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Base of every settings object: unknown names and values of the wrong type raise `ImclError`.

    Whole numbers are taken where a real one is wanted, and lists where a tuple is.
    """

    def __new__(cls, **values: Any):
        known = [f.name for f in dataclasses.fields(cls)]
        for name in values:
            if name not in known:
                raise ImclError(f"Unknown setting {name!r}.{nearest(name, known)} Known: {', '.join(known)}.")
        return super().__new__(cls)

    def __post_init__(self) -> None:
        for name, hint in _hints(type(self)).items():
            value = getattr(self, name)
            if type(value) is not hint:
                object.__setattr__(self, name, _as_type(name, value, hint))


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _as_type(name: str, value: Any, hint: Any) -> Any:
    wanted = [h for h in (typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,))]
    if value is None and types.NoneType in wanted:
        return None
    kind = next(h for h in wanted if h is not types.NoneType)
    if kind is float and type(value) in (int, float):
        return float(value)
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
