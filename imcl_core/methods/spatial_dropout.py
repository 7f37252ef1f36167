"""SpatialDropout (Tompson et al. 2015): whole feature maps are dropped behind the last layers of groups."""

from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from imcl_core.attach.layer import Layer
from imcl_core.methods.term import OnLayers, Term
from imcl_core.settings import setting


@dataclass(frozen=True, kw_only=True)
class SpatialDropoutSettings(OnLayers):
    spatial_rate: float = setting(0.03, "probability of a feature map, SpatialDropout", least=0, most=1)
    spatial_groups: int = setting(
        1, "behind the last layers of so many groups, from the end; 0: of all", least=0, most=1 << 20
    )


class SpatialDropout(Term):
    name, Settings = "spatial-dropout", SpatialDropoutSettings
    source = "Tompson 2015"
    strengths = tuple({"spatial_rate": p, "spatial_groups": n} for p in (0.03, 0.1, 0.2) for n in (1, 2, 0))
    needs = ("layers",)
    inside = pixels = True

    def attach(self, sites: Any, task: Any) -> None:
        self.changes = sites.ends(self.name, maps=True)[-self.settings.spatial_groups :]

    @property
    def share(self) -> float:
        return self.settings.spatial_rate

    def change(self, place: Layer, maps: Tensor, progress: float) -> Tensor:
        return F.dropout2d(maps, self.settings.spatial_rate * self.factor)
