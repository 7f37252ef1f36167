"""What came before: several classifier heads that teach each other (Song & Chai, NeurIPS 2018; Fig. 1b and 1c)."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from imcl_core import losses
from imcl_core.errors import ImclError, nearest
from imcl_core.networks import Network
from imcl_core.settings import Settings, setting
from imcl_core.tasks.images import check_labels, check_targets


@dataclass(frozen=True, kw_only=True)
class PopulationSettings(Settings):
    """The settings of a population of heads; what Eq. 3 leaves open is a decision of the book's page."""

    pop_heads: int = setting(4, "heads, H; a tree needs 2, 4, 8 or 16", least=2, most=16)
    pop_splits: tuple[str, ...] = setting(
        (), "pieces of the network in front of which a tree splits; none: equal parts"
    )
    pop_alpha: float = setting(0.5, "weight of the labels against the other heads, Eq. 3", least=0, most=1)
    pop_temperature: float = setting(2.0, "T of Eq. 2", above=0, most=10**6)
    pop_detach: bool = setting(True, "take the other heads' mean as a constant")
    pop_t_squared: bool = setting(False, "multiply the soft part by T²")
    pop_sum: bool = setting(True, "add the heads' losses up, as rescaling presumes; else take the mean of Eq. 3")
    pop_rescale: bool = setting(True, "divide the gradient by the number of children at every split")


class _DividedGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, divisor: float) -> Tensor:
        ctx.divisor = divisor
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient / ctx.divisor, None


def divide_gradient(x: Tensor, divisor: float) -> Tensor:
    """`x` itself, of any shape; its gradient comes back divided.

    Back-propagation rescaling (Song & Chai): with a split's number of children as divisor, the layers before it learn
    by the mean of the children's gradients, and so at the rate of the plain network, however many heads there are.
    """
    return _DividedGradient.apply(x, divisor)


WIDER = {"baseline-2x": 2}  # the plain network with so many times the filters (Sec. IV): to compare with


