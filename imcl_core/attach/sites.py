"""What terms ask of a network: its layers, the last of each map size, hidden units, kernels, and its classifier.

Names that the user gave are looked up first, since that needs no run of the network; one image's way is then traced.
"""

import functools
import itertools
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import nn

from imcl_core.attach.layer import Layer, find_modules
from imcl_core.attach.rule import Rule
from imcl_core.attach.trace import Call, Trace, has_dropout
from imcl_core.errors import ImclError
from imcl_core.networks import Network

Names = str | Sequence[str] | None
_NAME = {
    "layers": "Name the modules to attach to: Collaboration(..., layers=['layer1', ...]).",
    "kernels": "Name the convolutions that kernel regularises: Collaboration(..., kernels=['layer4.0.conv1']).",
}
_ONE_SIZE = (
    "{name} puts classifiers on all map sizes but the last, and the layers of this network have one: leave it out, or "
    "try mid."
)


class Sites:
    """Where terms can attach to `network`. `named`: what the user named; `attach`: 'layers' or 'blocks'."""

    def __init__(
        self,
        network: nn.Module,
        image_shape: tuple[int, ...],
        check: Callable,
        *,
        layers: Names,
        kernels: Names,
        classifier: str | None,
        attach: str,
        teacher: nn.Module | None,
    ):
        self.network, self.image_shape, self.check, self.rule, self.teacher = (
            network,
            image_shape,
            check,
            attach,
            teacher,
        )
        if layers is None and isinstance(network, Network):
            layers = list(network.layers if attach == "layers" else network.blocks)
        self.named = {"layers": layers, "kernels": kernels}
        self.named_classifier = classifier

    def check_names(self, kinds: set[str]) -> None:
        """Refuses names that the network has not, of the kinds that terms need."""
        for kind in sorted(kinds - {"classifier"}, reverse=True):
            self._looked_up(kind)
        if "classifier" in kinds and self.named_classifier is not None:
            self.classifier()

    @functools.cached_property
    def trace(self) -> Trace:
        return Trace(self.network, self.image_shape, self.check)

    @functools.cached_property
    def _layers(self) -> list[Layer]:
        patterns = self._looked_up("layers")
        if patterns is None:
            return self._some("layers", Rule(self.trace).layers(self.rule, self.named_classifier))
        return self.trace.named_layers(patterns)

    def layers(self) -> list[Layer]:
        """Every layer, in order of depth."""
        return self._layers

    def in_order(self, places: Iterable[Layer]) -> list[Layer]:
        """Each place once, in order of depth."""
        order = {call.key: i for i, call in enumerate(self.trace.calls)}
        return sorted(dict.fromkeys(places), key=lambda place: order[place.source, place.call])

    def ends(self, name: str, *, maps: bool = False, but_the_last: bool = False) -> list[Layer]:
        """The last layer of each map size; `ImclError` where the term `name` needs `maps`, or several sizes."""
        found = list({layer.shape[1:]: layer for layer in self._layers}.values())
        if but_the_last and not (found := found[:-1]):
            raise ImclError(_ONE_SIZE.format(name=name))
        for layer in found if maps else ():
            if layer.layout != "maps":
                raise ImclError(
                    f"{name} drops parts of maps (B, C, H, W), and layer {layer.name!r} returns {layer.layout}: "
                    "leave it out."
                )
        return found

    def kernels(self, pointwise: bool) -> list[str]:
        """The convolutions of the last two groups, wider than 1×1 unless `pointwise`."""
        patterns = self._looked_up("kernels")
        if patterns is None and isinstance(self.network, Network):
            patterns = _last_kernels(self.network, pointwise)
        if patterns is None:
            return self._some("kernels", Rule(self.trace).kernels(pointwise))
        return self.trace.named_kernels(patterns)

    def classifier(self) -> str:
        """The `nn.Sequential` with dropout that returns the logits."""
        name = self.named_classifier
        if name is None:
            return self.trace.classifier()
        if not isinstance(name, str) or (name, True) not in find_modules(self.network, name):
            raise ImclError(f"classifier is one module by its full name, such as 'classifier', not {name!r}.")
        if not has_dropout(self.network.get_submodule(name)):
            raise ImclError(
                f"Classifier {name!r} is no nn.Sequential with dropout layers, which out branches: name another, or "
                "give the network one made by imcl_core.networks.classifier.make_classifier."
            )
        return name

    def hidden(self) -> list[Layer]:
        """The hidden linear layers, with their activations, of the innermost `nn.Sequential` with the logits."""
        trace = self.trace
        for sequential in (c for c in trace.calls if c.output is trace.logits and isinstance(c.module, nn.Sequential)):
            parts = [c for c in trace.calls if c.name.rpartition(".")[0] == sequential.name and c is not sequential]
            last = max((i for i, c in enumerate(parts) if isinstance(c.module, nn.Linear)), default=0)
            hidden = []
            for i, linear in enumerate(parts[:last]):
                if isinstance(linear.module, nn.Linear):
                    *_, end = linear, *itertools.takewhile(functools.partial(_activates, linear), parts[i + 1 : last])
                    shape = (linear.module.out_features, 1, 1)
                    hidden.append(
                        Layer(name=linear.name, modules=(linear.name,), source=end.name, call=end.number, shape=shape)
                    )
            if hidden:
                return hidden
        raise ImclError(
            "decov compares the hidden units of a classifier, and the network ends in no nn.Sequential with a hidden "
            "layer: give it one made by imcl_core.networks.classifier.make_classifier."
        )

    def _looked_up(self, kind: str) -> Names:
        """What was named of a kind; refuses unknown names, and none where there is no convolution to find."""
        patterns = self.named[kind]
        if patterns is not None:
            find_modules(self.network, patterns)
        elif not any(isinstance(module, nn.Conv2d) for module in self.network.modules()):
            raise ImclError(_NAME[kind])
        return patterns

    def _some(self, kind: str, found: list) -> list:
        if not found:
            raise ImclError(_NAME[kind])
        return found


