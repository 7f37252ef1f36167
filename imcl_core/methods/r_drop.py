"""R-Drop (Liang et al. 2021): predictions from two dropout masks are drawn to one another."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imcl_core import losses
from imcl_core.local import replaced_forward
from imcl_core.methods.term import OfBranches, Step
from imcl_core.settings import Settings, setting


@dataclass(frozen=True, kw_only=True)
class RDropSettings(Settings):
    rdrop_alpha: float = setting(0.3, "weight of the two predictions' divergence, R-Drop", least=0, most=10**6)


class RDrop(OfBranches):
    """Runs the classifier twice, where the paper runs the network twice.

    In our networks dropout is in the classifier alone, so that both are the same but for the statistics of batch
    normalisation, which see each image once. Dropout elsewhere in a network of your own has one mask for both.
    """

    name, Settings = "r-drop", RDropSettings
    source = "Liang 2021"
    strengths = tuple({"rdrop_alpha": a} for a in (0.1, 0.3, 0.6, 1.0, 2.0, 3.0, 5.0, 7.0, 10.0))

    @contextmanager
    def around(self, network: nn.Module) -> Iterator[None]:
        run = network.get_submodule(self.branched).forward

        def forward(input: Tensor) -> Tensor:  # as nn.Sequential names it
            return run(torch.cat([input, input]))

        with replaced_forward(network, self.branched, forward):
            yield

    def loss(self, step: Step) -> Tensor:
        return rdrop_loss(step.rows(step.predictions), step.targets, self.settings.rdrop_alpha)


def rdrop_loss(predictions: Tensor, target: Tensor, alpha: float) -> Tensor:
    """½ (CE₁ + CE₂) + α/4 (KL(p₁‖p₂) + KL(p₂‖p₁)), half of Eq. 4 of Liang et al. 2021.

    Half, so that the labels weigh as in the baseline. `predictions` (2, B, m) logits, `target` as of `hard_loss`; a
    scalar, the mean over the batch. Gradients reach both predictions by both divergences.
    """
    hard = torch.stack([losses.hard_loss(z, target) for z in predictions]).mean()
    p, q = F.log_softmax(losses.promote(predictions), dim=2)
    both_ways = ((p.exp() - q.exp()) * (p - q)).sum(dim=1).mean()
    return hard + alpha / 4 * both_ways
