"""DeCov (Cogswell et al. 2016): the hidden units of the classifier are kept from varying together over a batch."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from imcl_core import losses
from imcl_core.attach.layer import Layer
from imcl_core.methods.term import Step, Term, by_half_decades
from imcl_core.settings import Settings, setting


@dataclass(frozen=True, kw_only=True)
class DecovSettings(Settings):
    decov_weight: float = setting(3e-4, "weight of DeCov, for each hidden layer of the classifier", least=0, most=10**6)


class Decov(Term):
    name, Settings = "decov", DecovSettings
    source = "Cogswell 2016"
    strengths = by_half_decades("decov_weight", 1e-4, 1.0)
    inside = compares = True

    def attach(self, sites: Any, task: Any) -> None:
        self.reads, self.task = sites.hidden(), task

    def read(self, place: Layer, units: Tensor) -> Tensor:
        return decov_loss(self.task.compared(units.flatten(1)))

    def losses(self, seen: dict[str, Tensor], step: Step) -> dict[str, Tensor]:
        return {self.named(p): self.settings.decov_weight * seen[p.name] for p in self.reads}


def decov_loss(activations: Tensor) -> Tensor:
    """Half the squared covariances of every two different units of a layer over a batch.

    `activations` (B, d); a scalar: (||C||_F² - ||diag(C)||²) / 2.
    """
    h = losses.promote(activations)
    centred = h - h.mean(dim=0)
    with torch.autocast(h.device.type, enabled=False):
        covariance = centred.T @ centred / len(h)
    return (covariance - torch.diag(covariance.diagonal())).square().sum() / 2
