"""Pull and push (Sec. III-C): a layer's similarity matrix is drawn to the labels' and away from the images'."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from imcl_core import losses
from imcl_core.attach.layer import Layer
from imcl_core.methods.term import OnLayers, Step, Term
from imcl_core.networks.classifier import PROJECTIONS, make_projection
from imcl_core.settings import setting

_ENDS = "at the first and at the last layer, Eq. 9; a layer alone has the first"


@dataclass(frozen=True, kw_only=True)
class PullPushSettings(OnLayers):
    pp_pull: tuple[float, float] = setting((0.1, 1.0), f"weight of the pull {_ENDS}", least=0, most=10**6)
    pp_push: tuple[float, float] = setting((0.0, 0.0), f"weight of the push {_ENDS}", least=0, most=10**6)
    pp_normalise: bool = setting(True, "divide the Frobenius norms of Eq. 9 by the batch size")
    pp_centre: str = setting(
        "sample", "centre similarity rows per 'sample' or over the 'batch', Eq. 8", one_of=("sample", "batch")
    )
    pp_projection: str = setting(
        "3x3", "g_i of Eq. 9: a '3x3' or '1x1' convolution without bias, or 'none'", one_of=PROJECTIONS
    )
    pp_input: str = setting(
        "deviations",
        "what S(x) compares of whole images: each channel's 'deviations', Eq. 8, or all 'pixels' as they are",
        one_of=("deviations", "pixels"),
    )


class PullPush(Term):
    name, Settings = "pull-push", PullPushSettings
    source = "Fang & Lin 2021"
    strengths = tuple(
        {"pp_pull": (0.1 * pull, pull), "pp_push": (push * pull, 0.0)}
        for pull in (0.01, 0.1, 1.0)
        for push in (0.0, 0.1, 1.0)
    )
    needs = ("layers",)
    inside = local = compares = pixels = True

    def attach(self, sites: Any, task: Any) -> None:
        self.reads, self.task = sites.layers(), task

    def head(self, place: Layer) -> nn.Module:
        return make_projection(place.shape[0], self.settings.pp_projection)

    def read(self, place: Layer, maps: Tensor) -> Tensor:
        projected = self.heads[place.name](maps)
        with torch.autocast(maps.device.type, enabled=False):
            compared = self.task.compared(projected)
            if losses.few_calls(maps):  # `losses` compares those of all layers together
                return losses.similarity_rows(compared)
            return losses.similarity_matrix(compared, self.settings.pp_centre)

    def losses(self, seen: dict[str, Tensor], step: Step) -> dict[str, Tensor]:
        s = self.settings
        target = self.task.label_similarity(step.images, step.labels, s.pp_centre)
        pushes = any(s.pp_push)
        source = self.task.image_similarity(step.images, s.pp_centre, s.pp_input == "pixels") if pushes else None
        found = [seen[p.name] for p in self.reads]
        together = losses.similarity_matrices(found, s.pp_centre) if losses.few_calls(found[0]) else torch.stack(found)
        made = {"dtype": together.dtype, "device": together.device}
        pull, push = (torch.linspace(*ends, len(self.reads), **made) for ends in (s.pp_pull, s.pp_push))
        values = losses.pull_push_distance(together, target, source, pull, push, s.pp_normalise)
        return {self.named(p): value for p, value in zip(self.reads, values, strict=True)}
