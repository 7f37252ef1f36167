"""The one exception of this package, and the sentences for a mistyped name and a missing package."""

import importlib
from collections.abc import Iterable
from difflib import get_close_matches
from types import ModuleType


class ImclError(Exception):
    """Something the user can mend: the message is one sentence that says what is wrong and what to do."""


def nearest(name: str, choices: Iterable[str]) -> str:
    """A hint such as `` Did you mean 'resnet18'?``, or an empty string where nothing is close."""
    found = get_close_matches(str(name), [str(c) for c in choices], n=1, cutoff=0.5)
    return f" Did you mean {found[0]!r}?" if found else ""


def check_choice(what: str, name: str, choices: Iterable[str]) -> None:
    """Raise `ImclError` unless `name` is one of `choices`."""
    choices = tuple(choices)
    if name not in choices:
        raise ImclError(f"Unknown {what} {name!r}.{nearest(name, choices)} Known: {', '.join(choices)}.")


def needed(module: str, package: str, extra: str) -> ModuleType:
    """A module of `package`, which only the extra `extra` of this one asks for; `ImclError` where it is missing."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0]:
            raise
        raise ImclError(f"This needs {package}: pip install 'imcl-core[{extra}]'.") from None
