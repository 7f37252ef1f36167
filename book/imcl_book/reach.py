"""For chapter 4: each term of an objective alone, and what arrives of its gradient in every part of the network."""

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor, nn

from imcl_core import Collaboration, losses

Objective = Callable[[Tensor, Tensor], dict[str, Tensor]]


def gradient_norm(parameters: Iterable[nn.Parameter]) -> float:
    """The Euclidean norm of all their gradients together; 0.0 where there is none."""
    return sum(p.grad.square().sum().item() for p in parameters if p.grad is not None) ** 0.5


def reach(collaboration: Collaboration, objective: Objective, images: Tensor, labels: Tensor, seed: int) -> np.ndarray:
    """Norms of the gradient of each term (rows) in each part of the network (columns).

    `objective` gives the terms by name. Columns are the layers, the classifier, what is attached for the term's own
    sake, and all else that is attached. The masks of dropout, drawn by `seed`, are the same for every term.
    """
    network, attached = collaboration.network, collaboration.heads
    parts = [*network.layers.values(), network.classifier]
    rows = []
    for term in objective(images, labels):
        collaboration.zero_grad()
        torch.manual_seed(seed)
        objective(images, labels)[term].backward()
        own = term.replace(".", "/")
        groups = ([m for key, m in attached.items() if (key == own) == ours] for ours in (True, False))
        weights = [list(part.parameters()) for part in parts]
        weights += [[p for module in group for p in module.parameters()] for group in groups]
        rows.append([gradient_norm(each) for each in weights])
    return np.array(rows)


def without_locality(collaboration: Collaboration) -> Objective:
    """The objective of *mid* at its default weights, with nothing that keeps its terms local."""
    network, classifiers = collaboration.network, list(collaboration.heads.values())

    def objective(images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        maps: list[Tensor] = []
        hooks = [m.register_forward_hook(lambda _m, _x, out: maps.append(out)) for m in network.layers.values()]
        logits = network(images)
        for hook in hooks:
            hook.remove()
        local = [classify(h) for classify, h in zip(classifiers, maps, strict=True)]
        terms = losses.intermediate_losses(local, logits, labels)
        named = {f"mid/{name}": loss for name, loss in zip(network.layers, terms, strict=True)}
        return {"hard": losses.hard_loss(logits, labels)} | named

    return objective
