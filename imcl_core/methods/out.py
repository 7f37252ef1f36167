"""Collaboration of the output layer (Sec. III-A): predictions from several dropout masks learn from one another."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn

from imcl_core import losses
from imcl_core.local import replaced_forward
from imcl_core.methods.term import OfBranches, Step
from imcl_core.networks.classifier import hierarchical_dropout
from imcl_core.settings import Settings, setting


@dataclass(frozen=True, kw_only=True)
class OutSettings(Settings):
    out_branches: int = setting(2, "masks drawn at each dropout layer, K", least=2, most=16)
    out_alpha: float = setting(0.5, "weight of the labels against the peers, Eq. 4", least=0, most=1)
    out_temperature: float = setting(2.0, "T of Eq. 4", above=0, most=10**6)
    out_detach: bool = setting(True, "take the peers' mean as a constant")
    out_t_squared: bool = setting(False, "multiply the soft part by T²")


class Out(OfBranches):
    """Branches the classifier at its dropout layers."""

    name, Settings = "out", OutSettings
    source = "Fang & Lin 2021"
    strengths = tuple({"out_alpha": a, "out_temperature": t} for a in (0.25, 0.5, 0.75) for t in (1.0, 2.0, 4.0))

    @contextmanager
    def around(self, network: nn.Module) -> Iterator[None]:
        classifier = network.get_submodule(self.branched)

        def forward(input: Tensor) -> Tensor:  # as nn.Sequential names it
            return hierarchical_dropout(classifier, input, self.settings.out_branches).flatten(0, 1)

        with replaced_forward(network, self.branched, forward):
            yield

    def loss(self, step: Step) -> Tensor:
        s, predictions = self.settings, step.rows(step.predictions)
        return losses.output_loss(
            predictions, step.targets, s.out_alpha, s.out_temperature, s.out_detach, s.out_t_squared
        )
