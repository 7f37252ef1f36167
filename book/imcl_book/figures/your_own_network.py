"""Figures of chapter 10: what a method costs in a network of one's own, where it reaches, and its schedule."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from imcl_book.figures.shared import gradient_reach, paired_differences
from imcl_book.figures.style import BLACK, COLOURS, colour, count_along, legend_above, marker, panels, styled

__all__ = ["costs_by_method", "gradient_reach", "paired_differences", "scheduled_terms"]


@styled
def costs_by_method(costs: Mapping[str, Mapping[str, float]]) -> Figure:
    """What each method adds, relative to the network's own: `costs[label][method]`, a panel a label."""
    rows = max(len(by_method) for by_method in costs.values())
    figure, axes = panels(1, len(costs), 6.5, 1.1 + 0.36 * rows, sharey=True)
    for axis, (label, by_method) in zip(axes[0], costs.items(), strict=True):
        bars = axis.barh(list(by_method), list(by_method.values()), 0.7, color=[colour(name) for name in by_method])
        axis.bar_label(bars, fmt="{:.3g}", padding=4, fontsize=8)
        axis.axvline(1, color=BLACK, lw=0.8, ls=":")
        axis.margins(x=0.18)
        axis.set_xlabel(f"{label}\n(network = 1)")
    axes[0, 0].invert_yaxis()
    return figure


@styled
def scheduled_terms(factors: Mapping[str, Sequence[float]], terms: Mapping[str, Sequence[float]]) -> Figure:
    """A schedule and what becomes of the terms: a method's factor and the value of its terms, summed, by epoch.

    NaN, or a value of 0, stands for an epoch in which a method is off.
    """
    figure, axes = panels(2, 1, 6, 4.4, sharex=True, height_ratios=[1, 2])
    above, below = axes[:, 0]
    for i, (methods, values) in enumerate(factors.items()):
        width = max(1.2, 4.5 - 1.6 * i)  # the first shows below one of equal factor
        above.plot(np.arange(1, len(values) + 1), values, color=colour(methods), drawstyle="steps-mid", lw=width)
    for name, values in terms.items():
        shown = np.where(np.nan_to_num(values) > 0, values, np.nan)
        style = {"color": COLOURS.get(name, BLACK), "marker": marker(name), "ms": 5}
        below.plot(np.arange(1, len(shown) + 1), shown, **style, label=name)
    above.set(ylabel="factor", ylim=(-0.15, 1.15))
    below.set(xlabel="epoch", ylabel="sum of the terms", yscale="log")
    below.yaxis.set_major_formatter("{x:g}")
    count_along(below)
    legend_above(figure, below, columns=len(terms))
    return figure
