"""The figure of the page to decide by: what a method gains, and what it costs."""

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from imcl_book.figures.style import COLOURS, colour, method_of, panels, styled
from imcl_core.study.tables.judge import SEEDS

PRICES = ("time", "memory")
NEIGHBOUR = "0.35"  # the shade of every method that is none of the paper's


@styled
def gains_and_prices(found: pd.DataFrame, cases: Sequence[str]) -> Figure:
    """A row of panels a case, in each a line a method: its gain in points, and what a step costs over the baseline's.

    `found` as of `choices`, in its order. A bar in the first panel reaches from bound to bound of the mean gain; a
    hollow marker stands on too few seeds to settle anything. A bar in the others reaches from the baseline's price to
    the method's.
    """
    counts = [sum(found["network and data"] == case) for case in cases]
    height = sum(0.55 + 0.22 * count for count in counts) + 0.5
    ratios = {"height_ratios": [count + 1 for count in counts], "width_ratios": (2.2, 1, 1)}
    figure, axes = panels(len(cases), 3, 6.4, height, sharex="col", sharey="row", **ratios)
    for row, case in zip(axes, cases, strict=True):
        methods = found[found["network and data"] == case].to_dict("records")
        for place, method in enumerate(methods):
            name = method_of(method["method"])
            shade = colour(name) if "+" in name or name in COLOURS else NEIGHBOUR
            fill = "full" if method["n"] >= SEEDS else "none"
            if pd.notna(method["lower"]):
                row[0].plot([method["lower"], method["upper"]], [place, place], color=shade, lw=1.5)
            row[0].plot(method["gain"], place, "o", ms=6, color=shade, fillstyle=fill, label=method["method"])
            for axis, price in zip(row[1:], PRICES, strict=True):
                _price(axis, place, method[price], shade)
        row[0].axvline(0, color="0.5", lw=0.8)
        row[0].set_title(case, loc="left")
        row[0].set(ylim=(len(methods) - 0.5, -0.5), yticks=range(len(methods)))
        row[0].set_yticklabels([method["method"] for method in methods])
    axes[-1, 0].set_xlabel("gain (points)")
    for axis, label in zip(axes[-1, 1:], PRICES, strict=True):
        axis.set_xlabel(f"{label}\nof a step (×)")
    return figure


def _price(axis: Axes, place: int, price: float, shade: str) -> None:
    """From the baseline's, 1, to the method's, with its number; nothing where it is not measured."""
    axis.axvline(1, color="0.5", lw=0.8)
    axis.margins(x=0.3)
    if pd.notna(price):
        axis.barh(place, price - 1, left=1, height=0.5, color=shade)
        beside = {"xytext": (3, 0), "textcoords": "offset points", "va": "center", "fontsize": 8}
        axis.annotate(f"{price:.2f}", (max(price, 1), place), **beside)
