"""Deep supervision (Lee et al. 2015): auxiliary classifiers behind all groups but the last, whose weight falls."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from imcl_core import losses
from imcl_core.attach.layer import Layer
from imcl_core.local import uncompiled
from imcl_core.methods.term import OnLayers, Step, Term
from imcl_core.networks.classifier import LocalClassifier
from imcl_core.settings import setting


@dataclass(frozen=True, kw_only=True)
class DeepSupervisionSettings(OnLayers):
    deep_weight: float = setting(0.5, "weight of each auxiliary classifier", least=0, most=10**6)
    deep_decay: bool = setting(True, "let this weight fall linearly to 0")


class DeepSupervision(Term):
    name, Settings = "deep-supervision", DeepSupervisionSettings
    source = "Lee 2015"
    strengths = tuple({"deep_weight": w} for w in (0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 3.0))
    needs, inside = ("layers",), True

    def attach(self, sites: Any, task: Any) -> None:
        self.reads, self.classes = sites.ends(self.name, but_the_last=True), task.num_classes

    def head(self, place: Layer) -> nn.Module:
        channels, *size = place.shape
        return LocalClassifier(channels, tuple(size), self.classes)

    def read(self, place: Layer, maps: Tensor) -> Tensor:
        return self.heads[place.name](maps)

    @uncompiled  # `progress` is a number that changes
    def losses(self, seen: dict[str, Tensor], step: Step) -> dict[str, Tensor]:
        falls = self.settings.deep_decay and step.progress is not None
        weight = self.settings.deep_weight * (1 - step.progress if falls else 1)
        return {self.named(p): weight * losses.hard_loss(step.rows(seen[p.name]), step.targets) for p in self.reads}
