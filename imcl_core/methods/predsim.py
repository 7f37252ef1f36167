"""Local errors by prediction and similarity (Nøkland & Eidnes 2019), on every layer."""

from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from imcl_core import losses
from imcl_core.attach.layer import Layer
from imcl_core.methods.term import OnLayers, Step, Term, by_half_decades
from imcl_core.settings import setting


@dataclass(frozen=True, kw_only=True)
class PredSimSettings(OnLayers):
    predsim_weight: float = setting(1.0, "weight of predsim, for each layer", least=0, most=10**6)
    predsim_beta: float = setting(
        0.99, "share of the similarity in predsim; the rest is cross-entropy", least=0, most=1
    )
    predsim_features: int = setting(
        4096, "maps are pooled to at most so many features for its classifiers", least=1, most=1 << 40
    )


class PredSim(Term):
    name, Settings = "predsim", PredSimSettings
    source = "Nøkland 2019"
    strengths = by_half_decades("predsim_weight", 0.01, 100.0)
    needs = ("layers",)
    inside = local = compares = True

    def attach(self, sites: Any, task: Any) -> None:
        self.reads, self.task = sites.layers(), task

    def head(self, place: Layer) -> nn.Module:
        channels, *size = place.shape
        return PredSimHead(channels, tuple(size), self.task.num_classes, self.settings.predsim_features)

    def read(self, place: Layer, maps: Tensor) -> tuple[Tensor, Tensor]:
        logits, compared = self.heads[place.name](maps)
        return logits, losses.similarity_matrix(self.task.compared(compared))

    def losses(self, seen: dict[str, tuple[Tensor, Tensor]], step: Step) -> dict[str, Tensor]:
        s, target = self.settings, losses.similarity_matrix(self.task.one_hot(step.labels, step.logits))
        return {
            self.named(p): s.predsim_weight
            * predsim_loss(step.rows(seen[p.name][0]), seen[p.name][1], step.targets, target, s.predsim_beta)
            for p in self.reads
        }


class PredSimHead(nn.Module):
    """The heads of predsim on a layer's maps (B, C, H, W): logits (B, m) and maps to compare (B, C, H, W).

    As in the authors' code: average pooling to at most `features` numbers and a linear layer that starts at 0; a 3×3
    convolution without bias. `size` (H, W).
    """

    def __init__(self, channels: int, size: tuple[int, int], num_classes: int, features: int = 4096):
        super().__init__()
        side = max(1, int((features / channels) ** 0.5))
        self.size = (min(size[0], side), min(size[1], side))
        self.predict = nn.Linear(channels * self.size[0] * self.size[1], num_classes)
        nn.init.zeros_(self.predict.weight)
        self.compare = nn.Conv2d(channels, channels, 3, padding=1, bias=False)

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor]:
        return self.predict(F.adaptive_avg_pool2d(h, self.size).flatten(1)), self.compare(h)


def predsim_loss(
    logits: Tensor, similarity: Tensor, target: Tensor, target_similarity: Tensor, beta: float = 0.99
) -> Tensor:
    """(1 - β) · cross-entropy + β · mean squared difference of similarity matrices.

    `logits` (B, m), `target` as of `hard_loss`, both similarities (B, B) as of `losses.similarity_matrix`; a scalar.
    """
    return (1 - beta) * losses.hard_loss(logits, target) + beta * F.mse_loss(similarity, target_similarity)
