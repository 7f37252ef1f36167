"""Figures of chapter 12: maps of labels, predictions of every pixel, and how methods compare."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Rectangle

from imcl_book.figures.shared import grouped_bars, matrices
from imcl_book.figures.style import (
    BLACK,
    BLUE,
    GREEN,
    ORANGE,
    PINK,
    RED,
    SKY,
    YELLOW,
    blank,
    colour,
    count_along,
    legend_above,
    looks,
    marker,
    panels,
    styled,
    without_ticks,
)

__all__ = ["curves_by_method", "dense_compared", "label_maps", "matrices", "predictions_of_pixels"]
PIXEL_COLOURS = (BLUE, ORANGE, GREEN, PINK, YELLOW, SKY, RED, "#8C4A00")  # of classes on label maps
UNLABELLED = "#FFFFFF"


@styled
def label_maps(rows: Mapping[str, Mapping[str, np.ndarray]], classes: Sequence[str]) -> Figure:
    """Images and maps of labels in a grid, `rows[row][column]`: images (3, H, W) of bytes, labels (H, W).

    Columns have the names of the first row; a label of no class is white.
    """
    columns = list(next(iter(rows.values())))
    height = (6.4 / len(columns) + 0.06) * len(rows) + 0.65
    figure, axes = panels(len(rows), len(columns), 7, height)
    for line, (name, row) in zip(axes, rows.items(), strict=True):
        for axis, picture in zip(line, row.values(), strict=True):
            _picture(axis, picture, len(classes))
        line[0].set_ylabel(name)
    for axis, name in zip(axes[0], columns, strict=True):
        axis.set_title(name, fontsize=9)
    patches = [Rectangle((0, 0), 1, 1, color=shade) for shade in PIXEL_COLOURS[: len(classes)]]
    figure.legend(patches, classes, loc="outside lower center", ncols=3, fontsize=9)
    return figure


def _picture(axis: Axes, picture: np.ndarray, classes: int) -> None:
    """An image (3, H, W), or a map of labels (H, W) in the colours of its classes."""
    if picture.ndim == 3:
        axis.imshow(picture.transpose(1, 2, 0), interpolation="nearest")
    else:
        shades = ListedColormap(PIXEL_COLOURS[:classes]).with_extremes(over=UNLABELLED)
        axis.imshow(picture, vmin=-0.5, vmax=classes - 0.5, cmap=shades, interpolation="nearest")
    without_ticks(axis, framed=True)


@styled
def predictions_of_pixels(
    image: np.ndarray, labels: np.ndarray, predictions: np.ndarray, classes: Sequence[str], place: tuple[int, int]
) -> Figure:
    """Several predictions for every pixel of an image, probabilities (n, m, H, W), and how far they disagree.

    Above, the image (3, H, W), its labels (H, W) and what each prediction says; below, the entropy (nats) of their mean
    at every pixel, and all of them at one `place` (row, column), which is ringed; its label is in brackets.
    """
    figure = blank(7, 4.6)
    above, below = figure.subfigures(2, 1, height_ratios=(1, 1.9))
    pictures = {"image": image, "labels": labels}
    pictures |= {f"mask {h + 1}": p.argmax(axis=0) for h, p in enumerate(predictions)}
    for axis, (name, picture) in zip(above.subplots(1, len(pictures)), pictures.items(), strict=True):
        _picture(axis, picture, len(classes))
        _ring(axis, place)
        axis.set_title(name, fontsize=9)
    left, right = below.subplots(1, 2, width_ratios=(1, 1.7))
    _entropy_of_the_mean(below, left, predictions)
    _ring(left, place)
    names = [name.replace(" ", "\n") for name in classes]
    names[labels[place]] = f"[{names[labels[place]]}]"
    at_place = {f"mask {h + 1}": p[:, *place] for h, p in enumerate(predictions)}
    grouped_bars(right, at_place, names, (BLUE, SKY, GREEN, ORANGE))
    right.set(ylabel="probability", ylim=(0, 1), title="the ringed pixel")
    right.legend(ncols=2)
    return figure


def _ring(axis: Axes, place: tuple[int, int]) -> None:
    """A black ring, white around it, at a pixel (row, column)."""
    for shade, width in (("white", 4), (BLACK, 2)):
        axis.plot(*place[::-1], marker="o", mfc="none", mec=shade, ms=9, mew=width)


def _entropy_of_the_mean(part: SubFigure, axis: Axes, predictions: np.ndarray) -> None:
    """The entropy (nats) of the mean of predictions (n, m, H, W), from its least to its most."""
    mean = predictions.mean(axis=0)
    entropy = -(mean * np.log(np.maximum(mean, 1e-12))).sum(axis=0)
    shown = axis.imshow(entropy, interpolation="nearest")
    axis.set(xticks=[], yticks=[], title="entropy of the mean (nats)")
    part.colorbar(shown, ax=axis, location="bottom", aspect=25)


@styled
def dense_compared(
    values: Mapping[str, Sequence[float]],
    gains: Mapping[str, Sequence[float]],
    bounds: Mapping[str, tuple[float, float]],
    label: str,
) -> Figure:
    """A quantity by method, and its gain over the baseline of the same seed: a ring a seed, a mark at the mean.

    `values` has the baseline too; a bar joins the `bounds` of a mean gain.
    """
    figure, ((left, right),) = panels(1, 2, 7, 1.2 + 0.45 * len(values), sharey=True)
    for axis, by_method in ((left, values), (right, gains)):
        for row, methods in enumerate(values):
            if methods in by_method:
                found, shade = by_method[methods], colour(methods)
                axis.plot(found, [row + 0.22] * len(found), "o", mfc="none", color=shade, ms=6, label="_seeds")
                axis.plot(np.mean(found), row - 0.1, marker(methods), color=shade, ms=7, label=methods)
        axis.grid(axis="y", lw=0.4, alpha=0.4)
    for methods, ends in bounds.items():
        row = list(values).index(methods) - 0.1
        right.plot(ends, [row, row], color=colour(methods), lw=1.5, marker="|", ms=9, label="_bounds")
    right.axvline(0, color=BLACK, lw=0.8, ls=":")
    left.set_yticks(range(len(values)), [f"{methods} ({len(found)})" for methods, found in values.items()])
    left.set(xlabel=label, ylim=(len(values) - 0.4, -0.6))
    right.set(xlabel="gain over the baseline of the same seed")
    return figure


@styled
def curves_by_method(curves: Mapping[str, np.ndarray], label: str) -> Figure:
    """A quantity (seeds, epochs) by epoch for each method: the mean over seeds, and the baseline's range as a band."""
    figure, axes = panels(1, 1, 6.5, 3.6)
    axis = axes[0, 0]
    styles = looks(curves)
    for methods, runs in curves.items():
        epochs = np.arange(1, runs.shape[1] + 1)
        axis.plot(epochs, runs.mean(axis=0), ms=5, label=methods, **styles[methods])
        if methods == "baseline":
            axis.fill_between(epochs, runs.min(axis=0), runs.max(axis=0), color=colour(methods), alpha=0.15, lw=0)
    axis.set(xlabel="epoch", ylabel=label)
    count_along(axis)
    legend_above(figure, axis, columns=3)
    return figure
