"""Attaches any subset of the four collaborations, and of their neighbours, to a network; local gradients stay local."""

import copy
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imcl_core import losses, neighbours
from imcl_core.attach import Layer, Trace, check_logits, find_modules, has_dropout
from imcl_core.cost import count
from imcl_core.errors import ImclError, check_choice, nearest
from imcl_core.heads import PROJECTIONS, LocalClassifier, hierarchical_dropout, make_projection
from imcl_core.neighbours import NEIGHBOURS, NeighbourSettings, PredSimHead
from imcl_core.networks import Network
from imcl_core.settings import setting

METHODS = ("out", "mid", "pull-push", "kernel")
LOCAL = ("mid", "pull-push", "predsim", "hsic")  # on every layer, with gradients that stay there
AT_ENDS = ("spatial-dropout", "dropblock", "deep-supervision")  # behind the last layers of groups
_NAME = {
    "layers": "Name the modules to attach to: Collaboration(..., layers=['layer1', ...]).",
    "kernels": "Name the convolutions that kernel regularises: Collaboration(..., kernels=['layer4.0.conv1']).",
}
_NO_PLACE = {
    "decov": (
        "decov compares the hidden units of a classifier, and the network ends in no nn.Sequential with a hidden "
        "layer: give it one made by imcl_core.heads.make_classifier."
    ),
    "deep-supervision": (
        "deep-supervision puts classifiers on all map sizes but the last, and the layers of this network have one: "
        "leave it out, or try mid."
    ),
}
_ONCE = "The loss of a Collaboration can be differentiated once: call it again for a new loss."


@dataclass(frozen=True, kw_only=True)
class MethodSettings(NeighbourSettings):
    """The settings of the four terms; where the paper is silent they are the decisions of the book's page."""

    out_branches: int = setting(2, "masks drawn at each dropout layer, K")
    out_alpha: float = setting(0.5, "weight of the labels against the peers, Eq. 4")
    out_temperature: float = setting(2.0, "T of Eq. 4")
    out_detach: bool = setting(True, "take the peers' mean as a constant")
    out_t_squared: bool = setting(False, "multiply the soft part by T²")
    mid_alpha: float = setting(0.05, "weight of the labels, Eq. 7")
    mid_beta: float = setting(0.05, "weight of the deeper layers' mean, Eq. 7")
    mid_temperature: float = setting(2.0, "T of Eq. 5 and Eq. 6")
    mid_pool: int = setting(4, "local classifiers see maps of at most this side")
    mid_width: int = setting(128, "local classifiers have at most this many filters")
    mid_own: bool = setting(False, "a layer's own logits are among its teachers: the sum of Eq. 6 as printed")
    pp_pull: tuple[float, float] = setting((0.1, 1.0), "weight of the pull at the first and at the last layer, Eq. 9")
    pp_push: tuple[float, float] = setting((0.1, 0.0), "weight of the push at the first and at the last layer, Eq. 9")
    pp_normalise: bool = setting(True, "divide the Frobenius norms of Eq. 9 by the batch size")
    pp_centre: str = setting("sample", "centre similarity rows per 'sample' or over the 'batch', Eq. 8")
    pp_projection: str = setting("3x3", "g_i of Eq. 9: a '3x3' or '1x1' convolution without bias, or 'none'")
    kernel_weight: float = setting(0.01, "weight of L_kernel, Eq. 10")
    kernel_pointwise: bool = setting(False, "compare the filters of 1×1 convolutions too, such as shortcuts")
    kernel_biased: bool = setting(True, "a filter's standard deviation divides by G, not by G - 1, Eq. 10")
    attach: str = setting("layers", "where local classifiers and projections sit: 'layers' or 'blocks'")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("place to attach to (setting attach)", self.attach, ("layers", "blocks"))
        check_choice("centring (setting pp_centre)", self.pp_centre, ("sample", "batch"))
        check_choice("projection (setting pp_projection)", self.pp_projection, PROJECTIONS)


