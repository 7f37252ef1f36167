"""Figures of chapter 8: networks with several heads, their gradients, and what their heads agree on."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from imcl_book.figures.shared import grouped_bars
from imcl_book.figures.style import BLACK, ORANGE, SKY, colour, legend_above, method_of, panels, styled


@styled
def pieces_and_copies(patterns: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Networks with several heads, the image on top: a row a piece, a box a copy of it; the kept path is orange.

    A network is a sequence of parts, each with the names of its `pieces`, the number of its `copies`, a multiple of the
    part's above, and the `parameters` of one copy. All networks have the same pieces.
    """
    rows = [name for part in next(iter(patterns.values())) for name in part["pieces"]]
    widths = [max(2, parts[-1]["copies"]) + 1.6 for parts in patterns.values()]
    figure, axes = panels(1, len(patterns), 7, 0.8 + 0.19 * len(rows), sharey=True, width_ratios=widths)
    for axis, (name, parts), width in zip(axes[0], patterns.items(), widths, strict=True):
        _network(axis, parts)
        axis.set_title(name, fontsize=10)
        left = -max(parts[-1]["copies"], 2) / 2
        axis.set(xlim=(left, left + width), ylim=(len(rows) - 0.4, -0.7), xticks=[])
        axis.spines[:].set_visible(False)
        axis.tick_params(left=False)
    axes[0, 0].set_yticks(range(len(rows)), rows, fontsize=8)
    return figure


def _network(axis: Axes, parts: Sequence[Mapping[str, Any]]) -> None:
    """The copies of each part side by side, each joined to the copy above that it hangs from."""
    top, above = 0, np.zeros(1)
    for part in parts:
        places, bottom = np.arange(part["copies"]) - (part["copies"] - 1) / 2, top + len(part["pieces"])
        for i, x in enumerate(places):
            parent = above[i * len(above) // len(places)]
            axis.plot([parent, x], [top - 0.6, top - 0.4], color=BLACK, lw=0.8)
            axis.bar(x, 0.8, 0.7, np.arange(top, bottom) - 0.4, color=ORANGE if i == 0 else SKY)
        text = f"{part['copies']} × {part['parameters'] / 1e6:.2f} M"
        axis.text(places[-1] + 0.5, (top + bottom - 1) / 2, text, va="center", fontsize=8)
        top, above = bottom, places


@styled
def gradients_by_part(norms: Mapping[str, Sequence[float]], parts: Sequence[str]) -> Figure:
    """The length of a gradient in each part of a network, as multiples of another: bars by name, a value a part."""
    figure, axes = panels(1, 1, 6, 3)
    axis = axes[0, 0]
    grouped_bars(axis, norms, parts)
    for bars in axis.containers:
        axis.bar_label(bars, fmt="{:.2f}", fontsize=8)
    axis.axhline(1, color=BLACK, lw=0.8, ls=":")
    axis.set(ylabel="gradient (one path's = 1)")
    axis.legend()
    return figure


@styled
def heads_by_epoch(quantities: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """Several heads over training, a panel a quantity: values (epochs, n) by name, their mean and range (a band).

    A name is a method's, drawn solid, or begins with one and a comma, drawn dashed. Panels in % share their axis.
    """
    figure, axes = panels(1, len(quantities), 7, 3.2, sharey=True)
    for axis, (label, by_name) in zip(axes[0], quantities.items(), strict=True):
        for name, values in by_name.items():
            method = method_of(name)
            epochs, dash = np.arange(1, len(values) + 1), "-" if name == method else "--"
            axis.plot(epochs, values.mean(axis=1), color=colour(method), ls=dash, marker="o", ms=3, label=name)
            axis.fill_between(epochs, values.min(axis=1), values.max(axis=1), color=colour(method), alpha=0.1, lw=0)
            axis.set_xticks(epochs)
        axis.set_title(label, fontsize=10)
        axis.set_xlabel("epoch")
    axes[0, 0].set(ylabel="test images (%)", ylim=(0, 100))
    legend_above(figure, axes[0, 0], columns=2)
    return figure
