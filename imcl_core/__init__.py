"""Intra-model collaborative learning (Fang & Lin, arXiv 2105.09590): the four losses, and training with them.

A name is imported when it is asked for, so that `imcl --help` need not wait for PyTorch.
"""

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from imcl_core.collaboration import Collaboration, DenseCollaboration, DenseSettings, MethodSettings
    from imcl_core.errors import ImclError
    from imcl_core.methods.population import MultiInstance, PopulationSettings, Tree
    from imcl_core.training.config import RunConfig
    from imcl_core.training.record import Record
    from imcl_core.training.run import train

_HOMES = {
    "Collaboration": "collaboration",
    "DenseCollaboration": "collaboration",
    "DenseSettings": "collaboration",
    "ImclError": "errors",
    "MethodSettings": "collaboration",
    "MultiInstance": "methods.population",
    "PopulationSettings": "methods.population",
    "Record": "training.record",
    "RunConfig": "training.config",
    "Tree": "methods.population",
    "train": "training.run",
}
__all__ = [
    "Collaboration",
    "DenseCollaboration",
    "DenseSettings",
    "ImclError",
    "MethodSettings",
    "MultiInstance",
    "PopulationSettings",
    "Record",
    "RunConfig",
    "Tree",
    "train",
]


def __getattr__(name: str) -> Any:
    """One of the names above, or a module of this package."""
    if name in _HOMES:
        return getattr(importlib.import_module(f"imcl_core.{_HOMES[name]}"), name)
    if name.startswith("_") or importlib.util.find_spec(f"imcl_core.{name}") is None:
        raise AttributeError(f"module 'imcl_core' has no attribute {name!r}")
    return importlib.import_module(f"imcl_core.{name}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
