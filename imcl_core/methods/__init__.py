"""The methods, a file each. Their order in `TERMS` is the order in which names are written, and so names records."""

from importlib.metadata import entry_points

from imcl_core.errors import ImclError, nearest
from imcl_core.methods.cutout import Cutout
from imcl_core.methods.decov import Decov
from imcl_core.methods.deep_supervision import DeepSupervision
from imcl_core.methods.dropblock import DropBlock
from imcl_core.methods.hsic import Hsic
from imcl_core.methods.kd import Kd
from imcl_core.methods.kernel import Kernel
from imcl_core.methods.labels import Labels
from imcl_core.methods.mid import Mid
from imcl_core.methods.out import Out
from imcl_core.methods.predsim import PredSim
from imcl_core.methods.pull_push import PullPush
from imcl_core.methods.spatial_dropout import SpatialDropout
from imcl_core.methods.term import OnLayers, Step, Term, fields_of

__all__ = [
    "NEIGHBOURS",
    "PAPER",
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
NEIGHBOURS = (SpatialDropout, DropBlock, Cutout, Decov, DeepSupervision, PredSim, Hsic, Kd)
TERMS: dict[str, type[Term]] = {term.name: term for term in (*PAPER, *NEIGHBOURS)}


def register(term: type[Term]) -> type[Term]:
    """Makes a term of another package known by its name; a decorator. Names and settings are one of a kind."""
    clash = (fields_of(TERMS.values()) - {"attach"}) & fields_of([term])
    if term.name in TERMS or clash:
        raise ImclError(f"There is a term {term.name!r} already, or one with the settings {sorted(clash)}.")
    TERMS[term.name] = term
    return term


def parse_methods(methods: str) -> tuple[str, ...]:
    """`"kernel+mid"` to `("mid", "kernel")`, in the order of `TERMS`; `"baseline"` to `()`."""
    names = [name.strip() for name in methods.split("+")]
    if names == ["baseline"]:
        return ()
    for name in names:
        if name not in TERMS:
            raise ImclError(
                f"Unknown method {name!r} in {methods!r}.{nearest(name, (*TERMS, 'baseline'))} "
                f"Use 'baseline' or any of {', '.join(TERMS)} joined by '+'."
            )
    if len(set(names)) < len(names):
        raise ImclError(f"{methods!r} names a method twice: name each once.")
    return tuple(name for name in TERMS if name in names)


for point in entry_points(group="imcl_core.methods"):  # terms of other packages, before settings are made of all terms
    point.load()
