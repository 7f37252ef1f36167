"""One image's way through any classifier: every call of a module, and what is named among them."""

import itertools
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from imcl_core.attach.layer import Layer, find_modules
from imcl_core.attach.layout import as_maps, channels_at
from imcl_core.errors import ImclError
from imcl_core.networks.classifier import DROPOUT

CONVOLUTION = nn.modules.conv._ConvNd  # the base class of all of them


def logits_of(output: Any) -> Any:
    """The `logits` of what a model of Hugging Face returns; what others return as it is."""
    return getattr(output, "logits", output)


def without_auxiliary(output: Any) -> Any:
    """`output`; `ImclError` for logits of auxiliary classifiers too, as torchvision's GoogLeNet returns in training."""
    if isinstance(output, tuple) and hasattr(output, "logits") and sum(isinstance(x, Tensor) for x in output) > 1:
        raise ImclError(
            "The network returns logits of auxiliary classifiers too, which no term here would train: build it without "
            "them, such as with aux_logits=False, or wrap it in a module that returns the main ones."
        )
    return output


def check_logits(
    logits: Any, rows: int, form: str = "(B, m)", users: str = "Collaboration is for classifiers"
) -> Tensor:
    """`logits`, where they are a tensor of `rows` rows and as many dimensions as `form` names; else `ImclError`."""
    logits = logits_of(logits)
    if not isinstance(logits, Tensor):
        raise ImclError(
            f"The network returns a {type(logits).__name__}, not logits {form} alone: wrap it in a module that returns "
            "them."
        )
    if logits.ndim != 1 + form.count(",") or len(logits) != rows:
        raise ImclError(f"The network returns shape {tuple(logits.shape)} for {rows} rows, not logits {form}: {users}.")
    if logits.shape[1] < 2:
        raise ImclError(
            "The network returns logits of one class, whose cross-entropy is always 0: let it return two, such as "
            "those of background and foreground."
        )
    return logits


@dataclass(eq=False)
class Call:
    """One call of a module. `inputs` are the autograd nodes of its inputs, `after` that of its output."""

    name: str
    module: nn.Module
    number: int
    pure: bool  # its inputs are tensors, it leaves them as they are, and nothing but what it returns has a graph
    inputs: list[Any]
    output: Tensor | None
    after: Any = field(init=False)
    version: int = field(init=False)

    def __post_init__(self) -> None:
        self.after = None if self.output is None else self.output.grad_fn
        self.version = 0 if self.output is None else self.output._version

    @property
    def before(self) -> Any:
        """The node of its first input."""
        return self.inputs[0] if self.inputs else None

    @property
    def closed(self) -> bool:
        """Whether what it returns comes of its inputs and its parameters alone: nothing that others left with it."""
        own, todo, seen = set(self.module.parameters()), [self.after], set(self.inputs)
        while todo:
            node = todo.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            if hasattr(node, "variable") and node.variable not in own:
                return False
            todo += [behind for behind, _ in node.next_functions]
        return True

    @property
    def key(self) -> tuple[str, int]:
        """What a `Layer` names it by: its module, and how often this was called before."""
        return self.name, self.number

    @property
    def weighted(self) -> bool:
        return isinstance(self.module, CONVOLUTION | nn.Linear)

    @property
    def positions(self) -> int:
        """At how many places of an image a convolution or a linear layer is applied."""
        shape = self.output.shape
        return math.prod(shape[2:] if isinstance(self.module, CONVOLUTION) else shape[1:-1])

    @property
    def pointwise(self) -> bool:
        return isinstance(self.module, nn.Linear) or max(self.module.kernel_size) == 1


