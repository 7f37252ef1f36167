"""For chapter 10: what a collaboration finds in a network of another make."""

import re
from typing import Any

from torch import nn
from torchvision.models import VisionTransformer

from imcl_core.attach.rule import Rule
from imcl_core.attach.trace import Trace
from imcl_core.errors import ImclError


def small_vit(num_classes: int) -> nn.Module:
    """A vision transformer of four blocks for images of side 64."""
    return VisionTransformer(64, 8, 4, 3, 96, 192, num_classes=num_classes)


def survey(network: nn.Module, image_shape: tuple[int, int, int]) -> dict[str, Any]:
    """What is found in a network: its layers and blocks, the first and the last map, its kernels, and where `out` fits.

    "remedy" is the line that `out` asks for where it does not fit, else None.
    """
    trace = Trace(network, image_shape)
    rule = Rule(trace)
    layers, kernels = rule.layers("layers"), rule.kernels()
    try:
        out, remedy = f"at {trace.classifier()}", None
    except ImclError as error:
        out, remedy = "not yet", re.search("`(.*)`", str(error))[1]
    return {
        "layers": len(layers),
        "blocks": len(rule.layers("blocks")),
        "first map": _sides(layers[0].shape),
        "last map": _sides(layers[-1].shape),
        "kernels": len(kernels),
        "of kind": ", ".join(sorted({_kind(network.get_submodule(name)) for name in kernels})),
        "out": out,
        "remedy": remedy,
    }


def _sides(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))


def _kind(module: nn.Module) -> str:
    return "linear" if isinstance(module, nn.Linear) else _sides(module.kernel_size)
