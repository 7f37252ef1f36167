"""Which layers and kernels the terms attach to where none are named.

A layer is a convolution with the modules that take exactly what it returns and keep its shape, such as normalisation
and activation; an addition and the activation module behind it belong to it too, and so does a shortcut's convolution
that ends in the same addition. Its local losses read what the last of these modules returns: where the activation is a
function call, what stands in front of it; normalisation in front of a convolution (DenseNet) belongs to no layer.
Repeated blocks that hold linear layers (ConvNeXt, ViT) are one layer each.
Left out are 1×1 convolutions on one position (squeeze-and-excitation) and others that make gates, on what a pool made
flat; convolutions that run more than once or share a weight with another module; and those of the classifier.
With `attach="blocks"` every repeated block is one layer, and so are the convolutions outside of them; where nothing
repeats (VGG), the convolutions in a row of one map size.
"""

import itertools
from collections import Counter
from dataclasses import replace
from typing import Any

from torch import nn

from imcl_core.attach.layer import Layer
from imcl_core.attach.trace import (
    CONVOLUTION,
    Call,
    Trace,
    has_dropout,
    has_filters,
    has_image_rows,
    has_parameters,
    is_depthwise,
    is_features,
)

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


class Rule:
    """The layers and the kernels of a traced network, by the rule of this module."""

    def __init__(self, trace: Trace):
        self.trace, self.calls = trace, trace.calls

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
        found = [(block, self.trace.layer_at(block.name, [block])) for block in repeated] + units
        return [layer for _, layer in sorted(found, key=lambda pair: self.calls.index(pair[0]))]

    def kernels(self, pointwise: bool = False) -> list[str]:
        """The convolutions of the last two map sizes, in repeated blocks where there are any, that are wider than 1×1.

        Where these are depth-wise or there are none (MobileNet, ConvNeXt, ViT), and with `pointwise`, the 1×1
        convolutions and the linear layers there too.
        """
        blocks = self._blocks()
        weighted = [
            call
            for call in self.calls
            if self._compared(call) and not (call.pointwise and call.positions == 1)
            and (not blocks or any(call.name.startswith(f"{block.name}.") for block in blocks))
        ]  # fmt: skip
        last_two = sorted({call.positions for call in weighted})[:2]
        weighted = [call for call in weighted if call.positions in last_two]
        chosen = [call for call in weighted if pointwise or not call.pointwise] or weighted
        return self.trace.each_once(dict.fromkeys(call.name for call in chosen))

    def _compared(self, call: Call) -> bool:
        """Whether a module has filters that `kernel` can compare, of maps or of tokens."""
        if not call.weighted or is_depthwise(call.module) or not has_filters(call.module):
            return False
        on_maps = isinstance(call.module, nn.Linear) or self.trace.on_maps(call)
        return on_maps and self.trace.adapter_of(call.module) is None

    def _blocks(self) -> list[Call]:
        """Modules of a class that repeats and holds two weights or more: the outermost that are no stages of blocks."""
        inner = {call.name for call in self.calls if call.weighted}
        candidates = [
            call
            for call in self.calls
            if call.name and not isinstance(call.module, _CONTAINERS)
            and self.trace.runs_once(call) and is_features(call) and has_image_rows(call.output)
            and sum(name.startswith(f"{call.name}.") for name in inner) > 1
        ]  # fmt: skip
        counts = Counter(type(call.module) for call in candidates)
        repeated = {call.module for call in candidates if counts[type(call.module)] > 1}
        stages = {type(module) for module in repeated if _is_stage(module, repeated)}
        blocks = [call for call in candidates if call.module in repeated and type(call.module) not in stages]
        return [b for b in blocks if not any(b.name.startswith(f"{other.name}.") for other in blocks)]

    def _ends(self, call: Call) -> bool:
        """Whether a module returns the logits as a classifier with dropout, or as the last of all convolutions."""
        return call.output is self.trace.logits and (has_dropout(call.module) or call.weighted)

    def _has_linear_layer(self, block: Call) -> bool:
        return any(
            isinstance(c.module, nn.Linear) and c.positions > 1 and c.name.startswith(f"{block.name}.")
            for c in self.calls
        )

    def _units(self, calls: list[Call]) -> list[tuple[Call, Layer]]:
        """Every convolution among `calls` with what follows it, by the rule of this module."""
        following = _Following(self.trace, calls)
        units: dict[Call, list[Call]] = {}
        for call in calls:
            on_maps = isinstance(call.module, nn.Conv2d) and self.trace.on_maps(call)
            if on_maps and not (call.pointwise and call.positions == 1):
                chain = following.chain(call)
                units.setdefault(chain[-1], []).extend(chain)
        found = []
        for end, chain in units.items():
            trained = [call for call in chain if has_parameters(call.module)]
            if all(self.trace.runs_once(call) for call in trained):
                found.append((end, self._unit(trained, end)))
        return found

    def _unit(self, trained: list[Call], end: Call) -> Layer:
        """A unit as one module, where one holds exactly its parameters and returns its features."""
        parameters = {p for call in trained for p in call.module.parameters()}
        for call in self.calls[self.calls.index(end) :]:
            if call.output is end.output and self.trace.runs_once(call) and set(call.module.parameters()) == parameters:
                return self.trace.layer_at(call.name, [call])
        return self.trace.layer_at(trained[0].name, trained, end)

    def _by_size(self, units: list[tuple[Call, Layer]]) -> list[tuple[Call, Layer]]:
        """Units that follow one another on one map size as one layer, which ends where the last of them does."""
        merged = []
        for _, units_of_size in itertools.groupby(units, key=lambda unit: unit[1].shape[1:]):
            *_, (end, last) = group = list(units_of_size)
            modules = tuple(name for _, layer in group for name in layer.modules)
            merged.append((end, replace(last, modules=modules, alone=len(modules) == 1 and last.alone)))
        return merged


