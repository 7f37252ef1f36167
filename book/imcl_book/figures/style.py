"""How every figure looks: colours and shapes of methods, matplotlib's settings, empty figures to draw on.

Colours are Okabe and Ito's, which colour-blind readers can tell apart; a method has the same one everywhere.
"""

import functools
import re
from collections.abc import Callable, Iterable
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from imcl_core.study.grids import BEST

BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, RED, PINK = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7",
)  # fmt: skip
COLOURS = {
    "baseline": BLACK, "out": ORANGE, "mid": BLUE, "pull-push": GREEN, "kernel": PINK,
    "tree": SKY, "multi-instance": "#8C4A00", "baseline-2x": "#888888", BEST[0]: RED, BEST[1]: "#7B3FA0",
}  # fmt: skip
FURTHER = ("#5B6C00", "#3E4E9C", "#B8A000"), "hd8>"  # of what has none of its own: shades and shapes
STYLE = {
    "figure.dpi": 110, "figure.constrained_layout.use": True, "font.size": 9, "axes.spines.top": False,
    "axes.spines.right": False, "axes.titlesize": 10, "legend.frameon": False, "image.cmap": "cividis",
}  # fmt: skip


def colour(methods: str) -> str:
    """The colour of a method, or of any other combination."""
    return COLOURS.get(methods, FURTHER[0][0])


def method_of(name: str) -> str:
    """The method or combination that a curve's name begins with: `out+mid` of "out + mid, half the rate"."""
    return re.split("[ ,:]", name.replace(" + ", "+"))[0]


def marker(methods: str) -> str:
    """A shape for a method, so that colour is not all that tells it apart."""
    return dict(zip(COLOURS, "osD^vP*<Xp", strict=True)).get(methods, FURTHER[1][0])


def looks(methods: Iterable[str]) -> dict[str, dict[str, str]]:
    """Colour and marker for each of several methods drawn together, no two alike.

    They are those of `colour` and `marker`; what has none of its own takes further ones, enough for twelve.
    """
    methods, (shades, shapes) = list(methods), FURTHER
    others = [name for name in methods if name not in COLOURS]
    further = {n: (shades[i % len(shades)], shapes[i % len(shapes)]) for i, n in enumerate(others)}
    pairs = {name: further.get(name, (colour(name), marker(name))) for name in methods}
    return {name: {"color": shade, "marker": shape} for name, (shade, shape) in pairs.items()}


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Draws in the book's style, and leaves the caller's settings of matplotlib alone."""

    @functools.wraps(draw)
    def in_style(*arguments: Any, **options: Any) -> Figure:
        with plt.rc_context(STYLE):
            return draw(*arguments, **options)

    return in_style


def blank(width: float, height: float) -> Figure:
    """An empty figure of `width`×`height` inches; shown once, by the cell that asked for it."""
    figure = plt.figure(figsize=(width, height))
    plt.close(figure)
    return figure


def panels(rows: int, columns: int, width: float, height: float, **options: Any) -> tuple[Figure, np.ndarray]:
    """A figure of `width`×`height` inches and its axes (rows, columns)."""
    figure = blank(width, height)
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def legend_above(figure: Figure, axis: Axes, columns: int, **options: Any) -> None:
    """One legend for all panels, above them, of what an axis names."""
    pairs = [*zip(*axis.get_legend_handles_labels(), strict=True)]
    named = {label: handle for handle, label in reversed(pairs)}
    labels = list(dict.fromkeys(label for _, label in pairs))
    handles = [named[label] for label in labels]
    figure.legend(handles, labels, loc="outside upper center", ncols=columns, **options)


def count_along(axis: Axes) -> None:
    """Whole numbers only below the horizontal axis, as of epochs or layers."""
    axis.xaxis.get_major_locator().set_params(integer=True)


def powers_of_two(axis: Axes) -> None:
    """A logarithmic horizontal axis with its numbers written out."""
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_formatter("{x:g}")


def without_ticks(axis: Axes, framed: bool) -> None:
    """A picture's axes: no ticks, and a thin grey frame or none."""
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set(visible=framed, color="0.6")
