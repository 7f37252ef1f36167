"""The figure of the page to decide by: what a method gains, and what it costs."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from imcl_book.figures.style import legend_above, looks, panels, styled

PRICES = {"operations": "operations of a step", "memory": "memory of a step"}


@styled
def gain_against_price(found: pd.DataFrame, cases: Sequence[str]) -> Figure:
    """Gain in points by two prices, multiples of the baseline's, a row of panels a case; `found` as of `choices`.

    A bar reaches from bound to bound of the mean gain; a hollow marker stands on fewer than three seeds.
    """
    figure, axes = panels(len(cases), 2, 6.4, 0.7 + 2.3 * len(cases), sharey="row", sharex="col")
    methods = looks(dict.fromkeys(found["method"]))
    for row, case in zip(axes, cases, strict=True):
        of_case = found[found["network and data"] == case]
        for axis, price in zip(row, PRICES, strict=True):
            axis.axhline(0, color="0.5", lw=0.8)
            axis.plot(1, 0, "_", color="black", ms=9, label="baseline")
            for choice in of_case.to_dict("records"):
                _one(axis, choice, choice[price], methods[choice["method"]])
        row[0].set_title(case, loc="left")
        row[0].set_ylabel("gain (points)")
    for axis, label in zip(axes[-1], PRICES.values(), strict=True):
        axis.set_xlabel(f"{label}, baseline = 1")
    legend_above(figure, axes[:, 0], columns=3)
    return figure


def _one(axis: Any, choice: dict[str, Any], price: float, look: dict[str, str]) -> None:
    """A method: its mean gain, and its bounds where there are any."""
    if pd.notna(choice["lower"]):
        axis.plot([price, price], [choice["lower"], choice["upper"]], color=look["color"], lw=1.5)
    fill = "full" if choice["n"] >= 3 else "none"
    axis.plot(price, choice["gain"], linestyle="none", ms=6, fillstyle=fill, label=choice["method"], **look)