class Trace:
    """One image's way through a network in evaluation mode: every call of a module, in the order in which they end.

    Raises `ImclError` where the network fails on an image of `image_shape`, or returns what `check` refuses: anything
    but logits (1, m).
    """

    def __init__(self, network: nn.Module, image_shape: Sequence[int], check: Callable = check_logits):
        self.network, self.image_shape, self.check = network, tuple(image_shape), check
        self.calls: list[Call] = []
        with _evaluating(network), _watched(network, self.calls):
            self.logits = self._run()
        self.owners: dict[Tensor, list[nn.Module]] = {}  # of each parameter
        for module in network.modules():
            for parameter in module._parameters.values():
                self.owners.setdefault(parameter, []).append(module)
        self.users = _users(self.logits.grad_fn)
        self.by_name: dict[str, list[Call]] = {}
        for call in self.calls:
            self.by_name.setdefault(call.name, []).append(call)

    def _run(self) -> Tensor:
        parameter = next(self.network.parameters(), torch.zeros(()))
        image = torch.zeros(1, *self.image_shape, device=parameter.device, dtype=parameter.dtype)
        try:
            with torch.enable_grad():
                image = image.requires_grad_().clone()
                self._start = image.grad_fn
                logits = self.network(image)
        except (RuntimeError, ValueError, AssertionError, TypeError, IndexError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise ImclError(
                f"The network does not take an image of shape {self.image_shape} ({reason}): give the right "
                "`image_shape`."
            ) from error
        return self.check(logits, 1)

    def named_layers(self, patterns: str | Sequence[str]) -> list[Layer]:
        """The modules that `patterns` stand for, in the order in which they run, each a layer of its own.

        A pattern takes what can be attached to of what it matches; a full name that cannot be raises `ImclError`.
        """
        calls: dict[Call, None] = {}
        for name, in_full in find_modules(self.network, patterns):
            problem = self._layer_problem(name)
            if problem and in_full:
                raise ImclError(problem)
            if not problem:
                calls[self._calls_of(name)[0]] = None
        if not calls:
            raise ImclError(f"No module that {patterns!r} matches returns features of a trained layer: name others.")
        names = [call.name for call in calls]
        for name in names:
            outer = next((other for other in names if name.startswith(f"{other}.")), None)
            if outer is not None:
                raise ImclError(f"Layer {outer!r} holds layer {name!r}: name one of the two.")
        return [self.layer_at(call.name, [call]) for call in sorted(calls, key=self.calls.index)]

    def _calls_of(self, name: str) -> list[Call]:
        """By the module, since one module may be known by several names."""
        module = self.network.get_submodule(name)
        return [call for call in self.calls if call.module is module]

    def _layer_problem(self, name: str) -> str | None:
        """Why a module cannot be a layer, in a sentence."""
        calls = self._calls_of(name)
        if not calls:
            return f"Layer {name!r} never runs for an image of shape {self.image_shape}: leave it out of `layers`."
        if len(calls) > 1:
            return (
                f"Layer {name!r} runs {len(calls)} times for one image, so that its losses would be several: "
                "leave it out of `layers`."
            )
        if not has_parameters(calls[0].module):
            return f"Layer {name!r} has no parameters that a local loss could train: leave it out of `layers`."
        if not is_features(calls[0]):
            output = calls[0].output
            shape = "no single tensor" if output is None else f"shape (B, {', '.join(map(str, output.shape[1:]))})"
            return (
                f"Layer {name!r} returns {shape}, where local losses need maps (B, C, H, W) or tokens "
                "(B, T, C): leave it out of `layers`."
            )
        output = calls[0].output
        if not has_image_rows(output):
            return (
                f"Layer {name!r} returns shape {tuple(output.shape)} for one image, so that its rows are no images: "
                "leave it out of `layers`."
            )
        if output.ndim == 3 and channels_at(output) == 1:
            return (
                f"Layer {name!r} returns (B, C, T), channels before positions, where local losses need maps "
                "(B, C, H, W) or tokens (B, T, C): leave it out of `layers`."
            )
        other = self.shared_with(calls[0].module)
        if other is not None and not (calls[0].pure and calls[0].closed):
            return f"Layer {name!r} shares weights with {other!r}: leave it out of `layers`."
        return None

    def layer_at(self, name: str, modules: list[Call], end: Call | None = None) -> Layer:
        end = end or modules[-1]
        shape, layout = as_maps(end.output, self.image_shape[-2:] if len(self.image_shape) == 3 else (1, 1))
        return Layer(
            name=name,
            modules=tuple(call.name for call in modules),
            source=end.name,
            call=end.number,
            calls=sum(call.module is end.module for call in self.calls),
            shape=shape,
            layout=layout,
            tokens=end.output.shape[:2].numel() if end.output.ndim == 3 else 0,
            alone=modules == [end] and end.pure and end.closed,
            changed=end.output._version > end.version,
            shared=any(self.shared_with(call.module) for call in modules),
        )

    def runs_once(self, call: Call) -> bool:
        """Whether a module is called once, and none of its weights is another's too."""
        return len(self.by_name[call.name]) == 1 and not self.shared_with(call.module)

    def shared_with(self, module: nn.Module) -> str | None:
        """The name of a module outside of this one that has a parameter of it."""
        inside = set(module.modules())
        others = {owner for p in module.parameters() for owner in self.owners[p]} - inside
        return next((name for name, other in self.network.named_modules() if other in others), None)

    def on_maps(self, call: Call) -> bool:
        """Whether a convolution works on maps of the image: not on gates, a grid, or what a pool made flat."""
        shape = call.output.shape
        elsewhere = call.before is None and self._start in self.users  # else a graph that ends on the way says nothing
        if len(shape) != 1 + len(self.image_shape) or elsewhere:
            return False
        flat = len(shape) == 4 and 1 in shape[2:] and max(shape[2:]) > 1
        later = (c.output for c in self.calls[self.calls.index(call) + 1 :] if c.output is not None)
        return not (flat and any(o.ndim == 4 and min(o.shape[2:]) > 1 for o in later))

    def _kernel_problem(self, name: str) -> str | None:
        """Why L_kernel cannot apply to a module, in a sentence."""
        calls = self._calls_of(name)
        module = self.network.get_submodule(name)
        if not isinstance(module, CONVOLUTION | nn.Linear):
            return f"{name!r} is no convolution or linear layer: kernel has no filters to compare there, leave it out."
        if not calls:
            return f"Kernel {name!r} never runs for an image of shape {self.image_shape}: leave it out of `kernels`."
        if is_depthwise(module):
            return (
                f"{name!r} is depth-wise, one filter for each channel, and kernel compares filters that see the same "
                "input: leave it out of `kernels`."
            )
        if not has_filters(module):
            return (
                f"{name!r} has no weight of a filter a row: kernel cannot compare packed or sharded weights, leave it "
                "out of `kernels`."
            )
        if (whole := self.adapter_of(module)) is not None:
            return (
                f"{name!r} is a part of {whole!r}, which adds to a frozen weight what it trains, as LoRA does: kernel "
                "would compare the parts, not the sum, so leave it out of `kernels`."
            )
        return None

    def adapter_of(self, module: nn.Module) -> str | None:
        """The name of the adapter, such as LoRA, that a convolution or a linear layer is a part of."""
        return next((c.name for c in self.calls if module in set(c.module.modules()) and self._is_adapter(c)), None)

    def _is_adapter(self, call: Call) -> bool:
        """Whether a module adds what it trains to what a frozen weight of its own makes of the same input."""
        if not any(p.requires_grad and p.ndim > 1 for p in call.module.parameters()):
            return False
        parts = [call.module, *call.module.children()]
        frozen = [m for m in parts if isinstance(m, CONVOLUTION | nn.Linear) and not m.weight.requires_grad]
        return any(
            part is call or (part.before in call.inputs and part.after in _summands(call.after))
            for module in frozen
            for part in (c for c in self.calls if c.module is module)
        )

    def named_kernels(self, patterns: str | Sequence[str]) -> list[str]:
        """Convolutions and linear layers that `patterns` stand for; a full name that cannot be raises `ImclError`."""
        names = []
        for name, in_full in find_modules(self.network, patterns):
            problem = self._kernel_problem(name)
            if problem and in_full:
                raise ImclError(problem)
            if not problem:
                names.append(name)
        if not names:
            raise ImclError(f"{patterns!r} matches no layer whose filters kernel can compare: name convolutions.")
        return self.each_once(names)

    def each_once(self, names: Sequence[str]) -> list[str]:
        """Names of modules without those that have a weight of one before them: known by two names, or tied."""
        first: dict[Any, str] = {}
        for name in names:
            module = self.network.get_submodule(name)
            first.setdefault(module._parameters.get("weight", module), name)
        return list(first.values())

    def classifier(self) -> str:
        """The `nn.Sequential` with dropout that returns the logits."""
        ends = [call for call in self.calls if call.output is self.logits]
        for call in ends:
            if has_dropout(call.module):
                return call.name
        last = next((call for call in ends if isinstance(call.module, nn.Linear)), None)
        remedy = "give it one made by imcl_core.networks.classifier.make_classifier"
        if last is not None:
            place = re.sub(r"\.(\d+)", r"[\1]", f"network.{last.name}")
            made = f"make_classifier({last.module.in_features}, 512, {last.module.out_features})"
            remedy = f"try `{place} = imcl_core.networks.classifier.{made}`"
        raise ImclError(f"The network does not end in an nn.Sequential with dropout, which out needs: {remedy}.")


_OF_EVERY_MODULE = frozenset(vars(nn.Module()))  # names of attributes, which hold nothing that was computed
_HOLDERS = (list, tuple, dict)


def keeps_a_graph(module: nn.Module) -> bool:
    """Whether it holds a tensor that it computed, such as a loss of its own, for others to differentiate.

    As an attribute, or in one that is a list, a tuple or a dictionary.
    """
    own = [value for name, value in vars(module).items() if name not in _OF_EVERY_MODULE]  # it is asked in every step
    several = [each.values() if isinstance(each, dict) else each for each in own if isinstance(each, _HOLDERS)]
    return any(isinstance(kept, Tensor) and kept.grad_fn is not None for kept in itertools.chain(own, *several))


def version_of(tensor: Tensor) -> int:
    """How often it was changed in place; 0 where that is not counted, in inference mode."""
    return 0 if tensor.is_inference() else tensor._version


def has_parameters(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


def _users(end: Any) -> Counter:
    """How many autograd nodes before `end` take what each one makes."""
    users, todo, seen = Counter(), [end], set()
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            behind = {below for below, _ in node.next_functions}
            users.update(behind)
            todo += behind
    return users


def is_features(call: Call) -> bool:
    return call.output is not None and call.output.ndim in (3, 4) and call.output.is_floating_point()


def has_image_rows(output: Tensor) -> bool:
    """Whether features of one image have it first, (1, …), or as the second dimension of three, (T, 1, C)."""
    return 1 in output.shape[: 5 - output.ndim]


def has_filters(module: nn.Module) -> bool:
    """Whether the weight of a convolution or linear layer has the layout of its class, and can be compared."""
    if isinstance(module, nn.Linear):
        shape = (module.out_features, module.in_features)
    else:
        ends = (module.out_channels, module.in_channels // module.groups)
        if module.transposed:
            ends = (module.in_channels, module.out_channels // module.groups)
        shape = (*ends, *module.kernel_size)
    return module.weight.is_floating_point() and module.weight.shape == shape


def _summands(node: Any) -> set[Any]:
    """What a sum of sums adds: autograd nodes."""
    if node is None or not node.name().startswith("AddBackward"):
        return set()
    terms = {term for term, _ in node.next_functions if term is not None}
    return terms.union(*map(_summands, terms))


def is_depthwise(module: nn.Module) -> bool:
    groups = getattr(module, "groups", 1)
    return groups > 1 and groups == module.out_channels


def has_dropout(module: nn.Module) -> bool:
    """Whether a module is an `nn.Sequential` with dropout layers, which `out` can branch."""
    return isinstance(module, nn.Sequential) and any(isinstance(m, DROPOUT) for m in module)


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """Flags alone, since `eval` of some modules changes weights; what the run leaves in buffers is taken back."""
    modes = {module: module.training for module in network.modules()}
    buffers = [(b, b.clone(), version_of(b)) for b in network.buffers() if not is_lazy(b)]
    for module in modes:
        module.training = False
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        for module, training in modes.items():
            module.training = training
        with torch.no_grad():
            for buffer, value, version in buffers:
                if version_of(buffer) != version:
                    buffer.copy_(value)


@contextmanager
def _watched(network: nn.Module, calls: list[Call]) -> Iterator[None]:
    """Appends every call of a module to `calls` when it ends."""
    started: list[tuple[list[Any], list[int]]] = []
    counts: Counter[nn.Module] = Counter()

    def begin(module: nn.Module, args: tuple, kwargs: dict) -> None:
        tensors = [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)]
        started.append(([x.grad_fn for x in tensors], [x._version for x in tensors]))

    def end(name: str) -> Callable:
        def record(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
            inputs, versions = started.pop()
            pure = not kwargs and all(isinstance(x, Tensor) for x in args) and versions == [x._version for x in args]
            pure = pure and not any(keeps_a_graph(m) for m in module.modules())
            result = output if isinstance(output, Tensor) else None
            calls.append(Call(name, module, counts[module], pure, inputs, result))
            counts[module] += 1

        return record

    hooks = []
    for name, module in network.named_modules():
        hooks.append(module.register_forward_pre_hook(begin, with_kwargs=True))
        hooks.append(module.register_forward_hook(end(name), with_kwargs=True))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
