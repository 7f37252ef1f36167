"""Figures of chapter 2: images, the networks that see them, and how a run goes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from imcl_book.figures.shared import grouped_bars, run_curves
from imcl_book.figures.style import BLACK, BLUE, GREEN, ORANGE, RED, SKY, colour, panels, styled
from imcl_core.training.record import Record

__all__ = [
    "captioned_images", "image_grid", "last_and_best", "network_diagram", "parameters_and_activations", "run_curves",
]  # fmt: skip


@styled
def image_grid(images: np.ndarray, rows: Sequence[str] = (), columns: Sequence[str] = ()) -> Figure:
    """Images (R, C, 3, H, W), bytes or floats from 0 to 1, with the names of rows and columns."""
    down, across = images.shape[:2]
    figure, axes = panels(down, across, 7, 6.6 * down / across + (0.3 if columns else 0))
    for place in np.ndindex(down, across):
        axes[place].imshow(images[place].transpose(1, 2, 0), interpolation="nearest")
        axes[place].set(xticks=[], yticks=[])
        axes[place].spines[:].set_visible(False)
    for axis, name in zip(axes[:, 0], rows, strict=False):
        axis.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
    for axis, name in zip(axes[0], columns, strict=False):
        axis.set_title(name, fontsize=9)
    return figure


@styled
def network_diagram(networks: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """The layers of networks, input on top: a bar as long as the maps are wide, an arc for each shortcut.

    A layer has `group` (counted from 0), `channels`, `side` (pixels), and `adds`, the place of the layer whose output
    is added to its own, or None.
    """
    figure, axes = panels(1, len(networks), 6.8, 0.5 + 0.24 * max(map(len, networks.values())), sharey=True)
    for axis, (name, layers) in zip(axes[0], networks.items(), strict=True):
        for i, layer in enumerate(layers):
            shade = (BLACK, BLUE, SKY, GREEN, ORANGE)[layer["group"] % 5]
            axis.barh(i, layer["side"], 0.7, left=-layer["side"] / 2, color=shade)
            text = f"{layer['channels']} × {layer['side']}×{layer['side']}"
            axis.text(32, i, text, va="center", ha="center", fontsize=8)
            if layer["adds"] is not None:
                _shortcut(axis, layers, layer["adds"], i)
        axis.set_title(name, fontsize=10)
        axis.set_xlim(-24, 46)
        axis.axis("off")
    axes[0, 0].invert_yaxis()
    return figure


def _shortcut(axis: Axes, layers: Sequence[Mapping[str, Any]], first: int, last: int) -> None:
    """An arc from the left end of one layer's bar to that of the layer which adds its output."""
    arc = {"arrowstyle": "-|>", "connectionstyle": "arc3,rad=0.4", "color": RED, "lw": 1.2}
    start, end = ((-layers[i]["side"] / 2 - 0.5, i) for i in (first, last))
    axis.annotate("", end, start, arrowprops=arc)


@styled
def parameters_and_activations(networks: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Each layer's share (%) of the `parameters` of all layers, and of the numbers they compute, `activations`."""
    figure, axes = panels(len(networks), 1, 6.5, 0.4 + 1.8 * len(networks), sharey=True)
    for axis, (name, layers) in zip(axes[:, 0], networks.items(), strict=True):
        shares = {}
        for what in ("activations", "parameters"):
            counts = np.array([layer[what] for layer in layers], dtype=float)
            shares[what] = 100 * counts / counts.sum()
        grouped_bars(axis, shares, [str(i + 1) for i in range(len(layers))])
        axis.set_title(name, fontsize=10)
        axis.set(xlabel="layer, from the image to the output", ylabel="share (%)")
    axes[0, 0].legend(loc="upper center")
    return figure


@styled
def captioned_images(images: np.ndarray, captions: Sequence[str], wrong: Sequence[bool], columns: int = 6) -> Figure:
    """Images (n, 3, H, W), bytes, each below its caption; what is `wrong` has its caption in bold red."""
    rows = -(-len(images) // columns)
    figure, axes = panels(rows, columns, 7, 1.8 * rows)
    for axis in axes.flat:
        axis.axis("off")
    for axis, image, caption, mistake in zip(axes.flat, images, captions, wrong, strict=False):
        axis.imshow(image.transpose(1, 2, 0), interpolation="nearest")
        axis.set_title(caption, fontsize=8, color=RED if mistake else BLACK, weight="bold" if mistake else "normal")
    return figure


@styled
def last_and_best(runs: Mapping[str, Sequence[Record]]) -> Figure:
    """Test error (%) of several runs of each setting, a line a run: filled at the last epoch, hollow at the best."""
    figure, axes = panels(1, 1, 6, 0.8 + 0.5 * len(runs))
    axis = axes[0, 0]
    for row, records in enumerate(runs.values()):
        places = row + 0.5 * (np.arange(len(records)) - (len(records) - 1) / 2) / max(len(records), 2)
        for place, record in zip(places, records, strict=True):
            shade = colour(record.config.methods)
            axis.plot([record.best_error, record.last_error], [place] * 2, color=shade, lw=1)
            axis.plot(record.best_error, place, "o", color=shade, mfc="none", ms=9)
            axis.plot(record.last_error, place, "o", color=shade, ms=5)
    axis.plot([], [], "o", color=BLACK, ms=5, label="last epoch")
    axis.plot([], [], "o", color=BLACK, mfc="none", ms=9, label="best epoch")
    axis.set_yticks(range(len(runs)), list(runs))
    axis.set(xlabel="test error (%)", ylim=(len(runs) - 0.5, -0.5))
    axis.set_xlim(left=0)
    axis.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    return figure
