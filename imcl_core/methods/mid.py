"""Collaboration of intermediate layers (Sec. III-B): each layer's own classifier learns from those of deeper ones."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from imcl_core import losses
from imcl_core.attach.layer import Layer
from imcl_core.methods.term import OnLayers, Step, Term
from imcl_core.settings import setting


@dataclass(frozen=True, kw_only=True)
class MidSettings(OnLayers):
    mid_alpha: float = setting(0.05, "weight of the labels, Eq. 7", least=0, most=10**6)
    mid_beta: float = setting(0.05, "weight of the deeper layers' mean, Eq. 7", least=0, most=10**6)
    mid_temperature: float = setting(2.0, "T of Eq. 5 and Eq. 6", above=0, most=10**6)
    mid_pool: int = setting(4, "local classifiers see maps of at most this side", least=1, most=1 << 20)
    mid_width: int = setting(128, "local classifiers have at most this many filters", least=1, most=1 << 20)
    mid_own: bool = setting(False, "a layer's own logits are among its teachers: the sum of Eq. 6 as printed")


class Mid(Term):
    name, Settings = "mid", MidSettings
    source = "Fang & Lin 2021"
    strengths = tuple({"mid_alpha": w, "mid_beta": w} for w in (1e-3, 3e-3, 0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8))
    needs = ("layers",)
    inside = local = pixels = True

    def attach(self, sites: Any, task: Any) -> None:
        self.reads, self.task = sites.layers(), task

    def head(self, place: Layer) -> nn.Module:
        return self.task.local_classifier(place, self.settings.mid_pool, self.settings.mid_width)

    def read(self, place: Layer, maps: Tensor) -> Tensor:
        return self.heads[place.name](maps)

    def losses(self, seen: dict[str, Tensor], step: Step) -> dict[str, Tensor]:
        s, local = self.settings, [step.rows(seen[p.name]) for p in self.reads]
        values = losses.intermediate_losses(
            local, step.rows(step.logits), step.targets, s.mid_alpha, s.mid_beta, s.mid_temperature, s.mid_own
        )
        return {self.named(p): value for p, value in zip(self.reads, values, strict=True)}
