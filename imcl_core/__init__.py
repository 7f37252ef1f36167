"""Intra-model collaborative learning (Fang & Lin, arXiv 2105.09590): the four losses, and training with them."""

from imcl_core.collaboration import Collaboration, DenseCollaboration, DenseSettings, MethodSettings
from imcl_core.errors import ImclError
from imcl_core.methods.population import MultiInstance, PopulationSettings, Tree
from imcl_core.training.config import RunConfig
from imcl_core.training.record import Record
from imcl_core.training.run import train

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
