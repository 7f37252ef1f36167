"""What a method is: one class with its settings, its heads, where it attaches, what it reads or changes, and its loss.

`Collaboration` asks every active term the same questions in the same order and knows none of them by name:

1. Once: `attach` takes the places it wants from `Sites`; `head` makes what is trained at a place.
2. Every step: `images` changes the batch; `look` keeps what it needs of it; `around` encloses the network's run; `read`
   keeps what it needs of a place, right behind it; `change` then replaces what a place returns; `into` adds its terms.
"""

import dataclasses
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from imcl_core.attach.trace import Layer
from imcl_core.errors import ImclError
from imcl_core.settings import Settings, setting

Count = Callable[[Callable], tuple[int, int]]  # multiply-adds of a call of a maker of inputs, and the bytes it keeps
Row = tuple[int, int, int]  # parameters, multiply-adds, bytes


@dataclasses.dataclass(frozen=True, kw_only=True)
class OnLayers(Settings):
    """The settings of every term that sits on layers."""

    attach: str = setting(
        "layers", "where local classifiers and projections sit: 'layers' or 'blocks'", one_of=("layers", "blocks")
    )


@dataclasses.dataclass(frozen=True)
class Step:
    """What a term may look at in one call: `predictions` (H, B, m), the network's own `logits` (B, m), `progress`."""

    images: Tensor
    labels: Tensor
    task: Any  # what a label is of: an image, or a pixel
    predictions: Tensor
    logits: Tensor
    progress: float

    @property
    def targets(self) -> Tensor:
        return self.task.targets(self.labels)

    def rows(self, logits: Tensor) -> Tensor:
        """Logits (…, B, m), a row for each of `targets`."""
        return self.task.rows(logits, self.labels)


class Term:
    """A method of a `Collaboration`. A subclass says what it differs in; `register` makes its name known."""

    name: ClassVar[str]
    Settings: ClassVar[type[Settings]] = Settings
    needs: ClassVar[tuple[str, ...]] = ()  # names that the user may have given: "layers", "kernels", "classifier"
    inside = False  # looks into the network or changes it, which then runs uncompiled
    local = False  # what it reads has gradients that stay at the place
    compares = False  # images with one another: a batch needs two
    capturable = True  # a CUDA graph may repeat its step
    pixels = False  # knows labels of pixels
    replaces: ClassVar[str | None] = None  # the term whose place it takes

    def __init__(self, settings: Settings):
        self.settings, self.factor = settings, 1.0
        self.reads: list[Layer] = []
        self.changes: list[Layer] = []
        self.heads: dict[str, nn.Module] = {}

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

    def change(self, place: Layer, maps: Tensor, progress: float) -> Tensor | None:
        """What takes the place of a place's maps in training mode, after all terms have read it; None: nothing."""

    def losses(self, seen: dict[str, Any], step: Step) -> dict[str, Tensor]:
        """The weighted terms by name, of what `read` has `seen` by place; without autocast."""
        return {}

    def into(self, terms: dict[str, Tensor], seen: dict[str, Any], step: Step) -> dict[str, Tensor]:
        """All terms so far with this one's, by its factor."""
        mine = self.losses(seen, step)
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

    def cost(self, batch: int, count: Count, run: Callable) -> dict[str, Row]:
        """A row a place: what is read there, or changed. `run` runs the network."""
        return {
            self.named(p): (
                size_of(self.heads.get(p.name)),
                *count(lambda make, p=p, act=act: act(p, make(batch, *p.shape))),
            )
            for act, places in ((self.read, self.reads), (self._changed, self.changes))
            for p in places
        }

    def _changed(self, place: Layer, maps: Tensor) -> Tensor:
        return self.change(place, maps, 0.0)

    def named(self, place: Layer) -> str:
        return f"{self.name}/{place.name}"


def size_of(module: nn.Module | None) -> int:
    return sum(p.numel() for p in module.parameters()) if module is not None else 0


def fields_of(terms: Iterable[type[Term]]) -> set[str]:
    """The names of the settings of these terms."""
    return {field.name for term in terms for field in dataclasses.fields(term.Settings)}


def promote_off(device: torch.device) -> AbstractContextManager:
    """Without autocast."""
    return torch.autocast(device.type, enabled=False)
