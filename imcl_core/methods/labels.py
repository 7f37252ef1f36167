"""The labels' loss of the network's own prediction: what every objective starts from."""

from torch import Tensor

from imcl_core import losses
from imcl_core.methods.term import Step, Term


class Labels(Term):
    name, pixels = "hard", True

    def losses(self, seen: dict, step: Step) -> dict[str, Tensor]:
        return {"hard": losses.hard_loss(step.rows(step.predictions)[0], step.targets)}
