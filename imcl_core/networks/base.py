"""What VGG and ResNet share: a trunk of ordered layers, average pooling, and the classifier."""

from collections.abc import Iterator

import torch.nn.functional as F
from torch import Tensor, nn

from imcl_core.errors import ImclError
from imcl_core.networks.classifier import make_classifier


class ConvUnit(nn.Module):
    """An intermediate layer in the paper's sense: convolution, batch normalisation, [shortcut's addition], ReLU.

    (B, C, H, W) to (B, F, H', W'). `residual` is what a residual block's last layer adds before its ReLU; the
    shortcut's own convolution, where there is one, belongs to that layer.
    """

    def __init__(self, channels: int, filters: int, kernel: int = 3, stride: int = 1, *, bias=False, shortcut=None):
        super().__init__()
        self.conv = nn.Conv2d(channels, filters, kernel, stride, padding=kernel // 2, bias=bias)
        self.bn = nn.BatchNorm2d(filters)
        self.shortcut = shortcut

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        h = self.bn(self.conv(x))
        if residual is not None:
            h = h + (residual if self.shortcut is None else self.shortcut(residual))
        return F.relu(h)


class Block(nn.Module):
    """A part that a network repeats."""


class Network(nn.Module):
    """A trunk of named parts, average pooling and a three-layer classifier: images (B, 3, H, W) to logits (B, m).

    `layers`: every `ConvUnit` by its module name, in order of depth. `groups`: those names by resolution (VGG-16's
    five groups; the stem and the four stages of a ResNet).
    """

    def __init__(
        self, trunk: nn.Sequential, features: int, num_classes: int, hidden: int, dropout: float, pool: int = 1
    ):
        super().__init__()
        self.trunk = trunk
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(pool), nn.Flatten())
        self.classifier = make_classifier(features * pool**2, hidden, num_classes, dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.pool(self.trunk(x)))

    @property
    def layers(self) -> dict[str, ConvUnit]:
        return {name: unit for name, unit in self.named_modules() if isinstance(unit, ConvUnit)}

    @property
    def blocks(self) -> dict[str, nn.Module]:
        """The parts that repeat, in order of depth: VGG-16's groups; a ResNet's stem and residual blocks."""
        parts = {f"trunk.{name}": part for name, part in self.trunk.named_children()}
        repeated = {
            name: [(n, m) for n, m in part.named_modules(prefix=name) if isinstance(m, Block)]
            for name, part in parts.items()
        }
        return {n: m for name, part in parts.items() for n, m in repeated[name] or [(name, part)]}

    @property
    def pieces(self) -> dict[str, nn.Module]:
        """The modules that images pass one after the other, by name: units or residual blocks, pools, classifier."""
        return dict(_chain("trunk", self.trunk)) | {"pool": self.pool, "classifier": self.classifier}

    @property
    def groups(self) -> list[list[str]]:
        """Names of the layers of each part of the trunk, in order of depth."""
        return [
            [name for name in self.layers if name.startswith(f"trunk.{part}.")]
            for part, _ in self.trunk.named_children()
        ]


def _chain(name: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules inside nested `nn.Sequential`s, in order."""
    if not isinstance(module, nn.Sequential):
        yield name, module
        return
    for child, part in module.named_children():
        yield from _chain(f"{name}.{child}", part)


def scaled(filters: int, width: float) -> int:
    count = filters * width
    if count < 1 or count != int(count):
        raise ImclError(f"Width {width} makes {count} of {filters} filters: use a power of two, such as 0.25 or 2.")
    return int(count)
