"""Figures of the results: gains beside the paper's, and its Fig. 2."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from imcl_book.figures.shared import gains_beside_the_paper
from imcl_book.figures.style import colour, styled
from imcl_core.study.tables.figure_2 import draw_figure_2

__all__ = ["gains_beside_the_paper", "label_noise"]


@styled
def label_noise(
    errors: Mapping[str, Mapping[float, Sequence[float]]], printed: Mapping[str, float], gain: float
) -> Figure:
    """The paper's Fig. 2, as `draw_figure_2` has it, in the book's colours."""
    return draw_figure_2(errors, printed, gain, {methods: colour(methods) for methods in errors})
