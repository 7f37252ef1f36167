"""Local errors by prediction and similarity (Nøkland & Eidnes 2019), on every layer."""

import math
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from imcl_core import losses
from imcl_core.attach.layer import Layer
from imcl_core.methods.term import OnLayers, Step, Term, by_half_decades
from imcl_core.settings import setting

POOLS = ("halving", "square")


@dataclass(frozen=True, kw_only=True)
class PredSimSettings(OnLayers):
    predsim_weight: float = setting(0.3, "weight of predsim, for each layer", least=0, most=10**6)
    predsim_beta: float = setting(
        0.99, "share of the similarity in predsim; the rest is cross-entropy", least=0, most=1
    )
    predsim_features: int = setting(
        4096, "maps are pooled to at most so many features for its classifiers", least=1, most=1 << 40
    )
    predsim_pool: str = setting(
        "halving",
        "how: by 'halving' the sides in turn, height first, as its authors do; or to the largest 'square' that fits",
        one_of=POOLS,
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
        (channels, *size), s = place.shape, self.settings
        return PredSimHead(channels, tuple(size), self.task.num_classes, s.predsim_features, s.predsim_pool)

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
    """What predsim trains on a layer's maps (B, C, H, W): logits (B, m) and maps to compare (B, C, H, W).

    As `LocalLossBlockConv` in the authors' code (github.com/anokland/local-loss, train.py): average pooling to at most
    `features` numbers, there `dim_in_decoder`, and a linear layer that starts at 0; a 3×3 convolution without bias.
    `size` (H, W); `pool` one of `POOLS`, of which theirs is "halving".
    """

    def __init__(
        self, channels: int, size: tuple[int, int], num_classes: int, features: int = 4096, pool: str = "halving"
    ):
        super().__init__()
        self.pool, (height, width) = (_halving if pool == "halving" else _square)(channels, size, features)
        self.predict = nn.Linear(channels * height * width, num_classes)
        nn.init.zeros_(self.predict.weight)
        self.compare = nn.Conv2d(channels, channels, 3, padding=1, bias=False)

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor]:
        return self.predict(self.pool(h).flatten(1)), self.compare(h)


def _halving(channels: int, size: tuple[int, int], features: int) -> tuple[nn.Module, list[int]]:
    """Windows double in turn, the height first, until what is left fits; and the sides (H, W) of what is left.

    A side that its window does not divide is padded with zeros, which count in the means, as the authors do it.
    """
    windows, turn = [1, 1], 0
    sides = list(size)
    while channels * math.prod(sides) > features and max(sides) > 1:
        windows[turn] *= 2 if sides[turn] > 1 else 1
        sides[turn] = math.ceil(size[turn] / windows[turn])
        turn = 1 - turn
    padding = [w * (left - side // w) // 2 for w, left, side in zip(windows, sides, size, strict=True)]
    return nn.Identity() if windows == [1, 1] else nn.AvgPool2d(tuple(windows), padding=tuple(padding)), sides


def _square(channels: int, size: tuple[int, int], features: int) -> tuple[nn.Module, list[int]]:
    """Adaptive pooling to the largest square that fits, and its sides, or the map's where they are shorter."""
    most = max(1, math.isqrt(features // channels))
    sides = [min(side, most) for side in size]
    return nn.AdaptiveAvgPool2d(tuple(sides)), sides


def predsim_loss(
    logits: Tensor, similarity: Tensor, target: Tensor, target_similarity: Tensor, beta: float = 0.99
) -> Tensor:
    """(1 - β) · cross-entropy + β · mean squared difference of similarity matrices.

    `logits` (B, m), `target` as of `hard_loss`, both similarities (B, B) as of `losses.similarity_matrix`; a scalar.
    """
    return (1 - beta) * losses.hard_loss(logits, target) + beta * F.mse_loss(similarity, target_similarity)
