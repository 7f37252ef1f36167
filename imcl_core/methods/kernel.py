"""Collaboration of kernels (Sec. III-D): the filters of a convolution are kept from resembling one another."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from imcl_core import losses
from imcl_core.measure.cost import Counter
from imcl_core.methods.term import Row, Step, Term, by_half_decades, weight_of
from imcl_core.settings import Settings, setting


@dataclass(frozen=True, kw_only=True)
class KernelSettings(Settings):
    kernel_weight: float = setting(0.03, "weight of L_kernel, Eq. 10", least=0, most=10**6)
    kernel_pointwise: bool = setting(False, "compare the filters of 1×1 convolutions too, such as shortcuts")
    kernel_tf32: bool = setting(True, "on a GPU, round the factors of Eq. 10's product to 10 bits (TF32)")
    kernel_biased: bool = setting(True, "a filter's standard deviation divides by G, not by G - 1, Eq. 10")


class Kernel(Term):
    """Reads weights alone, so that it can be compiled with the network."""

    name, Settings = "kernel", KernelSettings
    source = "Fang & Lin 2021"
    strengths = by_half_decades("kernel_weight", 1e-3, 10.0)
    needs = ("kernels",)
    pixels = True

    def attach(self, sites: Any, task: Any) -> None:
        self.network, self.weights = sites.network, sites.kernels(self.settings.kernel_pointwise)

    def look(self, images: Tensor) -> dict[str, Tensor] | None:
        """The losses before the network runs, since then no maps wait in memory, here and backward.

        None where a hook of the run makes a weight anew, as `torch.nn.utils.prune` does.
        """
        return None if any(module._forward_pre_hooks for module in self._compared()) else self._losses()

    def losses(self, seen: dict, step: Step) -> dict[str, Tensor]:
        return seen[""] or self._losses()

    def _losses(self) -> dict[str, Tensor]:
        weight, modules = self.settings.kernel_weight, self._compared()
        if losses.few_calls(modules[0].weight) and not any(map(_in_parts, modules)):
            kernels, s = [weight_of(module) for module in modules], self.settings
            values = weight * losses.kernel_losses(kernels, s.kernel_biased, s.kernel_tf32)
            return {f"{self.name}/{name}": value for name, value in zip(self.weights, values, strict=True)}
        return {f"{self.name}/{name}": weight * self._loss(name) for name in self.weights}

    def _compared(self) -> list[nn.Module]:
        return [self.network.get_submodule(name) for name in self.weights]

    def _loss(self, name: str) -> Tensor:
        """L_kernel of a convolution or linear layer; of a grouped one, over filters that see the same channels."""
        module: nn.Module = self.network.get_submodule(name)
        groups, biased = getattr(module, "groups", 1), self.settings.kernel_biased
        weight = weight_of(module)
        parts = weight.chunk(groups) if groups > 1 else [weight]
        if getattr(module, "transposed", False):  # its weight has a row for each input
            parts = [part.transpose(0, 1) for part in parts]
        parts = [losses.kernel_loss(part, biased) for part in parts]
        if groups == 1:
            return parts[0]
        return torch.linalg.vector_norm(torch.stack(parts))

    def cost(self, counter: Counter) -> dict[str, Row]:
        return {f"{self.name}/{name}": (0, *counter(lambda _, name=name: self._loss(name))) for name in self.weights}


def _in_parts(module: nn.Module) -> bool:
    """Whether its filters are not the rows of its weight as they are."""
    return getattr(module, "groups", 1) > 1 or getattr(module, "transposed", False)
