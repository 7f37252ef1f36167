"""The figure of the errata: what the paper's text says against what its tables give."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from imcl_book.figures.style import BLACK, BLUE, RED, panels, styled


@styled
def claims_against_tables(claims: Sequence[tuple[str, float, float]]) -> Figure:
    """What a text says against how far that is above what its tables give (points); labels where they differ.

    `claims`: a label, what is said and what the tables give, for each.
    """
    figure, axes = panels(1, 1, 6, 3.2)
    axis = axes[0, 0]
    for label, said, given in claims:
        slip = abs(said - given) > 1e-9
        axis.plot(said, said - given, "D" if slip else "o", mfc=RED if slip else "none", color=RED if slip else BLUE)
        if slip:
            text = f"{label}\nsays {said:.2f}, tables {given:.2f}"
            axis.annotate(text, (said, said - given), (0, 7), textcoords="offset points", ha="center", fontsize=8)
    axis.axhline(0, color=BLACK, lw=0.8, ls=":")
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter("{x:g}")
    axis.margins(x=0.2, y=0.25)
    axis.set(xlabel="what the text says (% or points)", ylabel="above what the tables give (points)")
    return figure