def parse_methods(methods: str) -> tuple[str, ...]:
    """`"kernel+mid"` to `("mid", "kernel")`, the paper's first, in its order; `"baseline"` to `()`."""
    known = (*METHODS, *NEIGHBOURS)
    terms = [term.strip() for term in methods.split("+")]
    if terms == ["baseline"]:
        return ()
    for term in terms:
        if term not in known:
            raise ImclError(
                f"Unknown method {term!r} in {methods!r}.{nearest(term, (*known, 'baseline'))} "
                f"Use 'baseline' or any of {', '.join(known)} joined by '+'."
            )
    if len(set(terms)) < len(terms):
        raise ImclError(f"{methods!r} names a method twice: name each once.")
    return tuple(m for m in known if m in terms)


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
            to_parameters = torch.autograd.grad(output, ctx.parameters, sum(received), allow_unused=True)
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
def _replaced_forward(module: nn.Module, forward: Callable) -> Iterator[None]:
    previous = module.__dict__.get("forward")
    module.forward = forward
    try:
        yield
    finally:
        del module.forward
        if previous is not None:
            module.forward = previous


class Collaboration(nn.Module):
    """A classifier with any subset of the paper's four losses, and of their neighbours, attached for training.

    ``loss = collaboration(images, labels); loss.backward()`` is the whole objective and all its gradients: those of
    `mid` and `pull-push` reach only the layer they belong to and its head, those of `kernel` only its convolution.
    `network` stays the plain model: use it, or `collaboration(images)`, for inference, and save its `state_dict`.
    The neighbours are those of `imcl_core.neighbours`: `predsim` and `hsic` are local too; `spatial-dropout`,
    `dropblock` and `cutout` change features or images, in training mode only. Set `progress` as training goes on, from
    0 to 1: DropBlock's portion and the weight of deep supervision follow it.

    After each call: `terms`, the value of every term by name (``"hard"`` or ``"out"``, ``"mid/<layer>"``,
    ``"pull-push/<layer>"``, ``"kernel/<layer>"``), and `logits`, (B, m), the network's own prediction; both detached.

    It is a module like any other: `to`, `train`, `state_dict` (the heads' too, for resuming), an optimiser over its
    `parameters()`, autocast around the call, `DistributedDataParallel(collaboration)`. Frozen parameters stay frozen.
    So is `torch.compile(collaboration)`: losses are compiled; the network is too for `kernel` and the baseline, and
    runs uncompiled with the other methods, which look inside it. `torch.compile(network)` for inference.

    Terms can follow a schedule: ``collaboration.weigh("mid", 0.5)`` halves those of `mid` from the next call on, and 0
    switches them off.

    Args:
        network: one of `imcl_core.networks`, or any classifier from images to logits (B, m).
        methods: ``"baseline"``, or terms joined by ``+``, such as ``"mid+pull-push+kernel"`` or ``"out+cutout"``.
        settings: weights, temperatures and shapes of the terms.
        layers: names or patterns (``"layer[34].*"``, see `imcl_core.attach.find_modules`) of the modules that `mid`,
            `pull-push`, `predsim` and `hsic` attach to, the other neighbours to the last of each map size; each returns
            maps (B, C, H, W) or tokens (B, T, C), and its local gradients reach just its own parameters. Default:
            the network's layers or blocks, by `settings.attach` and the rule of `imcl_core.attach`.
        kernels: names or patterns of the convolutions or linear layers of `kernel`. Default: the convolutions wider
            than 1×1 of the last two groups of layers, or, where there are none, the 1×1 ones and the linear layers.
        classifier: name of the `nn.Sequential` with dropout that `out` branches. Default: the one that returns the
            logits; a network without one can be given one made by `imcl_core.heads.make_classifier`.
        teacher: for `kd`, a trained network; a frozen copy of it is kept here, in evaluation mode.
        image_shape: (channels, height, width) of the images.
        seed: of the heads' own random stream: attaching them leaves every other draw as it was.

    Raises:
        ImclError: an unknown method or module name, or a network that a term cannot attach to.
    """

    _check_logits = staticmethod(check_logits)

    def __init__(
        self,
        network: nn.Module,
        methods: str = "baseline",
        *,
        settings: MethodSettings | None = None,
        layers: str | Sequence[str] | None = None,
        kernels: str | Sequence[str] | None = None,
        classifier: str | None = None,
        teacher: nn.Module | None = None,
        image_shape: tuple[int, int, int] = (3, 32, 32),
        seed: int = 0,
    ):
        super().__init__()
        _check_plain(network)
        self.network, self.methods, self.settings = network, parse_methods(methods), settings or MethodSettings()
        self.image_shape = tuple(image_shape)
        self._layers: list[Layer] = []
        self._places: dict[str, list[Layer]] = {}
        self.kernels: list[str] = []
        self.classifier = classifier or "classifier"
        self.heads = nn.ModuleDict()
        self.terms: dict[str, Tensor] = {}
        self.logits: Tensor | None = None
        self.progress = 0.0
        self._factors = dict.fromkeys(self.methods, 1.0)
        self.teacher = _frozen(teacher) if "kd" in self.methods else None
        if self.methods:
            self._attach(layers, kernels, classifier)
            self._make_heads(seed)

    @property
    def layers(self) -> list[str]:
        """Names of the layers with local losses, in order of depth."""
        return [layer.name for layer in self._layers]

    @property
    def active(self) -> tuple[str, ...]:
        """The methods that are not switched off by `weigh`."""
        return tuple(method for method, factor in self._factors.items() if factor)

    def weigh(self, methods: str, factor: float) -> None:
        """Multiplies the terms of some of this collaboration's methods by `factor` from the next call on.

        `methods` as when it was made, such as ``"mid+pull-push"``. At 0 a method is off: nothing of it is computed, and
        its heads get no gradient; 1 is how it starts. Calls do not add up. Of `out`, `factor` is the share in the
        objective, the rest is the labels' loss of the same predictions; of `kd` and the dropouts it multiplies the
        teacher's share and the rate; `cutout` is on or off. What is set here is no part of `state_dict`.

        Raises:
            ImclError: a method that is not among `methods`, or a factor that it cannot have.
        """
        for method in parse_methods(methods):
            if method not in self._factors:
                raise ImclError(
                    f"{method} is none of the methods of this Collaboration ({'+'.join(self.methods) or 'baseline'}): "
                    "name it where the Collaboration is made."
                )
            _check_factor(method, factor, self.settings)
            self._factors[method] = float(factor)

    def train(self, mode: bool = True) -> "Collaboration":
        """As of any module; a teacher stays in evaluation mode."""
        super().train(mode)
        if self.teacher is not None:
            self.teacher.eval()
        return self

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """The objective, a scalar, of `images` (B, C, H, W) and `labels` (B,); without labels, logits (B, m)."""
        if labels is None:
            return self.network(images)
        terms = self.objective(images, labels)
        self.terms = {name: value.detach() for name, value in terms.items()}
        return torch.stack(list(terms.values())).sum()

    def objective(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Every weighted term of the objective by name, with its gradient: `forward` is their sum."""
        self._check_batch(images, labels)
        on = self.active
        if self.training and "cutout" in on:
            images = neighbours.cutout(images, self.settings.cutout_size)
        plain = set(on) <= {"kernel", "cutout", "kd"}
        local, predictions = self._run(images) if plain else self._run_eagerly(images)
        targets, rows = self._targets(labels), functools.partial(self._rows, labels=labels)
        _check_range(targets, predictions.shape[2])
        with torch.autocast(images.device.type, enabled=False):
            terms = self._output_term(rows(predictions), targets)
            if "mid" in on:
                logits = {name: rows(local[f"mid/{name}"]) for name in self.layers}
                terms |= self._mid_terms(logits, rows(self.logits), targets)
            if "pull-push" in on:
                terms |= self._pull_push_terms(local, *self._similarities(images, labels))
            if "kernel" in on:
                weight = self.settings.kernel_weight
                terms |= {f"kernel/{name}": weight * self._kernel_loss(name) for name in self.kernels}
            if "kd" in on:
                alpha, taught = self._factors["kd"] * self.settings.kd_alpha, local["kd"]
                terms |= {name: (1 - alpha) * terms[name] for name in ("hard", "out") if name in terms}
                terms["kd"] = alpha * neighbours.distillation_loss(taught, predictions, self.settings.kd_temperature)
            if any(method in NEIGHBOURS for method in on):
                terms |= self._neighbour_terms(local, images, labels)
        return {name: self._weighed(name, value) for name, value in terms.items()}

    def _weighed(self, name: str, value: Tensor) -> Tensor:
        """A term by the factor of its method, unless that is in it already."""
        method = name.partition("/")[0]
        factor = 1.0 if method in ("out", "kd") else self._factors.get(method, 1.0)
        return value if factor == 1 else factor * value

    def _targets(self, labels: Tensor) -> Tensor:
        """What each prediction is to be, (B,); see `_rows`."""
        return labels

    def _rows(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Logits (…, B, m), a row for each of `_targets`."""
        return logits

    def _run(self, images: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """What each layer's heads make of it (see `_local`), by term, and the predictions (H, B, m)."""
        local: dict[str, Tensor] = {}
        features: dict[str, tuple[Tensor, int]] = {}
        with ExitStack() as stack:
            layers = self._layers if {*LOCAL} & {*self.active} else []
            for layer in layers:
                stack.enter_context(self._tapped(layer, features, local))
            for layer, act in self._acts(local):
                stack.enter_context(self._behind(layer, act))
            if "out" in self.active:
                stack.enter_context(self._branched())
            predictions = self.network(images)
        branches = len(predictions) // len(images) if "out" in self.active else 1
        predictions = self._check_logits(predictions, branches * len(images)).unflatten(0, (branches, len(images)))
        self.logits = losses.promote(predictions.detach()).mean(dim=0)
        for layer in layers:
            if layer.name not in features:
                raise ImclError(f"Layer {layer.name!r} did not run in this step: leave it out of `layers`.")
            output, version = features[layer.name]
            if output._version != version:
                raise ImclError(
                    f"The network changes what layer {layer.name!r} returns in place, in training only: pass "
                    "inplace=False to the module behind it."
                )
        if "kd" in self.active:
            with torch.no_grad():
                local["kd"] = check_logits(self.teacher(images), len(images))
        return local, predictions

    @torch.compiler.disable
    def _run_eagerly(self, images: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """`_run` uncompiled: the backward of a compiled layer is one piece, of which local gradients need a part."""
        with torch.compiler.set_stance("force_eager"):
            return self._run(images)

    @contextmanager
    def _tapped(
        self, layer: Layer, features: dict[str, tuple[Tensor, int]], local: dict[str, Tensor]
    ) -> Iterator[None]:
        source = self._module(layer.source)
        modules = [self._module(name) for name in layer.modules]
        parameters = dict.fromkeys(p for module in modules for p in module.parameters() if p.requires_grad)
        plain_forward = source.forward

        def keep(for_network: Tensor, for_losses: Tensor) -> Tensor:
            features[layer.name] = for_losses, for_losses._version
            local.update(self._local(layer, for_losses))
            return for_network

        def forward(*inputs: Tensor) -> Tensor:
            return keep(*_TwoOutputs.apply(plain_forward, layer.changed, len(inputs), *inputs, *parameters))

        def tap(output: Tensor) -> Tensor:
            return keep(*_Tap.apply(layer.changed, output, *parameters))

        with _replaced_forward(source, forward) if layer.alone else self._behind(layer, tap):
            yield

    @contextmanager
    def _behind(self, layer: Layer, act: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
        """Calls `act` on what a layer returns; what `act` returns, if anything, takes its place."""
        calls = itertools.count()

        def hook(module: nn.Module, inputs: tuple, output: Tensor) -> Tensor | None:
            return act(output) if next(calls) == layer.call else None

        handle = self._module(layer.source).register_forward_hook(hook)
        try:
            yield
        finally:
            handle.remove()

    def _acts(self, local: dict[str, Tensor]) -> Iterator[tuple[Layer, Callable[[Tensor], Tensor | None]]]:
        """What neighbours do behind layers: read features into `local`, then change them, in training mode."""
        s = self.settings
        for layer in self._at("decov"):
            yield layer, functools.partial(_read, neighbours.decov_loss, f"decov/{layer.name}", layer, local)
        for layer in self._at("deep-supervision"):
            head = self.heads[_key("deep-supervision", layer.name)]
            yield layer, functools.partial(_read, head, f"deep-supervision/{layer.name}", layer, local)
        if self.training:
            for layer in self._at("spatial-dropout"):
                rate = s.spatial_rate * self._factors["spatial-dropout"]
                yield layer, functools.partial(F.dropout2d, p=rate)
            for layer in self._at("dropblock"):
                rate = s.dropblock_rate * self._factors["dropblock"] * self.progress
                yield layer, functools.partial(neighbours.drop_blocks, rate=rate, size=s.dropblock_size)

    @contextmanager
    def _branched(self) -> Iterator[None]:
        classifier = self._module(self.classifier)

        def forward(x: Tensor) -> Tensor:
            return hierarchical_dropout(classifier, x, self.settings.out_branches).flatten(0, 1)

        with _replaced_forward(classifier, forward):
            yield

    def _local(self, layer: Layer, output: Tensor) -> dict[str, Tensor]:
        """What a layer's heads make of its output: logits (B, m) for `mid`, a similarity (B, B) for `pull-push`; both
        for `predsim`, and a kernel (B, B) for `hsic`.

        They run right behind their layer, so that backward reaches them just before it: run at the end, the gradients
        of all layers' outputs would wait in memory at once.
        """
        maps, local, on = layer.as_maps(output), {}, self.active
        if "mid" in on:
            local[f"mid/{layer.name}"] = self.heads[_key("mid", layer.name)](maps)
        if "pull-push" in on:
            projected = self.heads[_key("pull-push", layer.name)](maps)
            with torch.autocast(output.device.type, enabled=False):
                local[f"pull-push/{layer.name}"] = losses.similarity_matrix(
                    self._compared(projected), self.settings.pp_centre
                )
        if "predsim" in on:
            local[f"predsim/{layer.name}"], compared = self.heads[_key("predsim", layer.name)](maps)
            local[f"similarity/{layer.name}"] = losses.similarity_matrix(compared)
        if "hsic" in on:
            local[f"hsic/{layer.name}"] = neighbours.normalised_kernel(maps, self.settings.hsic_sigma)
        return local

    def _output_term(self, predictions: Tensor, labels: Tensor) -> dict[str, Tensor]:
        s = self.settings
        if "out" not in self.active:
            return {"hard": losses.hard_loss(predictions[0], labels)}
        loss = losses.output_loss(predictions, labels, s.out_alpha, s.out_temperature, s.out_detach, s.out_t_squared)
        share = self._factors["out"]
        if share < 1:
            hard = torch.stack([losses.hard_loss(z, labels) for z in predictions]).mean()
            loss = share * loss + (1 - share) * hard
        return {"out": loss}

    def _kernel_loss(self, name: str) -> Tensor:
        """L_kernel of a convolution or linear layer; of a grouped one, over filters that see the same channels."""
        module, biased = self._module(name), self.settings.kernel_biased
        groups = getattr(module, "groups", 1)
        if groups == 1:
            return losses.kernel_loss(module.weight, biased)
        parts = module.weight.chunk(groups)
        return torch.linalg.vector_norm(torch.stack([losses.kernel_loss(part, biased) for part in parts]))

    def _compared(self, projected: Tensor) -> Tensor:
        """What pull-push compares of projected maps (B, C, H, W): the maps of all images."""
        return projected

    def _mid_terms(self, local: dict[str, Tensor], final: Tensor, targets: Tensor) -> dict[str, Tensor]:
        s = self.settings
        values = losses.intermediate_losses(
            list(local.values()), final, targets, s.mid_alpha, s.mid_beta, s.mid_temperature, s.mid_own
        )
        return {f"mid/{name}": value for name, value in zip(local, values, strict=True)}

    @torch.no_grad()
    def _similarities(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """S(y) and S(x) of Eq. 9."""
        one_hot = F.one_hot(labels, self._num_classes).to(self.logits.dtype)
        centre = self.settings.pp_centre
        return losses.similarity_matrix(one_hot, centre), losses.similarity_matrix(images, centre)

    def _pull_push_terms(self, local: dict[str, Tensor], target: Tensor, source: Tensor) -> dict[str, Tensor]:
        s = self.settings
        pull, push = (np.linspace(*ends, len(self.layers)).tolist() for ends in (s.pp_pull, s.pp_push))
        return {
            f"pull-push/{name}": losses.pull_push_distance(
                local[f"pull-push/{name}"], target, source, pull[i], push[i], s.pp_normalise
            )
            for i, name in enumerate(self.layers)
        }

    @torch.compiler.disable
    def _neighbour_terms(self, local: dict[str, Tensor], images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The terms of those on layers; `progress` is a number that changes, so this is not compiled."""
        s = self.settings
        terms = {f"decov/{layer.name}": s.decov_weight * local[f"decov/{layer.name}"] for layer in self._at("decov")}
        deep = s.deep_weight * (1 - self.progress if s.deep_decay else 1)
        for layer in self._at("deep-supervision"):
            name = f"deep-supervision/{layer.name}"
            terms[name] = deep * losses.hard_loss(local[name], labels)
        one_hot = F.one_hot(labels, self._num_classes).to(self.logits.dtype)
        if "predsim" in self.active:
            target = losses.similarity_matrix(one_hot)
            for name in self.layers:
                parts = local[f"predsim/{name}"], local[f"similarity/{name}"], labels, target
                terms[f"predsim/{name}"] = s.predsim_weight * neighbours.predsim_loss(*parts, s.predsim_beta)
        if "hsic" in self.active:
            x, y = (neighbours.normalised_kernel(values, s.hsic_sigma) for values in (images, one_hot))
            for name in self.layers:
                terms[f"hsic/{name}"] = s.hsic_weight * neighbours.hsic_loss(local[f"hsic/{name}"], x, y, s.hsic_beta)
        return terms

    def cost(self, batch_size: int = 128) -> pd.DataFrame:
        """What the network costs, and what each term adds to it, counted without running it: a row each.

        Columns: parameters; multiply-adds of a forward pass of `batch_size` images (backward takes about twice as
        many); bytes kept from it for the backward pass. Methods that `weigh` has switched off are counted too.
        Raises `ImclError` for a batch that is too small for a normalisation, and for a network on the meta device.
        """
        if next(self.network.parameters()).is_meta:
            raise ImclError(
                "The network is on the meta device: make it on the CPU, where counting costs no memory either."
            )
        try:
            return self._count(batch_size)
        except ValueError as error:
            raise ImclError(
                f"A step of {batch_size} images cannot be counted ({error}): name a larger batch_size."
            ) from error

    def _count(self, batch_size: int) -> pd.DataFrame:
        rows = {"network": (_size(self.network), *count(self._whole(batch_size), self))}
        if "out" in self.methods:
            with self._branched():
                branched = count(self._whole(batch_size), self)
            rows["out"] = (0, branched[0] - rows["network"][1], branched[1] - rows["network"][2])
        for method in self.methods:
            for layer in self._layers if method in LOCAL else self._places.get(method, []):
                head = self.heads[_key(method, layer.name)] if _key(method, layer.name) in self.heads else nn.Identity()
                compare = self._compared if method == "pull-push" else None
                term = functools.partial(_head_term, method, head, compare, (batch_size, *layer.shape))
                rows[f"{method}/{layer.name}"] = (_size(head), *count(term, self))
        for name in self.kernels:
            rows[f"kernel/{name}"] = (0, *count(lambda _, name=name: self._kernel_loss(name), self))
        if self.teacher is not None:
            taught = torch.no_grad()(lambda make: self.teacher(make(batch_size, *self.image_shape)))
            rows["kd"] = (_size(self.teacher), *count(taught, self))
        return pd.DataFrame.from_dict(rows, orient="index", columns=["parameters", "multiply-adds", "bytes"])

    def _whole(self, batch_size: int) -> Callable:
        return lambda make: self.network(make(batch_size, *self.image_shape))

    def _check_batch(self, images: Tensor, labels: Tensor) -> None:
        """Refuses what the losses cannot use; looks at shapes and types alone, so that a GPU need not wait."""
        check_labels(labels, (len(images),), len(images))
        comparing = next((m for m in ("pull-push", "decov", "predsim", "hsic") if m in self.methods), None)
        if len(images) < (2 if comparing else 1):
            why = f"{comparing} compares images with one another" if len(images) else "there is nothing to learn from"
            raise ImclError(f"A batch of {len(images)} is too small, {why}: leave the last one out (drop_last=True).")
        if self.heads and images.shape[2:] != self.image_shape[1:]:
            raise ImclError(
                f"The heads were made for images of {self.image_shape[1:]}, not {tuple(images.shape[2:])}: pass "
                f"image_shape={tuple(images.shape[1:])} to Collaboration."
            )

    def _make_heads(self, seed: int) -> None:
        s = self.settings
        parameter = next(self.network.parameters())
        makers = {
            "mid": self._local_classifier,
            "pull-push": lambda c, _: make_projection(c, s.pp_projection),
            "deep-supervision": lambda c, size: LocalClassifier(c, size, self._num_classes),
            "predsim": lambda c, size: PredSimHead(c, size, self._num_classes, s.predsim_features),
        }
        with torch.random.fork_rng(devices=[]):
            for method in (m for m in makers if m in self.methods):
                torch.manual_seed(seed)  # a method's heads are the same whichever others are on
                for layer in self._places.get(method, self._layers):
                    channels, *size = layer.shape
                    head = makers[method](channels, tuple(size)).to(parameter.device, parameter.dtype)
                    self.heads[_key(method, layer.name)] = head

    def _local_classifier(self, channels: int, size: tuple[int, int]) -> nn.Module:
        """The head of `mid` for a layer's maps."""
        return LocalClassifier(channels, size, self._num_classes, self.settings.mid_pool, self.settings.mid_width)

    def _attach(
        self,
        layers: str | Sequence[str] | None,
        kernels: str | Sequence[str] | None,
        classifier: str | None,
    ) -> None:
        """Finds what the terms attach to; names are looked up first, since that needs no run of the network."""
        pointwise = self.settings.kernel_pointwise
        if isinstance(self.network, Network):
            if layers is None:
                layers = list(self.network.layers if self.settings.attach == "layers" else self.network.blocks)
            kernels = _last_kernels(self.network, pointwise) if kernels is None else kernels
        on_layers, kernel = bool({*LOCAL, *AT_ENDS} & set(self.methods)), "kernel" in self.methods
        _check_names(self.network, ({"layers": layers} if on_layers else {}) | ({"kernels": kernels} if kernel else {}))
        if "out" in self.methods and classifier is not None:
            _check_classifier(self.network, classifier)
        trace = Trace(self.network, self.image_shape, self._check_logits)
        self._num_classes = trace.logits.shape[1]
        found = []
        if on_layers:
            found = trace.layers(self.settings.attach, classifier) if layers is None else trace.named_layers(layers)
        if kernel:
            self.kernels = trace.kernels(pointwise) if kernels is None else trace.named_kernels(kernels)
        for argument, wanted, names in (("layers", on_layers, found), ("kernels", kernel, self.kernels)):
            if wanted and not names:
                raise ImclError(_NAME[argument])
        self._layers = found if {*LOCAL} & set(self.methods) else []
        self._places = self._find_places(trace, found)
        if "out" in self.methods:
            self.classifier = classifier or trace.classifier()

    def _find_places(self, trace: Trace, layers: list[Layer]) -> dict[str, list[Layer]]:
        """The layers behind which a neighbour reads or changes features; `ImclError` where it cannot."""
        ends = list({layer.shape[1:]: layer for layer in layers}.values())  # the last of each map size
        places = {
            "decov": _hidden_layers(trace),
            "deep-supervision": ends[:-1],
            "spatial-dropout": ends[-self.settings.spatial_groups :],
            "dropblock": ends[-self.settings.dropblock_groups :],
        }
        places = {method: found for method, found in places.items() if method in self.methods}
        for method, found in places.items():
            if not found:
                raise ImclError(_NO_PLACE[method])
            for layer in found:
                if method in ("spatial-dropout", "dropblock") and layer.layout != "maps":
                    raise ImclError(
                        f"{method} drops parts of maps (B, C, H, W), and layer {layer.name!r} returns {layer.layout}: "
                        "leave it out."
                    )
        return places

    def _at(self, method: str) -> list[Layer]:
        """The layers of a neighbour, as `_find_places` found them; none where it is off."""
        return self._places.get(method, []) if self._factors.get(method) else []

    def _module(self, name: str) -> nn.Module:
        return self.network.get_submodule(name)


def _check_plain(network: nn.Module) -> None:
    """Refuses wrappers: local losses run inside the network, where these do not look."""
    if isinstance(network, nn.DataParallel | nn.parallel.DistributedDataParallel) or hasattr(network, "_orig_mod"):
        raise ImclError(
            f"The network is wrapped in {type(network).__name__}: attach to the plain network, and wrap the "
            "Collaboration instead."
        )


def _frozen(teacher: nn.Module | None) -> nn.Module:
    """A copy of a trained network that does not learn."""
    if teacher is None:
        raise ImclError("kd learns from a trained network: Collaboration(..., teacher=network).")
    _check_plain(teacher)
    return copy.deepcopy(teacher).eval().requires_grad_(False)


def _hidden_layers(trace: Trace) -> list[Layer]:
    """The hidden fully connected layers, with their activations, of the innermost `nn.Sequential` with the logits."""
    for sequential in (c for c in trace.calls if c.output is trace.logits and isinstance(c.module, nn.Sequential)):
        parts = [c for c in trace.calls if c.name.rpartition(".")[0] == sequential.name and c is not sequential]
        last = max((i for i, c in enumerate(parts) if isinstance(c.module, nn.Linear)), default=0)
        hidden = []
        for linear, after in itertools.pairwise(parts[: last + 1]):
            if isinstance(linear.module, nn.Linear):
                end = linear if isinstance(after.module, nn.Linear | nn.Dropout) else after
                shape = (linear.module.out_features, 1, 1)
                hidden.append(
                    Layer(name=linear.name, modules=(linear.name,), source=end.name, call=end.number, shape=shape)
                )
        if hidden:
            return hidden
    return []


def _check_names(network: nn.Module, named: dict[str, str | Sequence[str] | None]) -> None:
    """Refuses names that the network does not have, and none for a network without convolutions to find."""
    convolutional = any(isinstance(module, nn.Conv2d) for module in network.modules())
    for argument, patterns in named.items():
        if patterns is not None:
            find_modules(network, patterns)
        elif not convolutional:
            raise ImclError(_NAME[argument])


def _check_classifier(network: nn.Module, name: str) -> None:
    find_modules(network, name)
    if not has_dropout(network.get_submodule(name)):
        raise ImclError(f"Classifier {name!r} is no nn.Sequential with dropout layers, which out branches.")


def check_labels(labels: Tensor, shape: tuple[int, ...], count: int) -> None:
    """Refuses labels of another type or shape than `count` images need."""
    if labels.dtype != torch.int64 or labels.shape != shape:
        raise ImclError(
            f"Labels must be class indices, int64 of shape {shape} for {count} images; got "
            f"{str(labels.dtype).removeprefix('torch.')} of shape {tuple(labels.shape)}."
        )


def _check_factor(method: str, factor: float, settings: MethodSettings) -> None:
    """Refuses a factor of `Collaboration.weigh` that a method cannot have."""
    shares = {"out": 1.0, "kd": settings.kd_alpha, "spatial-dropout": settings.spatial_rate, "cutout": 1.0}
    shares["dropblock"] = settings.dropblock_rate
    if not (isinstance(factor, int | float) and 0 <= factor < float("inf")):
        raise ImclError(f"A factor is a number from 0 up, not {factor!r}.")
    if method == "cutout" and factor not in (0, 1):
        raise ImclError(f"cutout is on (1) or off (0), not {factor}: change cutout_size for a smaller square.")
    if factor * shares.get(method, 0.0) > 1:
        raise ImclError(f"A factor of {factor} makes the share or the rate of {method} more than 1: lower it.")


def _check_range(labels: Tensor, num_classes: int) -> None:
    """Refuses labels of no class; only where looking does not make a GPU wait, and where there is something to see."""
    if type(labels) is not Tensor or labels.device.type != "cpu" or torch.compiler.is_compiling():
        return
    low, high = (int(label) for label in labels.aminmax())
    if low < 0 or high >= num_classes:
        raise ImclError(f"Labels must be in 0 ... {num_classes - 1} for {num_classes} classes; got {low} ... {high}.")


def _size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _head_term(
    method: str, head: nn.Module, compared: Callable | None, shape: tuple[int, ...], make: Callable[..., Tensor]
) -> Tensor:
    """A head and the part of its loss that grows with the features, for `cost`."""
    output = head(make(*shape))
    measures = {
        "pull-push": lambda maps: losses.similarity_matrix(compared(maps)),
        "predsim": lambda both: losses.similarity_matrix(both[1]),
        "hsic": neighbours.normalised_kernel,
        "decov": lambda h: neighbours.decov_loss(h.flatten(1)),
        "spatial-dropout": F.dropout2d,
        "dropblock": lambda maps: maps * torch.ones_like(maps),
    }
    return measures[method](output) if method in measures else output


def _read(take: Callable[[Tensor], Tensor], name: str, layer: Layer, local: dict[str, Tensor], output: Tensor) -> None:
    """Keeps in `local` what `take` makes of a layer's output, which stays as it is."""
    features = output.clone() if layer.changed else output
    local[name] = take(features if features.ndim == 2 else layer.as_maps(features))


def _last_kernels(network: Network, pointwise: bool) -> list[str]:
    """The 3×3 convolutions of the last two groups; with `pointwise` the 1×1 ones too."""
    units = tuple(f"{name}." for group in network.groups[-2:] for name in group)
    convolutions = {n: m for n, m in network.named_modules() if isinstance(m, nn.Conv2d) and n.startswith(units)}
    return [name for name, module in convolutions.items() if pointwise or module.kernel_size == (3, 3)]


def _key(method: str, layer: str) -> str:
    """A name that `nn.ModuleDict` allows."""
    return f"{method}/{layer}".replace(".", "/")
