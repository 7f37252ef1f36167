"""What a method is: one class with its settings, its heads, where it attaches, what it reads or changes, and its loss.

`Collaboration` asks every active term the same questions in the same order and knows none of them by name:

1. Once: `attach` takes the places it wants from `Sites`; `head` makes what is trained at a place.
2. Every step: `images` changes the batch; `look` keeps what it needs of it; `around` encloses the network's run; `read`
   keeps what it needs of a place, right behind it; `change` then replaces what a place returns; `into` adds its terms.
"""

import dataclasses
import functools
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from imcl_core import losses
from imcl_core.attach.layer import Layer
from imcl_core.errors import ImclError
from imcl_core.measure.cost import Counter
from imcl_core.settings import Settings, setting

Row = tuple[int, int, int]  # parameters, multiply-adds, bytes


@dataclasses.dataclass(frozen=True, kw_only=True)
class OnLayers(Settings):
    """The settings of every term that sits on layers."""

    attach: str = setting(
        "layers", "where local classifiers and projections sit: 'layers' or 'blocks'", one_of=("layers", "blocks")
    )


@dataclasses.dataclass(frozen=True)
class Step:
    """What a term may look at in one call: `predictions` (H, B, m), the network's own `logits` (B, m), `progress`.

    `first`: the name of the term of the predictions, which stands first in the objective.
    """

    images: Tensor
    labels: Tensor
    task: Any  # what a label is of: an image, or a pixel
    predictions: Tensor
    logits: Tensor
    progress: float | Tensor | None  # a tensor, of the device, in a captured step; None where nobody tells it
    first: str

    @property
    def targets(self) -> Tensor:
        """What each prediction is to be, class indices (B,) or probabilities (B, m)."""
        return self.task.targets(self.labels, self.logits)

    def rows(self, logits: Tensor) -> Tensor:
        """Logits (…, B, m), a row for each of `targets`."""
        return self.task.rows(logits, self.labels)


class Heads(Mapping[str, nn.Module]):
    """The heads of a term by place, as `of_all`, which keeps those of every term, has them now."""

    def __init__(self, keys: dict[str, str], of_all: nn.ModuleDict):
        self.keys_of_all, self.of_all = keys, of_all

    def __getitem__(self, place: str) -> nn.Module:
        return self.of_all[self.keys_of_all[place]]

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys_of_all)

    def __len__(self) -> int:
        return len(self.keys_of_all)


