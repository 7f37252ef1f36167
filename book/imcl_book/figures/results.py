"""Figures of the results: gains beside the paper's, and its Fig. 2."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from imcl_book.figures.shared import gains_beside_the_paper
from imcl_book.figures.style import colour, legend_above, panels, styled

__all__ = ["gains_beside_the_paper", "label_noise"]


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
