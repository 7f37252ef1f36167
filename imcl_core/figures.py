"""Every figure of the book, one function each: arrays and records in, a matplotlib `Figure` out.

Colours are Okabe and Ito's, which colour-blind readers can tell apart; a method has the same one everywhere.
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from imcl_core.ledger import Record

BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, RED, PINK = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7",
)  # fmt: skip
COLOURS = {"baseline": BLACK, "out": ORANGE, "mid": BLUE, "pull-push": GREEN, "kernel": PINK}
COMBINATION = RED  # of several methods
STYLE = {
    "figure.dpi": 110, "figure.constrained_layout.use": True, "font.size": 9, "axes.spines.top": False,
    "axes.spines.right": False, "axes.titlesize": 10, "legend.frameon": False, "image.cmap": "cividis",
}  # fmt: skip


def colour(methods: str) -> str:
    """The colour of a method, or of any combination."""
    return COLOURS.get(methods, COMBINATION)


def _figure(rows: int, columns: int, width: float, height: float, **options) -> tuple[Figure, np.ndarray]:
    """A figure in the book's style, `width`×`height` inches, and its axes (rows, columns); shown once, by its cell."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(rows, columns, figsize=(width, height), squeeze=False, **options)
    plt.close(figure)
    return figure, axes


# --- shared ---------------------------------------------------------------------------------------------------------


def learning_curves(records: Sequence[Record], metric: str = "test_error", label: str = "test error (%)") -> Figure:
    """`metric` by epoch for each method: the mean over seeds, and the range as a band."""
    figure, axes = _figure(1, 1, 6, 3.4)
    axis = axes[0, 0]
    by_method: dict[str, list[Record]] = {}
    for record in records:
        by_method.setdefault(record.config.methods, []).append(record)
    for methods, runs in by_method.items():
        values = np.array([[epoch[metric] for epoch in run.curve] for run in runs])
        epochs = np.arange(1, values.shape[1] + 1)
        name = f"{methods} ({len(runs)} seeds)" if len(runs) > 1 else methods
        axis.plot(epochs, values.mean(axis=0), color=colour(methods), label=name)
        if len(runs) > 1:
            axis.fill_between(epochs, values.min(axis=0), values.max(axis=0), color=colour(methods), alpha=0.15, lw=0)
    axis.set(xlabel="epoch", ylabel=label)
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.legend()
    return figure


# --- chapters 1-3 ---------------------------------------------------------------------------------------------------


# --- chapters 4-6 ---------------------------------------------------------------------------------------------------


# --- chapter 7 and the README ---------------------------------------------------------------------------------------
