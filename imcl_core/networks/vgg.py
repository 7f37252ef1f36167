"""VGG-16 for small images (Simonyan & Zisserman 2015), with batch normalisation."""

from collections import OrderedDict

from torch import nn

from imcl_core.networks.base import ConvUnit, scaled

GROUPS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # filters, convolutions


def vgg16_trunk(width: float) -> tuple[nn.Sequential, int]:
    """The convolutions of VGG-16, every one `width` times as wide, and the channels of its last maps."""
    channels, groups = 3, OrderedDict()
    for g, (filters, count) in enumerate(GROUPS, start=1):
        group = OrderedDict()
        for i in range(1, count + 1):
            # torchvision's VGG-16 keeps the bias in front of batch normalisation, and so do we.
            group[f"conv{i}"] = ConvUnit(channels, scaled(filters, width), bias=True)
            channels = scaled(filters, width)
        group["pool"] = nn.MaxPool2d(2)
        groups[f"group{g}"] = nn.Sequential(group)
    return nn.Sequential(groups), channels
