"""Gradients that stay where they belong: a layer run once, its output used twice. No other file knows how."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn
from torch._compile import _disable_dynamo

from imcl_core.attach.layer import Layer
from imcl_core.errors import ImclError

# Decorates what `torch.compile` is to leave alone: `torch.compiler.disable`, which costs a second of every import, at
# the first call.
uncompiled = _disable_dynamo

_ONCE = "The loss of a Collaboration can be differentiated once: call it again for a new loss."


class _TwoOutputs(torch.autograd.Function):
    """A layer run once, its output returned twice: for the network, and for local losses.

    Backward gives the layer's input the gradient that came from the network alone, and its parameters the sum of
    both: the same gradients as running the layer a second time on a detached input, without that second run.
    """

    @staticmethod
    def forward(ctx, layer: Callable, copied: bool, inputs: int, *tensors: Tensor):
        ctx.set_materialize_grads(False)
        ctx.inputs = [x.detach().requires_grad_(x.requires_grad) for x in tensors[:inputs]]
        ctx.parameters = tensors[inputs:]
        with torch.enable_grad():
            ctx.output = layer(*ctx.inputs)
        for_network = ctx.output.detach()
        return for_network.clone() if copied else for_network, ctx.output.detach()

    @staticmethod
    def backward(ctx, from_network: Tensor | None, from_local: Tensor | None):
        if ctx.output is None:
            raise ImclError(_ONCE)
        output, ctx.output = ctx.output, None
        received = [g for g in (from_network, from_local) if g is not None]
        if not received:
            return (None,) * (3 + len(ctx.inputs) + len(ctx.parameters))
        inputs = [x for x in ctx.inputs if x.requires_grad]
        to_inputs = iter(())
        if from_network is not None and inputs:
            to_inputs = iter(torch.autograd.grad(output, inputs, from_network, retain_graph=True))
        to_parameters = ()
        if ctx.parameters:
            total = received[0] if len(received) == 1 else torch.add(*received)
            to_parameters = torch.autograd.grad(output, ctx.parameters, total, allow_unused=True)
        to_tensors = (next(to_inputs, None) if x.requires_grad else None for x in ctx.inputs)
        return None, None, None, *to_tensors, *to_parameters


class _Tap(torch.autograd.Function):
    """What a layer spread over several modules returns, twice: for the network, and for local losses.

    Backward takes the local gradient to the layer's parameters alone, by a pruned walk back through the network's own
    graph, and hands the network's gradient on: again as if the layer had run a second time on a detached input.
    """

    @staticmethod
    def forward(ctx, copied: bool, output: Tensor, *parameters: Tensor):
        ctx.set_materialize_grads(False)
        ctx.output, ctx.parameters = output, parameters
        return output.clone() if copied else output.detach(), output.detach()

    @staticmethod
    def backward(ctx, from_network: Tensor | None, from_local: Tensor | None):
        if ctx.output is None:
            raise ImclError(_ONCE)
        output, ctx.output = ctx.output, None
        to_parameters = (None,) * len(ctx.parameters)
        if from_local is not None and ctx.parameters:
            to_parameters = torch.autograd.grad(
                output, ctx.parameters, from_local, retain_graph=True, allow_unused=True
            )
        return None, from_network, *to_parameters


@contextmanager
def replaced_forward(module: nn.Module, forward: Callable) -> Iterator[None]:
    previous = module.__dict__.get("forward")
    module.forward = forward
    try:
        yield
    finally:
        del module.forward
        if previous is not None:
            module.forward = previous


@contextmanager
def behind(network: nn.Module, layer: Layer, act: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
    """Calls `act` on what a layer returns; what `act` returns, if anything, takes its place."""
    calls = itertools.count()

    def hook(module: nn.Module, inputs: tuple, output: Tensor) -> Tensor | None:
        return act(output) if next(calls) == layer.call else None

    handle = network.get_submodule(layer.source).register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def read_behind(network: nn.Module, layer: Layer, read: Callable[[Tensor], None]) -> AbstractContextManager:
    """Calls `read` on a layer's maps (B, C, H, W) or units (B, d), with gradients to all that is below."""

    def act(output: Tensor) -> None:
        read(_as_read(layer, output.clone() if layer.changed else output))

    return behind(network, layer, act)


@contextmanager
def read_locally(network: nn.Module, layer: Layer, read: Callable[[Tensor], None]) -> Iterator[None]:
    """Calls `read` on a layer's maps, whose gradients then reach the layer's own parameters alone.

    `ImclError` at the end where the layer did not run, or where the network changed its output in place.
    """
    source = network.get_submodule(layer.source)
    modules = [network.get_submodule(name) for name in layer.modules]
    parameters = dict.fromkeys(p for module in modules for p in module.parameters() if p.requires_grad)
    plain_forward, kept = source.forward, []

    def keep(for_network: Tensor, for_losses: Tensor) -> Tensor:
        kept[:] = [(for_losses, for_losses._version)]
        read(_as_read(layer, for_losses))
        return for_network

    def forward(*inputs: Tensor) -> Tensor:
        return keep(*_TwoOutputs.apply(plain_forward, layer.changed, len(inputs), *inputs, *parameters))

    def tap(output: Tensor) -> Tensor:
        return keep(*_Tap.apply(layer.changed, output, *parameters))

    with replaced_forward(source, forward) if layer.alone else behind(network, layer, tap):
        yield
    if not kept:
        raise ImclError(f"Layer {layer.name!r} did not run in this step: leave it out of `layers`.")
    if kept[0][0]._version != kept[0][1]:
        raise ImclError(
            f"The network changes what layer {layer.name!r} returns in place, in training only: pass inplace=False "
            "to the module behind it."
        )


def _as_read(layer: Layer, output: Tensor) -> Tensor:
    return output if output.ndim == 2 else layer.as_maps(output)
