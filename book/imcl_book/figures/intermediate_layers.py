"""Figures of chapter 4: which layer teaches which, the weights a loss reaches, and errors by depth."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from imcl_book.figures.shared import by_depth, gains_beside_the_paper, gradient_reach
from imcl_book.figures.style import BLACK, BLUE, GREEN, ORANGE, PINK, RED, SKY, panels, styled

__all__ = ["by_depth", "gains_beside_the_paper", "gradient_reach", "teachers"]


@styled
def teachers(layers: int) -> Figure:
    """Who teaches whom in Eq. 6, for `layers` layers the last the output: arcs, and each teacher's share."""
    figure, axes = panels(1, 2, 7, 2.9, width_ratios=(1.15, 1))
    names = [*(str(i) for i in range(1, layers)), "output"]
    shares = np.full((layers - 1, layers), np.nan)
    for pupil in range(layers - 1):
        shares[pupil, pupil + 1 :] = 1 / (layers - 1 - pupil)
    _arcs(axes[0, 0], shares, names)
    _shares(axes[0, 1], shares, names)
    return figure


def _arcs(axis: Axes, shares: np.ndarray, names: Sequence[str]) -> None:
    """An arrow from every teacher (column) to each of its pupils (row), as wide as its share."""
    colours = (BLUE, ORANGE, GREEN, PINK, RED, SKY)
    for pupil, teacher in zip(*np.nonzero(shares > 0), strict=True):
        arrow = {"arrowstyle": "-|>", "connectionstyle": "arc3,rad=0.8", "shrinkA": 9, "shrinkB": 9}
        arrow |= {"color": colours[pupil % len(colours)], "lw": 0.6 + 2.4 * shares[pupil, teacher]}
        axis.annotate("", (pupil, 0), (teacher, 0), arrowprops=arrow)
    for place, name in enumerate(names):
        axis.plot(place, 0, "o", ms=16, mfc="white", mec=colours[place % len(colours)] if name.isdigit() else BLACK)
        axis.text(place, 0, name if name.isdigit() else "out", ha="center", va="center", fontsize=8)
    axis.set(xlim=(-0.5, len(names) - 0.5), ylim=(-0.6, 0.4 * len(names)))
    axis.set_title("teacher → pupil", fontsize=10)
    axis.annotate("", (len(names) - 0.5, -0.45), (0, -0.45), arrowprops={"arrowstyle": "->"})
    axis.text(-0.3, -0.45, "depth", va="center", ha="center", fontsize=8)
    axis.axis("off")


def _shares(axis: Axes, shares: np.ndarray, names: Sequence[str]) -> None:
    """The share of each teacher (column) in a pupil's target (row), written out."""
    axis.imshow(shares, cmap="cividis", vmin=0, vmax=1, aspect="auto")
    for pupil, teacher in zip(*np.nonzero(shares > 0), strict=True):
        count = round(1 / shares[pupil, teacher])
        shade = BLACK if shares[pupil, teacher] > 0.55 else "white"
        text = "1" if count == 1 else f"1/{count}"
        axis.text(teacher, pupil, text, ha="center", va="center", fontsize=9, color=shade)
    axis.set_xticks(range(len(names)), names)
    axis.set_yticks(range(len(names) - 1), names[:-1])
    axis.set(xlabel="teacher j", ylabel="pupil i")
    axis.set_title("share of its logits in the target", fontsize=10)