def _activates(linear: Call, call: Call) -> bool:
    """Whether a call leaves as many units as `linear` has: normalisation, activation; no gate, pooling, dropout."""
    dropout = nn.Dropout | nn.Dropout1d | nn.AlphaDropout | nn.FeatureAlphaDropout
    normalisation = nn.BatchNorm1d | nn.LayerNorm | nn.RMSNorm | nn.PReLU
    plain = not isinstance(call.module, dropout) and not list(call.module.parameters())
    same = call.output is not None and linear.output is not None and call.output.shape == linear.output.shape
    return same and (plain or isinstance(call.module, normalisation))


def _last_kernels(network: Network, pointwise: bool) -> list[str]:
    """The 3×3 convolutions of the last two groups; with `pointwise` the 1×1 ones too."""
    units = tuple(f"{name}." for group in network.groups[-2:] for name in group)
    convolutions = {n: m for n, m in network.named_modules() if isinstance(m, nn.Conv2d) and n.startswith(units)}
    return [name for name, module in convolutions.items() if pointwise or module.kernel_size == (3, 3)]


def check_python(network: nn.Module) -> None:
    """Refuses compiled parts, in which no module can be watched."""
    for name, module in network.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise ImclError(
                f"{f'Module {name!r}' if name else 'The network'} is a ScriptModule, in which terms find no layers: "
                "attach to the Python module it was made of, and compile `collaboration.network` when it is trained."
            )


def check_plain(network: nn.Module | None) -> None:
    """Refuses wrappers: local losses run inside the network, where these do not look."""
    kind = type(network).__name__
    wrapper = "torch.compile" if hasattr(network, "_orig_mod") else "DistributedDataParallel"
    if isinstance(network, nn.DataParallel | nn.parallel.DistributedDataParallel) or hasattr(network, "_orig_mod"):
        raise ImclError(
            f"The network is wrapped in {kind}: attach to the plain network, and "
            f"wrap the Collaboration instead, in {wrapper}."
        )
