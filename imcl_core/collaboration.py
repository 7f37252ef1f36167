"""Attaches any set of terms to a network for training: the four collaborations, their neighbours, and your own."""

import functools
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.distributed as distributed
from torch import Tensor, nn

from imcl_core import losses
from imcl_core.attach.layer import Layer
from imcl_core.attach.sites import Sites, check_plain, check_python
from imcl_core.attach.trace import logits_of, without_auxiliary
from imcl_core.errors import ImclError, needed
from imcl_core.local import behind, read_behind, read_locally, uncompiled, with_gradients
from imcl_core.measure.cost import Counter
from imcl_core.methods import PAPER, TERMS, Labels, Step, Term, parse_methods
from imcl_core.methods.term import Heads
from imcl_core.settings import Settings
from imcl_core.tasks.images import Images, check_targets
from imcl_core.tasks.pixels import Pixels, PixelSettings

if TYPE_CHECKING:
    import pandas

METHODS = tuple(term.name for term in PAPER)


@dataclass(frozen=True, kw_only=True)
class MethodSettings(*dict.fromkeys(term.Settings for term in reversed(TERMS.values()))):
    """The settings of all terms; where the paper is silent they are the decisions of the book's page.

    Of a term that is registered later, in a notebook, the settings are a class of their own: see `Collaboration`.
    """


class Objective(dict[str, Tensor]):
    """The terms of a call by name, and `logits`, (B, m): all with their gradients."""

    def __init__(self, terms: dict[str, Tensor], logits: Tensor):
        super().__init__(terms)
        self.logits = logits


