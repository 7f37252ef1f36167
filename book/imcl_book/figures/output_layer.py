"""Figures of chapter 3: dropout masks, and the branches of a classifier over training."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from imcl_book.figures.shared import gains_beside_the_paper, paired_differences
from imcl_book.figures.style import BLACK, BLUE, GREEN, ORANGE, PINK, colour, legend_above, panels, styled

__all__ = [
    "branch_distances",
    "branches_by_epoch",
    "dropout_tree",
    "gains_beside_the_paper",
    "paired_differences",
    "seeds_by_epoch",
]


@styled
def dropout_tree(
    units: Sequence[np.ndarray], names: Sequence[str], predictions: np.ndarray, classes: Sequence[str], label: int
) -> Figure:
    """What dropout masks leave of one image's hidden units, branch by branch, above the predictions they end in.

    `units`: arrays (branches, d) with their `names`, the first layer on top; NaN where a unit is dropped (white).
    Shades go from 0 to the layer's largest. `predictions` (branches, m), probabilities; the label's bar is orange.
    Four branches are half a page wide, so that a telephone shrinks them little.
    """
    across, above = len(predictions), np.zeros(0)
    side, floor = 1.1 if across <= 4 else 0.8, -1.15 * len(units) - 0.05  # inches a branch; where predictions stand
    figure, axes = panels(1, 1, side * (across + 0.3), side * (0.7 - floor) + 0.4)
    axis = axes[0, 0]
    for depth, (values, name) in enumerate(zip(units, names, strict=True)):
        places, y = (np.arange(len(values)) + 0.5) * across / len(values), -1.15 * depth
        for i, (x, tile) in enumerate(zip(places, values, strict=True)):
            _units(axis, tile, x, y, np.nanmax(values))
            for parent in above[[i * len(above) // len(values)]] if depth else ():
                axis.plot([parent, x], [y + 0.75, y + 0.4], color=BLACK, lw=0.8)
        axis.text(-0.08, y, name, rotation=90, ha="right", va="center")
        above = places
    for x, row in zip(above, predictions, strict=True):
        _prediction(axis, row, x, floor, classes if len(classes) <= 10 else (), label)
    axis.text(-0.08, floor + 0.35, "prediction", rotation=90, ha="right", va="center")
    axis.set(xlim=(-0.3, across), ylim=(floor - 0.25, 0.45), aspect="equal")
    axis.axis("off")
    keys = {"dropped": "white", "the label": ORANGE, "another class": BLUE}
    patches = [Rectangle((0, 0), 1, 1, fc=shade, ec=BLACK, lw=0.8) for shade in keys.values()]
    figure.legend(patches, keys, loc="outside lower center", ncols=3)
    return figure


def _units(axis: Axes, values: np.ndarray, x: float, y: float, top: float) -> None:
    """Hidden units (d,) as a square of shades from 0 to `top` around (x, y); NaN is white."""
    side = int(np.ceil(len(values) ** 0.5))
    square = np.pad(values.astype(float), (0, side**2 - len(values)), constant_values=np.nan).reshape(side, side)
    shades = colormaps["cividis"].with_extremes(bad="white")
    box = (x - 0.38, x + 0.38, y - 0.38, y + 0.38)
    axis.imshow(square, extent=box, vmin=0, vmax=top, cmap=shades, interpolation="nearest")
    axis.add_patch(Rectangle((x - 0.38, y - 0.38), 0.76, 0.76, fill=False, ec=BLACK, lw=0.8))


def _prediction(axis: Axes, row: np.ndarray, x: float, floor: float, classes: Sequence[str], label: int) -> None:
    """Probabilities (m,) as bars on `floor` around x, above the names of the label and of the likeliest class."""
    slots = x + 0.8 * ((np.arange(len(row)) + 0.5) / len(row) - 0.5)
    shades = [ORANGE if c == label else BLUE for c in range(len(row))]
    axis.bar(slots, 0.7 * row, 0.65 / len(row), floor, color=shades)
    axis.plot([x - 0.4, x + 0.4], [floor, floor], color=BLACK, lw=0.8)
    for c, name in enumerate(classes):
        if c in (label, row.argmax()):  # all would be too small to read
            axis.text(slots[c], floor - 0.05, name, ha="center", va="top")


@styled
def branches_by_epoch(values: Mapping[str, np.ndarray], label: str) -> Figure:
    """A quantity of each of K² branches (epochs, K²) by epoch, a panel a method; in black their mean.

    Branches with the same first mask share a colour.
    """
    figure, axes = panels(1, len(values), 7, 3, sharey=True)
    for axis, (name, branches) in zip(axes[0], values.items(), strict=True):
        epochs, masks = np.arange(1, len(branches) + 1), round(branches.shape[1] ** 0.5)
        for i, branch in enumerate(branches.T):
            shade, dash = (BLUE, ORANGE, GREEN, PINK)[i // masks % 4], ("-", "--", ":", "-.")[i % masks % 4]
            axis.plot(epochs, branch, color=shade, ls=dash, marker="o", ms=4, label=f"branch {i + 1}")
        axis.plot(epochs, branches.mean(axis=1), color=BLACK, lw=3, alpha=0.6, label="their mean")
        axis.set_title(name, fontsize=10)
        axis.set_xlabel("epoch")
        axis.set_xticks(epochs)
    axes[0, 0].set(ylabel=label, ylim=(-0.02, 1.02))
    legend_above(figure, axes[0, 0], columns=3)
    return figure


@styled
def seeds_by_epoch(values: Mapping[str, np.ndarray], label: str) -> Figure:
    """A quantity (seeds, epochs) by epoch for each method: thin lines for seeds, a thick one for their mean."""
    figure, axes = panels(1, 1, 6, 3.2)
    axis = axes[0, 0]
    for (methods, runs), mark in zip(values.items(), "os^D", strict=False):
        epochs = np.arange(1, runs.shape[1] + 1)
        axis.plot(epochs, runs.T, color=colour(methods), lw=0.8, alpha=0.6)
        axis.plot(epochs, runs.mean(axis=0), color=colour(methods), lw=2.5, marker=mark, label=methods)
        axis.set_xticks(epochs)
    axis.set(xlabel="epoch", ylabel=label)
    axis.set_ylim(bottom=0)
    axis.legend()
    return figure


@styled
def branch_distances(distances: Mapping[str, np.ndarray], label: str) -> Figure:
    """Distances (H, H) between the predictions of every two branches, a panel a method, with their values."""
    figure, axes = panels(1, len(distances), 6.5, 3)
    top = max(values.max() for values in distances.values())
    for axis, (name, values) in zip(axes[0], distances.items(), strict=True):
        shown = axis.imshow(values, vmin=0, vmax=top, cmap="cividis")
        for place, value in np.ndenumerate(values):
            shade = "white" if value < top / 2 else "black"
            axis.text(*place[::-1], f"{value:.2f}", ha="center", va="center", fontsize=8, color=shade)
        ticks = range(len(values)), range(1, len(values) + 1)
        axis.set_xticks(*ticks)
        axis.set_yticks(*ticks)
        axis.set_title(name, fontsize=10)
        axis.set_xlabel("branch")
    axes[0, 0].set_ylabel("branch")
    figure.colorbar(shown, ax=axes, label=label, shrink=0.7)
    return figure
