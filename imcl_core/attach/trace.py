"""Where the terms attach to any classifier: its layers, kernels and classifier, found by watching one image pass.

The rule for layers, where none are named. A layer is a convolution with the modules that take exactly what it returns
and keep its shape, such as normalisation and activation; an addition and the activation module behind it belong to it
too, and so does a shortcut's convolution that ends in the same addition. Its local losses read what the last of these
modules returns: where the activation is a function call, what stands in front of it; normalisation in front of a
convolution (DenseNet) belongs to no layer. Repeated blocks that hold linear layers (ConvNeXt, ViT) are one layer each.
1×1 convolutions on one position (squeeze-and-excitation), convolutions that run more than once, and those of the
classifier are left out.
With `attach="blocks"` every repeated block is one layer, and so are the convolutions outside of them; where nothing
repeats (VGG), the convolutions of one map size.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from imcl_core.errors import ImclError, nearest
from imcl_core.networks.classifier import DROPOUT

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_CONVOLUTION = nn.modules.conv._ConvNd  # the base class of all of them


@dataclass(frozen=True, kw_only=True)
class Layer:
    """What one layer's local losses read, and what they train.

    modules: names of the modules whose parameters they reach.
    source, call: they read what the module of this name returns when it is called for the (`call` + 1)th time.
    shape: (C, H, W) of one image's features laid out as maps.
    layout: "maps" (B, C, H, W), "channels last" (B, H, W, C) or "tokens" (B, T, C).
    alone: the layer is one module with tensors alone as inputs, so that it can be run apart from the network.
    changed: the network changes these features in place later on, so that the losses need a copy.
    """

    name: str
    modules: tuple[str, ...]
    source: str
    call: int = 0
    shape: tuple[int, int, int]
    layout: str = "maps"
    alone: bool = False
    changed: bool = False

    def as_maps(self, features: Tensor) -> Tensor:
        """`features` as maps (B, C, H, W). Of tokens, the last H·W are taken: those of classes come first."""
        if self.layout == "tokens":
            _, height, width = self.shape
            return features[:, -height * width :].mT.unflatten(2, (height, width))
        return features.permute(0, 3, 1, 2) if self.layout == "channels last" else features


def find_modules(network: nn.Module, patterns: str | Sequence[str]) -> list[tuple[str, bool]]:
    """Names of the network's modules that `patterns` stand for, each with whether it was named in full.

    A pattern is a shell's (`*`, `?`, `[34]`), and is matched part by part: `layer[34].*` stands for `layer3.0`, not for
    `layer3.0.conv1`. Raises `ImclError` for a pattern that stands for nothing.
    """
    known = [name for name, _ in network.named_modules(remove_duplicate=False) if name]
    found: dict[str, bool] = {}
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        matches = [pattern] if pattern in known else [name for name in known if _matches(name, pattern)]
        if not matches:
            raise ImclError(f"The network has no module {pattern!r}.{nearest(pattern, known)}")
        for name in matches:
            found[name] = found.get(name, False) or name == pattern
    return list(found.items())


def _matches(name: str, pattern: str) -> bool:
    names, patterns = name.split("."), pattern.split(".")
    return len(names) == len(patterns) and all(map(fnmatchcase, names, patterns))


def check_logits(
    logits: Any, rows: int, form: str = "(B, m)", users: str = "Collaboration is for classifiers"
) -> Tensor:
    """`logits`, where they are a tensor of `rows` rows and as many dimensions as `form` names; else `ImclError`."""
    if not isinstance(logits, Tensor):
        raise ImclError(
            f"The network returns a {type(logits).__name__}, not logits {form} alone: wrap it in a module that returns "
            "them."
        )
    if logits.ndim != 1 + form.count(",") or len(logits) != rows:
        raise ImclError(f"The network returns shape {tuple(logits.shape)} for {rows} rows, not logits {form}: {users}.")
    return logits


@dataclass(eq=False)
class _Call:
    """One call of a module. `before` and `after` are the autograd nodes of its input and of its output."""

    name: str
    module: nn.Module
    number: int
    pure: bool  # its inputs are tensors, and it leaves them as they are
    before: Any
    output: Tensor | None
    after: Any = field(init=False)
    version: int = field(init=False)

    def __post_init__(self) -> None:
        self.after = None if self.output is None else self.output.grad_fn
        self.version = 0 if self.output is None else self.output._version

    @property
    def key(self) -> tuple[str, int]:
        """What a `Layer` names it by: its module, and how often this was called before."""
        return self.name, self.number

    @property
    def weighted(self) -> bool:
        return isinstance(self.module, _CONVOLUTION | nn.Linear)

    @property
    def positions(self) -> int:
        """At how many places of an image a convolution or a linear layer is applied."""
        shape = self.output.shape
        return math.prod(shape[2:] if isinstance(self.module, _CONVOLUTION) else shape[1:-1])

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
        self.calls: list[_Call] = []
        with _evaluating(network), _watched(network, self.calls):
            self.logits = self._run()
        self.by_name: dict[str, list[_Call]] = {}
        for call in self.calls:
            self.by_name.setdefault(call.name, []).append(call)

    def _run(self) -> Tensor:
        parameter = next(self.network.parameters(), torch.zeros(()))
        image = torch.zeros(1, *self.image_shape, device=parameter.device, dtype=parameter.dtype)
        try:
            with torch.enable_grad():
                logits = self.network(image.requires_grad_().clone())
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
        calls: dict[_Call, None] = {}
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
        return [self._layer(call.name, [call]) for call in sorted(calls, key=self.calls.index)]

    def _calls_of(self, name: str) -> list[_Call]:
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
        if not _has_parameters(calls[0].module):
            return f"Layer {name!r} has no parameters that a local loss could train: leave it out of `layers`."
        if not _is_features(calls[0]):
            output = calls[0].output
            shape = "no single tensor" if output is None else f"shape (B, {', '.join(map(str, output.shape[1:]))})"
            return (
                f"Layer {name!r} returns {shape}, where local losses need maps (B, C, H, W) or tokens "
                "(B, T, C): leave it out of `layers`."
            )
        return None

    def layers(self, attach: str, classifier: str | None = None) -> list[Layer]:
        """The layers ("layers") or blocks ("blocks") by the rule of this module, but for those of the classifier."""
        repeated = self._blocks()
        if attach == "layers":
            repeated = [block for block in repeated if self._has_linear_layer(block)]
        ends = [classifier] if classifier else [c.name for c in self.calls if self._ends(c)]
        apart = [block.name for block in repeated] + ends
        outside = [c for c in self.calls if c.name not in ends and not any(c.name.startswith(f"{a}.") for a in apart)]
        units = self._units(outside)
        if attach == "blocks" and not repeated:
            units = self._by_size(units)
        found = [(block, self._layer(block.name, [block])) for block in repeated] + units
        return [layer for _, layer in sorted(found, key=lambda pair: self.calls.index(pair[0]))]

    def _layer(self, name: str, modules: list[_Call], end: _Call | None = None) -> Layer:
        end = end or modules[-1]
        shape, layout = self._as_maps(end.output)
        return Layer(
            name=name,
            modules=tuple(call.name for call in modules),
            source=end.name,
            call=end.number,
            shape=shape,
            layout=layout,
            alone=modules == [end] and end.pure,
            changed=end.output._version > end.version,
        )

    def _as_maps(self, output: Tensor) -> tuple[tuple[int, int, int], str]:
        """Shape (C, H, W) and layout of an output: maps have the image's proportions."""
        height, width = self.image_shape[-2:] if len(self.image_shape) == 3 else (1, 1)
        if output.ndim == 3:
            _, count, channels = output.shape
            columns = min(count, max(1, math.isqrt(count * width // height)))
            rows = max(1, min(count // columns, math.isqrt(count * height // width)))
            return (channels, rows, columns), "tokens"
        _, a, b, c = output.shape
        if b * width != c * height and a * width == b * height:
            return (c, a, b), "channels last"
        return (a, b, c), "maps"

    def _blocks(self) -> list[_Call]:
        """Modules of a class that repeats and holds two weights or more: the outermost that are no stages of blocks."""
        inner = {call.name for call in self.calls if call.weighted}
        candidates = [
            call
            for call in self.calls
            if call.name and not isinstance(call.module, _CONTAINERS) and self._runs_once(call) and _is_features(call)
            and sum(name.startswith(f"{call.name}.") for name in inner) > 1
        ]  # fmt: skip
        counts = Counter(type(call.module) for call in candidates)
        repeated = {call.module for call in candidates if counts[type(call.module)] > 1}
        stages = {type(module) for module in repeated if _is_stage(module, repeated)}
        blocks = [call for call in candidates if call.module in repeated and type(call.module) not in stages]
        return [b for b in blocks if not any(b.name.startswith(f"{other.name}.") for other in blocks)]

    def _ends(self, call: _Call) -> bool:
        """Whether a module returns the logits as a classifier with dropout, or as the last of all convolutions."""
        return call.output is self.logits and (has_dropout(call.module) or call.weighted)

    def _has_linear_layer(self, block: _Call) -> bool:
        return any(
            isinstance(c.module, nn.Linear) and c.positions > 1 and c.name.startswith(f"{block.name}.")
            for c in self.calls
        )

    def _units(self, calls: list[_Call]) -> list[tuple[_Call, Layer]]:
        """Every convolution among `calls` with what follows it, by the rule of this module."""
        following = _Following(self.calls, calls)
        units: dict[_Call, list[_Call]] = {}
        for call in calls:
            if isinstance(call.module, nn.Conv2d) and not (call.pointwise and call.positions == 1):
                chain = following.chain(call)
                units.setdefault(chain[-1], []).extend(chain)
        found = []
        for end, chain in units.items():
            trained = [call for call in chain if _has_parameters(call.module)]
            if all(self._runs_once(call) for call in trained):
                found.append((end, self._unit(trained, end)))
        return found

    def _unit(self, trained: list[_Call], end: _Call) -> Layer:
        """A unit as one module, where one holds exactly its parameters and returns its features."""
        parameters = {p for call in trained for p in call.module.parameters()}
        for call in self.calls[self.calls.index(end) :]:
            if call.output is end.output and self._runs_once(call) and set(call.module.parameters()) == parameters:
                return self._layer(call.name, [call])
        return self._layer(trained[0].name, trained, end)

    def _by_size(self, units: list[tuple[_Call, Layer]]) -> list[tuple[_Call, Layer]]:
        """Units of one map size as one layer, which ends where the last of them does."""
        groups: dict[tuple[int, ...], list[tuple[_Call, Layer]]] = {}
        for unit in units:
            groups.setdefault(unit[1].shape[1:], []).append(unit)
        merged = []
        for group in groups.values():
            end, last = group[-1]
            modules = tuple(name for _, layer in group for name in layer.modules)
            merged.append((end, replace(last, modules=modules, alone=len(modules) == 1 and last.alone)))
        return merged

    def _runs_once(self, call: _Call) -> bool:
        return len(self.by_name[call.name]) == 1

    def _kernel_problem(self, name: str) -> str | None:
        """Why L_kernel cannot apply to a module, in a sentence."""
        calls = self._calls_of(name)
        module = self.network.get_submodule(name)
        if not isinstance(module, _CONVOLUTION | nn.Linear):
            return f"{name!r} is no convolution or linear layer: kernel has no filters to compare there."
        if not calls:
            return f"Kernel {name!r} never runs for an image of shape {self.image_shape}: leave it out of `kernels`."
        if _is_depthwise(module):
            return (
                f"{name!r} is depth-wise, one filter for each channel: kernel compares filters that see the same input."
            )
        return None

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
            raise ImclError(f"{patterns!r} matches no convolution or linear layer whose filters kernel can compare.")
        return names

    def kernels(self, pointwise: bool = False) -> list[str]:
        """The convolutions of the last two map sizes, in repeated blocks where there are any, that are wider than 1×1.

        Where these are depth-wise or there are none (MobileNet, ConvNeXt, ViT), and with `pointwise`, the 1×1
        convolutions and the linear layers there too.
        """
        blocks = self._blocks()
        weighted = [
            call
            for call in self.calls
            if call.weighted and not _is_depthwise(call.module) and not (call.pointwise and call.positions == 1)
            and (not blocks or any(call.name.startswith(f"{block.name}.") for block in blocks))
        ]  # fmt: skip
        last_two = sorted({call.positions for call in weighted})[:2]
        weighted = [call for call in weighted if call.positions in last_two]
        chosen = [call for call in weighted if pointwise or not call.pointwise] or weighted
        return list(dict.fromkeys(call.name for call in chosen))

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


class _Following:
    """Which module takes exactly what another returned; only those among `allowed` may join a layer."""

    def __init__(self, calls: list[_Call], allowed: list[_Call]):
        self.allowed = set(allowed)
        self.takers: dict[Any, list[_Call]] = {}
        for call in calls:
            works = call.module._parameters or not any(True for _ in call.module.children())
            if works and call.before is not None and call.output is not None and call.after is not call.before:
                self.takers.setdefault(call.before, []).append(call)

    def chain(self, convolution: _Call) -> list[_Call]:
        """A convolution and what follows it up to the end of its layer."""
        chain = [convolution]
        while follower := self._follower(chain[-1]):
            chain.append(follower)
        return chain

    def _follower(self, call: _Call) -> _Call | None:
        takers = self.takers.get(call.after)
        if takers is None:
            sums = [node for node in self.takers if _adds(node, call.after)]
            takers = [t for node in sums for t in self.takers[node] if not t.module._parameters]
        fitting = [t for t in takers if t.output.shape == call.output.shape and not _pools(t.module)]
        if len(fitting) != 1 or fitting[0] not in self.allowed or _holds_weights(fitting[0].module):
            return None
        return fitting[0]


def _adds(node: Any, term: Any) -> bool:
    return node.name().startswith("AddBackward") and any(n is term for n, _ in node.next_functions)


def _has_parameters(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


def _holds_weights(module: nn.Module) -> bool:
    return any(isinstance(m, _CONVOLUTION | nn.Linear) for m in module.modules())


def _pools(module: nn.Module) -> bool:
    return "pool" in type(module).__name__.lower()  # also those of other packages; a 1×1 map keeps its shape


def _is_stage(module: nn.Module, blocks: set[nn.Module]) -> bool:
    """Whether a module keeps several blocks of a class in one row."""
    rows = [m for m in module.modules() if isinstance(m, nn.Sequential | nn.ModuleList)]
    return any(max(Counter(type(m) for m in row if m in blocks).values(), default=0) > 1 for row in rows)


def _is_features(call: _Call) -> bool:
    return call.output is not None and call.output.ndim in (3, 4) and call.output.is_floating_point()


def _is_depthwise(module: nn.Module) -> bool:
    groups = getattr(module, "groups", 1)
    return groups > 1 and groups == module.out_channels


def has_dropout(module: nn.Module) -> bool:
    """Whether a module is an `nn.Sequential` with dropout layers, which `out` can branch."""
    return isinstance(module, nn.Sequential) and any(isinstance(m, DROPOUT) for m in module)


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


@contextmanager
def _watched(network: nn.Module, calls: list[_Call]) -> Iterator[None]:
    """Appends every call of a module to `calls` when it ends."""
    started: list[tuple[Any, list[int]]] = []
    counts: Counter[nn.Module] = Counter()

    def begin(module: nn.Module, args: tuple) -> None:
        tensors = [x for x in args if isinstance(x, Tensor)]
        started.append((tensors[0].grad_fn if tensors else None, [x._version for x in tensors]))

    def end(name: str) -> Callable:
        def record(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
            before, versions = started.pop()
            pure = not kwargs and all(isinstance(x, Tensor) for x in args) and versions == [x._version for x in args]
            result = output if isinstance(output, Tensor) else None
            calls.append(_Call(name, module, counts[module], pure, before, result))
            counts[module] += 1

        return record

    hooks = []
    for name, module in network.named_modules():
        hooks.append(module.register_forward_pre_hook(begin))
        hooks.append(module.register_forward_hook(end(name), with_kwargs=True))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