class Collaboration(nn.Module):
    """A classifier with any subset of the paper's four losses, and of their neighbours, attached for training.

    ``loss = collaboration(images, labels); loss.backward()`` is the whole objective and all its gradients: those of
    `mid` and `pull-push` reach only the layer they belong to and its head, those of `kernel` only its convolution.
    `network` stays the plain model: use it, or `collaboration(images)`, for inference, and save its `state_dict`.
    The neighbours are those of `imcl_core.methods`; what changes features or images does so in training mode only. Some
    portions and weights follow `progress`: set it as training goes on, from 0 to 1; while it is None they are constant.

    `heads`, an `nn.ModuleDict`, keeps what is trained beside it, such as local classifiers: a module of your own can be
    put in the place of one.

    After each call: `terms`, the value of every term by name (``"hard"`` or what took its place, ``"mid/<layer>"``
    …), and `logits`, (B, m), the network's own prediction; both detached.

    It is a module like any other: `to`, `train`, `state_dict` (the heads' too, for resuming), an optimiser over its
    `parameters()`, autocast around the call, `DistributedDataParallel(collaboration)`. Frozen parameters stay frozen.
    So is `torch.compile(collaboration)`: losses are compiled; the network is too, unless a method looks inside it, as
    most do. `torch.compile(network)` for inference.

    Terms can follow a schedule: ``collaboration.weigh("mid", 0.5)`` halves those of `mid` from the next call on, and 0
    switches them off.

    Args:
        network: one of `imcl_core.networks`, or any classifier from images to logits (B, m), or to an object with
            `logits`, as models of Hugging Face return.
        methods: ``"baseline"``, or terms joined by ``+``, such as ``"mid+pull-push+kernel"`` or ``"out+cutout"``.
        settings: weights, temperatures and shapes of the terms. A term whose settings are not among them has its
            defaults; those of a term of your own are its class, or one of several: ``class Mine(MethodSettings, Own)``.
        layers: names or patterns (``"layer[34].*"``, see `find_modules`) of the modules that local terms attach to,
            the other neighbours to the last of each map size; each returns maps (B, C, H, W) or tokens (B, T, C), and
            its local gradients reach just its own parameters. Default: the network's layers or blocks, by
            `settings.attach` and the rule of `imcl_core.attach.rule`.
        kernels: names or patterns of the convolutions or linear layers of `kernel`. Default: the convolutions wider
            than 1×1 of the last two groups of layers, or, where there are none, the 1×1 ones and the linear layers.
        classifier: name of the `nn.Sequential` with dropout that `out` branches. Default: the one that returns the
            logits; a network without one can be given one made by `imcl_core.networks.classifier.make_classifier`.
        teacher: for `kd`, a trained network; a frozen copy of it is kept here, in evaluation mode.
        image_shape: (channels, height, width) of the images.
        label_smoothing: portion of every label that all classes share, in every term.
        ignore_label: images with this label count in no term; a GPU waits for their number. None: all have a label.
            Of pixels it takes the place of the setting.
        seed: of the heads' own random stream: attaching them leaves every other draw as it was.

    Raises:
        ImclError: an unknown method or module name, or a network that a term cannot attach to.
    """

    Task: ClassVar[type[Images]] = Images
    Settings: ClassVar[type[Settings]] = MethodSettings

    def __init__(
        self,
        network: nn.Module,
        methods: str = "baseline",
        *,
        settings: Settings | None = None,
        layers: str | Sequence[str] | None = None,
        kernels: str | Sequence[str] | None = None,
        classifier: str | None = None,
        teacher: nn.Module | None = None,
        image_shape: tuple[int, int, int] = (3, 32, 32),
        label_smoothing: float = 0.0,
        ignore_label: int | None = None,
        seed: int = 0,
    ):
        super().__init__()
        for given in (network, teacher):
            check_plain(given)
        _check_options(settings, image_shape, label_smoothing)
        self.network, self.methods, self.settings = network, parse_methods(methods), settings or self.Settings()
        self.image_shape, self.task = tuple(image_shape), self.Task(self.settings, label_smoothing, ignore_label)
        self._check_methods()
        self._labels = Labels(self.settings)
        self._terms = {name: TERMS[name](_settings_for(TERMS[name], self.settings)) for name in self.methods}
        self.heads = nn.ModuleDict()
        self.terms: dict[str, Tensor] = {}
        self.logits: Tensor | None = None
        self.progress: float | Tensor | None = None
        self._local: list[Layer] = []
        if self._terms:
            check_python(network)
            options = {"layers": layers, "kernels": kernels, "classifier": classifier, "teacher": teacher}
            attach = getattr(self.settings, "attach", "layers")
            with torch.inference_mode(False):
                self._attach(Sites(network, self.image_shape, self.task.check_logits, attach=attach, **options), seed)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("network", "heads") and getattr(self, name, value) is not value:
            raise ImclError(
                "A Collaboration keeps the network and the heads that it was made with: make another one, or put a "
                "module in the place of one of its heads."
            )
        super().__setattr__(name, value)

    def _check_methods(self) -> None:
        """Refuses methods that are not for this task."""
        fit = [name for name, term in TERMS.items() if self.task.takes(term)]
        for name in self.methods:
            if name not in fit:
                raise ImclError(
                    f"{name} is made for one label an image: a {type(self).__name__} takes {', '.join(fit)}."
                )

    def _attach(self, sites: Sites, seed: int) -> None:
        """Gives every term its places, and makes the heads there."""
        sites.check_names({name for term in self._terms.values() for name in term.needs})
        self.task.num_classes = sites.trace.logits.shape[1]
        for term in self._terms.values():
            term.attach(sites, self.task)
            for name, module in term.keeps().items():
                self.add_module(name, module)
        self._local = sites.in_order(place for term in self._terms.values() if term.local for place in term.reads)
        self._check_branched()
        if len(devices := {parameter.device for parameter in self.network.parameters()}) > 1:
            names = " and ".join(sorted(map(str, devices)))
            raise ImclError(f"The network lies on {names}: terms need all of it on one device: move it there first.")
        with torch.random.fork_rng(devices=[]):
            for term in self._terms.values():
                # A method's heads are the same whichever others are on. `torch.manual_seed` would seed GPUs too.
                torch.default_generator.manual_seed(seed)
                keys = {}
                for place in term.reads:
                    if (head := term.head(place)) is not None:
                        keys[place.name] = key = term.named(place).replace(".", "/")
                        self.heads[key] = head.to(*devices, dtype=self._type_at(place))
                term.heads = Heads(keys, self.heads)

    def _type_at(self, place: Layer) -> torch.dtype:
        """What the weights of a place are, and so those of its heads."""
        modules = [self.network.get_submodule(name) for name in place.modules] + [self.network]
        return next(p.dtype for module in modules for p in module.parameters() if p.is_floating_point())

    def _check_branched(self) -> None:
        """Refuses local losses inside a module that a term runs for several predictions."""
        for term in (term for term in self._terms.values() if term.branched):
            parts = set(self.network.get_submodule(term.branched).modules())
            if inside := [p.name for p in self._local if self.network.get_submodule(p.source) in parts]:
                raise ImclError(
                    f"Layer {inside[0]!r} is part of the classifier {term.branched!r}, which runs once for each "
                    f"prediction of {term.name}: leave it out of `layers`."
                )

    @property
    def active(self) -> tuple[str, ...]:
        """The methods that are not switched off by `weigh`."""
        return tuple(name for name, term in self._terms.items() if term.factor)

    @property
    def _active(self) -> list[Term]:
        """The terms of this call, the one of the predictions first."""
        on = [term for term in self._terms.values() if term.factor]
        instead = [term for term in on if term.replaces == self._labels.name] or [self._labels]
        return [*instead, *(term for term in on if term not in instead)]

    @property
    def layers(self) -> list[str]:
        """Names of the layers with local losses, in order of depth."""
        return [layer.name for layer in self._local]

    @property
    def classifier(self) -> str:
        """Name of the classifier that a term branches; empty where none does."""
        return next((term.branched for term in self._terms.values() if term.branched), "")

    @property
    def kernels(self) -> list[str]:
        """Names of the modules whose weights a term compares."""
        return [name for term in self._terms.values() for name in term.weights]

    def weigh(self, methods: str, factor: float) -> None:
        """Multiplies the terms of some of this collaboration's methods by `factor` from the next call on.

        `methods` as when it was made, such as ``"mid+pull-push"``. At 0 a method is off: nothing of it is computed, and
        its heads get no gradient (zeros among several processes, where `DistributedDataParallel` waits for them); 1 is
        how it starts. Calls do not add up. Of what takes the place of the labels' loss, `factor` is the share in the
        objective, the rest is the labels' loss of the same predictions; of `kd` and the dropouts it multiplies the
        teacher's share and the rate; `cutout` is on or off. What is set here is no part of `state_dict`.

        Raises:
            ImclError: a method that is not among `methods`, or a factor that it cannot have.
        """
        named = parse_methods(methods)
        for method in named:
            if method not in self._terms:
                raise ImclError(
                    f"{method} is none of the methods of this Collaboration ({'+'.join(self.methods) or 'baseline'}): "
                    "name it where the Collaboration is made."
                )
            self._terms[method].check_factor(factor)
        for method in named:
            self._terms[method].factor = float(factor)

    def _replicate_for_data_parallel(self) -> "Collaboration":
        """Refuses replicas, whose parameters are copies that no gradient of a local loss would reach."""
        raise ImclError(
            "DataParallel makes replicas without parameters, where local losses have nothing to train: use "
            "DistributedDataParallel(collaboration)."
        )

    def train(self, mode: bool = True) -> "Collaboration":
        """As of any module; a teacher stays in evaluation mode."""
        super().train(mode)
        for term in self._terms.values():
            for module in term.keeps().values():
                module.eval()
        return self

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """The objective, a scalar, of `images` (B, C, H, W) and `labels`; without labels, logits (B, m).

        Labels are class indices (B,), or probabilities (B, m), such as those of MixUp and CutMix.
        """
        if labels is None:
            return logits_of(self.network(images))
        terms, _ = self._objective(images, labels)
        self.terms = {name: value.detach() for name, value in terms.items()}
        return torch.stack(list(terms.values())).sum()

    def objective(self, images: Tensor, labels: Tensor) -> "Objective":
        """Every weighted term of the objective by name, with its gradient: `forward` is their sum.

        Its `logits`, (B, m), have their graph too, for a criterion of your own in the place of ``"hard"``; of several
        predictions they are the mean. `DistributedDataParallel` averages gradients only where its own `forward` is
        called: wrap a module whose `forward` calls this.
        """
        terms, predictions = self._objective(images, labels)
        self.terms = {name: value.detach() for name, value in terms.items()}
        return Objective(terms, predictions.mean(dim=0) if len(predictions) > 1 else predictions[0])

    def _objective(self, images: Tensor, labels: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """The terms by name, and the predictions (H, B, m)."""
        active = self._active
        comparing = next((term.name for term in active if term.compares), None)
        self.task.check(images, labels, comparing, self.image_shape if self.heads else None)
        if self.training:
            for term in active:
                images = term.images(images)
        run = self._run_eagerly if any(term.inside for term in active) else self._run
        with self.task.step(images, labels, any(term.compares for term in active)):
            seen, predictions = run(images, active)
            step = Step(images, labels, self.task, predictions, self.logits, self.progress, active[0].name)
            check_targets(step.targets, predictions.shape[2])
            terms: dict[str, Tensor] = {}
            with torch.autocast(images.device.type, enabled=False):
                for term in active:
                    terms = term.into(terms, seen[term.name], step)
        return self._with_all_heads(terms), predictions

    def _with_all_heads(self, terms: dict[str, Tensor]) -> dict[str, Tensor]:
        """In one of several processes, `terms` whose gradients of heads that are off are 0: DDP waits for all."""
        heads = [head for term in self._terms.values() if not term.factor for head in term.heads.values()]
        if not heads or not distributed.is_available() or not distributed.is_initialized():
            return terms
        none = sum(p.flatten()[:0].sum() for head in heads for p in head.parameters() if p.requires_grad)
        first = next(iter(terms))
        return terms | {first: terms[first] + none}

    def _run(self, images: Tensor, active: list[Term]) -> tuple[dict[str, dict[str, Any]], Tensor]:
        """What the terms read, by term and place, and the predictions (H, B, m)."""
        seen: dict[str, dict[str, Any]] = {term.name: {"": term.look(images)} for term in active}
        with ExitStack() as stack:
            stack.enter_context(with_gradients(self._touched(active)))
            for place in self._local:
                if readers := [term for term in active if term.local and place in term.reads]:
                    read = functools.partial(_read, readers, place, seen, rows=len(images))
                    stack.enter_context(read_locally(self.network, place, read))
            for term, place in ((t, p) for t in active if not t.local for p in t.reads):
                stack.enter_context(read_behind(self.network, place, functools.partial(_read, [term], place, seen)))
            if self.training:
                for term, place in ((t, p) for t in active for p in t.changes):
                    change = functools.partial(term.change, place, progress=self.progress)
                    stack.enter_context(behind(self.network, place, change))
            for term in active:
                stack.enter_context(term.around(self.network))
            predictions = logits_of(without_auxiliary(self.network(images)))
        if not isinstance(predictions, Tensor):
            self.task.check_logits(predictions, len(images))  # says what it wants
        branches = max(term.branches(len(predictions), len(images)) for term in active)
        predictions = self.task.check_logits(predictions, branches * len(images))
        if predictions.shape[1] != self.task.num_classes and any(term.heads or term.compares for term in active):
            raise ImclError(
                f"The network returns logits of {predictions.shape[1]} classes, and of {self.task.num_classes} when "
                "terms were attached: replace its last layer first, then make the Collaboration."
            )
        predictions = predictions.unflatten(0, (branches, len(images)))
        self.logits = losses.promote(predictions.detach()).mean(dim=0)
        return seen, predictions

    def _touched(self, active: list[Term]) -> dict[nn.Module, str]:
        """The modules whose run terms read, change or replace, with what is inside of them, by name."""
        names = [name for term in active for place in (*term.reads, *term.changes) for name in place.modules]
        names += [term.branched for term in active if term.branched]
        return {m: name for name in names for m in self.network.get_submodule(name).modules()}

    @uncompiled
    def _run_eagerly(self, images: Tensor, active: list[Term]) -> tuple[dict[str, dict[str, Any]], Tensor]:
        """`_run` uncompiled: the backward of a compiled layer is one piece, of which local gradients need a part."""
        with torch.compiler.set_stance("force_eager"):
            try:
                return self._run(images, active)
            except RuntimeError as error:
                self._check_heads(error)
                raise

    def _check_heads(self, error: RuntimeError) -> None:
        """Names the remedy where a step failed and a head is no longer where its place is, or of another type."""
        if isinstance(error, torch.OutOfMemoryError | getattr(torch, "AcceleratorError", torch.OutOfMemoryError)):
            return
        for term, place in ((t, p) for t in self._terms.values() for p in t.reads):
            head = next(term.heads[place.name].parameters(), None) if place.name in term.heads else None
            weights = [p for name in place.modules for p in self.network.get_submodule(name).parameters()]
            if head is not None and (head.device, head.dtype) not in {(p.device, p.dtype) for p in weights}:
                raise ImclError(
                    f"The network was moved or cast after the terms were attached, and their heads were not ({error}): "
                    "call `to` of the Collaboration."
                ) from error

    def cost(self, batch_size: int = 128) -> "pandas.DataFrame":
        """What the network costs, and what each term adds to it, counted without running it: a row each.

        Columns: parameters; multiply-adds of a forward pass of `batch_size` images (backward takes about twice as
        many); bytes kept from it for the backward pass. Methods that `weigh` has switched off are counted too.
        Raises `ImclError` for a batch that is too small for a normalisation, and for a network on the meta device.
        """
        if next(self.network.parameters()).is_meta:
            raise ImclError(
                "The network is on the meta device: make it on the CPU, where counting costs no memory either."
            )
        counter = Counter(self, self.network, (batch_size, *self.image_shape))
        try:
            rows = {"network": (counter.parameters(self.network), *counter.run_of_network())}
            for term in self._terms.values():
                rows |= term.cost(counter)
        except ValueError as error:
            raise ImclError(
                f"A step of {batch_size} images cannot be counted ({error}): name a larger batch_size."
            ) from error
        table = needed("pandas", "pandas", "study").DataFrame
        return table.from_dict(rows, orient="index", columns=["parameters", "multiply-adds", "bytes"])


def _read(
    terms: list[Term], place: Layer, seen: dict[str, dict[str, Any]], maps: Tensor, rows: int | None = None
) -> None:
    """Lets terms read a place's maps, of so many `rows`, and keeps what they found."""
    if rows is not None and len(maps) != rows:
        raise ImclError(
            f"Layer {place.name!r} returns {len(maps)} rows for {rows} images, where local losses need one each: leave "
            "it out of `layers`."
        )
    for term in terms:
        seen[term.name][place.name] = term.read(place, maps)


def _check_options(settings: Any, image_shape: Any, label_smoothing: float) -> None:
    if not (settings is None or isinstance(settings, Settings)):
        raise ImclError(f"Settings are an object, such as MethodSettings(mid_alpha=0.1), not {settings!r}.")
    if not isinstance(image_shape, Sequence):
        raise ImclError(f"image_shape is (channels, height, width), not {image_shape!r}.")
    if not 0 <= label_smoothing <= 1:
        raise ImclError(f"label_smoothing is a portion from 0 to 1, not {label_smoothing}.")


def _settings_for(term: type[Term], settings: Settings) -> Settings:
    """`settings`, where they hold those of `term`; else its defaults: it was registered after they were made."""
    return settings if isinstance(settings, term.Settings) else term.Settings()


@dataclass(frozen=True, kw_only=True)
class DenseSettings(MethodSettings, PixelSettings):
    """The settings of a `DenseCollaboration`: those of the terms, and what only pixels have."""


class DenseCollaboration(Collaboration):
    """A network that labels pixels, with any subset of the four losses attached for training.

    ``collaboration(images, labels).backward()`` as of a `Collaboration`, with `labels` (B, H, W), or probabilities
    (B, m, H, W), as large as the images; logits (B, m, h, w) of another size are enlarged to that bilinearly, as are
    those of local classifiers. Images may have another size in every batch. `logits` are the network's own,
    (B, m, h, w).

    Args:
        network: from images to logits (B, m, h, w), such as `imcl_core.networks.UNet`.
        methods: as of `Collaboration`, of those that know labels of pixels, the paper's among them.
        settings: `DenseSettings`.
        options: those of `Collaboration`. `classifier`: the `nn.Sequential` with dropout that `out` branches need not
            return the logits themselves, where it is named.

    Raises:
        ImclError: as `Collaboration`, and a method that is made for one label an image.
    """

    Task = Pixels
    Settings = DenseSettings
