"""What a part of a training step costs, counted on fake tensors, which have shapes but no data, without running it."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn


class Counter:
    """Counts parts of a training step on `images` (B, C, H, W), a shape, of a `network` inside `module`."""

    def __init__(self, module: nn.Module, network: nn.Module, images: tuple[int, ...]):
        self.module, self.network, self.images = module, network, images

    def __call__(self, run: Callable[[Callable[..., Tensor]], object]) -> tuple[int, int]:
        """Multiply-adds and bytes of `run`, as of `count`."""
        return count(run, self.module)

    def run_of_network(self) -> tuple[int, int]:
        """Those of the network's run on the images."""
        return self(lambda make: self.network(make(*self.images)))

    def more_than_network(self, around: Callable[[nn.Module], AbstractContextManager]) -> tuple[int, int]:
        """What a run of the network inside `around` has more than a plain one."""
        plain = self.run_of_network()
        with around(self.network):
            return tuple(more - less for more, less in zip(self.run_of_network(), plain, strict=True))

    def at(self, shape: tuple[int, ...], act: Callable[[Tensor], object]) -> tuple[int, int]:
        """Those of `act` on maps of a batch, of which one image's have this shape."""
        return self(lambda make: act(make(self.images[0], *shape)))

    @staticmethod
    def parameters(module: nn.Module | None) -> int:
        """How many numbers a module learns; 0 of none."""
        return sum(p.numel() for p in module.parameters()) if module is not None else 0


def count(run: Callable[[Callable[..., Tensor]], object], module: nn.Module) -> tuple[int, int]:
    """Multiply-adds of the convolutions and matrix products of `run`, and the bytes it keeps for the backward pass.

    `run` is given a maker of its inputs, ``make(*shape)``, and uses `module`, whose parameters are kept in any case and
    do not count; nor do the inputs. Nothing is computed, and no buffer of the module changes.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode  # here, since these take half a second to import
    from torch.utils.flop_counter import FlopCounterMode

    parameter = next(module.parameters())
    known = {p.untyped_storage()._cdata for p in module.parameters()}
    saved: dict[int, Tensor] = {}
    counters = [(b, b.clone()) for b in module.buffers() if not b.is_floating_point()]  # these are real even so

    def make(*shape: int) -> Tensor:
        made = torch.empty(shape, dtype=parameter.dtype, device=parameter.device, requires_grad=True)
        known.add(made.untyped_storage()._cdata)
        return made

    def keep(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with FakeTensorMode(allow_non_fake_inputs=True) as mode, FlopCounterMode(display=False) as flops:
        weights = [mode.from_tensor(p) for p in module.parameters()]  # whose views an operation here sees
        known |= {weight.untyped_storage()._cdata for weight in weights}
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            result = run(make)
        size = sum(tensor.untyped_storage().nbytes() for key, tensor in saved.items() if key not in known)
        del result
    for buffer, value in counters:
        buffer.copy_(value)
    return flops.get_total_flops() // 2, size
