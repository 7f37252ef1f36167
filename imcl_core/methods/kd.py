"""Knowledge distillation (Hinton et al. 2014): the network learns from a trained one."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imcl_core import losses
from imcl_core.attach.trace import check_logits
from imcl_core.errors import ImclError
from imcl_core.measure.cost import Counter
from imcl_core.methods.term import Row, Step, Term
from imcl_core.settings import Settings, setting


@dataclass(frozen=True, kw_only=True)
class KdSettings(Settings):
    kd_alpha: float = setting(0.5, "weight of the teacher against the labels", least=0, most=1)
    kd_temperature: float = setting(1.0, "T of distillation", above=0, most=10**6)
    kd_seed: int = setting(1, "the teacher is the baseline of this run's seed plus this", least=0, most=2**31)


class Kd(Term):
    """Takes its share from the term of the predictions."""

    name, Settings, taught_by = "kd", KdSettings, "kd_seed"
    source = "Hinton 2014"
    strengths = tuple({"kd_alpha": a, "kd_temperature": t} for a in (0.25, 0.5, 0.75) for t in (1.0, 2.0, 4.0))

    def attach(self, sites: Any, task: Any) -> None:
        if sites.teacher is None:
            raise ImclError("kd learns from a trained network: Collaboration(..., teacher=network).")
        self.teacher = _copied(sites.teacher).eval().requires_grad_(False)

    def keeps(self) -> dict[str, nn.Module]:
        return {"teacher": self.teacher}

    @property
    def share(self) -> float:
        return self.settings.kd_alpha

    @torch.no_grad()
    def look(self, images: Tensor) -> Tensor:
        return check_logits(self.teacher(images), len(images))

    def into(self, terms: dict[str, Tensor], seen: dict[str, Tensor], step: Step) -> dict[str, Tensor]:
        alpha = self.factor * self.settings.kd_alpha
        taught = distillation_loss(step.rows(seen[""]), step.rows(step.predictions), self.settings.kd_temperature)
        return terms | {step.first: (1 - alpha) * terms[step.first], self.name: alpha * taught}

    def cost(self, counter: Counter) -> dict[str, Row]:
        teach = torch.no_grad()(lambda make: self.teacher(make(*counter.images)))
        return {self.name: (counter.parameters(self.teacher), *counter(teach))}


def _copied(network: nn.Module) -> nn.Module:
    """A copy; weights that hooks recompute at every call, such as those of `weight_norm`, as plain numbers."""
    left = [v for m in network.modules() for v in vars(m).values() if isinstance(v, Tensor) and not v.is_leaf]
    return copy.deepcopy(network, {id(value): value.detach().clone() for value in left})


def distillation_loss(teacher: Tensor, logits: Tensor, temperature: float) -> Tensor:
    """T² · KL(ψ(teacher; T) ‖ ψ(z; T)), the mean over all predictions (Hinton et al. 2014).

    `teacher` (B, m) logits, constants; `logits` (H, B, m); a scalar.
    """
    if logits.ndim != 3 or teacher.shape != logits.shape[1:]:
        raise ImclError(
            f"The teacher's logits have shape {tuple(teacher.shape)}, the network's {tuple(logits.shape[1:])}: "
            "distillation needs a teacher for the same classes."
        )
    taught = F.log_softmax(losses.promote(teacher.detach()) / temperature, dim=1).expand(logits.shape).flatten(0, 1)
    learnt = F.log_softmax(losses.promote(logits) / temperature, dim=2).flatten(0, 1)
    return temperature**2 * F.kl_div(learnt, taught, reduction="batchmean", log_target=True)