class _Following:
    """Which module takes exactly what another returned; only those among `allowed` may join a layer."""

    def __init__(self, trace: Trace, allowed: list[Call]):
        self.allowed, self.users = set(allowed), trace.users
        self.takers: dict[Any, list[Call]] = {}
        for call in trace.calls:
            works = call.module._parameters or not any(True for _ in call.module.children())
            if works and call.before is not None and call.output is not None and call.after is not call.before:
                self.takers.setdefault(call.before, []).append(call)

    def chain(self, convolution: Call) -> list[Call]:
        """A convolution and what follows it up to the end of its layer."""
        chain = [convolution]
        while follower := self._follower(chain[-1]):
            chain.append(follower)
        return chain

    def _follower(self, call: Call) -> Call | None:
        takers = self.takers.get(call.after)
        if takers is None:
            if self.users[call.after] > 1:  # a function takes it too, so that it is no part of one sum alone
                return None
            sums = [node for node in self.takers if _adds(node, call.after)]
            takers = [t for node in sums for t in self.takers[node] if not t.module._parameters]
        fitting = [t for t in takers if t.output.shape == call.output.shape and not _pools(t.module)]
        if len(fitting) != 1 or fitting[0] not in self.allowed or _holds_weights(fitting[0].module):
            return None
        return fitting[0]


def _adds(node: Any, term: Any) -> bool:
    return node.name().startswith("AddBackward") and any(n is term for n, _ in node.next_functions)


def _holds_weights(module: nn.Module) -> bool:
    return any(isinstance(m, CONVOLUTION | nn.Linear) for m in module.modules())


def _pools(module: nn.Module) -> bool:
    return "pool" in type(module).__name__.lower()  # also those of other packages; a 1×1 map keeps its shape


def _is_stage(module: nn.Module, blocks: set[nn.Module]) -> bool:
    """Whether a module keeps several blocks of a class in one row."""
    rows = [m for m in module.modules() if isinstance(m, nn.Sequential | nn.ModuleList)]
    return any(max(Counter(type(m) for m in row if m in blocks).values(), default=0) > 1 for row in rows)
