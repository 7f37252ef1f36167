"""Label smoothing (Szegedy et al. 2016): a little of the label's probability goes to all classes alike."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from imcl_core import losses
from imcl_core.methods.term import OfPredictions, Step
from imcl_core.settings import Settings, setting


@dataclass(frozen=True, kw_only=True)
class LabelSmoothingSettings(Settings):
    smoothing_epsilon: float = setting(
        0.25, "portion of a label's probability that all classes share, ε of label smoothing", least=0, most=1
    )


class LabelSmoothing(OfPredictions):
    """The labels' loss with smoothed labels; *kd* takes its share from it as it does from the plain one."""

    name, Settings, pixels = "label-smoothing", LabelSmoothingSettings, True
    source = "Szegedy 2016"
    strengths = tuple({"smoothing_epsilon": e} for e in (0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5))

    def loss(self, step: Step) -> Tensor:
        return smoothed_loss(step.rows(step.predictions)[0], step.targets, self.settings.smoothing_epsilon)


def smoothed_loss(logits: Tensor, target: Tensor, epsilon: float) -> Tensor:
    """Cross-entropy with (1 - ε) y + ε / m in place of the one-hot label y (Szegedy et al. 2016, Sec. 7).

    `logits` (B, m), `target` as of `hard_loss`; a scalar, the mean over the batch. At ε = 0 it is `losses.hard_loss`.
    """
    z = losses.promote(logits)
    target = target.to(z.dtype) if target.is_floating_point() else target
    return F.cross_entropy(z, target, ignore_index=losses.NO_LABEL, label_smoothing=epsilon)