class Term:
    """A method of a `Collaboration`. A subclass says what it differs in; `register` makes its name known."""

    name: ClassVar[str]
    Settings: ClassVar[type[Settings]] = Settings
    source: ClassVar[str] = ""  # who published it, and when
    strengths: ClassVar[tuple[dict[str, Any], ...]] = ()  # settings that a search tries, the default's among them
    needs: ClassVar[tuple[str, ...]] = ()  # names that the user may have given: "layers", "kernels", "classifier"
    inside = False  # looks into the network or changes it, which then runs uncompiled
    local = False  # what it reads has gradients that stay at the place
    compares = False  # images with one another: a batch needs two
    capturable = True  # a CUDA graph may repeat its step
    pixels = False  # knows labels of pixels
    replaces: ClassVar[str | None] = None  # the term whose place it takes; of these, one at a time
    taught_by: ClassVar[str | None] = None  # a setting: its teacher is the baseline of a seed by so much higher

    def __init__(self, settings: Settings):
        self.settings, self.factor = settings, 1.0
        self.reads: list[Layer] = []
        self.changes: list[Layer] = []
        self.heads: Mapping[str, nn.Module] = {}
        self.weights: list[str] = []  # modules whose weights it compares, by `weight_of`
        self.branched = ""  # the module that it runs for several predictions

    # --- once

    def attach(self, sites: Any, task: Any) -> None:
        """Sets `reads` or `changes`, the places; `ImclError` where the network has none that fit."""

    def head(self, place: Layer) -> nn.Module | None:
        """What is trained at a place, and is no part of the network."""

    def keeps(self) -> dict[str, nn.Module]:
        """Modules of its own that do not learn, such as a teacher, by their names in the `Collaboration`."""
        return {}

    # --- every step

    def images(self, images: Tensor) -> Tensor:
        """The batch as the network is to see it in training mode."""
        return images

    def look(self, images: Tensor) -> Any:
        """What it needs of the batch itself, under the autocast that the network runs under; the key is ""."""

    def branches(self, rows: int, images: int) -> int:
        """How many predictions of each image the network returns."""
        return 1

    def around(self, network: nn.Module) -> AbstractContextManager:
        """Encloses the run of the network."""
        return nullcontext()

    def read(self, place: Layer, maps: Tensor) -> Any:
        """What `losses` needs of a place's maps (B, C, H, W); runs right behind it, so that nothing waits in memory."""

    def change(self, place: Layer, maps: Tensor, progress: float | Tensor | None) -> Tensor | None:
        """What takes the place of a place's maps in training mode, after all terms have read it; None: nothing."""

    def losses(self, seen: dict[str, Any], step: Step) -> dict[str, Tensor]:
        """The weighted terms by name, of what `read` has `seen` by place; without autocast."""
        return {}

    def into(self, terms: dict[str, Tensor], seen: dict[str, Any], step: Step) -> dict[str, Tensor]:
        """All terms so far with this one's, by its factor; `ImclError` where these are none, or have others' names."""
        mine = self.losses(seen, step)
        for name, value in mine.items():
            if not isinstance(value, Tensor) or value.ndim or name in terms:
                wrong = "has the name of another" if name in terms else f"is no scalar tensor: {_described(value)}"
                raise ImclError(f"The term {name!r} of {self.name} {wrong}: let `losses` return scalars by names.")
        return terms | (mine if self.factor == 1 else {name: self.factor * value for name, value in mine.items()})

    # --- what it costs, and how far it can be weighed

    @property
    def share(self) -> float:
        """A share or a rate that the factor multiplies, and that stays at 1 or less; 0 where there is none."""
        return 0.0

    def check_factor(self, factor: float) -> None:
        """`ImclError` for a factor that this method cannot have."""
        if not (isinstance(factor, int | float) and 0 <= factor < float("inf")):
            raise ImclError(f"A factor is a number from 0 up, not {factor!r}.")
        if factor * self.share > 1:
            raise ImclError(f"A factor of {factor} makes the share or the rate of {self.name} more than 1: lower it.")

    def cost(self, counter: Counter) -> dict[str, Row]:
        """A row a place: what is read there, or changed, by the very functions that a step calls."""
        acts = [(place, self.read) for place in self.reads]
        acts += [(place, functools.partial(self.change, progress=0.0)) for place in self.changes]
        return {
            self.named(p): (
                counter.parameters(self.heads.get(p.name)),
                *counter.at(p.shape, functools.partial(act, p)),
            )
            for p, act in acts
        }

    def named(self, place: Layer) -> str:
        return f"{self.name}/{place.name}"


class OfPredictions(Term):
    """A term in the place of the labels' loss. Weighed down, the rest is the labels' loss of every prediction."""

    replaces = "hard"
    share = 1.0

    def loss(self, step: Step) -> Tensor:
        """The loss of `step.predictions`, a scalar."""
        raise NotImplementedError

    def into(self, terms: dict[str, Tensor], seen: dict[str, Any], step: Step) -> dict[str, Tensor]:
        loss = self.loss(step)
        if self.factor < 1:
            hard = torch.stack([losses.hard_loss(z, step.targets) for z in step.rows(step.predictions)]).mean()
            loss = self.factor * loss + (1 - self.factor) * hard
        return terms | {self.name: loss}


class OfBranches(OfPredictions):
    """A term of several predictions that the network's own classifier makes in one run: `around` says how."""

    needs = ("classifier",)
    inside = pixels = True

    def attach(self, sites: Any, task: Any) -> None:
        self.branched = sites.classifier()

    def branches(self, rows: int, images: int) -> int:
        return rows // images

    def cost(self, counter: Counter) -> dict[str, Row]:
        return {self.name: (0, *counter.more_than_network(self.around))}


def _described(value: Any) -> str:
    return f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def weight_of(module: nn.Module) -> Tensor:
    """A module's weight in float32, also where a step has put one in half precision in its place."""
    return getattr(module.weight, "whole", module.weight)


def fields_of(terms: Iterable[type[Term]]) -> set[str]:
    """The names of the settings of these terms."""
    return set().union(*(_names(term.Settings) for term in terms))


@functools.cache
def _names(settings: type[Settings]) -> frozenset[str]:
    return frozenset(field.name for field in dataclasses.fields(settings))


def by_half_decades(name: str, least: float, most: float) -> tuple[dict[str, float], ...]:
    """Strengths 1, 3, 10, 30 … times `least`, up to `most`, of the setting `name`."""
    count = round(2 * math.log10(most / least)) + 1
    return tuple({name: float(f"{least * 10 ** (i / 2):.0e}")} for i in range(count))
