"""Figures of chapter 5: the descriptors of images, and matrices of their similarity."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from imcl_book.figures.shared import by_depth, gains_beside_the_paper, matrices
from imcl_book.figures.style import BLUE, panels, styled

__all__ = ["by_depth", "descriptors", "gains_beside_the_paper", "matrices"]


@styled
def descriptors(images: Sequence[np.ndarray], maps: Sequence[np.ndarray], names: Sequence[str]) -> Figure:
    """What Eq. 8 keeps of feature maps: a row an image (H, W, 3), its maps (C, H, W) and their deviations as bars."""
    channels = len(maps[0])
    top = max(float(m.std(axis=(1, 2)).max()) for m in maps)
    ratios = [1] * (channels + 1) + [1.8]
    figure, axes = panels(len(images), channels + 2, 7, 0.95 * len(images) + 0.5, width_ratios=ratios)
    for row, image, feature, name in zip(axes, images, maps, names, strict=True):
        row[0].imshow(image)
        row[0].set_ylabel(name)
        for axis, channel in zip(row[1:-1], feature, strict=True):
            axis.imshow(channel, vmin=0, vmax=max(float(m.max()) for m in maps), cmap="cividis")
        row[-1].bar(range(1, channels + 1), feature.std(axis=(1, 2)), color=BLUE)
        row[-1].set(ylim=(0, 1.1 * top), yticks=[])
        for axis in row[:-1]:
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        row[-1].set_xticks(range(1, channels + 1), range(1, channels + 1), fontsize=8)
    for title, axis in zip(("image", *range(1, channels + 1), "deviation"), axes[0], strict=True):
        axis.set_title(str(title), fontsize=9)
    axes[-1, -1].set_xlabel("channel")
    return figure
