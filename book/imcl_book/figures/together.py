"""Figures of chapter 7: the pull of each loss, learning curves, and what combinations reach."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from imcl_book.figures.shared import paired_differences
from imcl_book.figures.style import BLACK, colour, count_along, looks, panels, styled
from imcl_core.training.record import Record

__all__ = ["combinations", "gradient_norms", "learning_curves", "paired_differences"]


@styled
def gradient_norms(norms: Mapping[str, Sequence[float]]) -> Figure:
    """How strongly each part of the objective pulls on each layer: `norms` of its gradient by part, a value a layer.

    The scale is logarithmic; NaN stands for a part that does not reach a layer.
    """
    figure, axes = panels(1, 1, 6, 3.4)
    axis = axes[0, 0]
    for (part, values), mark in zip(norms.items(), "osD^", strict=False):
        axis.plot(range(1, len(values) + 1), values, color=colour(part), label=part, marker=mark, ms=4)
    axis.set(xlabel="layer, from the image to the output", ylabel="norm of the gradient", yscale="log")
    count_along(axis)
    axis.legend(ncols=len(norms), loc="lower center", bbox_to_anchor=(0.5, 1))
    return figure


@styled
def learning_curves(records: Sequence[Record], metric: str = "test_error", label: str = "test error (%)") -> Figure:
    """`metric` by epoch for each method: the mean over seeds, and the range as a band."""
    figure, axes = panels(1, 1, 6, 3.4)
    axis = axes[0, 0]
    by_method: dict[str, list[Record]] = {}
    for record in records:
        by_method.setdefault(record.config.methods, []).append(record)
    styles = looks(by_method)
    for methods, runs in by_method.items():
        epochs = [epoch["epoch"] for epoch in runs[0].curve if metric in epoch]
        values = np.array([[epoch[metric] for epoch in run.curve if metric in epoch] for run in runs])
        name = f"{methods} ({len(runs)} seeds)" if len(runs) > 1 else methods
        axis.plot(epochs, values.mean(axis=0), **styles[methods], ms=3, label=name)
        if len(runs) > 1:
            shade = styles[methods]["color"]
            axis.fill_between(epochs, values.min(axis=0), values.max(axis=0), color=shade, alpha=0.15, lw=0)
    axis.set(xlabel="epoch", ylabel=label)
    count_along(axis)
    axis.legend()
    return figure


@styled
def combinations(errors: Mapping[str, Mapping[str, float]], baselines: Mapping[str, float]) -> Figure:
    """The error (%) of every subset of methods, a panel a network: `errors[network][methods]`; the lowest is named.

    A dotted line marks the network's baseline.
    """
    rows = list(next(iter(errors.values())))
    figure, axes = panels(1, len(errors), 6.8, 0.8 + 0.21 * len(rows), sharey=True)
    for axis, (network, values) in zip(axes[0], errors.items(), strict=True):
        best = min(values, key=values.get)
        place = values[best], rows.index(best)
        for row, methods in enumerate(rows):
            axis.plot(values[methods], row, "o", color=colour(methods), ms=5)
        axis.plot(*place, "o", mfc="none", color=BLACK, ms=10)
        axis.axvline(baselines[network], color=BLACK, lw=0.8, ls=":")
        axis.set(title=network, xlabel="test error (%)")
        axis.annotate(f"{values[best]:.2f}", place, (9, 0), textcoords="offset points", va="center")
        axis.grid(axis="y", lw=0.4, alpha=0.5)
    axes[0, 0].set_yticks(range(len(rows)), rows)
    axes[0, 0].set_ylim(len(rows) - 0.4, -0.6)
    return figure
