"""Gradients that stay where they belong: a layer run once, its output used twice. No other file knows how."""

import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.utils.checkpoint
from torch import Tensor, nn
from torch._compile import _disable_dynamo
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils._pytree import tree_flatten, tree_unflatten

from imcl_core.attach.layer import Layer
from imcl_core.attach.trace import keeps_a_graph, version_of
from imcl_core.errors import ImclError

# Decorates what `torch.compile` is to leave alone: `torch.compiler.disable`, which costs a second of every import, at
# the first call.
uncompiled = _disable_dynamo

_ONCE = "The loss of a Collaboration can be differentiated once: call it again for a new loss."
_FIRST_ORDER = (
    "The loss of a Collaboration has first derivatives alone: leave out create_graph=True, or take what needs it of "
    "`collaboration.network`."
)
_NO_GRADIENTS = (
    "{name!r} runs without gradients, under torch.no_grad or in reentrant checkpointing, so that terms there teach "
    "nothing: switch that off, freeze its weights with requires_grad_(False), or leave it out of `layers`."
)
_RUNS_AGAIN = (
    "{name!r} runs in torch.utils.checkpoint, which runs it again without the terms: switch checkpointing off, such as "
    "by set_grad_checkpointing(False), or leave it out of `layers`."
)
_SKIPPED = "Layer {name!r} did not run in this step: leave it out of `layers`."
_SEVERAL = (
    "Layer {name!r} ran {count} times in this step, so that its losses would be several: leave it out of `layers`."
)
_OTHERWISE = (
    "{source!r} ran {count} times in this step and {calls} times when the terms were attached, in evaluation mode, so "
    "that it is not known which of them is layer {name!r}: give each place a module of its own, or leave it out of "
    "`layers`."
)
_SHARED = (
    "Layer {name!r} shares weights with another module and cannot be run apart from it, since its weights are computed "
    "or dropout changes its input: leave it out of `layers`."
)
_KEEPS = (
    "Layer {name!r} keeps something that reaches below it in training, such as a loss of its own, whose gradient would "
    "end in the layer: let it keep that in evaluation mode too, where a Collaboration looks for it, or leave it out of "
    "`layers`."
)
_EMPTY = (
    "Layer {name!r} has lost its weights, as in the replicas of DataParallel, or holds parts of them, as in FSDP: use "
    "DistributedDataParallel(collaboration)."
)


class _TwoOutputs(torch.autograd.Function):
    """A layer run once, its output returned twice: for the network, and for local losses.

    Backward gives the layer's input the gradient that came from the network alone, and its parameters the sum of
    both: the same gradients as running the layer a second time on a detached input, without that second run.
    """

    @staticmethod
    def forward(ctx, layer: Callable, copied: bool, name: str, inputs: int, *tensors: Tensor):
        ctx.set_materialize_grads(False)
        ctx.inputs = [x.detach().requires_grad_(x.requires_grad) for x in tensors[:inputs]]
        _end_of_way(ctx.inputs, name)
        ctx.parameters = tensors[inputs:]
        with torch.enable_grad():
            ctx.output = layer(*ctx.inputs)
        for_network = ctx.output.detach()
        return for_network.clone() if copied else for_network, ctx.output.detach()

    @staticmethod
    def backward(ctx, from_network: Tensor | None, from_local: Tensor | None):
        output = _taken(ctx)
        every, ctx.inputs = ctx.inputs, None  # a loss that is kept shall keep no maps
        received = [g for g in (from_network, from_local) if g is not None]
        if not (received and output.requires_grad):
            return (None,) * (4 + len(every) + len(ctx.parameters))
        inputs = [x for x in every if x.requires_grad]
        to_inputs = iter(())
        if from_network is not None and inputs:
            to_inputs = iter(_gradients(output, inputs, from_network, retain_graph=True, allow_unused=True))
        to_parameters = ()
        if ctx.parameters:
            total = received[0] if len(received) == 1 else torch.add(*received)
            to_parameters = _gradients(output, ctx.parameters, total, allow_unused=True)
        to_tensors = (next(to_inputs, None) if x.requires_grad else None for x in every)
        return None, None, None, None, *to_tensors, *to_parameters


def _end_of_way(inputs: Sequence[Tensor], name: str) -> None:
    """Refuses that a gradient arrives at copies of a layer's inputs and goes no further: ours never does."""

    def refuse(reached: Tensor) -> None:
        raise ImclError(_KEEPS.format(name=name))

    if not torch.compiler.is_compiling():
        for x in inputs:
            if x.requires_grad:
                x.register_post_accumulate_grad_hook(refuse)


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
        output = _taken(ctx)
        to_parameters = (None,) * len(ctx.parameters)
        if from_local is not None and ctx.parameters and output.requires_grad:
            to_parameters = _gradients(output, ctx.parameters, from_local, retain_graph=True, allow_unused=True)
        return None, from_network, *to_parameters


