"""The HSIC bottleneck (Ma et al. 2020): a layer keeps what tells the labels and forgets the rest of the image."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from imcl_core import losses
from imcl_core.attach.layer import Layer
from imcl_core.local import uncompiled
from imcl_core.methods.term import OnLayers, Step, Term, by_half_decades
from imcl_core.settings import setting


@dataclass(frozen=True, kw_only=True)
class HsicSettings(OnLayers):
    hsic_weight: float = setting(1e-3, "weight of the HSIC bottleneck, for each layer", least=0, most=10**6)
    hsic_beta: float = setting(200.0, "weight of the labels against the input in it", least=0, most=10**6)
    hsic_sigma: float = setting(
        5.0, "width of its Gaussian kernels, times the root of the dimension", above=0, most=10**6
    )


class Hsic(Term):
    name, Settings = "hsic", HsicSettings
    source = "Ma 2020"
    strengths = by_half_decades("hsic_weight", 1e-5, 0.1)
    needs = ("layers",)
    inside = local = compares = True
    capturable = False  # its solver may wait for the device

    def attach(self, sites: Any, task: Any) -> None:
        self.reads, self.task = sites.layers(), task

    def read(self, place: Layer, maps: Tensor) -> Tensor:
        return normalised_kernel(self.task.compared(maps), self.settings.hsic_sigma)

    @uncompiled
    def losses(self, seen: dict[str, Tensor], step: Step) -> dict[str, Tensor]:
        s, one_hot = self.settings, self.task.one_hot(step.labels, step.logits)
        x, y = (normalised_kernel(values, s.hsic_sigma) for values in (self.task.compared(step.images), one_hot))
        return {self.named(p): s.hsic_weight * hsic_loss(seen[p.name], x, y, s.hsic_beta) for p in self.reads}


def normalised_kernel(x: Tensor, sigma: float = 5.0, epsilon: float = 1e-5) -> Tensor:
    """K (K + ε n I)⁻¹ of a batch, for K the centred Gaussian kernel matrix of width σ √d.

    `x` (n, …), each sample of d numbers; (n, n). The sum of the product of two of them, entry by entry, is their nHSIC.
    """
    with torch.autocast(x.device.type, enabled=False):
        kernel = centred_kernel(x, sigma)
        ridge = epsilon * len(x) * torch.eye(len(x), dtype=kernel.dtype, device=x.device)
        return torch.linalg.solve_ex(kernel + ridge, kernel).result


def centred_kernel(x: Tensor, sigma: float = 5.0) -> Tensor:
    """The Gaussian kernel matrix (n, n) of width σ √d of a batch (n, …), less the means of its columns and rows."""
    x = losses.promote(x).flatten(1)
    with torch.autocast(x.device.type, enabled=False):
        squares = x.square().sum(dim=1)
        distances = (squares[:, None] + squares - 2 * x @ x.T).clamp(min=0)
        kernel = torch.exp(-distances / (2 * sigma**2 * x.shape[1]))
        kernel = kernel - kernel.mean(dim=0)
        return kernel - kernel.mean(dim=1, keepdim=True)


def hsic_loss(z: Tensor, x: Tensor, y: Tensor, beta: float = 200.0) -> Tensor:
    """nHSIC(Z, X) - β nHSIC(Z, Y), the HSIC bottleneck of one layer.

    Normalised kernels (n, n) of the layer's output, the input and the labels; a scalar.
    """
    return (z * x).sum() - beta * (z * y).sum()
