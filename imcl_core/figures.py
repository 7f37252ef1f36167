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


def gradient_norms(norms: Mapping[str, Sequence[float]]) -> Figure:
    """How strongly each part of the objective pulls on each layer: `norms` of its gradient by part, a value a layer.

    The scale is logarithmic; NaN stands for a part that does not reach a layer.
    """
    figure, axes = _figure(1, 1, 6, 3.4)
    axis = axes[0, 0]
    for (part, values), marker in zip(norms.items(), "osD^", strict=False):
        axis.plot(range(1, len(values) + 1), values, color=colour(part), label=part, marker=marker, ms=4)
    axis.set(xlabel="layer, from the image to the output", ylabel="norm of the gradient", yscale="log")
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.legend(ncols=len(norms), loc="lower center", bbox_to_anchor=(0.5, 1))
    return figure


def paired_differences(differences: Mapping[str, Sequence[float]]) -> Figure:
    """Test error less the baseline's at the same seed, in points: a ring a seed, the mean ± its standard error.

    `differences` by method, a value a seed, the same seeds in the same order for all.
    """
    figure, axes = _figure(1, 1, 6, 0.9 + 0.6 * len(differences))
    axis = axes[0, 0]
    for row, (methods, values) in enumerate(differences.items()):
        error = np.std(values, ddof=1) / len(values) ** 0.5
        axis.errorbar(np.mean(values), row, xerr=error, color=colour(methods), fmt="D", ms=6, lw=2.5, capsize=4)
        axis.plot(values, [row + 0.28] * len(values), "o", mfc="none", color=colour(methods), ms=7)
    axis.axvline(0, color=BLACK, lw=0.8, ls=":")
    axis.set_yticks(range(len(differences)), list(differences))
    axis.set(xlabel="test error less the baseline's of the same seed (points)", ylim=(len(differences) - 0.4, -0.5))
    return figure


def combinations(errors: Mapping[str, Mapping[str, float]], baselines: Mapping[str, float]) -> Figure:
    """The error (%) of every subset of methods, a panel a network: `errors[network][methods]`; the lowest is named.

    A dotted line marks the network's baseline.
    """
    rows = list(next(iter(errors.values())))
    figure, axes = _figure(1, len(errors), 6.8, 0.8 + 0.21 * len(rows), sharey=True)
    for axis, (network, values) in zip(axes[0], errors.items(), strict=True):
        best = min(values, key=values.get)
        for row, methods in enumerate(rows):
            axis.plot(values[methods], row, "o", color=colour(methods), ms=5)
        axis.plot(values[best], rows.index(best), "o", mfc="none", color=BLACK, ms=10)
        axis.axvline(baselines[network], color=BLACK, lw=0.8, ls=":")
        axis.set(title=network, xlabel="test error (%)")
        axis.annotate(
            f"{values[best]:.2f}", (values[best], rows.index(best)), (9, 0), textcoords="offset points", va="center"
        )
        axis.grid(axis="y", lw=0.4, alpha=0.5)
    axes[0, 0].set_yticks(range(len(rows)), rows)
    axes[0, 0].set_ylim(len(rows) - 0.4, -0.6)
    return figure


def run_curves(record: Record) -> Figure:
    """One run by epoch: left the parts of the training loss and the test loss, right training and test error."""
    figure, (axes,) = _figure(1, 2, 7, 3.2)
    epochs = [epoch["epoch"] for epoch in record.curve]
    parts: dict[str, list[float]] = {}
    for epoch in record.curve:
        sums = dict.fromkeys((name.split("/")[0] for name in epoch["terms"]), 0.0)
        for name, value in epoch["terms"].items():
            sums[name.split("/")[0]] += value
        for part, value in sums.items():
            parts.setdefault(part, []).append(value)
    for part, values in parts.items():
        axes[0].plot(epochs, values, color=colour("baseline" if part == "hard" else part), label=f"{part}, training")
    axes[0].plot(epochs, [epoch["test_loss"] for epoch in record.curve], color=RED, ls="--", label="labels, test")
    axes[1].plot(epochs, [epoch["train_error"] for epoch in record.curve], color=SKY, label="training")
    axes[1].plot(epochs, [epoch["test_error"] for epoch in record.curve], color=RED, ls="--", label="test")
    for axis, label in zip(axes, ("loss", "error (%)"), strict=True):
        axis.set(xlabel="epoch", ylabel=label)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.legend()
    return figure


def overview(
    image: np.ndarray,
    label: int,
    classes: Sequence[str],
    predictions: np.ndarray,
    local: np.ndarray,
    similarities: Sequence[np.ndarray],
    covariance: np.ndarray,
) -> Figure:
    """What the four losses work on, a panel each, from one trained network.

    `image` (H, W, 3) bytes with its `label`; `predictions` (4, m), the probabilities of its four dropout masks;
    `local` (N, m), those of each layer; `similarities`, three (n, n): of a batch's images, one layer, and labels;
    `covariance` (F, F) of one convolution's filters.
    """
    with plt.rc_context(STYLE):
        figure = Figure(figsize=(7, 5.8), layout="constrained")
        panels = figure.subfigures(2, 2, hspace=0.06, wspace=0.06).flat
        titles = (
            ("out", "predictions of one image,\none a dropout mask, teach each other"),
            ("mid", "every layer predicts;\ndeeper layers teach shallower ones"),
            ("pull-push", "features leave the images' similarity\nand approach that of the labels"),
            ("kernel", "the filters of a convolution\nare made less alike"),
        )
        for panel, (methods, text) in zip(panels, titles, strict=True):
            panel.suptitle(f"{methods}: {text}", color=colour(methods), fontsize=10, fontweight="bold")
        _overview_out(panels[0], image, label, classes, predictions)
        _probabilities(panels[1].subplots(), local, label, classes, [str(i + 1) for i in range(len(local))], "layer")
        for axis, matrix, name in zip(
            panels[2].subplots(1, 3), similarities, ("images", "a layer", "labels"), strict=True
        ):
            _square(axis, matrix, name)
        shown = _square(panels[3].subplots(), covariance, "filters × filters")
        panels[3].colorbar(shown, label="covariance", shrink=0.8)
    return figure


def _overview_out(panel, image: np.ndarray, label: int, classes: Sequence[str], predictions: np.ndarray) -> None:
    left, right = panel.subplots(1, 2, width_ratios=(1, 2.2))
    left.imshow(image)
    left.set(xticks=[], yticks=[])
    _probabilities(right, predictions, label, classes, [str(i + 1) for i in range(len(predictions))], "mask")


def _probabilities(axis, rows: np.ndarray, label: int, classes: Sequence[str], names: list[str], what: str) -> None:
    """Probabilities (rows, m) as shades, the true class framed."""
    axis.imshow(rows, vmin=0, vmax=1, aspect="auto", cmap="cividis")
    axis.add_patch(plt.Rectangle((label - 0.5, -0.5), 1, len(rows), fill=False, ec=RED, lw=1.5))
    axis.set_xticks(range(len(classes)), classes)
    axis.set_yticks(range(len(rows)), names)
    axis.set(xlabel="class", ylabel=what)


def _square(axis, matrix: np.ndarray, title: str):
    """A matrix of similarities from -1 to 1."""
    axis.set(title=title, xticks=[], yticks=[])
    return axis.imshow(matrix, vmin=-1, vmax=1, cmap="RdBu_r")
