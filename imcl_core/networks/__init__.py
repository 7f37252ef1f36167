"""VGG-16, ResNet-18 and ResNet-101 for small images: a trunk of ordered layers, then the classifier; a small U-Net."""

from collections import OrderedDict
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imcl_core.errors import ImclError, check_choice
from imcl_core.networks.classifier import make_classifier

MODELS = ("vgg16", "resnet18", "resnet101")
REDUCTION = {"vgg16": 32, "resnet18": 8, "resnet101": 8}  # the side of an image over that of the last maps
_VGG16_GROUPS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # filters, convolutions
_RESNET_BLOCKS = {"resnet18": (2, 2, 2, 2), "resnet101": (3, 4, 23, 3)}


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


class ResidualBlock(nn.Module):
    """Two layers (`BasicBlock`) or three (`Bottleneck`) of He et al. 2016; the last adds the block's input."""

    def __init__(self, channels: int, filters: int, stride: int, bottleneck: bool):
        super().__init__()
        out = filters * (4 if bottleneck else 1)
        shortcut = None
        if stride != 1 or channels != out:
            shortcut = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))
        if bottleneck:
            self.first = ConvUnit(channels, filters, 1)
            self.middle = ConvUnit(filters, filters, 3, stride)
            self.last = ConvUnit(filters, out, 1, shortcut=shortcut)
        else:
            self.first = ConvUnit(channels, filters, 3, stride)
            self.last = ConvUnit(filters, out, 3, shortcut=shortcut)
        self.out_channels = out

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        if hasattr(self, "middle"):
            h = self.middle(h)
        return self.last(h, x)


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
        residual = {name: m for name, m in self.named_modules() if isinstance(m, ResidualBlock)}
        parts = {f"trunk.{name}": part for name, part in self.trunk.named_children()}
        return {"trunk.stem": parts["trunk.stem"]} | residual if residual else parts

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


class UNet(nn.Module):
    """A small U-Net (Ronneberger et al. 2015): images (B, 3, H, W) of any size from 4×4 to logits (B, m, H, W).

    Two layers at each of three resolutions on the way down, `width` filters at the first and twice as many at each
    further one; on the way up the maps are enlarged, joined with those of the same size, and go through two layers
    again. `classifier` has three 1×1 convolutions with dropout after the first two: the paper's, at every pixel.
    """

    def __init__(self, num_classes: int, width: int = 16, dropout: float = 0.5):
        super().__init__()
        sizes = (width, 2 * width, 4 * width)
        self.down = nn.ModuleList(_two_layers(c, f) for c, f in zip((3, *sizes), sizes, strict=False))
        self.up = nn.ModuleList(_two_layers(3 * f, f) for f in reversed(sizes[:-1]))
        self.classifier = nn.Sequential(
            nn.Conv2d(width, 2 * width, 1),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Conv2d(2 * width, 2 * width, 1),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Conv2d(2 * width, num_classes, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        maps = []
        for number, layers in enumerate(self.down):
            x = layers(F.max_pool2d(x, 2) if number else x)
            maps.append(x)
        for layers, same in zip(self.up, reversed(maps[:-1]), strict=True):
            x = layers(torch.cat([F.interpolate(x, size=same.shape[2:]), same], dim=1))
        return self.classifier(x)


def _two_layers(channels: int, filters: int) -> nn.Sequential:
    return nn.Sequential(
        *(
            nn.Sequential(nn.Conv2d(c, filters, 3, padding=1, bias=False), nn.BatchNorm2d(filters), nn.ReLU())
            for c in (channels, filters)
        )
    )


def _vgg16_trunk(width: float) -> tuple[nn.Sequential, int]:
    channels, groups = 3, OrderedDict()
    for g, (filters, count) in enumerate(_VGG16_GROUPS, start=1):
        group = OrderedDict()
        for i in range(1, count + 1):
            # torchvision's VGG-16 keeps the bias in front of batch normalisation, and so do we.
            group[f"conv{i}"] = ConvUnit(channels, _scaled(filters, width), bias=True)
            channels = _scaled(filters, width)
        group["pool"] = nn.MaxPool2d(2)
        groups[f"group{g}"] = nn.Sequential(group)
    return nn.Sequential(groups), channels


def _resnet_trunk(model: str, width: float) -> tuple[nn.Sequential, int]:
    channels = _scaled(64, width)
    parts = OrderedDict(stem=nn.Sequential(OrderedDict(conv1=ConvUnit(3, channels))))
    for s, blocks in enumerate(_RESNET_BLOCKS[model], start=1):
        stage = OrderedDict()
        for b in range(1, blocks + 1):
            stride = 2 if s > 1 and b == 1 else 1
            block = ResidualBlock(channels, _scaled(64 * 2 ** (s - 1), width), stride, model == "resnet101")
            stage[f"block{b}"], channels = block, block.out_channels
        parts[f"stage{s}"] = nn.Sequential(stage)
    return nn.Sequential(parts), channels


def _scaled(filters: int, width: float) -> int:
    scaled = filters * width
    if scaled < 1 or scaled != int(scaled):
        raise ImclError(f"Width {width} makes {scaled} of {filters} filters: use a power of two, such as 0.25 or 2.")
    return int(scaled)


def build(
    model: str, num_classes: int, width: float = 1.0, hidden: int = 512, dropout: float = 0.5, pool: int = 1
) -> Network:
    """A network of the paper with random weights: `model` of `MODELS`, every convolution `width` times as wide.

    ResNets have the 3×3 stem of stride 1 and no stem pool (He et al. 2016, Sec. 4.2). The last maps are averaged to
    `pool`×`pool` positions, so that every network takes images of any size from 32×32.
    """
    check_choice("model", model, MODELS)
    trunk, features = _vgg16_trunk(width) if model == "vgg16" else _resnet_trunk(model, width)
    return Network(trunk, features, num_classes, hidden, dropout, pool)
