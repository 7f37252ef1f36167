"""The configuration of one run."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

from imcl_core.collaboration import MethodSettings
from imcl_core.data.sets import HELD_OUT
from imcl_core.errors import ImclError, check_choice
from imcl_core.methods import STRUCTURES, TERMS, Term, fields_of
from imcl_core.methods.population import PATTERNS, WIDER, PopulationSettings
from imcl_core.networks import MODELS, REDUCTION
from imcl_core.settings import setting
from imcl_core.training.recipes import DATASETS, RECIPES, SIZES, Recipe, canonical

PRECISIONS = ("auto", "float32", "bfloat16")


_ADDED = (  # since the first records
    "mid_own", "pp_projection", "kernel_pointwise", "kernel_biased", "kernel_tf32", "pool",
    "side", "augment", "precision", "captured", "evaluate_every", "held_out", "predsim_pool",
    "pp_input",
)  # fmt: skip
_AS_FAST = {  # settings that change what a step computes and not how long it takes; and those of a term's strength
    "seed", "noise", "validation", "held_out", "profile", "epochs", "train_size", "augment", "evaluate_every",
    "lr", "milestones", "gamma", "momentum", "nesterov", "weight_decay", "dropout",
    "out_detach", "out_t_squared", "mid_own", "kernel_biased", "hsic_beta", "hsic_sigma", "predsim_beta", "kd_seed",
}  # fmt: skip
EARLIER = {"predsim_pool": "square"}  # what records that do not name it were made with: the default is another one
_DOUBLE_BATCH = 64  # baseline(2x) of ResNet-18 on STL-10 (Sec. IV-A)
LAST_EPOCHS = 10  # which are evaluated, each of them


@dataclass(frozen=True, kw_only=True)
class RunConfig(MethodSettings, PopulationSettings):
    """Everything that decides the outcome of one run.

    What is left at None is filled in from the recipe of `dataset` and the size of `profile`, so that a finished
    `RunConfig` holds every value. Raises `ImclError` on unknown names, wrong types and impossible values.
    """

    dataset: str = setting("digits", f"one of {', '.join(DATASETS)}")
    model: str = setting("resnet18", f"one of {', '.join(MODELS)}")
    methods: str = setting(
        "baseline",
        f"'baseline', any of {', '.join(TERMS)} joined by '+', or {', '.join(STRUCTURES)}",
    )
    seed: int = setting(
        0, "of the initial weights, the order, the augmentation, the masks and the noise", least=0, most=2**31
    )
    noise: float = setting(0.0, "portion of training labels redrawn at random every epoch", least=0, most=1)
    profile: str = setting(
        "smoke",
        "size of the run: smoke (seconds), cpu (minutes), narrow (minutes to hours of a CPU), t4 (20 minutes), paper "
        "(hours of a GPU)",
    )
    validation: bool = setting(False, "hold out a tenth of the training set and test on it: for tuning")
    held_out: int = setting(
        0, "with `validation`, hold out so many training images in place of a tenth", least=0, most=1 << 40
    )
    width: float | None = setting(None, "factor on the number of filters of every convolution", least=1 / 64, most=64)
    epochs: int | None = setting(None, "passes over the training images", least=1, most=100_000)
    train_size: int | None = setting(
        None, "train on a fixed subset of so many images; 0: on all", least=0, most=1 << 40
    )
    batch_size: int | None = setting(None, "images a step", least=2, most=1 << 20)
    side: int | None = setting(
        None, "pixels of the square images, which are reduced to it by exact means", least=1, most=1 << 20
    )
    augment: bool = setting(True, "random crops and flips; the order is random without them too")
    precision: str = setting(
        "auto",
        "of convolutions and matrix products: float32, bfloat16, or auto: half precision on a GPU, and on a CPU that "
        "computes in bfloat16 too in the profile narrow",
        one_of=PRECISIONS,
    )
    captured: bool = setting(
        True,
        "on a GPU capture the step as a CUDA graph where it can be, with losses in few calls; off: as it reads",
    )
    evaluate_every: int | None = setting(
        None,
        f"epochs from one evaluation to the next; each of the last {LAST_EPOCHS} has one; 0: only the last",
        least=0,
        most=100_000,
    )
    lr: float | None = setting(None, "initial learning rate", above=0, most=1e30)
    milestones: tuple[int, ...] | None = setting(
        None, "epochs after which the rate is multiplied by `gamma`", least=0, most=100_000
    )
    gamma: float = setting(0.2, "factor on the learning rate at each milestone", least=0, most=10)
    momentum: float = setting(0.9, "of SGD", least=0, most=1)
    nesterov: bool = setting(False, "Nesterov's momentum")
    weight_decay: float = setting(5e-4, "on every parameter, those of what is attached included", least=0, most=1)
    pool: int = setting(1, "the last maps are averaged to this side before the classifier", least=1, most=1 << 20)
    hidden: int = setting(512, "units of each hidden layer of the classifier", least=1, most=1 << 20)
    dropout: float = setting(0.5, "probability of the classifier's two dropout layers", least=0, most=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("data set", self.dataset, RECIPES)
        check_choice("model", self.model, MODELS)
        check_choice("profile", self.profile, SIZES)
        self._fill("methods", canonical(self.methods))
        recipe, wider = RECIPES[self.dataset], WIDER.get(self.methods)
        size = SIZES[self.profile].on(self.dataset)
        filled = {
            "width": (wider or 1) * size.width,
            "epochs": size.epochs or recipe.epochs,
            "train_size": size.train_size if size.train_size < 0.9 * recipe.images else 0,
            "batch_size": min(_DOUBLE_BATCH if wider and self._is_large() else recipe.batch_size, size.batch_size),
            "lr": min(recipe.lr, size.lr),
            "side": size.side or recipe.side,
            "evaluate_every": size.evaluate_every,
        }
        for name, value in filled.items():
            if getattr(self, name) is None:
                self._fill(name, value)
        if wider and self.width != filled["width"]:
            raise ImclError(
                f"{self.methods} has {wider} times the width of the profile {self.profile}, {filled['width']:g}: leave "
                "out width, or train a baseline of the width you want."
            )
        if self.milestones is None:
            self._fill("milestones", tuple(round(m * self.epochs / recipe.epochs) for m in recipe.milestones))
        self._check_together()

    def _fill(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def _is_large(self) -> bool:
        """Whether the paper had to halve the batch of baseline(2x)."""
        return (self.dataset, self.model) == ("stl10", "resnet18")

    def _check_together(self) -> None:
        """What depends on several settings: how far images can be reduced and maps pooled, and the schedule."""
        own, smallest = self.recipe.side, REDUCTION[self.model]
        sides = [side for side in range(own, smallest - 1, -1) if own % side == 0]
        if self.side not in sides:
            raise ImclError(
                f"Images of {self.dataset} have {own}×{own} pixels: with {self.model}, side must be one of "
                f"{', '.join(map(str, sides))}, not {self.side}."
            )
        side = self.side // smallest
        if not 1 <= self.pool <= side:
            raise ImclError(
                f"The last maps of {self.model} on {self.dataset} are {side}×{side}: pool must lie between 1 and "
                f"{side}, not {self.pool}."
            )
        for term in self.terms:
            if not isinstance(self, term.Settings):
                raise ImclError(
                    f"{term.name} was registered after the settings of a run were made: install its package with an "
                    "entry point in imcl_core.methods, or train with your own loop."
                )
        if self.held_out and not self.validation:
            raise ImclError("Images are held out where they are to judge: add validation, or leave out held_out.")
        if self.nesterov and not self.momentum:
            raise ImclError("Nesterov's momentum needs a momentum: set momentum to more than 0, or leave out nesterov.")
        if list(self.milestones) != sorted(self.milestones):
            raise ImclError(f"Setting milestones must rise from epoch to epoch, not {self.milestones}.")
        if self.lr * float(max(self.gamma, 1)) ** min(len(self.milestones), 300) > 1e30:
            raise ImclError(
                f"The learning rate would grow beyond 1e30 by {len(self.milestones)} milestones: set gamma to 1."
            )

    @property
    def recipe(self) -> Recipe:
        return RECIPES[self.dataset]

    @property
    def terms(self) -> list[type[Term]]:
        """The terms of this run, of which a structure has none."""
        return [TERMS[name] for name in self.methods.split("+") if name in TERMS]

    @property
    def teacher(self) -> "RunConfig | None":
        """The baseline whose network teaches where a term is taught, this run without methods and with another seed."""
        further = [getattr(self, term.taught_by) for term in self.terms if term.taught_by]
        if not further:
            return None
        plain = replace(self, methods="baseline", seed=self.seed + further[0])
        return RunConfig(**{"side": self.side, "evaluate_every": self.evaluate_every} | plain.identity())

    @property
    def images(self) -> int:
        """How many images an epoch has."""
        return self.train_size or self.recipe.images - (self.evaluated_images if self.validation else 0)

    @property
    def evaluated_images(self) -> int:
        """How many images an evaluation has: the test images, or those held out."""
        if not self.validation:
            return self.recipe.test_images
        return self.held_out or round(HELD_OUT * self.recipe.images)

    @property
    def padding(self) -> int:
        """Black pixels around an image before it is cropped: in proportion to its side; 0 without augmentation."""
        return self.recipe.padding * self.side // self.recipe.side if self.augment else 0

    @property
    def flip(self) -> bool:
        return self.recipe.flip and self.augment

    @property
    def cpu_precision(self) -> str:
        """What `precision` asks of a CPU: "float32" or "bfloat16"."""
        return SIZES[self.profile].precision if self.precision == "auto" else self.precision

    @property
    def repeatable(self) -> bool:
        """Whether a GPU too must give the same digits each time: `Profile.repeatable`."""
        return SIZES[self.profile].repeatable

    def evaluates(self, epoch: int) -> bool:
        """Whether an epoch, counted from 0, is followed by an evaluation."""
        if not self.evaluate_every:
            return epoch == self.epochs - 1
        return (epoch + 1) % self.evaluate_every == 0 or epoch >= self.epochs - LAST_EPOCHS

    @property
    def evaluations(self) -> int:
        """How many epochs are followed by one."""
        return sum(map(self.evaluates, range(self.epochs)))

    def lr_at(self, epoch: int) -> float:
        """The learning rate of an epoch, counted from 0."""
        return self.lr * self.gamma ** sum(epoch >= milestone for milestone in self.milestones)

    def identity(self) -> dict[str, Any]:
        """Every setting that can influence this run: those of methods that are off are left out.

        Records are named by it. A setting added later is left out at its default, so that the records made before
        keep their names; one that changed what was done before, at what it was before.
        """
        off = fields_of(TERMS.values()) - fields_of(self.terms)
        pattern = PATTERNS.get(self.methods)
        off |= {*pattern.unused} if pattern else {field.name for field in fields(PopulationSettings)}
        before = {"side": self.recipe.side, "evaluate_every": 1} | EARLIER
        same = {name for name in _ADDED if getattr(self, name) == before.get(name, getattr(type(self), name))}
        return {k: v for k, v in vars(self).items() if k not in off | same}

    @property
    def like(self) -> tuple:
        """Runs that share this are equally fast on one machine, image for image."""
        settings, same = self.identity().items(), as_fast()
        return self.cpu_precision, *((name, value) for name, value in settings if name not in same)

    @property
    def key(self) -> str:
        """Twelve hexadecimal digits that name the identity."""
        return self.name[-12:]

    @property
    def name(self) -> str:
        """A readable, unique file name for this run."""
        return self.names()(self.seed)

    def names(self) -> Callable[[int], str]:
        """The name of this run at any seed: for many seeds faster than `replace`."""
        noise = f"-noise{self.noise:g}" if self.noise else ""
        readable = f"{self.dataset}-{self.model}-{self.methods}{noise}-{self.profile}"
        before, after = json.dumps(self.identity() | {"seed": None}, sort_keys=True).split('"seed": null')

        def at(seed: int) -> str:
            digest = hashlib.sha256(f'{before}"seed": {seed}{after}'.encode()).hexdigest()
            return f"{readable}-seed{seed}-{digest[:12]}"

        return at


def as_fast() -> set[str]:
    """Names of the settings by which two runs may differ and take the same time for an image."""
    return _AS_FAST.union(*(strength for term in TERMS.values() for strength in term.strengths))
