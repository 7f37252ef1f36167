"""Attaches any subset of the four collaborations to a network, with gradients that stay where the paper keeps them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imcl_core import losses
from imcl_core.errors import ImclError, check_choice, nearest
from imcl_core.heads import LocalClassifier, Projection, hierarchical_dropout
from imcl_core.networks import Network
from imcl_core.settings import Settings, setting

METHODS = ("out", "mid", "pull-push", "kernel")


@dataclass(frozen=True, kw_only=True)
class MethodSettings(Settings):
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
    pp_pull: tuple[float, float] = setting((0.1, 1.0), "weight of the pull at the first and at the last layer, Eq. 9")
    pp_push: tuple[float, float] = setting((0.1, 0.0), "weight of the push at the first and at the last layer, Eq. 9")
    pp_normalise: bool = setting(True, "divide the Frobenius norms of Eq. 9 by the batch size")
    pp_centre: str = setting("sample", "centre similarity rows per 'sample' or over the 'batch', Eq. 8")
    kernel_weight: float = setting(0.01, "weight of L_kernel, Eq. 10")
    attach: str = setting("layers", "where local classifiers and projections sit: 'layers' or 'blocks'")


def parse_methods(methods: str) -> tuple[str, ...]:
    """`"kernel+mid"` to `("mid", "kernel")`, in the paper's order; `"baseline"` to `()`."""
    terms = [term.strip() for term in methods.split("+")]
    if terms == ["baseline"]:
        return ()
    for term in terms:
        if term not in METHODS:
            raise ImclError(
                f"Unknown method {term!r} in {methods!r}.{nearest(term, (*METHODS, 'baseline'))} "
                f"Use 'baseline' or any of {', '.join(METHODS)} joined by '+'."
            )
    if len(set(terms)) < len(terms):
        raise ImclError(f"{methods!r} names a method twice: name each once.")
    return tuple(m for m in METHODS if m in terms)


