"""Collaboration of the output layer (Sec. III-A): predictions from several dropout masks learn from one another."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from imcl_core import losses
from imcl_core.local import replaced_forward
from imcl_core.methods.term import Count, Row, Step, Term
from imcl_core.networks.classifier import hierarchical_dropout
from imcl_core.settings import Settings, setting


@dataclass(frozen=True, kw_only=True)
class OutSettings(Settings):
    out_branches: int = setting(2, "masks drawn at each dropout layer, K", least=2, most=16)
    out_alpha: float = setting(0.5, "weight of the labels against the peers, Eq. 4", least=0, most=1)
    out_temperature: float = setting(2.0, "T of Eq. 4", above=0, most=10**6)
    out_detach: bool = setting(True, "take the peers' mean as a constant")
    out_t_squared: bool = setting(False, "multiply the soft part by T²")


class Out(Term):
    """Branches the classifier at its dropout layers; weighed down, the rest is the labels' loss of every branch."""

    name, Settings, replaces = "out", OutSettings, "hard"
    needs = ("classifier",)
    inside = pixels = True
    share = 1.0

    def attach(self, sites: Any, task: Any) -> None:
        self.classifier = sites.classifier()

    def branches(self, rows: int, images: int) -> int:
        return rows // images

    @contextmanager
    def around(self, network: nn.Module) -> Iterator[None]:
        classifier = network.get_submodule(self.classifier)

        def forward(x: Tensor) -> Tensor:
            return hierarchical_dropout(classifier, x, self.settings.out_branches).flatten(0, 1)

        with replaced_forward(classifier, forward):
            yield

    def into(self, terms: dict[str, Tensor], seen: dict, step: Step) -> dict[str, Tensor]:
        s, predictions, targets = self.settings, step.rows(step.predictions), step.targets
        loss = losses.output_loss(predictions, targets, s.out_alpha, s.out_temperature, s.out_detach, s.out_t_squared)
        if self.factor < 1:
            hard = torch.stack([losses.hard_loss(z, targets) for z in predictions]).mean()
            loss = self.factor * loss + (1 - self.factor) * hard
        return terms | {"out": loss}

    def cost(self, batch: int, count: Count, run: Callable) -> dict[str, Row]:
        plain = count(run)
        with self.around(run.network):
            branched = count(run)
        return {"out": (0, *(b - p for b, p in zip(branched, plain, strict=True)))}
