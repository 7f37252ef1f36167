"""The README's picture: what each of the four losses works on."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Rectangle

from imcl_book.figures.style import RED, blank, styled

TITLES = (
    "out: one image, four dropout masks;\nthe predictions teach one another",
    "mid: every layer predicts;\ndeeper layers teach shallower ones",
    "pull-push: from the similarity of images\nto the similarity of labels",
    "kernel: the filters of a convolution\nare made less alike",
)


@styled
def four_losses(
    image: np.ndarray,
    label: int,
    classes: Sequence[str],
    predictions: np.ndarray,
    local: np.ndarray,
    similarities: Sequence[np.ndarray],
    covariance: np.ndarray,
) -> Figure:
    """What the four losses work on, a panel each, from one trained network.

    `image` (H, W, 3) bytes with its `label`; `predictions` (4, m), the probabilities of its four dropout masks;
    `local` (N, m), those of each layer; `similarities`, three (n, n): of pixels, of one layer, and of labels;
    `covariance` (F, F) of one convolution's filters.
    """
    figure = blank(7, 5.4)
    out, mid, pull_push, kernel = parts = figure.subfigures(2, 2, hspace=0.06, wspace=0.06).ravel()
    for part, title in zip(parts, TITLES, strict=True):
        part.suptitle(title, fontsize=10, fontweight="bold")
    left, right = out.subplots(1, 2, width_ratios=(1, 2.2))
    left.imshow(image)
    left.set(xticks=[], yticks=[])
    _probabilities(right, predictions, label, classes, "mask")
    _probabilities(mid.subplots(), local, label, classes, "layer")
    _similarities(pull_push, similarities)
    _covariance(kernel, covariance)
    return figure


def _probabilities(axis: Axes, rows: np.ndarray, label: int, classes: Sequence[str], what: str) -> None:
    """Probabilities (rows, m) as shades, brighter for higher, the true class framed; both are said below."""
    axis.imshow(rows, vmin=0, aspect="auto", cmap="cividis")
    axis.add_patch(Rectangle((label - 0.5, -0.5), 1, len(rows), fill=False, ec=RED, lw=1.5))
    axis.set_xticks(range(len(classes)), classes)
    shown = range(0, len(rows), 1 + len(rows) // 8)
    axis.set_yticks(shown, [str(row + 1) for row in shown])
    axis.set(xlabel="class (framed: the true one;\nbrighter: more probable)", ylabel=what)


def _similarities(part: SubFigure, matrices: Sequence[np.ndarray]) -> None:
    """Three matrices (n, n) of similarity: what comes in, what a layer makes of it, and where it is to go."""
    part.supxlabel("images in rows and columns, sorted by class\n(red: alike, blue: unlike)", fontsize=9)
    for axis, matrix, name in zip(part.subplots(1, 3), matrices, ("pixels", "one layer", "labels"), strict=True):
        axis.imshow(matrix, vmin=-1, vmax=1, cmap="RdBu_r")
        axis.set(title=name, xticks=[], yticks=[])


def _covariance(part: SubFigure, covariance: np.ndarray) -> None:
    """The covariance (F, F) of filters, with its scale."""
    axis = part.subplots()
    shown = axis.imshow(covariance, vmin=-0.2, vmax=0.2, cmap="RdBu_r")
    axis.set(xlabel="filter", ylabel="filter")
    part.colorbar(shown, label="covariance", shrink=0.8, extend="both")
