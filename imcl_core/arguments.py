"""Commands from functions: a command takes what its function takes, and explains itself by the function's docstring.

A positional parameter is an argument, a keyword one an option. Its annotation says of what type it is and what it
means, `Annotated[int, "images a step"]`, and its default is shown. `**settings: SomeSettings` are options for every
field of that class. The docstring's first line says what the command does; its examples stand below `examples:`.
"""

import argparse
import dataclasses
import functools
import importlib
import inspect
import re
import types
import typing
from collections.abc import Callable
from typing import Annotated, Any


@dataclasses.dataclass(frozen=True)
class Option:
    """What an option means, what its value is called, and the value of an option that is given `alone`, without one."""

    help: str
    metavar: str | None = None
    alone: Any = None


@dataclasses.dataclass(frozen=True)
class Later:
    """A class of settings by where it is, since its import takes long: `**settings: Annotated[Any, Later(…)]`."""

    module: str
    name: str


DataFolder = Annotated[str | None, "where the data lies (default: $IMCL_DATA, else a cache folder)"]
Device = Annotated[str | None, "cpu, cuda, cuda:1 … (default: a GPU where there is one)"]


_NEGATIVE = re.compile(r"-(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$|-inf$|-nan$", re.IGNORECASE)  # argparse knows no exponents


def add_command(commands: Any, function: Callable[..., int | None], *, whole: bool = True) -> None:
    """Adds `function` to argparse's subparsers, as the command of its name; but for `whole` its summary alone."""
    name, (summary, _, examples) = function.__name__, inspect.getdoc(function).partition("\n\nexamples:")
    parser = commands.add_parser(
        name,
        help=summary[0].lower() + summary[1:].rstrip("."),
        description=summary[0].lower() + summary[1:].rstrip("."),
        epilog=f"examples:{examples}\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        usage=f"imcl {name} [-h] …",
    )
    if not whole:
        return
    parser._negative_number_matcher = _NEGATIVE
    for parameter, hint in _parameters(function):
        if parameter.kind is parameter.VAR_KEYWORD:
            _add_settings(parser, parameter.name, hint)
        else:
            _add_argument(parser, parameter, *typing.get_args(hint))
    known = [option for action in parser._actions for option in action.option_strings]
    parser.set_defaults(run=functools.partial(_call, function), known=known)


def _parameters(function: Callable) -> list[tuple[inspect.Parameter, Any]]:
    hints = typing.get_type_hints(function, include_extras=True)
    return [(parameter, _found(hints[name])) for name, parameter in inspect.signature(function).parameters.items()]


def _found(hint: Any) -> Any:
    """What a `Later` stands for, imported now; any other annotation as it is."""
    later = next((note for note in typing.get_args(hint)[1:] if isinstance(note, Later)), None)
    return hint if later is None else getattr(importlib.import_module(later.module), later.name)


def _call(function: Callable[..., int | None], parsed: argparse.Namespace) -> int | None:
    values, positional, named = vars(parsed), [], {}
    for parameter, hint in _parameters(function):
        if parameter.kind is parameter.VAR_KEYWORD:
            named |= {f.name: values[f.name] for f in dataclasses.fields(hint) if f.name in values}
        elif parameter.kind is parameter.VAR_POSITIONAL:
            positional += values[parameter.name]
        elif parameter.kind is parameter.KEYWORD_ONLY:
            named[parameter.name] = values[parameter.name]
        else:
            positional.append(values[parameter.name])
    return function(*positional, **named)


def _add_argument(parser: argparse.ArgumentParser, parameter: inspect.Parameter, hint: Any, option: Any) -> None:
    option = option if isinstance(option, Option) else Option(option)
    if parameter.kind is parameter.KEYWORD_ONLY:
        default = parameter.default
        shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
        help = option.help + (f" (default: {shown})" if shown else "")
        how = _of_option(hint, option, default) | {"default": default}
        parser.add_argument(_flag(parameter.name), help=help.replace("%", "%%"), **how)
    else:
        optional = "*" if parameter.kind is parameter.VAR_POSITIONAL else "?" if parameter.default is None else None
        parser.add_argument(parameter.name, type=_kind(hint), nargs=optional, help=option.help.replace("%", "%%"))


def _of_option(hint: Any, option: Option, default: Any) -> dict[str, Any]:
    """How argparse reads an option of type `hint`."""
    kind = _kind(hint)
    if kind is bool:
        return {"action": "store_true" if hint is bool else argparse.BooleanOptionalAction}
    if typing.get_origin(kind) is tuple:
        return {"type": typing.get_args(kind)[0], "nargs": "+" if default else "*"}
    alone = {} if option.alone is None else {"nargs": "?", "const": option.alone}
    return {"type": kind, "metavar": option.metavar} | alone


def _add_settings(parser: argparse.ArgumentParser, title: str, kind: type) -> None:
    """An option a field, its own fields first; what is not given is left out of the call."""
    hints, group = typing.get_type_hints(kind), parser.add_argument_group(f"{title} of the run")
    inherited = {field.name for base in kind.__bases__ for field in dataclasses.fields(base)}
    for field in sorted(dataclasses.fields(kind), key=lambda field: field.name in inherited):
        default = "" if field.default is None else f" (default: {field.default})"
        help = (field.metadata["help"] + default).replace("%", "%%")
        group.add_argument(_flag(field.name), help=help, default=argparse.SUPPRESS, **_of_setting(hints[field.name]))


def _of_setting(hint: Any) -> dict[str, Any]:
    """How argparse reads a setting of type `hint`."""
    kind = _kind(hint)
    if kind is bool:
        return {"action": argparse.BooleanOptionalAction}
    if typing.get_origin(kind) is tuple:
        items = typing.get_args(kind)
        return {"type": items[0], "nargs": "*" if items[-1] is Ellipsis else len(items), "metavar": items[0].__name__}
    return {"type": kind, "metavar": kind.__name__}


def _kind(hint: Any) -> Any:
    """The type of what is given, where nothing need be."""
    if isinstance(hint, types.UnionType):
        return next(h for h in typing.get_args(hint) if h is not types.NoneType)
    return hint


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
