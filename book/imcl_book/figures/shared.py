"""Figures that several chapters show, and the bars and pairs of which others are made."""

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from imcl_book.figures.style import (
    BLACK,
    BLUE,
    ORANGE,
    RED,
    SKY,
    colour,
    count_along,
    legend_above,
    looks,
    method_of,
    panels,
    styled,
    without_ticks,
)
from imcl_core.study.tables import judge
from imcl_core.training.record import Record


def grouped_bars(
    axis: Axes, series: Mapping[str, np.ndarray], names: Sequence[str], colours: Sequence[str] = (BLUE, ORANGE)
) -> None:
    """Bars of several series (m,) side by side, above the names of their entries."""
    places, width = np.arange(len(names)), 0.8 / len(series)
    for i, ((label, values), shade) in enumerate(zip(series.items(), colours, strict=False)):
        axis.bar(places + (i - (len(series) - 1) / 2) * width, values, width, color=shade, label=label)
    axis.set_xticks(places, names)
    axis.axhline(0, color=BLACK, lw=0.8)


@styled
def run_curves(record: Record) -> Figure:
    """One run by epoch: left the parts of the training loss and the test loss, right training and test error."""
    figure, ((losses, errors),) = panels(1, 2, 7, 3.2)
    trained = {key: [epoch[key] for epoch in record.curve] for key in ("epoch", "train_error")}
    tested = {key: [epoch[key] for epoch in record.evaluated] for key in ("epoch", "test_loss", "test_error")}
    parts = {"baseline" if part == "hard" else part: values for part, values in _parts_of_the_loss(record).items()}
    for part, style in looks(parts).items():
        label = f"{'hard' if part == 'baseline' else part}, training"
        losses.plot(trained["epoch"], parts[part], **style, ms=3, label=label)
    losses.plot(tested["epoch"], tested["test_loss"], color=BLACK, ls="--", label="hard, test")
    errors.plot(trained["epoch"], trained["train_error"], color=SKY, label="training")
    errors.plot(tested["epoch"], tested["test_error"], color=RED, ls="--", label="test")
    for axis, label in ((losses, "loss"), (errors, "error (%)")):
        axis.set(xlabel="epoch", ylabel=label)
        count_along(axis)
        axis.legend()
    return figure


def _parts_of_the_loss(record: Record) -> dict[str, list[float]]:
    """The sum of each method's terms, such as `mid/…`, a value an epoch."""
    parts: dict[str, list[float]] = {}
    for epoch in record.curve:
        sums = dict.fromkeys((name.split("/")[0] for name in epoch["terms"]), 0.0)
        for name, value in epoch["terms"].items():
            sums[name.split("/")[0]] += value
        for part, value in sums.items():
            parts.setdefault(part, []).append(value)
    return parts


@styled
def paired_differences(gains: Mapping[str, Sequence[float]]) -> Figure:
    """Gains in points, the baseline's test error less the method's: a ring a seed, the mean with its bounds.

    `gains` by method, a value a seed, the same seeds in the same order for all. Bounds are those of
    `imcl_core.study.tables.judge`, as everywhere in the book.
    """
    figure, axes = panels(1, 1, 6, 0.9 + 0.6 * len(gains))
    axis = axes[0, 0]
    for row, (methods, values) in enumerate(gains.items()):
        axis.plot(judge.bounds(list(values)), [row, row], "|-", color=colour(methods), lw=2.5, ms=9)
        axis.plot(np.mean(values), row, "D", color=colour(methods), ms=6)
        axis.plot(values, [row + 0.28] * len(values), "o", mfc="none", color=colour(methods), ms=7)
    axis.axvline(0, color=BLACK, lw=0.8, ls=":")
    axis.set_yticks(range(len(gains)), list(gains))
    axis.set(xlabel="gain over the baseline of the same seed (points)", ylim=(len(gains) - 0.4, -0.5))
    return figure


WAYS = {  # of a gain: what it is called, its shape, its colour
    "paper": ("printed by the paper", "D", BLACK),
    "augmented": ("ours, narrow", "o", BLUE),
    "not augmented": ("ours, narrow, no augmentation", "s", RED),
    "wide": ("ours, as wide as the paper's, no augmentation", "^", ORANGE),
}


@styled
def gains_beside_the_paper(cases: Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]]) -> Figure:
    """Gains over the baseline in points, `cases[network][method][way]`, a value a seed; ways: those of `WAYS`.

    A marker is the mean over seeds, dots are the seeds, and a bar reaches from bound to bound of the mean, by
    `imcl_core.study.tables.judge`, where there are two seeds or more. A place without a marker has no run yet.
    """
    rows = [len(methods) for methods in cases.values()]
    shown = {
        way: look for way, look in WAYS.items() if any(m.get(way) for case in cases.values() for m in case.values())
    }
    height = 1 + 0.5 * sum(rows) + 0.3 * len(cases)
    figure, axes = panels(len(cases), 1, 6.4, height, sharex=True, height_ratios=rows)
    for axis, (case, methods) in zip(axes[:, 0], cases.items(), strict=True):
        for place, (way, (label, shape, shade)) in enumerate(shown.items()):
            places = range(len(methods)) + (0.7 / len(shown)) * (place - (len(shown) - 1) / 2) * np.ones(len(methods))
            found = [(y, ways[way]) for y, ways in zip(places, methods.values(), strict=True) if ways.get(way)]
            style = {"color": shade, "linestyle": "none", "fillstyle": "none" if way == "paper" else "full"}
            axis.plot(
                [np.mean(values) for _, values in found], [y for y, _ in found], shape, ms=6, label=label, **style
            )
            for y, values in ((y, values) for y, values in found if len(values) > 1):
                axis.plot(judge.bounds(values), [y, y], color=shade, lw=1.5)
                axis.plot(values, [y] * len(values), ".", color=shade, ms=3)
        axis.axvline(0, color="0.5", lw=0.8)
        axis.set_title(case, loc="left")
        axis.set(ylim=(len(methods) - 0.4, -0.6), yticks=range(len(methods)))
        axis.set_yticklabels([name.replace("+", " + ") for name in methods])
    axes[-1, 0].set_xlabel("gain over the baseline (points of test error)")
    legend_above(figure, axes[0, 0], columns=2 if len(shown) == 4 else 3)
    return figure


