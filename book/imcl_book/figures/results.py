"""Figures of the results: gains beside the paper's, and its Fig. 2."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from imcl_book.figures.style import BLACK, BLUE, RED, colour, legend_above, panels, styled


@styled
def label_noise(
    errors: Mapping[str, Mapping[float, Sequence[float]]], printed: Mapping[str, float], gain: float
) -> Figure:
    """The paper's Fig. 2: test error (%) by portion of noisy labels, mean and deviation over seeds as error bars.

    `errors[methods][noise]`: a value a seed. The paper prints few numbers of it: errors without noise, `printed`, are
    crosses; its `gain` over the baseline at the highest noise is written down.
    """
    figure, axes = panels(1, 1, 6.5, 3.8)
    axis = axes[0, 0]
    for place, (methods, by_noise) in enumerate(errors.items()):
        shift = 0.5 * (place - (len(errors) - 1) / 2)
        axis.plot(shift, printed[methods], "x", color=colour(methods), ms=6)
        _noisy_runs(axis, methods, by_noise, shift)
    if not any(len(values) for by_noise in errors.values() for values in by_noise.values()):
        axis.text(0.5, 0.5, "no run yet: the crosses are the paper's", transform=axis.transAxes, ha="center")
    highest, last = 100 * max(max(by_noise) for by_noise in errors.values()), list(errors)[-1]
    axis.set(xlabel="noisy labels (%)", ylabel="test error (%)", xlim=(-3, highest + 3))
    title = f"×: printed by the paper; at {highest:g} % it prints a gain of {gain:.2f} points, {last}"
    axis.set_title(title, fontsize=9)
    legend_above(figure, axis, columns=3)
    return figure


def _noisy_runs(axis: Axes, methods: str, by_noise: Mapping[float, Sequence[float]], shift: float) -> None:
    """One method's mean errors and their deviations, `shift` to the right so that all can be seen."""
    found = {100 * noise + shift: values for noise, values in by_noise.items() if len(values)}
    means = [np.mean(values) for values in found.values()]
    deviations = [np.std(values, ddof=1) if len(values) > 1 else 0 for values in found.values()]
    style = {"color": colour(methods), "marker": "o", "ms": 3, "lw": 1.2, "capsize": 3}
    axis.errorbar(list(found), means, yerr=deviations, label=methods, **style)


WAYS = {  # of a gain: what it is called, its shape, its colour
    "paper": ("printed by the paper", "D", BLACK),
    "augmented": ("ours, narrow", "o", BLUE),
    "not augmented": ("ours, narrow, no augmentation", "s", RED),
}


@styled
def gains_beside_the_paper(
    cases: Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]],
    bounds: Callable[[Sequence[float]], tuple[float, float]],
) -> Figure:
    """Gains over the baseline in points, `cases[network][method][way]`, a value a seed; ways: those of `WAYS`.

    A marker is the mean over seeds, dots are the seeds, and a bar reaches from bound to bound of the mean where there
    are two seeds or more. A place without a marker has no run yet.
    """
    rows = [len(methods) for methods in cases.values()]
    figure, axes = panels(len(cases), 1, 6.4, 1 + 0.5 * sum(rows), sharex=True, height_ratios=rows)
    for axis, (case, methods) in zip(axes[:, 0], cases.items(), strict=True):
        for way, (label, shape, shade) in WAYS.items():
            places = range(len(methods)) + 0.25 * (list(WAYS).index(way) - 1) * np.ones(len(methods))
            found = [(y, ways[way]) for y, ways in zip(places, methods.values(), strict=True) if ways.get(way)]
            style = {"color": shade, "linestyle": "none", "fillstyle": "none" if way == "paper" else "full"}
            axis.plot(
                [np.mean(values) for _, values in found], [y for y, _ in found], shape, ms=6, label=label, **style
            )
            for y, values in ((y, values) for y, values in found if len(values) > 1):
                axis.plot(bounds(values), [y, y], color=shade, lw=1.5)
                axis.plot(values, [y] * len(values), ".", color=shade, ms=3)
        axis.axvline(0, color="0.5", lw=0.8)
        axis.set_title(case, loc="left")
        axis.set(ylim=(len(methods) - 0.5, -0.5), yticks=range(len(methods)))
        axis.set_yticklabels([name.replace("+", " + ") for name in methods])
    axes[-1, 0].set_xlabel("gain over the baseline (points of test error)")
    legend_above(figure, axes[0, 0], columns=3)
    return figure
