"""The methods, a file each. Their order in `TERMS` is the order in which names are written, and so names records."""

import inspect
import re
import warnings
from importlib.metadata import entry_points

from imcl_core.errors import ImclError, nearest
from imcl_core.methods.cutout import Cutout
from imcl_core.methods.decov import Decov
from imcl_core.methods.deep_supervision import DeepSupervision
from imcl_core.methods.dropblock import DropBlock
from imcl_core.methods.hsic import Hsic
from imcl_core.methods.kd import Kd
from imcl_core.methods.kernel import Kernel
from imcl_core.methods.label_smoothing import LabelSmoothing
from imcl_core.methods.labels import Labels
from imcl_core.methods.mid import Mid
from imcl_core.methods.out import Out
from imcl_core.methods.population import PATTERNS, WIDER
from imcl_core.methods.predsim import PredSim
from imcl_core.methods.pull_push import PullPush
from imcl_core.methods.r_drop import RDrop
from imcl_core.methods.spatial_dropout import SpatialDropout
from imcl_core.methods.term import OnLayers, Step, Term, fields_of

__all__ = [
    "NEIGHBOURS",
    "PAPER",
    "STRUCTURES",
    "TERMS",
    "Labels",
    "OnLayers",
    "Step",
    "Term",
    "fields_of",
    "parse_methods",
    "register",
]

PAPER = (Out, Mid, PullPush, Kernel)
NEIGHBOURS = (
    SpatialDropout,
    DropBlock,
    Cutout,
    Decov,
    DeepSupervision,
    PredSim,
    Hsic,
    Kd,
    LabelSmoothing,
    RDrop,
)
STRUCTURES = (*WIDER, *PATTERNS)  # networks that the paper compares with; each stands alone
TERMS: dict[str, type[Term]] = {term.name: term for term in (*PAPER, *NEIGHBOURS)}


_NAME = re.compile(r"[A-Za-z0-9_]+(-[A-Za-z0-9_]+)*")  # as in a command and in a record's file


def register(term: type[Term]) -> type[Term]:
    """Makes a term of your own known by its name; a decorator. Names and settings are one of a kind.

    In a notebook, run again, a class takes the place of that of the same name. A `Collaboration` takes it at once; a
    `RunConfig` and the command line take what packages bring by an entry point in `imcl_core.methods`.
    """
    name = getattr(term, "name", None)
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name in ("baseline", *STRUCTURES):
        own = "letters, digits and hyphens"
        raise ImclError(f"{term.__name__} needs a name of its own, of {own}, not {name!r}: name = 'mine'.")
    before = TERMS.get(name)
    if before and before.__module__ != term.__module__:
        raise ImclError(f"There is a term {name!r} already: choose another name.")
    if inspect.get_annotations(term.Settings) and "__dataclass_fields__" not in vars(term.Settings):
        raise ImclError(f"{term.Settings.__name__} needs @dataclass(frozen=True, kw_only=True), as every Settings has.")
    others = [known for known in TERMS.values() if known is not before]
    if clash := (fields_of(others) - {"attach"}) & fields_of([term]):
        raise ImclError(f"Another term has settings {', '.join(sorted(clash))}: name those of {name!r} otherwise.")
    TERMS[name] = term
    return term


def _load_packages() -> None:
    """Registers the terms of other packages, in the order of their names; what fails is left out with a warning."""
    for point in sorted(entry_points(group="imcl_core.methods"), key=lambda point: point.name):
        try:
            register(point.load())
        except Exception as error:
            warnings.warn(f"The method {point.name} of {point.value} cannot be used: {error}", stacklevel=2)


def parse_methods(methods: str, alone: tuple[str, ...] = ()) -> tuple[str, ...]:
    """`"kernel+mid"` to `("mid", "kernel")`, in the order of `TERMS`; `"baseline"` to `()`.

    `alone`: what the caller takes besides, which cannot be joined; it is named in what is said of other names.
    """
    if not isinstance(methods, str):
        raise ImclError(f"Methods are one string, joined by '+', such as 'mid+kernel', not {methods!r}.")
    names = [name.strip() for name in methods.split("+")]
    if names == ["baseline"]:
        return ()
    for name in names:
        if name == "baseline":
            raise ImclError(f"baseline is the network without methods: leave it out of {methods!r}.")
        if name in alone:
            raise ImclError(
                f"{name} cannot be joined with other methods ({methods!r}), being a network to compare with: train it "
                "alone."
            )
        if name not in TERMS:
            others = f", or one of {', '.join(alone)}" if alone else ""
            raise ImclError(
                f"Unknown method {name!r} in {methods!r}.{nearest(name, (*TERMS, 'baseline', *alone))} "
                f"Use baseline, any of {', '.join(TERMS)} joined by '+'{others}."
            )
    if len(set(names)) < len(names):
        raise ImclError(f"{methods!r} names a method twice: name each once.")
    instead = [name for name in TERMS if name in names and TERMS[name].replaces]
    if len(instead) > 1:
        raise ImclError(f"{' and '.join(instead)} each take the place of the labels' loss: name one of them.")
    return tuple(name for name in TERMS if name in names)


_load_packages()  # before the settings are made of all terms