class Population(nn.Module):
    """Heads that share a network's first pieces, or nothing, and are trained by Eq. 3; used as `Collaboration` is.

    ``loss = population(images, labels); loss.backward()``; `population(images)`, without labels, are the logits of the
    path that is kept: `network`, the plain model. `terms` and `logits` (the kept path's) are those of the last call.

    `levels` are the parts of the network between splits, each with the number of its copies. The first copy is the
    network's own modules, the others start from weights of their own.

    Args:
        network: one of `imcl_core.networks`.
        levels: the name of each level's first piece (of `network.pieces`), and its number of copies, a multiple of the
            number before.
        settings: Eq. 3's, and whether gradients are rescaled at splits.
        seed: of the copies' initial weights, a random stream of their own.
    """

    name: ClassVar[str]  # of the method, and of the term in `terms`
    unused: ClassVar[tuple[str, ...]] = ()  # settings that it does not look at

    def __init__(self, network: Network, levels: Sequence[tuple[str, int]], settings: PopulationSettings, seed: int):
        super().__init__()
        self.network, self.settings = network, settings
        self.levels = list(levels)
        self.copies = nn.ModuleList()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # `torch.manual_seed` would seed GPUs too
            for part, (_, count) in zip(self._parts(), self.levels, strict=True):
                self.copies.append(nn.ModuleList(_fresh_copy(part) for _ in range(count - 1)))
        self.terms: dict[str, Tensor] = {}
        self.logits: Tensor | None = None

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """The objective, a scalar, of `images` (B, C, H, W) and `labels` (B,) or (B, m); without them logits (B, m)."""
        if labels is None:
            return self.network(images)
        loss = self.objective(images, labels)[self.name]
        self.terms = {self.name: loss.detach()}
        return loss

    def objective(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Eq. 3 (without its 1/H, see `pop_sum`) under the pattern's name, with its gradient."""
        s = self.settings
        check_labels(labels, (), len(images))
        predictions = self.predictions(images)
        check_targets(labels, predictions.shape[2])
        self.logits = losses.promote(predictions[0].detach())
        with torch.autocast(images.device.type, enabled=False):
            loss = losses.output_loss(
                predictions, labels, s.pop_alpha, s.pop_temperature, s.pop_detach, s.pop_t_squared
            )
        return {self.name: len(predictions) * loss if s.pop_sum else loss}

    def predictions(self, images: Tensor) -> Tensor:
        """The logits of every head (H, B, m), the kept path's first; what heads share is computed once."""
        outputs = [images]
        for part, copies in zip(self._parts(), self.copies, strict=True):
            branches = [part, *copies]
            children = len(branches) // len(outputs)
            if self.settings.pop_rescale and children > 1:
                outputs = [divide_gradient(x, children) for x in outputs]
            outputs = [_through(branch, outputs[i // children]) for i, branch in enumerate(branches)]
        return torch.stack(outputs)

    def _parts(self) -> list[nn.ModuleList]:
        """The network's own pieces, level by level."""
        pieces = self.network.pieces
        names = list(pieces)
        starts = [names.index(start) for start, _ in self.levels]
        return [
            nn.ModuleList(pieces[name] for name in names[start:stop])
            for start, stop in zip(starts, [*starts[1:], len(names)], strict=True)
        ]


class MultiInstance(Population):
    """`settings.pop_heads` whole networks (Fig. 1b), an ensemble whose members learn from each other; one is kept."""

    name, unused = "multi-instance", ("pop_splits",)

    def __init__(self, network: Network, *, settings: PopulationSettings | None = None, seed: int = 0):
        settings = settings or PopulationSettings()
        first = next(iter(_pieces(network)))
        super().__init__(network, [(first, settings.pop_heads)], settings, seed)


class Tree(Population):
    """A trunk that splits in two again and again until there are `settings.pop_heads` (Fig. 1c).

    One path is kept.

    `settings.pop_splits` names the piece of `network.pieces` in front of which each split lies; by default they cut
    the convolutional layers into equal parts, thirds for four heads.
    """

    name = "tree"

    def __init__(self, network: Network, *, settings: PopulationSettings | None = None, seed: int = 0):
        settings = settings or PopulationSettings()
        depth = int(math.log2(settings.pop_heads))
        if 2**depth != settings.pop_heads:
            raise ImclError(f"A tree splits in two: pop_heads must be 2, 4, 8 or 16, not {settings.pop_heads}.")
        pieces = list(_pieces(network))
        splits = list(settings.pop_splits) or equal_splits(network, depth)
        for name in splits:
            if name not in pieces[1:]:
                raise ImclError(f"A tree cannot split in front of {name!r}.{nearest(name, pieces[1:])}")
        if len(splits) != depth or splits != sorted(set(splits), key=pieces.index):
            raise ImclError(
                f"A tree of {2**depth} heads needs {depth} different splits in order of depth, not {splits}."
            )
        levels = [(name, 2**level) for level, name in enumerate([pieces[0], *splits])]
        super().__init__(network, levels, settings, seed)


PATTERNS: dict[str, type[Population]] = {kind.name: kind for kind in (MultiInstance, Tree)}


def equal_splits(network: Network, count: int) -> list[str]:
    """The pieces in front of which to split so that the convolutional layers fall into `count` + 1 parts alike."""
    layers_before, seen = {}, 0
    for name in network.pieces:
        inside = sum(name == layer or layer.startswith(f"{name}.") for layer in network.layers)
        if inside:
            layers_before[name] = seen
        seen += inside
    wanted = [seen * part / (count + 1) for part in range(1, count + 1)]
    return [min(layers_before, key=lambda name: abs(layers_before[name] - target)) for target in wanted]


def _pieces(network: nn.Module) -> dict[str, nn.Module]:
    if not isinstance(network, Network):
        raise ImclError("A population needs one of imcl_core.networks: build one with imcl_core.networks.build.")
    return network.pieces


def _through(pieces: nn.ModuleList, x: Tensor) -> Tensor:
    for piece in pieces:
        x = piece(x)
    return x


def _fresh_copy(pieces: nn.ModuleList) -> nn.ModuleList:
    """The same modules with other initial weights."""
    copied = copy.deepcopy(pieces)
    for module in copied.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    return copied