def _taken(ctx) -> Tensor:
    """A layer's output with its graph, which is then let go of."""
    if ctx.output is None:
        raise ImclError(_ONCE)
    if torch.is_grad_enabled():  # in a backward pass: create_graph=True
        raise ImclError(_FIRST_ORDER)
    output, ctx.output = ctx.output, None
    return output


def _gradients(output: Tensor, inputs: Sequence[Tensor], gradient: Tensor, **options: bool) -> tuple:
    try:
        with _without_hooks(inputs):
            return torch.autograd.grad(output, inputs, gradient, **options)
    except RuntimeError as error:
        if "checkpoint" not in str(error):
            raise
        raise ImclError(
            "A layer with local losses holds reentrant checkpointing, which gives no gradients of a part: pass "
            "use_reentrant=False to torch.utils.checkpoint."
        ) from error


@contextmanager
def _without_hooks(tensors: Sequence[Tensor]) -> Iterator[None]:
    """Keeps hooks of `tensors` from a gradient on its way: they run once, where it arrives."""
    hooks = [(tensor, tensor._backward_hooks) for tensor in tensors if tensor._backward_hooks]
    for tensor, _ in hooks:
        tensor._backward_hooks = None
    try:
        yield
    finally:
        for tensor, kept in hooks:
            tensor._backward_hooks = kept


@contextmanager
def replaced_forward(network: nn.Module, name: str, forward: Callable) -> Iterator[None]:
    """Lets `forward` run in the place of the forward of the module `name`."""
    module = network.get_submodule(name)
    previous = module.__dict__.get("forward")
    with _runs_once(name) as check:

        def checked(*inputs: Any, **named: Any) -> Tensor:
            check()
            return forward(*inputs, **named)

        module.forward = checked
        try:
            yield
        finally:
            del module.forward
            if previous is not None:
                module.forward = previous


@contextmanager
def with_gradients(modules: dict[nn.Module, str]) -> Iterator[None]:
    """Refuses that a module of these, each with its name, runs without gradients while it has weights to train."""

    def check(module: nn.Module, inputs: tuple) -> None:
        if not torch.is_grad_enabled() and module in modules and any(p.requires_grad for p in module.parameters()):
            raise ImclError(_NO_GRADIENTS.format(name=modules[module]))

    if not (modules and torch.is_grad_enabled()):
        yield
        return
    handle = register_module_forward_pre_hook(check)  # one for all: hooks of each module take longer to set
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _runs_once(name: str) -> Iterator[Callable[[], None]]:
    """Gives a check, for where module `name` runs, that this is not to run once more where we are not.

    `ImclError` at the end: raised inside of a checkpoint, it would leave the checkpoint's hooks in place.
    """
    graph, outside, again = torch.is_grad_enabled(), _checkpoints(), []

    def check() -> None:
        if graph and _checkpoints() > outside:
            again.append(name)

    yield check
    if again:
        raise ImclError(_RUNS_AGAIN.format(name=name))


def _checkpoints() -> int:
    """How many calls of `torch.utils.checkpoint` we are inside of."""
    if torch.compiler.is_compiling():
        return 0
    frame, count = sys._getframe(), 0
    while frame is not None:
        count += frame.f_code.co_filename == torch.utils.checkpoint.__file__
        frame = frame.f_back
    return count


