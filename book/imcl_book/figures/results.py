"""Figures of the results: gains beside the paper's, first and fresh seeds, and the paper's Fig. 2."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from imcl_book.figures.shared import gains_beside_the_paper
from imcl_book.figures.style import BLACK, colour, legend_above, method_of, panels, styled
from imcl_core.study.tables.figure_2 import draw_figure_2

__all__ = ["fresh_seeds", "gains_beside_the_paper", "label_noise"]


@styled
def fresh_seeds(cases: Mapping[str, Mapping[str, tuple[float, float]]]) -> Figure:
    """A panel a case, in each a line a method: its mean gain over the first seeds, hollow, and over fresh ones, filled.

    `cases[case][method]`: both means, in points.
    """
    rows = [len(methods) for methods in cases.values()]
    height = 0.9 + 0.5 * len(cases) + 0.25 * sum(rows)
    figure, axes = panels(len(cases), 1, 6.4, height, sharex=True, height_ratios=rows)
    for axis, (case, methods) in zip(axes[:, 0], cases.items(), strict=True):
        for place, (method, (first, fresh)) in enumerate(methods.items()):
            shade = colour(method_of(method))
            axis.plot([first, fresh], [place, place], color=shade, lw=1)
            axis.plot(first, place, "o", ms=10, color=shade, fillstyle="none")
            axis.plot(fresh, place, "o", ms=5, color=shade)
        axis.axvline(0, color="0.5", lw=0.8)
        axis.set_title(case, loc="left")
        axis.set(ylim=(len(methods) - 0.5, -0.5), yticks=range(len(methods)))
        axis.set_yticklabels(methods)
    axes[0, 0].plot([], [], "o", ms=10, color=BLACK, fillstyle="none", label="the first seeds")
    axes[0, 0].plot([], [], "o", ms=5, color=BLACK, label="fresh seeds")
    axes[-1, 0].set_xlabel("gain over the baseline (points of test error)")
    legend_above(figure, axes[0, 0], columns=2)
    return figure


@styled
def label_noise(
    errors: Mapping[str, Mapping[float, Sequence[float]]], printed: Mapping[str, float], gain: float
) -> Figure:
    """The paper's Fig. 2, as `draw_figure_2` has it, in the book's colours."""
    return draw_figure_2(errors, printed, gain, {methods: colour(methods) for methods in errors})