@styled
def gradient_reach(norms: Mapping[str, np.ndarray], terms: Sequence[str], parts: Sequence[str]) -> Figure:
    """Which weights each loss touches: gradient norms (terms, parts), a panel each; exact zeros are left empty."""
    touched = {title: np.where(values > 0, values, np.nan) for title, values in norms.items()}
    low, high = (bound([bound(values) for values in touched.values()]) for bound in (np.nanmin, np.nanmax))
    figure, axes = panels(1, len(norms), 7 if len(norms) > 1 else 5.6, 1.5 + 0.16 * len(terms), sharey=True)
    for axis, (title, values) in zip(axes[0], touched.items(), strict=True):
        image = axis.imshow(values, norm=LogNorm(low, high), cmap="cividis", aspect="auto")
        axis.set_xticks(range(len(parts)), parts, rotation=90, fontsize=8)
        axis.set_yticks(range(len(terms)), terms, fontsize=8)
        axis.set_xticks(np.arange(len(parts) + 1) - 0.5, minor=True)
        axis.set_yticks(np.arange(len(terms) + 1) - 0.5, minor=True)
        axis.grid(which="minor", color="0.85", lw=0.5)
        axis.tick_params(which="both", length=0)
        axis.set_xlabel("weights of")
        axis.set_title(title, fontsize=10)
    axes[0, 0].set_ylabel("term of the objective")
    figure.colorbar(image, ax=axes, label="norm of the gradient", shrink=0.9)
    return figure


@styled
def by_depth(
    curves: Mapping[str, Sequence[float]],
    label: str,
    references: Mapping[str, float] | None = None,
    log: bool = False,
) -> Figure:
    """A value for each layer, shallowest first; `references` are dotted levels, such as chance.

    A curve has the colour of the method its name begins with; a second one of that method is dashed. `log`: the scale
    is logarithmic above 1 and linear below, so that it can show 0.
    """
    figure, axes = panels(1, 1, 6, 3.4)
    axis, used = axes[0, 0], []
    for (name, values), mark in zip(curves.items(), "so^Dv", strict=False):
        method = method_of(name)
        shade = "0.55" if method == "before" else colour(method)
        style = {"color": shade, "ls": "--" if shade in used else "-", "marker": mark, "markersize": 4}
        axis.plot(np.arange(1, len(values) + 1), values, label=name, **style)
        used.append(shade)
    for name, level in (references or {}).items():
        _level(axis, name, level)
    if log:
        axis.set_yscale("symlog", linthresh=1)
        axis.yaxis.set_major_formatter("{x:g}")
    axis.set(xlabel="layer, from the image to the classifier", ylabel=label)
    count_along(axis)
    legend_above(figure, axis, columns=2)
    return figure


def _level(axis: Axes, name: str, level: float) -> None:
    """A dotted horizontal line, named to the right of the axes."""
    axis.axhline(level, color="0.4", ls=":", lw=1)
    place = {"xytext": (4, 0), "xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
    axis.annotate(textwrap.fill(name, 16), (1, level), va="center", fontsize=8, **place)


@styled
def matrices(rows: Mapping[str, Mapping[str, np.ndarray]], label: str, limit: float = 1.0) -> Figure:
    """Square matrices on one scale from -limit to limit, white at 0: a row for each name, columns named alike."""
    columns = len(next(iter(rows.values())))
    side = 6.2 / columns
    figure, axes = panels(len(rows), columns, 7, max(1.8, (side + 0.12) * len(rows) + 0.75))
    for number, (line, (name, row)) in enumerate(zip(axes, rows.items(), strict=True)):
        for axis, (title, matrix) in zip(line, row.items(), strict=True):
            image = axis.imshow(matrix, vmin=-limit, vmax=limit, cmap="RdBu_r", interpolation="nearest")
            without_ticks(axis, framed=True)
            if number == 0:
                axis.set_title(title, fontsize=9)
        line[0].set_ylabel(name)
    figure.colorbar(image, ax=axes, label=label, shrink=0.9, location="bottom", aspect=40)
    return figure


def tiles(kernel: np.ndarray) -> np.ndarray:
    """The channels of a filter (C, kh, kw), in units of its deviation, in a nearly square grid with blank lines."""
    columns = int(np.ceil(len(kernel) ** 0.5))
    standard = (kernel - kernel.mean()) / kernel.std()
    padded = np.pad(standard, ((0, -len(kernel) % columns), (0, 1), (0, 1)), constant_values=np.nan)
    padded[len(kernel) :] = np.nan
    grid = padded.reshape(-1, columns, *padded.shape[1:]).swapaxes(1, 2)
    return grid.reshape(grid.shape[0] * grid.shape[1], -1)[:-1, :-1]
