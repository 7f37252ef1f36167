"""Figures of chapter 6: pairs of filters, their covariances, and how alike maps are by depth."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from imcl_book.figures.shared import by_depth, matrices
from imcl_book.figures.style import panels, styled

__all__ = ["by_depth", "filter_pairs", "matrices"]


@styled
def filter_pairs(rows: Mapping[str, Sequence[tuple[str, np.ndarray, np.ndarray]]]) -> Figure:
    """Pairs of filters (C, kh, kw) side by side, each standardised and its channels tiled: a row for each name."""
    pairs = max(len(row) for row in rows.values())
    figure, axes = panels(len(rows), 2 * pairs, 7, 7 / (2 * pairs) * len(rows) * 1.12 + 0.5)
    for line, (name, row) in zip(axes, rows.items(), strict=True):
        for number, (title, *filters) in enumerate(row):
            for axis, kernel in zip(line[2 * number : 2 * number + 2], filters, strict=True):
                image = axis.imshow(_tiles((kernel - kernel.mean()) / kernel.std()), vmin=-3, vmax=3, cmap="PuOr")
                axis.set(xticks=[], yticks=[])
            line[2 * number].set_title(title, loc="left", fontsize=8)
        line[0].set_ylabel(name)
    label = "weight (standard deviations of its filter)"
    figure.colorbar(image, ax=axes, label=label, shrink=0.8, location="bottom", aspect=40)
    return figure


def _tiles(kernel: np.ndarray) -> np.ndarray:
    """The channels of a filter (C, kh, kw) in a nearly square grid, a blank line between them."""
    columns = int(np.ceil(len(kernel) ** 0.5))
    padded = np.pad(kernel, ((0, -len(kernel) % columns), (0, 1), (0, 1)), constant_values=np.nan)
    padded[len(kernel) :] = np.nan
    grid = padded.reshape(-1, columns, *padded.shape[1:]).swapaxes(1, 2)
    return grid.reshape(grid.shape[0] * grid.shape[1], -1)[:-1, :-1]
