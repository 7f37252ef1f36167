"""A small U-Net (Ronneberger et al. 2015), which labels pixels."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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
