"""Figures of chapter 6: pairs of filters, their covariances, and how alike maps are by depth."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from imcl_book.figures.shared import by_depth, gains_beside_the_paper, matrices, tiles
from imcl_book.figures.style import colour, legend_above, panels, styled

__all__ = ["by_depth", "filter_pairs", "gains_beside_the_paper", "matrices", "redundancy"]


@styled
def filter_pairs(rows: Mapping[str, Sequence[tuple[str, np.ndarray, np.ndarray]]]) -> Figure:
    """Pairs of filters (C, kh, kw) side by side, each standardised and its channels tiled: a row a pair.

    `rows` by name, such as a layer's: each pair with its title. As narrow as a telephone, so that nothing shrinks.
    """
    pairs = [(name, *pair) for name, row in rows.items() for pair in row]
    figure, axes = panels(len(pairs), 2, 3.4, 1.75 * len(pairs) + 0.6)
    for line, (name, title, *filters) in zip(axes, pairs, strict=True):
        for axis, kernel in zip(line, filters, strict=True):
            image = axis.imshow(tiles(kernel), vmin=-3, vmax=3, cmap="PuOr")
            axis.set(xticks=[], yticks=[])
        line[0].set_title(title, loc="left", fontsize=9)
        line[0].set_ylabel(name)
    label = "weight (standard deviations of its filter)"
    figure.colorbar(image, ax=axes, label=label, location="bottom", aspect=25)
    return figure


@styled
def redundancy(networks: Mapping[str, Mapping[str, np.ndarray]], bins: np.ndarray) -> Figure:
    """How alike pairs of filters are, a panel a network: the portion of pairs by absolute covariance, below a half.

    `networks[name][methods]`: counts (len(bins) - 1,) of pairs by absolute covariance.
    """
    figure, axes = panels(1, len(networks), 7, 2.9, sharey=True)
    for axis, (name, by_method) in zip(axes[0], networks.items(), strict=True):
        for methods, counts in by_method.items():
            axis.stairs(100 * counts / counts.sum(), bins, color=colour(methods), lw=1.6, label=methods)
        axis.set(title=name, xlabel="absolute covariance of two filters", xlim=(0, 0.5))
    axes[0, 0].set_ylabel("pairs (%)")
    legend_above(figure, axes[0, 0], columns=2)
    return figure