class _TwoOutputs(torch.autograd.Function):
    """A layer run once, its output returned twice: for the network, and for local losses.

    Backward gives the layer's input the gradient that came from the network alone, and its parameters the sum of
    both: the same gradients as running the layer a second time on a detached input, without that second run.
    """

    @staticmethod
    def forward(ctx, layer: Callable, inputs: int, *tensors: Tensor):
        ctx.set_materialize_grads(False)
        ctx.inputs = [x.detach().requires_grad_(x.requires_grad) for x in tensors[:inputs]]
        ctx.parameters = tensors[inputs:]
        with torch.enable_grad():
            ctx.output = layer(*ctx.inputs)
        return ctx.output.detach(), ctx.output.detach()

    @staticmethod
    def backward(ctx, from_network: Tensor | None, from_local: Tensor | None):
        if ctx.output is None:
            raise ImclError("The loss of a Collaboration can be differentiated once: call it again for a new loss.")
        output, ctx.output = ctx.output, None
        received = [g for g in (from_network, from_local) if g is not None]
        if not received:
            return (None,) * (2 + len(ctx.inputs) + len(ctx.parameters))
        inputs = [x for x in ctx.inputs if x.requires_grad]
        to_inputs = iter(())
        if from_network is not None and inputs:
            to_inputs = iter(torch.autograd.grad(output, inputs, from_network, retain_graph=True))
        to_parameters = torch.autograd.grad(output, ctx.parameters, sum(received), allow_unused=True)
        return None, None, *(next(to_inputs, None) if x.requires_grad else None for x in ctx.inputs), *to_parameters


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
    """A classifier with any subset of the paper's four losses attached for training.

    ``loss = collaboration(images, labels); loss.backward()`` is the whole objective and all its gradients: those of
    `mid` and `pull-push` reach only the layer they belong to and its head, those of `kernel` only its convolution.
    `network` stays the plain model: use it, or `collaboration(images)`, for inference, and save its `state_dict`.

    After each call: `terms`, the value of every term by name (``"hard"`` or ``"out"``, ``"mid/<layer>"``,
    ``"pull-push/<layer>"``, ``"kernel/<layer>"``), and `logits`, (B, m), the network's own prediction; both detached.

    Args:
        network: one of `imcl_core.networks`, or any classifier from images to logits (B, m).
        methods: ``"baseline"``, or terms joined by ``+``, such as ``"mid+pull-push+kernel"``.
        settings: weights, temperatures and shapes of the terms.
        layers: names of the modules that `mid` and `pull-push` attach to, in order of depth; each returns maps
            (B, C, H, W). Default: the network's layers or blocks, by `settings.attach`.
        kernels: names of the convolutions of `kernel`. Default: the 3×3 ones of the last two groups.
        classifier: name of the `nn.Sequential` with dropout that `out` branches. Default: ``"classifier"``.
        image_shape: (channels, height, width) of an image, to learn the size of every layer's maps.
        seed: of the heads' own random stream: attaching them leaves every other draw as it was.

    Raises:
        ImclError: an unknown method or module name, or a network that a term cannot attach to.
    """

    def __init__(
        self,
        network: nn.Module,
        methods: str = "baseline",
        *,
        settings: MethodSettings | None = None,
        layers: Sequence[str] | None = None,
        kernels: Sequence[str] | None = None,
        classifier: str = "classifier",
        image_shape: tuple[int, int, int] = (3, 32, 32),
        seed: int = 0,
    ):
        super().__init__()
        self.network, self.methods, self.settings = network, parse_methods(methods), settings or MethodSettings()
        self.layers = self._default_layers(layers) if {"mid", "pull-push"} & set(self.methods) else []
        self.kernels = self._default_kernels(kernels) if "kernel" in self.methods else []
        for name in (*self.layers, *self.kernels, *([classifier] if "out" in self.methods else [])):
            self._module(name)
        self.classifier = classifier
        self.heads = nn.ModuleDict()
        self.terms: dict[str, Tensor] = {}
        self.logits: Tensor | None = None
        if self.layers:
            self._make_heads(image_shape, seed)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """The objective, a scalar, of `images` (B, C, H, W) and `labels` (B,); without labels, logits (B, m)."""
        if labels is None:
            return self.network(images)
        terms = self.objective(images, labels)
        self.terms = {name: value.detach() for name, value in terms.items()}
        return torch.stack(list(terms.values())).sum()

    def objective(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Every weighted term of the objective by name, with its gradient: `forward` is their sum."""
        features, predictions = self._run(images)
        local = self._local_predictions(features)
        with torch.autocast(images.device.type, enabled=False):
            terms = self._output_term(predictions, labels)
            if "mid" in self.methods:
                terms |= self._mid_terms(local, labels)
            if "pull-push" in self.methods:
                terms |= self._pull_push_terms(local, images, labels)
            for name in self.kernels:
                terms[f"kernel/{name}"] = self.settings.kernel_weight * losses.kernel_loss(self._module(name).weight)
        return terms

    def _run(self, images: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """The outputs that local losses may read, by layer, and the predictions (H, B, m)."""
        features: dict[str, Tensor] = {}
        with ExitStack() as stack:
            for name in self.layers:
                stack.enter_context(self._tapped(name, features))
            if "out" in self.methods:
                stack.enter_context(self._branched())
            predictions = self.network(images).unflatten(0, (-1, len(images)))
        self.logits = losses.promote(predictions.detach()).mean(dim=0)
        return features, predictions

    @contextmanager
    def _tapped(self, name: str, features: dict[str, Tensor]) -> Iterator[None]:
        layer = self._module(name)
        plain_forward = layer.forward
        parameters = [p for p in layer.parameters() if p.requires_grad]

        def forward(*inputs: Tensor) -> Tensor:
            output, features[name] = _TwoOutputs.apply(plain_forward, len(inputs), *inputs, *parameters)
            return output

        with _replaced_forward(layer, forward):
            yield

    @contextmanager
    def _branched(self) -> Iterator[None]:
        classifier = self._module(self.classifier)

        def forward(x: Tensor) -> Tensor:
            return hierarchical_dropout(classifier, x, self.settings.out_branches).flatten(0, 1)

        with _replaced_forward(classifier, forward):
            yield

    def _local_predictions(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """What each head makes of its layer: local logits by ``"mid/<layer>"``, maps by ``"pull-push/<layer>"``."""
        return {
            f"{method}/{name}": self.heads[_key(method, name)](features[name])
            for method in ("mid", "pull-push")
            if method in self.methods
            for name in self.layers
        }

    def _output_term(self, predictions: Tensor, labels: Tensor) -> dict[str, Tensor]:
        s = self.settings
        if "out" not in self.methods:
            return {"hard": losses.hard_loss(predictions[0], labels)}
        return {
            "out": losses.output_loss(
                predictions, labels, s.out_alpha, s.out_temperature, s.out_detach, s.out_t_squared
            )
        }

    def _mid_terms(self, local: dict[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
        s = self.settings
        names = [f"mid/{name}" for name in self.layers]
        values = losses.intermediate_losses(
            [local[name] for name in names], self.logits, labels, s.mid_alpha, s.mid_beta, s.mid_temperature
        )
        return dict(zip(names, values, strict=True))

    def _pull_push_terms(self, local: dict[str, Tensor], images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        s = self.settings
        with torch.no_grad():
            one_hot = F.one_hot(labels, self.logits.shape[1]).to(self.logits.dtype)
            target = losses.similarity_matrix(one_hot, s.pp_centre)
            source = losses.similarity_matrix(images, s.pp_centre)
        pull, push = (np.linspace(*ends, len(self.layers)).tolist() for ends in (s.pp_pull, s.pp_push))
        return {
            f"pull-push/{name}": losses.pull_push_loss(
                local[f"pull-push/{name}"], target, source, pull[i], push[i], s.pp_normalise, s.pp_centre
            )
            for i, name in enumerate(self.layers)
        }

    def _make_heads(self, image_shape: tuple[int, int, int], seed: int) -> None:
        s = self.settings
        shapes, num_classes = self._shapes(image_shape)
        device = next(self.network.parameters()).device
        makers = {
            "mid": lambda c, size: LocalClassifier(c, size, num_classes, s.mid_pool, s.mid_width),
            "pull-push": lambda c, _: Projection(c),
        }
        with torch.random.fork_rng(devices=[]):
            for method in (m for m in makers if m in self.methods):
                torch.manual_seed(seed)  # a method's heads are the same whichever others are on
                for name, (channels, *size) in shapes.items():
                    self.heads[_key(method, name)] = makers[method](channels, tuple(size)).to(device)

    def _shapes(self, image_shape: tuple[int, int, int]) -> tuple[dict[str, tuple[int, ...]], int]:
        """Shape (C, H, W) of every layer's output, and the number of classes, from one image in evaluation mode."""
        found: dict[str, tuple[int, ...]] = {}
        hooks = [
            self._module(name).register_forward_hook(lambda _m, _i, out, name=name: found.update({name: out.shape[1:]}))
            for name in self.layers
        ]
        modes = {module: module.training for module in self.network.modules()}
        parameter = next(self.network.parameters())
        try:
            self.network.eval()
            with torch.no_grad():
                logits = self.network(torch.zeros(1, *image_shape, device=parameter.device, dtype=parameter.dtype))
        finally:
            for hook in hooks:
                hook.remove()
            for module, training in modes.items():
                module.training = training
        for name in self.layers:
            if len(found.get(name, ())) != 3:
                raise ImclError(
                    f"Layer {name!r} does not return maps of shape (B, C, H, W) for an image of shape "
                    f"{tuple(image_shape)}: leave it out of `layers`, or give the right `image_shape`."
                )
        return {name: tuple(found[name]) for name in self.layers}, logits.shape[1]

    def _default_layers(self, layers: Sequence[str] | None) -> list[str]:
        check_choice("place to attach to (setting attach)", self.settings.attach, ("layers", "blocks"))
        if layers is not None:
            return list(layers)
        if isinstance(self.network, Network):
            return list(self.network.layers if self.settings.attach == "layers" else self.network.blocks)
        raise ImclError(
            "Name the modules that mid and pull-push attach to: Collaboration(..., layers=['layer1', ...])."
        )

    def _default_kernels(self, kernels: Sequence[str] | None) -> list[str]:
        if kernels is not None:
            return list(kernels)
        if isinstance(self.network, Network):
            units = self.network.layers
            return [
                f"{n}.conv" for group in self.network.groups[-2:] for n in group if units[n].conv.kernel_size == (3, 3)
            ]
        raise ImclError(
            "Name the convolutions that kernel regularises: Collaboration(..., kernels=['layer4.0.conv1'])."
        )

    def _module(self, name: str) -> nn.Module:
        try:
            return self.network.get_submodule(name)
        except AttributeError:
            known = [n for n, _ in self.network.named_modules() if n]
            raise ImclError(f"The network has no module {name!r}.{nearest(name, known)}") from None


def _key(method: str, layer: str) -> str:
    """A name that `nn.ModuleDict` allows."""
    return f"{method}/{layer}".replace(".", "/")
