"""Shim for the prototype: the names that today's tests and notebooks import."""
# ruff: noqa: F401

from imcl_core.collaboration import MethodSettings
from imcl_core.methods import PAPER, TERMS
from imcl_core.methods.cutout import cutout
from imcl_core.methods.decov import decov_loss
from imcl_core.methods.dropblock import drop_blocks
from imcl_core.methods.hsic import hsic_loss, normalised_kernel
from imcl_core.methods.kd import distillation_loss
from imcl_core.methods.predsim import PredSimHead, predsim_loss

NEIGHBOURS = {
    "spatial-dropout": "spatial_",
    "dropblock": "dropblock_",
    "cutout": "cutout_",
    "decov": "decov_",
    "deep-supervision": "deep_",
    "predsim": "predsim_",
    "hsic": "hsic_",
    "kd": "kd_",
}


class NeighbourSettings:
    """Only so that today's tests can list its fields."""

    __dataclass_fields__ = {
        name: field
        for term in TERMS.values()
        if term not in PAPER
        for name, field in term.Settings.__dataclass_fields__.items()
        if name != "attach"
    }
