"""Figures of chapter 9: memory, and what an error costs in time and memory."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from imcl_book.figures.style import (
    BLACK,
    BLUE,
    GREEN,
    ORANGE,
    RED,
    SKY,
    YELLOW,
    colour,
    legend_above,
    looks,
    marker,
    panels,
    styled,
)


@styled
def memory_bars(parts: Mapping[str, Mapping[str, float]], printed: Mapping[str, float] | None = None) -> Figure:
    """What a training step holds (GB) by method, a part on top of the other: `parts[method][part]`.

    Diamonds mark what the paper prints.
    """
    figure, axes = panels(1, 1, 6.5, 1.2 + 0.4 * len(parts))
    axis, below = axes[0, 0], np.zeros(len(parts))
    for part, shade in zip(next(iter(parts.values())), (BLUE, SKY, GREEN, ORANGE, BLACK), strict=False):
        values = np.array([held[part] for held in parts.values()])
        axis.barh(list(parts), values, 0.7, below, color=shade, label=part)
        below += values
    for name, total in zip(parts, below, strict=True):
        axis.annotate(f"{total:.2f}", (total, name), (8, 0), textcoords="offset points", va="center", fontsize=8)
    if printed:
        axis.plot(printed.values(), printed.keys(), "D", mfc="white", mec=RED, mew=2, label="printed in the paper")
    axis.invert_yaxis()
    axis.margins(x=0.1)
    axis.set(xlabel="memory of a training step (GB)")
    legend_above(figure, axis, columns=3)
    return figure


@styled
def ratios_of_splits(
    ratios: np.ndarray, groups: Mapping[str, int], level: float, marked: Mapping[str, tuple[int, int]]
) -> Figure:
    """A tree's memory over the baseline's by the places (first, second) of its two splits, NaN where there is none.

    `groups` names parts of the network and the place each begins at; a line follows the places where the ratio is
    `level`; `marked` are pairs of places worth pointing at.
    """
    figure, axes = panels(1, 1, 6.2, 4.6)
    axis = axes[0, 0]
    shown = axis.imshow(ratios.T, origin="lower", cmap="cividis", aspect="auto")
    axis.contour(ratios.T, [level], colors=[RED], linewidths=2)
    axis.plot([], [], color=RED, lw=2, label=f"{level:.2f}, as in the paper")
    for (name, place), mark in zip(marked.items(), "osD^v", strict=False):
        axis.plot(*place, mark, color=YELLOW, mec=BLACK, ms=8, ls="none", label=name)
    axis.set_xticks(list(groups.values()), list(groups), rotation=30, ha="right")
    axis.set_yticks(list(groups.values()), list(groups))
    axis.set(xlabel="piece behind the first split", ylabel="piece behind the second split")
    figure.colorbar(shown, ax=axis, label="memory of the tree / of the baseline")
    legend_above(figure, axis, columns=2)
    return figure


@styled
def memory_growth(memory: Mapping[str, Mapping[str, Mapping[Any, float]]]) -> Figure:
    """Memory of a training step (GB) by something that grows: `memory[label][method][value]`, names or numbers."""
    rows = -(-len(memory) // 2)
    figure, axes = panels(rows, 2, 7, 2.6 * rows)
    for axis in axes.flat[len(memory) :]:
        axis.axis("off")
    for axis, (label, methods) in zip(axes.flat, memory.items(), strict=False):
        for i, (name, values) in enumerate(methods.items()):
            size = {"lw": 1.3, "ms": 5} if i else {"lw": 4, "ms": 8}  # the first shows below one that costs the same
            axis.plot(list(values), list(values.values()), color=colour(name), marker=marker(name), label=name, **size)
        axis.set_xticks(list(dict.fromkeys(value for values in methods.values() for value in values)))
        axis.set(xlabel=label, ylabel="memory (GB)")
        axis.set_ylim(bottom=0)
    legend_above(figure, axes[0, 0], columns=4)
    return figure


@styled
def error_against_cost(
    errors: Mapping[str, Sequence[float]],
    costs: Mapping[str, Mapping[str, Sequence[float]]],
    fronts: Mapping[str, Sequence[str]],
) -> Figure:
    """Test error (%) over costs relative to the baseline's: `errors[method]` a value a seed, `costs[label][method]`.

    The first panel has every method; a later one may lack those whose cost is not known. A mark is the mean error, with
    its deviation, at the median cost, with its range; a cost that is counted is one value. The dotted line of a panel
    joins `fronts[label]`, the methods that no other beats in both; the best of all has its name beside it.
    """
    figure, axes = panels(1, len(costs), 7, 3.6, sharey=True)
    means, styles = {name: np.mean(values) for name, values in errors.items()}, looks(errors)
    for axis, (label, by_method) in zip(axes[0], costs.items(), strict=True):
        for name, costs_of_one in by_method.items():
            _error_and_cost(axis, f"{name} ({len(errors[name])})", errors[name], costs_of_one, styles[name])
        front = sorted((np.median(by_method[name]), means[name]) for name in fronts[label])
        axis.step(*zip(*front, strict=True), where="post", color="0.4", ls=":", lw=1, zorder=0)
        axis.set(xlabel=f"{label}\n(baseline = 1)")
        axis.margins(0.15)
        best = min(by_method, key=means.__getitem__)
        beside = {"xytext": (-6, -3), "textcoords": "offset points", "ha": "right", "fontsize": 8}
        axis.annotate(best, (np.median(by_method[best]), means[best]), **beside)
    axes[0, 0].set_ylabel("test error of the last epoch (%)")
    legend_above(figure, axes[0, 0], columns=4, title="method (seeds)")
    return figure


def _error_and_cost(
    axis: Axes, label: str, errors: Sequence[float], costs: Sequence[float], style: Mapping[str, str]
) -> None:
    """A method's mean error and its deviation, at the median of its costs and their range."""
    spread = np.std(errors, ddof=1) if len(errors) > 1 else 0
    middle = np.median(costs)
    reach = [[middle - min(costs)], [max(costs) - middle]]
    bars = {"ls": "none", "elinewidth": 1, "capsize": 2}
    axis.errorbar(middle, np.mean(errors), spread, reach, label=label, **style, **bars)
