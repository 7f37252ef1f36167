"""What a GPU does in one call for all layers of a network, in place of one for each: casts, and counting of batches."""

from types import TracebackType

import torch
from torch import Tensor, nn


class Foreach:
    """Encloses forward and backward of a step, in which weights in half precision stand for those in float32.

    Autocast casts every weight, and every gradient back, in a call of its own. Here all weights of convolutions and
    linear layers are cast in one, and their gradients in another. Terms that compare weights find those in float32 by
    `methods.term.weight_of`. Of batch normalisation, which counts batches layer by layer and makes no use of it, all
    counters are raised together. cuDNN tries its algorithms in the first steps, since all have one size, unless it has
    to be deterministic: another one may win the next time.
    """

    def __init__(self, collaboration: nn.Module, dtype: torch.dtype):
        modules = list(collaboration.modules())
        self.places = [
            (module, name, weight)
            for module in modules
            if isinstance(module, nn.Conv2d | nn.Linear) and dtype != torch.float32
            for name, weight in module.named_parameters(recurse=False)
            if weight.requires_grad
        ]
        self.weights = list(dict.fromkeys(weight for *_, weight in self.places))  # a shared one once
        self.halves = [nn.Parameter(weight.detach().to(dtype)) for weight in self.weights]
        for weight, half in zip(self.weights, self.halves, strict=True):
            half.whole = weight
        self.norms = [
            module
            for module in modules
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.momentum is not None
        ]
        self.counters: list[tuple[nn.Module, Tensor]] = []

    @torch.no_grad()
    def __enter__(self) -> None:
        self.benchmark = torch.backends.cudnn.benchmark
        torch.backends.cudnn.benchmark = not torch.backends.cudnn.deterministic
        if self.weights:
            torch._foreach_copy_(self.halves, self.weights)
        half = dict(zip(self.weights, self.halves, strict=True))
        for module, name, weight in self.places:
            module._parameters[name] = half[weight]
        counting = [norm for norm in self.norms if norm.training and norm.num_batches_tracked is not None]
        self.counters = [(norm, norm.num_batches_tracked) for norm in counting]
        for norm in counting:
            norm._buffers["num_batches_tracked"] = None

    @torch.no_grad()
    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        torch.backends.cudnn.benchmark = self.benchmark
        for module, name, weight in self.places:
            module._parameters[name] = weight
        for norm, counter in self.counters:
            norm._buffers["num_batches_tracked"] = counter
        if error is None:
            self._hand_on_gradients()
        if self.counters and error is None:
            torch._foreach_add_([counter for _, counter in self.counters], 1)
        for half in self.halves:
            half.grad = None

    def _hand_on_gradients(self) -> None:
        """Gives weights the gradients of those in their place, beside what they have from terms that compare them."""
        reached = [half for half in self.halves if half.grad is not None]
        beside = [half for half in reached if half.whole.grad is not None]
        alone = [half for half in reached if half.whole.grad is None]
        for half in alone:
            half.whole.grad = torch.empty_like(half.whole)
        for halves, act in ((beside, torch._foreach_add_), (alone, torch._foreach_copy_)):
            if halves:
                act([half.whole.grad for half in halves], [half.grad for half in halves])
