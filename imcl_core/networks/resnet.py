"""ResNet-18 and ResNet-101 for small images (He et al. 2016): a 3×3 stem of stride 1, and no stem pool."""

from collections import OrderedDict

from torch import Tensor, nn

from imcl_core.networks.base import Block, ConvUnit, scaled

BLOCKS = {"resnet18": (2, 2, 2, 2), "resnet101": (3, 4, 23, 3)}  # of each stage


class ResidualBlock(Block):
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


def resnet_trunk(model: str, width: float) -> tuple[nn.Sequential, int]:
    """Stem and stages of `model`, every convolution `width` times as wide, and the channels of its last maps."""
    channels = scaled(64, width)
    parts = OrderedDict(stem=nn.Sequential(OrderedDict(conv1=ConvUnit(3, channels))))
    for s, blocks in enumerate(BLOCKS[model], start=1):
        stage = OrderedDict()
        for b in range(1, blocks + 1):
            stride = 2 if s > 1 and b == 1 else 1
            block = ResidualBlock(channels, scaled(64 * 2 ** (s - 1), width), stride, model == "resnet101")
            stage[f"block{b}"], channels = block, block.out_channels
        parts[f"stage{s}"] = nn.Sequential(stage)
    return nn.Sequential(parts), channels