@contextmanager
def behind(network: nn.Module, layer: Layer, act: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
    """Calls `act` on what a layer returns; what `act` returns, if anything, takes its place.

    `ImclError` at the end where its module ran more or less often than in the trace, and so another call may be meant.
    """
    calls = itertools.count()
    with _runs_once(layer.source) as check:

        def hook(module: nn.Module, inputs: tuple, output: Tensor) -> Tensor | None:
            if next(calls) != layer.call:
                return None
            check()
            return act(output)

        handle = network.get_submodule(layer.source).register_forward_hook(hook)
        try:
            yield
        finally:
            handle.remove()
    count = next(calls)
    if count and layer.calls not in (0, count):
        raise ImclError(
            _OTHERWISE.format(source=layer.source, count=count, calls=layer.calls, name=layer.name)
            if layer.calls > 1
            else _SEVERAL.format(name=layer.name, count=count)
        )


@contextmanager
def read_behind(network: nn.Module, layer: Layer, read: Callable[[Tensor], None]) -> Iterator[None]:
    """Calls `read` on a layer's maps (B, C, H, W) or units (B, d), with gradients to all that is below.

    `ImclError` at the end where the layer did not run.
    """
    ran, graph = [], torch.is_grad_enabled()

    def act(output: Tensor) -> None:
        ran.append(True)
        with torch.set_grad_enabled(graph):  # a trunk that is frozen by no_grad: heads learn even so
            read(_as_read(layer, output.clone() if layer.changed else output))

    with behind(network, layer, act):
        yield
    if not ran:
        raise ImclError(_SKIPPED.format(name=layer.name))


@contextmanager
def read_locally(network: nn.Module, layer: Layer, read: Callable[[Tensor], None]) -> Iterator[None]:
    """Calls `read` on a layer's maps, whose gradients then reach the layer's own parameters alone.

    `ImclError` at the end where the layer did not run, or where the network changed its output in place.
    """
    source = network.get_submodule(layer.source)
    modules = [network.get_submodule(name) for name in layer.modules]
    parameters = _trained(layer, modules)
    plain_forward, kept, graph = source.forward, [], torch.is_grad_enabled()

    def keep(for_network: Tensor, for_losses: Tensor) -> Tensor:
        kept.append((for_losses, version_of(for_losses)))
        with torch.set_grad_enabled(graph):
            read(_as_read(layer, for_losses))
        return for_network

    def forward(*inputs: Any, **named: Any) -> Tensor:
        run, tensors = _of_tensors(plain_forward, inputs, named)
        return keep(*_TwoOutputs.apply(run, layer.changed, layer.name, len(tensors), *tensors, *parameters))

    def tap(output: Tensor) -> Tensor:
        return keep(*_Tap.apply(layer.changed, output, *parameters))

    alone = layer.alone and not any(_recomputes(m) or _changes_inputs(m) for m in source.modules())
    if layer.shared and not alone:
        raise ImclError(_SHARED.format(name=layer.name))
    alone = alone and (layer.shared or not any(_is_watched(m) or keeps_a_graph(m) for m in source.modules()))
    with replaced_forward(network, layer.source, forward) if alone else behind(network, layer, tap):
        yield
    if not kept:
        raise ImclError(_SKIPPED.format(name=layer.name))
    if len(kept) > 1:
        raise ImclError(_SEVERAL.format(name=layer.name, count=len(kept)))
    if version_of(kept[0][0]) != kept[0][1]:
        raise ImclError(
            f"The network changes what layer {layer.name!r} returns in place, in training only: pass inplace=False "
            "to the module behind it."
        )


def _of_tensors(call: Callable, inputs: tuple, named: dict[str, Any]) -> tuple[Callable, Sequence[Tensor]]:
    """`call` as a function of the tensors among its arguments, and these."""
    if not named and all(isinstance(x, Tensor) for x in inputs):
        return call, inputs
    given, form = tree_flatten((inputs, named))  # of lists and tuples too

    def of_tensors(*tensors: Tensor) -> Tensor:
        rest = iter(tensors)
        filled = [next(rest) if isinstance(x, Tensor) else x for x in given]
        positional, keywords = tree_unflatten(filled, form)
        return call(*positional, **keywords)

    return of_tensors, [x for x in given if isinstance(x, Tensor)]


def _trained(layer: Layer, modules: list[nn.Module]) -> dict[Tensor, None]:
    """The parameters that a layer's losses reach."""
    every = dict.fromkeys(p for module in modules for p in module.parameters())
    if not every or any(hasattr(p, "device_mesh") for p in every):
        raise ImclError(_EMPTY.format(name=layer.name))
    return {p: None for p in every if p.requires_grad}


def _recomputes(module: nn.Module) -> bool:
    """Whether its weight is computed from others, whose graph belongs to more than its run: pruned, normalised."""
    return bool(module._forward_pre_hooks) or "parametrizations" in module._modules


def _is_watched(module: nn.Module) -> bool:
    """Whether others look at what it returns, and may want the graph of it."""
    return any(getattr(hook, "__module__", None) != __name__ for hook in module._forward_hooks.values())


def _changes_inputs(module: nn.Module) -> bool:
    """Whether it does so in training alone, where no trace sees it."""
    return isinstance(module, nn.modules.dropout._DropoutNd) and module.inplace


def _as_read(layer: Layer, output: Tensor) -> Tensor:
    return output if output.ndim == 2 else layer.as_maps(output)
