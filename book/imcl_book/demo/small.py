"""The network that learns on the page, in PyTorch, with the losses of the package: what its JavaScript must compute.

Two linear layers with ReLU, dropout of which four masks are drawn, ten logits; a local classifier and a projection
for each layer.
"""

import torch
from torch import Tensor, nn

from imcl_core import losses

INPUTS, HIDDEN, CLASSES, TEMPERATURE = 64, 25, 10, 2.0
SHAPES = {
    "W1": (HIDDEN, INPUTS), "b1": (1, HIDDEN), "W2": (HIDDEN, HIDDEN), "b2": (1, HIDDEN),
    "W3": (CLASSES, HIDDEN), "b3": (1, CLASSES),
    "L1": (CLASSES, HIDDEN), "c1": (1, CLASSES), "L2": (CLASSES, HIDDEN), "c2": (1, CLASSES),
    "G1": (HIDDEN, HIDDEN), "G2": (HIDDEN, HIDDEN),
}  # fmt: skip
NAMES = tuple(SHAPES)
Gradients = dict[str, tuple[float, dict[str, Tensor]]]  # of every term: its value, its gradient by parameter


class SmallNetwork(nn.Module):
    """Random weights, float64; the parameters have the names that the page gives them."""

    def __init__(self) -> None:
        super().__init__()
        for name, shape in SHAPES.items():
            self.register_parameter(name, nn.Parameter(torch.randn(shape, dtype=torch.float64) / shape[1] ** 0.5))

    def layer(self, number: int, x: Tensor) -> Tensor:
        return (x @ getattr(self, f"W{number}").T + getattr(self, f"b{number}")).relu()

    def local(self, number: int, h: Tensor) -> Tensor:
        return h @ getattr(self, f"L{number}").T + getattr(self, f"c{number}")


def terms(
    network: SmallNetwork,
    x: Tensor,
    labels: Tensor,
    masks: Tensor,
    *,
    local: bool = True,
    out: float = 0.0,
    mid: float = 0.0,
    pull: float = 0.0,
    push: float = 0.0,
    kernel: float = 0.0,
) -> dict[str, Tensor]:
    """Every weighted term of images `x` (B, 64) under `masks` (4, B, 25); without `local`, gradients run through."""
    h1 = network.layer(1, x)
    h2 = network.layer(2, h1)
    z = (masks if out else masks[:1]) * h2 @ network.W3.T + network.b3
    hard = torch.stack([losses.hard_loss(each, labels) for each in z]).mean()
    found = {"hard": hard}
    if out:
        shared = losses.output_loss(z, labels, 0.5, TEMPERATURE)
        found = {"out": out * shared + (1 - out) * hard}
    seen = [h1, network.layer(2, h1.detach()) if local else h2]
    if mid:
        own = [network.local(number, h) for number, h in enumerate(seen, start=1)]
        values = losses.intermediate_losses(own, z.mean(dim=0), labels, mid, mid, TEMPERATURE)
        found |= {f"mid/{number}": value for number, value in enumerate(values, start=1)}
    if pull or push:
        goal = losses.similarity_matrix(nn.functional.one_hot(labels, CLASSES).double())
        source = losses.similarity_matrix(x)
        for number, h, weights in zip((1, 2), seen, ((pull / 10, push), (pull, 0.0)), strict=True):
            projected = h @ getattr(network, f"G{number}").T
            found[f"pull-push/{number}"] = losses.pull_push_loss(projected, goal, source, *weights)
    if kernel:
        found |= {f"kernel/{n}": kernel * losses.kernel_loss(getattr(network, f"W{n}")) for n in (1, 2)}
    return found


def gradients(network: SmallNetwork, x: Tensor, labels: Tensor, masks: Tensor, **options) -> Gradients:
    """The value and the gradients of every term of `terms`."""
    found = {}
    parameters = [getattr(network, name) for name in NAMES]
    for term, value in terms(network, x, labels, masks, **options).items():
        by_name = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
        filled = (torch.zeros_like(p) if g is None else g for p, g in zip(parameters, by_name, strict=True))
        found[term] = (value.item(), dict(zip(NAMES, filled, strict=True)))
    return found
