"""VGG-16, ResNet-18 and ResNet-101 for small images: a trunk of ordered layers, then the classifier; a small U-Net."""

from imcl_core.errors import check_choice
from imcl_core.networks.base import ConvUnit, Network
from imcl_core.networks.resnet import BLOCKS, resnet_trunk
from imcl_core.networks.unet import UNet
from imcl_core.networks.vgg import vgg16_trunk

__all__ = ["MODELS", "REDUCTION", "ConvUnit", "Network", "UNet", "build"]

MODELS = ("vgg16", *BLOCKS)
REDUCTION = {"vgg16": 32, "resnet18": 8, "resnet101": 8}  # the side of an image over that of the last maps


def build(
    model: str, num_classes: int, width: float = 1.0, hidden: int = 512, dropout: float = 0.5, pool: int = 1
) -> Network:
    """A network of the paper with random weights: `model` of `MODELS`, every convolution `width` times as wide.

    ResNets have the 3×3 stem of stride 1 and no stem pool (He et al. 2016, Sec. 4.2). The last maps are averaged to
    `pool`×`pool` positions, so that every network takes images of any size from 32×32.
    """
    check_choice("model", model, MODELS)
    trunk, features = resnet_trunk(model, width) if model in BLOCKS else vgg16_trunk(width)
    return Network(trunk, features, num_classes, hidden, dropout, pool)
