"""Networks as the page reads them: normalisation folded into the convolutions, weights in one byte, base64.

A tensor `weight` (F, ...) becomes signed bytes with one scale for each of its F rows, so that `scale * byte` is the
folded weight; the bytes themselves are the row up to a positive factor, which is all that Eq. 10 looks at.
"""

import base64
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from imcl_core.collaboration import Collaboration
from imcl_core.networks import Network

Folded = tuple[Tensor, Tensor, Tensor]  # bytes (F, ...) as int8, scales (F,), biases (F,)


def parts(collaboration: Collaboration) -> Iterator[tuple[str, nn.Module, nn.BatchNorm2d | None]]:
    """Every convolution and linear layer by its name on the page, and the normalisation behind it."""
    network: Network = collaboration.network
    for number, block in enumerate(network.blocks.values()):
        for place, unit in zip(("first", "last"), block.children(), strict=False):  # the stem has one layer
            yield f"block{number}.{place}", unit.conv, unit.bn
            if unit.shortcut is not None:
                yield f"block{number}.shortcut", *unit.shortcut
    linear = [module for module in network.classifier if isinstance(module, nn.Linear)]
    yield from ((f"classifier{number}", module, None) for number, module in enumerate(linear))
    for number, name in enumerate(network.blocks):
        key = name.replace(".", "/")
        if f"mid/{key}" in collaboration.heads:
            head = collaboration.heads[f"mid/{key}"]
            yield from ((f"mid{number}.conv", head.conv, None), (f"mid{number}.linear", head.linear, None))
        if f"pull-push/{key}" in collaboration.heads:
            yield f"projection{number}", collaboration.heads[f"pull-push/{key}"], None


@torch.no_grad()
def fold(module: nn.Module, norm: nn.BatchNorm2d | None) -> Folded:
    """A layer and the normalisation behind it as one layer of bytes, scales and biases."""
    rows = module.weight.flatten(1)
    size = rows.abs().amax(dim=1).clamp_min(1e-12) / 127
    rounded = (rows / size[:, None]).round().to(torch.int8).view(module.weight.shape)
    bias = torch.zeros(len(rows)) if module.bias is None else module.bias.clone()
    if norm is None:
        return rounded, size, bias
    factor = norm.weight / (norm.running_var + norm.eps).sqrt()
    return rounded, size * factor, norm.bias + factor * (bias - norm.running_mean)


@torch.no_grad()
def unfold(module: nn.Module, norm: nn.BatchNorm2d | None, folded: Folded) -> None:
    """Gives a layer the weights that the page computes with; its normalisation then does nothing."""
    rounded, scale, bias = folded
    module.weight.copy_(rounded.float() * scale.view(-1, *[1] * (rounded.ndim - 1)))
    if module.bias is not None:
        module.bias.copy_(bias if norm is None else 0 * bias)
    if norm is None:
        return
    norm.weight.fill_(1)
    norm.bias.copy_(bias)
    norm.running_mean.zero_()
    norm.running_var.fill_(1 - norm.eps)


def packed(collaboration: Collaboration) -> dict[str, Any]:
    """A network for the page: `tensors`, name and shape of each, and `data`, scales, biases and bytes in that order."""
    tensors, data = [], b""
    for name, module, norm in parts(collaboration):
        rounded, scale, bias = fold(module, norm)
        tensors.append([name, list(rounded.shape)])
        data += scale.numpy().astype("<f4").tobytes() + bias.numpy().astype("<f4").tobytes()
        data += rounded.numpy().tobytes() + b"\0" * (-rounded.numel() % 4)
    return {"tensors": tensors, "data": base64.b64encode(data).decode()}


def unpack(written: dict[str, Any], collaboration: Collaboration) -> None:
    """Gives a collaboration of the same shape the network that `packed` wrote."""
    data, at, found = base64.b64decode(written["data"]), 0, {}
    for name, shape in written["tensors"]:
        rows, count = shape[0], int(np.prod(shape))
        numbers = np.frombuffer(data, "<f4", 2 * rows, at).copy()
        rounded = np.frombuffer(data, np.int8, count, at + 8 * rows).reshape(shape).copy()
        found[name] = tuple(map(torch.from_numpy, (rounded, numbers[:rows], numbers[rows:])))
        at += 8 * rows + count + -count % 4
    for name, module, norm in parts(collaboration):
        unfold(module, norm, found[name])
