"""Every figure of the book, one function each: arrays and records in, a matplotlib `Figure` out.

Colours are Okabe and Ito's, which colour-blind readers can tell apart; a method has the same one everywhere.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.figure import Figure

from imcl_core.training.record import Record

BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, RED, PINK = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7",
)  # fmt: skip
COLOURS = {
    "baseline": BLACK, "out": ORANGE, "mid": BLUE, "pull-push": GREEN, "kernel": PINK,
    "tree": SKY, "multi-instance": "#8C4A00", "baseline-2x": "#888888",
}  # fmt: skip
COMBINATION = RED  # of several methods
STYLE = {
    "figure.dpi": 110, "figure.constrained_layout.use": True, "font.size": 9, "axes.spines.top": False,
    "axes.spines.right": False, "axes.titlesize": 10, "legend.frameon": False, "image.cmap": "cividis",
}  # fmt: skip


def colour(methods: str) -> str:
    """The colour of a method, or of any combination."""
    return COLOURS.get(methods, COMBINATION)


def _styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Draws in the book's style, and leaves the caller's settings of matplotlib alone."""

    @functools.wraps(draw)
    def styled(*arguments: Any, **options: Any) -> Figure:
        with plt.rc_context(STYLE):
            return draw(*arguments, **options)

    return styled


def _figure(rows: int, columns: int, width: float, height: float, **options) -> tuple[Figure, np.ndarray]:
    """A figure of `width`×`height` inches and its axes (rows, columns); shown once, by the cell that asked for it."""
    figure, axes = plt.subplots(rows, columns, figsize=(width, height), squeeze=False, **options)
    plt.close(figure)
    return figure, axes


# --- shared -----------------------------------------------------------------------------------------------------------


@_styled
def learning_curves(records: Sequence[Record], metric: str = "test_error", label: str = "test error (%)") -> Figure:
    """`metric` by epoch for each method: the mean over seeds, and the range as a band."""
    figure, axes = _figure(1, 1, 6, 3.4)
    axis = axes[0, 0]
    by_method: dict[str, list[Record]] = {}
    for record in records:
        by_method.setdefault(record.config.methods, []).append(record)
    for methods, runs in by_method.items():
        epochs = [epoch["epoch"] for epoch in runs[0].curve if metric in epoch]
        values = np.array([[epoch[metric] for epoch in run.curve if metric in epoch] for run in runs])
        name = f"{methods} ({len(runs)} seeds)" if len(runs) > 1 else methods
        axis.plot(epochs, values.mean(axis=0), color=colour(methods), label=name)
        if len(runs) > 1:
            axis.fill_between(epochs, values.min(axis=0), values.max(axis=0), color=colour(methods), alpha=0.15, lw=0)
    axis.set(xlabel="epoch", ylabel=label)
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.legend()
    return figure


# --- chapters 1-3 -----------------------------------------------------------------------------------------------------


def _grouped_bars(axis, series: Mapping[str, np.ndarray], names: Sequence[str], colours=(BLUE, ORANGE)) -> None:
    """Bars of several series (m,) side by side, above the names of their entries."""
    places, width = np.arange(len(names)), 0.8 / len(series)
    for i, ((label, values), shade) in enumerate(zip(series.items(), colours, strict=False)):
        axis.bar(places + (i - (len(series) - 1) / 2) * width, values, width, color=shade, label=label)
    axis.set_xticks(places, names)
    axis.axhline(0, color=BLACK, lw=0.8)


@_styled
def patterns_of_heads(patterns: Mapping[str, Sequence[int]]) -> Figure:
    """Networks made of subnets, input at the bottom: `patterns` gives how many copies there are of each subnet."""
    widths = [max(*counts, 2) for counts in patterns.values()]
    figure, axes = _figure(1, len(patterns), 6.5, 2.9, width_ratios=widths)
    for axis, (name, counts), width in zip(axes[0], patterns.items(), widths, strict=True):
        below = np.zeros(1)
        for depth, count in enumerate(counts):
            places = np.arange(count) - (count - 1) / 2
            for i, x in enumerate(places):
                axis.plot([below[i * len(below) // count], x], [depth - 0.35, depth], color=BLACK, lw=0.8)
                axis.bar(x, 0.65, 0.75, depth, color=(SKY, BLUE, ORANGE)[depth % 3])
            below = places
        axis.text(0, -0.4, "image", ha="center", va="top", fontsize=9)
        axis.set_title(f"{name}\n{counts[-1]} head{'s' * (counts[-1] > 1)}, {sum(counts)} subnets", fontsize=9)
        axis.set(xlim=(-width / 2, width / 2), ylim=(-0.8, len(counts)))
        axis.axis("off")
    return figure


@_styled
def opinions_and_teachers(opinions: np.ndarray, teachers: np.ndarray, classes: Sequence[str], label: int) -> Figure:
    """What each head says, probabilities (H, m), beside what the other heads teach it, (H, m); a panel a head."""
    figure, axes = _figure(1, len(opinions), 7, 3, sharey=True)
    for h, axis in enumerate(axes[0]):
        series = {"what the head says": opinions[h], "what the others teach it": teachers[h]}
        _grouped_bars(axis, series, [f"[{name}]" if i == label else name for i, name in enumerate(classes)])
        axis.set_title(f"head {h + 1}", fontsize=10)
        axis.set_xlabel("class")
    axes[0, 0].set(ylabel="probability", ylim=(0, 1))
    handles = axes[0, 0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncols=2)
    return figure


@_styled
def softening(temperatures: np.ndarray, probabilities: np.ndarray, classes: Sequence[str]) -> Figure:
    """Every class's probability (temperatures, m) as the temperature rises; dotted: all classes alike."""
    figure, axes = _figure(1, 1, 5.5, 3.2)
    axis = axes[0, 0]
    for i, name in enumerate(classes):
        shade, dash = (BLUE, RED, GREEN, PINK, BLACK)[i % 5], ("-", "--", "-.")[i % 3]
        axis.plot(temperatures, probabilities[:, i], color=shade, ls=dash, lw=2, label=name)
    axis.axhline(1 / len(classes), color=BLACK, lw=0.8, ls=":")
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_formatter("{x:g}")
    axis.set(xlabel="temperature T", ylabel="probability", ylim=(0, 1))
    axis.legend(title="class")
    return figure


@_styled
def two_means(opinions: np.ndarray, means: Mapping[str, np.ndarray], classes: Sequence[str]) -> Figure:
    """Left: what several heads say, probabilities (H, m). Right: means (m,) of them, side by side."""
    figure, (axes,) = _figure(1, 2, 7, 2.8, sharey=True)
    heads = {f"head {h + 1}": opinion for h, opinion in enumerate(opinions)}
    _grouped_bars(axes[0], heads, classes, (SKY, GREEN, PINK, YELLOW))
    _grouped_bars(axes[1], means, classes)
    for axis, title in zip(axes, ("what the heads say", "their mean"), strict=True):
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("class")
        axis.legend()
    axes[0].set(ylabel="probability", ylim=(0, 1))
    return figure


@_styled
def hard_and_soft_gradients(
    gradients: Mapping[str, np.ndarray],
    classes: Sequence[str],
    temperatures: Sequence[float],
    lengths: Mapping[str, Sequence[float]],
) -> Figure:
    """Left: gradients (m,) by one head's logits. Right: lengths of gradients by temperature."""
    figure, ((left, right),) = _figure(1, 2, 7, 3.6)
    _grouped_bars(left, gradients, classes)
    left.set(xlabel="class", ylabel="gradient by the logit")
    for (name, values), shade, marker in zip(lengths.items(), (BLUE, ORANGE, GREEN), "^os", strict=False):
        right.plot(temperatures, values, color=shade, marker=marker, label=name)
    right.set_xscale("log", base=2)
    right.set_yscale("log")
    right.xaxis.set_major_formatter("{x:g}")
    right.set(xlabel="temperature T", ylabel="length of the gradient")
    for axis in (left, right):
        axis.legend(loc="lower left", bbox_to_anchor=(0, 1))
    return figure


@_styled
def heads_at_temperature(
    opinions: np.ndarray,
    teachers: np.ndarray,
    classes: Sequence[str],
    label: int,
    temperatures: Sequence[float],
    lengths: np.ndarray,
    place: int,
) -> Figure:
    """Left: softened probabilities (H, m) of each head, and of its teacher, at one temperature, `temperatures[place]`.

    Right: `lengths` (temperatures, H) of the gradients by each head's logits, marked at that temperature.
    """
    figure, columns = Figure(figsize=(7, 3.4), layout="constrained"), -(-len(opinions) // 2)
    left, right = figure.subfigures(1, 2, width_ratios=(columns + 0.4, 1.3))
    panels = left.subplots(2, columns, sharex=True, sharey=True, squeeze=False)
    names = [f"[{name}]" if i == label else name for i, name in enumerate(classes)]
    for h, (axis, opinion, teacher) in enumerate(zip(panels.flat, opinions, teachers, strict=False)):
        _grouped_bars(axis, {"the head": opinion, "what the others teach it": teacher}, names)
        axis.set_title(f"head {h + 1}", fontsize=9)
        axis.set_ylim(0, 1)
    left.supxlabel("class", fontsize=9)
    left.supylabel("softened probability", fontsize=9)
    left.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    axis = right.subplots()
    for h, (values, shade, marker) in enumerate(zip(lengths.T, (BLUE, RED, GREEN, PINK), "os^D", strict=False)):
        axis.plot(temperatures, values, color=shade, marker=marker, markevery=[place], label=f"head {h + 1}")
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.xaxis.set_major_formatter("{x:g}")
    axis.set(xlabel="temperature T", ylabel="length of the gradient")
    axis.legend(loc="lower left")
    return figure


@_styled
def errors_by_rate(rates: Sequence[float], errors: Mapping[str, np.ndarray]) -> Figure:
    """Test error (%) by learning rate, an array (rates, seeds) a line: the mean over seeds, and the range as a band."""
    figure, axes = _figure(1, 1, 6, 3.4)
    axis = axes[0, 0]
    for i, (name, values) in enumerate(errors.items()):
        style = {"color": (BLUE, ORANGE)[i % 2], "marker": "os"[i % 2], "ls": ("-", "--")[i // 2 % 2]}
        axis.plot(rates, values.mean(axis=1), label=name, **style)
        axis.fill_between(rates, values.min(axis=1), values.max(axis=1), color=style["color"], alpha=0.12, lw=0)
    axis.set_xscale("log")
    axis.minorticks_off()
    axis.set_xticks(rates, [f"{rate:g}" for rate in rates])
    axis.set(xlabel="learning rate", ylabel="test error (%)")
    axis.set_ylim(bottom=0)
    axis.legend()
    return figure


@_styled
def image_grid(images: np.ndarray, rows: Sequence[str] = (), columns: Sequence[str] = ()) -> Figure:
    """Images (R, C, 3, H, W), bytes or floats from 0 to 1, with the names of rows and columns."""
    down, across = images.shape[:2]
    figure, axes = _figure(down, across, 7, 6.6 * down / across + (0.3 if columns else 0))
    for place in np.ndindex(down, across):
        axes[place].imshow(images[place].transpose(1, 2, 0), interpolation="nearest")
        axes[place].set(xticks=[], yticks=[])
        axes[place].spines[:].set_visible(False)
    for axis, name in zip(axes[:, 0], rows, strict=False):
        axis.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
    for axis, name in zip(axes[0], columns, strict=False):
        axis.set_title(name, fontsize=9)
    return figure


@_styled
def network_diagram(networks: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """The layers of networks, input on top: a bar as long as the maps are wide, an arc for each shortcut.

    A layer has `group` (counted from 0), `channels`, `side` (pixels), and `adds`, the place of the layer whose output
    is added to its own, or None.
    """
    figure, axes = _figure(1, len(networks), 6.8, 0.5 + 0.24 * max(map(len, networks.values())), sharey=True)
    for axis, (name, layers) in zip(axes[0], networks.items(), strict=True):
        for i, layer in enumerate(layers):
            shade = (BLACK, BLUE, SKY, GREEN, ORANGE)[layer["group"] % 5]
            axis.barh(i, layer["side"], 0.7, left=-layer["side"] / 2, color=shade)
            text = f"{layer['channels']} × {layer['side']}×{layer['side']}"
            axis.text(32, i, text, va="center", ha="center", fontsize=8)
            if layer["adds"] is not None:
                arc = {"arrowstyle": "-|>", "connectionstyle": "arc3,rad=0.4", "color": RED, "lw": 1.2}
                start = (-layers[layer["adds"]]["side"] / 2 - 0.5, layer["adds"])
                axis.annotate("", (-layer["side"] / 2 - 0.5, i), start, arrowprops=arc)
        axis.set_title(name, fontsize=10)
        axis.set_xlim(-24, 46)
        axis.axis("off")
    axes[0, 0].invert_yaxis()
    return figure


@_styled
def parameters_and_activations(networks: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Each layer's share (%) of the `parameters` of all layers, and of the numbers they compute, `activations`."""
    figure, axes = _figure(len(networks), 1, 6.5, 0.4 + 1.8 * len(networks), sharey=True)
    for axis, (name, layers) in zip(axes[:, 0], networks.items(), strict=True):
        shares = {}
        for what in ("activations", "parameters"):
            counts = np.array([layer[what] for layer in layers], dtype=float)
            shares[what] = 100 * counts / counts.sum()
        _grouped_bars(axis, shares, [str(i + 1) for i in range(len(layers))])
        axis.set_title(name, fontsize=10)
        axis.set(xlabel="layer, from the image to the output", ylabel="share (%)")
    axes[0, 0].legend(loc="upper center")
    return figure


@_styled
def captioned_images(images: np.ndarray, captions: Sequence[str], wrong: Sequence[bool], columns: int = 6) -> Figure:
    """Images (n, 3, H, W), bytes, each below its caption; what is `wrong` has its caption in bold red."""
    rows = -(-len(images) // columns)
    figure, axes = _figure(rows, columns, 7, 1.8 * rows)
    for axis in axes.flat:
        axis.axis("off")
    for axis, image, caption, mistake in zip(axes.flat, images, captions, wrong, strict=False):
        axis.imshow(image.transpose(1, 2, 0), interpolation="nearest")
        axis.set_title(caption, fontsize=8, color=RED if mistake else BLACK, weight="bold" if mistake else "normal")
    return figure


@_styled
def last_and_best(runs: Mapping[str, Sequence[Record]]) -> Figure:
    """Test error (%) of several runs of each setting, a line a run: filled at the last epoch, hollow at the best."""
    figure, axes = _figure(1, 1, 6, 0.8 + 0.5 * len(runs))
    axis = axes[0, 0]
    for row, records in enumerate(runs.values()):
        places = row + 0.5 * (np.arange(len(records)) - (len(records) - 1) / 2) / max(len(records), 2)
        for place, record in zip(places, records, strict=True):
            shade = colour(record.config.methods)
            axis.plot([record.best_error, record.last_error], [place] * 2, color=shade, lw=1)
            axis.plot(record.last_error, place, "o", color=shade, ms=7)
            axis.plot(record.best_error, place, "o", color=shade, mfc="white", ms=5)
    axis.plot([], [], "o", color=BLACK, ms=7, label="last epoch")
    axis.plot([], [], "o", color=BLACK, mfc="white", ms=5, label="best epoch")
    axis.set_yticks(range(len(runs)), list(runs))
    axis.set(xlabel="test error (%)", ylim=(len(runs) - 0.5, -0.5))
    axis.set_xlim(left=0)
    axis.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    return figure


@_styled
def dropout_tree(
    units: Sequence[np.ndarray], names: Sequence[str], predictions: np.ndarray, classes: Sequence[str], label: int
) -> Figure:
    """What dropout masks leave of one image's hidden units, branch by branch, above the predictions they end in.

    `units`: arrays (branches, d) with their `names`, the first layer on top; NaN where a unit is dropped (white).
    Shades go from 0 to the layer's largest. `predictions` (branches, m), probabilities; the label's bar is orange.
    """
    figure, axes = _figure(1, 1, 7, 1.2 + 1.45 * len(units))
    axis, across, above = axes[0, 0], len(predictions), np.zeros(0)
    for depth, (values, name) in enumerate(zip(units, names, strict=True)):
        places, y = (np.arange(len(values)) + 0.5) * across / len(values), -1.15 * depth
        for i, (x, tile) in enumerate(zip(places, values, strict=True)):
            _unit_tile(axis, tile, x, y, np.nanmax(values))
            for parent in above[[i * len(above) // len(values)]] if depth else ():
                axis.plot([parent, x], [y + 0.75, y + 0.4], color=BLACK, lw=0.8)
        axis.text(-0.1, y, name, ha="right", va="center", fontsize=9)
        above = places
    floor = -1.15 * len(units) - 0.05
    for x, row in zip(above, predictions, strict=True):
        slots = x + 0.8 * ((np.arange(len(row)) + 0.5) / len(row) - 0.5)
        shades = [ORANGE if c == label else BLUE for c in range(len(row))]
        axis.bar(slots, 0.7 * row, 0.65 / len(row), floor, color=shades)
        axis.plot([x - 0.4, x + 0.4], [floor, floor], color=BLACK, lw=0.8)
        for slot, name in zip(slots, classes if len(classes) <= 10 else (), strict=False):
            axis.text(slot, floor - 0.05, name, ha="center", va="top", fontsize=8)
    axis.text(-0.1, floor + 0.3, "predictions", ha="right", va="center", fontsize=9)
    axis.set(xlim=(-1, across), ylim=(floor - 0.25, 0.45), aspect="equal")
    axis.axis("off")
    return figure


def _unit_tile(axis, values: np.ndarray, x: float, y: float, top: float) -> None:
    """Hidden units (d,) as a square of shades from 0 to `top` around (x, y); NaN is white."""
    side = int(np.ceil(len(values) ** 0.5))
    square = np.pad(values.astype(float), (0, side**2 - len(values)), constant_values=np.nan).reshape(side, side)
    shades = plt.get_cmap("cividis").with_extremes(bad="white")
    box = (x - 0.38, x + 0.38, y - 0.38, y + 0.38)
    axis.imshow(square, extent=box, vmin=0, vmax=top, cmap=shades, interpolation="nearest")
    axis.add_patch(plt.Rectangle((x - 0.38, y - 0.38), 0.76, 0.76, fill=False, ec=BLACK, lw=0.8))


@_styled
def branches_by_epoch(panels: Mapping[str, np.ndarray], label: str) -> Figure:
    """A quantity of each of K² branches (epochs, K²) by epoch, a panel a method; in black their mean.

    Branches with the same first mask share a colour.
    """
    figure, axes = _figure(1, len(panels), 7, 3, sharey=True)
    for axis, (name, values) in zip(axes[0], panels.items(), strict=True):
        epochs, masks = np.arange(1, len(values) + 1), round(values.shape[1] ** 0.5)
        for branch in range(values.shape[1]):
            shade, dash = (BLUE, ORANGE, GREEN, PINK)[branch // masks % 4], ("-", "--", ":", "-.")[branch % masks % 4]
            axis.plot(epochs, values[:, branch], color=shade, ls=dash, marker="o", ms=4, label=f"branch {branch + 1}")
        axis.plot(epochs, values.mean(axis=1), color=BLACK, lw=3, alpha=0.6, label="their mean")
        axis.set_title(name, fontsize=10)
        axis.set_xlabel("epoch")
        axis.set_xticks(epochs)
    axes[0, 0].set(ylabel=label, ylim=(-0.02, 1.02))
    handles = axes[0, 0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncols=3)
    return figure


@_styled
def seeds_by_epoch(values: Mapping[str, np.ndarray], label: str) -> Figure:
    """A quantity (seeds, epochs) by epoch for each method: thin lines for seeds, a thick one for their mean."""
    figure, axes = _figure(1, 1, 6, 3.2)
    axis = axes[0, 0]
    for (methods, runs), marker in zip(values.items(), "os^D", strict=False):
        epochs = np.arange(1, runs.shape[1] + 1)
        axis.plot(epochs, runs.T, color=colour(methods), lw=0.8, alpha=0.6)
        axis.plot(epochs, runs.mean(axis=0), color=colour(methods), lw=2.5, marker=marker, label=methods)
        axis.set_xticks(epochs)
    axis.set(xlabel="epoch", ylabel=label)
    axis.set_ylim(bottom=0)
    axis.legend()
    return figure


@_styled
def branch_distances(panels: Mapping[str, np.ndarray], label: str) -> Figure:
    """Distances (H, H) between the predictions of every two branches, a panel a method, with their values."""
    figure, axes = _figure(1, len(panels), 6.5, 3)
    top = max(distances.max() for distances in panels.values())
    for axis, (name, distances) in zip(axes[0], panels.items(), strict=True):
        shown = axis.imshow(distances, vmin=0, vmax=top, cmap="cividis")
        for place, value in np.ndenumerate(distances):
            shade = "white" if value < top / 2 else "black"
            axis.text(*place[::-1], f"{value:.2f}", ha="center", va="center", fontsize=8, color=shade)
        ticks = range(len(distances)), range(1, len(distances) + 1)
        axis.set_xticks(*ticks)
        axis.set_yticks(*ticks)
        axis.set_title(name, fontsize=10)
        axis.set_xlabel("branch")
    axes[0, 0].set_ylabel("branch")
    figure.colorbar(shown, ax=axes, label=label, shrink=0.7)
    return figure


# --- chapters 4-6 -----------------------------------------------------------------------------------------------------


@_styled
def teachers(layers: int) -> Figure:
    """Who teaches whom in Eq. 6, for `layers` layers the last the output: arcs, and each teacher's share."""
    figure, axes = _figure(1, 2, 7, 2.9, width_ratios=(1.15, 1))
    names = [*(str(i) for i in range(1, layers)), "output"]
    shares = np.full((layers - 1, layers), np.nan)
    for pupil in range(layers - 1):
        shares[pupil, pupil + 1 :] = 1 / (layers - 1 - pupil)
    _arcs(axes[0, 0], shares, names)
    _shares(axes[0, 1], shares, names)
    return figure


def _arcs(axis, shares: np.ndarray, names: Sequence[str]) -> None:
    """An arrow from every teacher (column) to each of its pupils (row), as wide as its share."""
    colours = (BLUE, ORANGE, GREEN, PINK, RED, SKY)
    for pupil, teacher in zip(*np.nonzero(shares > 0), strict=True):
        arrow = {"arrowstyle": "-|>", "connectionstyle": "arc3,rad=0.8", "shrinkA": 9, "shrinkB": 9}
        arrow |= {"color": colours[pupil % len(colours)], "lw": 0.6 + 2.4 * shares[pupil, teacher]}
        axis.annotate("", (pupil, 0), (teacher, 0), arrowprops=arrow)
    for place, name in enumerate(names):
        axis.plot(place, 0, "o", ms=16, mfc="white", mec=colours[place % len(colours)] if name.isdigit() else BLACK)
        axis.text(place, 0, name if name.isdigit() else "out", ha="center", va="center", fontsize=8)
    axis.set(xlim=(-0.5, len(names) - 0.5), ylim=(-0.6, 0.4 * len(names)))
    axis.set_title("teacher → pupil", fontsize=10)
    axis.annotate("", (len(names) - 0.5, -0.45), (0, -0.45), arrowprops={"arrowstyle": "->"})
    axis.text(-0.3, -0.45, "depth", va="center", ha="center", fontsize=8)
    axis.axis("off")


def _shares(axis, shares: np.ndarray, names: Sequence[str]) -> None:
    """The share of each teacher (column) in a pupil's target (row), written out."""
    axis.imshow(shares, cmap="cividis", vmin=0, vmax=1, aspect="auto")
    for pupil, teacher in zip(*np.nonzero(shares > 0), strict=True):
        count = round(1 / shares[pupil, teacher])
        shade = BLACK if shares[pupil, teacher] > 0.55 else "white"
        text = "1" if count == 1 else f"1/{count}"
        axis.text(teacher, pupil, text, ha="center", va="center", fontsize=9, color=shade)
    axis.set_xticks(range(len(names)), names)
    axis.set_yticks(range(len(names) - 1), names[:-1])
    axis.set(xlabel="teacher j", ylabel="pupil i")
    axis.set_title("share of its logits in the target", fontsize=10)


@_styled
def gradient_reach(panels: Mapping[str, np.ndarray], terms: Sequence[str], parts: Sequence[str]) -> Figure:
    """Which weights each loss touches: gradient norms (terms, parts), a panel each; exact zeros are left empty."""
    touched = {title: np.where(norms > 0, norms, np.nan) for title, norms in panels.items()}
    low, high = (bound([bound(norms) for norms in touched.values()]) for bound in (np.nanmin, np.nanmax))
    figure, axes = _figure(1, len(panels), 7 if len(panels) > 1 else 5.6, 1.5 + 0.16 * len(terms), sharey=True)
    for axis, (title, norms) in zip(axes[0], touched.items(), strict=True):
        image = axis.imshow(norms, norm=LogNorm(low, high), cmap="cividis", aspect="auto")
        axis.set_xticks(range(len(parts)), parts, rotation=90, fontsize=8)
        axis.set_yticks(range(len(terms)), terms, fontsize=8)
        axis.set_xticks(np.arange(len(parts) + 1) - 0.5, minor=True)
        axis.set_yticks(np.arange(len(terms) + 1) - 0.5, minor=True)
        axis.grid(which="minor", color="0.85", lw=0.5)
        axis.tick_params(which="both", length=0)
        axis.set_xlabel("weights of")
        axis.set_title(title, fontsize=10)
    axes[0, 0].set_ylabel("term of the objective")
    figure.colorbar(image, ax=axes, label="norm of the gradient", shrink=0.9)
    return figure


@_styled
def by_depth(
    curves: Mapping[str, Sequence[float]],
    label: str,
    references: Mapping[str, float] | None = None,
    log: bool = False,
) -> Figure:
    """A value for each layer, shallowest first; `references` are dotted levels, such as chance.

    A curve has the colour of the method its name begins with; a second one of that method is dashed. `log`: the scale
    is logarithmic above 1 and linear below, so that it can show 0.
    """
    figure, axes = _figure(1, 1, 6, 3.4)
    axis, used = axes[0, 0], []
    for (name, values), marker in zip(curves.items(), "so^Dv", strict=False):
        method = name.split()[0].strip(",:")
        line = "0.55" if method == "before" else colour(method)
        axis.plot(np.arange(1, len(values) + 1), values, color=line, ls="--" if line in used else "-", label=name)
        axis.lines[-1].set(marker=marker, markersize=4)
        used.append(line)
    for name, level in (references or {}).items():
        axis.axhline(level, color="0.4", ls=":", lw=1)
        note = axis.annotate(
            name, (1, level), (-2, 2), ("axes fraction", "data"), "offset points", ha="right", fontsize=8
        )
        note.set_bbox({"facecolor": "white", "alpha": 0.8, "pad": 0.5, "linewidth": 0})
    if log:
        axis.set_yscale("symlog", linthresh=1)
        axis.yaxis.set_major_formatter("{x:g}")
    axis.set(xlabel="layer, from the image to the classifier", ylabel=label)
    axis.xaxis.get_major_locator().set_params(integer=True)
    figure.legend(loc="outside upper center", ncols=2)
    return figure


@_styled
def descriptors(images: Sequence[np.ndarray], maps: Sequence[np.ndarray], names: Sequence[str]) -> Figure:
    """What Eq. 8 keeps of feature maps: a row an image (H, W, 3), its maps (C, H, W) and their deviations as bars."""
    channels = len(maps[0])
    top = max(float(m.std(axis=(1, 2)).max()) for m in maps)
    ratios = [1] * (channels + 1) + [1.8]
    figure, axes = _figure(len(images), channels + 2, 7, 0.95 * len(images) + 0.5, width_ratios=ratios)
    for row, image, feature, name in zip(axes, images, maps, names, strict=True):
        row[0].imshow(image)
        row[0].set_ylabel(name)
        for axis, channel in zip(row[1:-1], feature, strict=True):
            axis.imshow(channel, vmin=0, vmax=max(float(m.max()) for m in maps), cmap="cividis")
        row[-1].bar(range(1, channels + 1), feature.std(axis=(1, 2)), color=BLUE)
        row[-1].set(ylim=(0, 1.1 * top), yticks=[])
        for axis in row[:-1]:
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        row[-1].set_xticks(range(1, channels + 1), range(1, channels + 1), fontsize=8)
    for title, axis in zip(("image", *range(1, channels + 1), "deviation"), axes[0], strict=True):
        axis.set_title(str(title), fontsize=9)
    axes[-1, -1].set_xlabel("channel")
    return figure


@_styled
def matrices(rows: Mapping[str, Mapping[str, np.ndarray]], label: str, limit: float = 1.0) -> Figure:
    """Square matrices on one scale from -limit to limit, white at 0: a row for each name, columns named alike."""
    columns = len(next(iter(rows.values())))
    side = 6.2 / columns
    figure, axes = _figure(len(rows), columns, 7, max(1.8, (side + 0.12) * len(rows) + 0.75))
    for number, (line, (name, row)) in enumerate(zip(axes, rows.items(), strict=True)):
        for axis, (title, matrix) in zip(line, row.items(), strict=True):
            image = axis.imshow(matrix, vmin=-limit, vmax=limit, cmap="RdBu_r", interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set(visible=True, color="0.6")
            if number == 0:
                axis.set_title(title, fontsize=9)
        line[0].set_ylabel(name)
    figure.colorbar(image, ax=axes, label=label, shrink=0.9, location="bottom", aspect=40)
    return figure


@_styled
def filter_pairs(rows: Mapping[str, Sequence[tuple[str, np.ndarray, np.ndarray]]]) -> Figure:
    """Pairs of filters (C, kh, kw) side by side, each standardised and its channels tiled: a row for each name."""
    pairs = max(len(row) for row in rows.values())
    figure, axes = _figure(len(rows), 2 * pairs, 7, 7 / (2 * pairs) * len(rows) * 1.12 + 0.5)
    for line, (name, row) in zip(axes, rows.items(), strict=True):
        for number, (title, *filters) in enumerate(row):
            for axis, kernel in zip(line[2 * number : 2 * number + 2], filters, strict=True):
                image = axis.imshow(_tiles((kernel - kernel.mean()) / kernel.std()), vmin=-3, vmax=3, cmap="PuOr")
                axis.set(xticks=[], yticks=[])
            line[2 * number].set_title(title, loc="left", fontsize=8)
        line[0].set_ylabel(name)
    label = "weight (standard deviations of its filter)"
    figure.colorbar(image, ax=axes, label=label, shrink=0.8, location="bottom", aspect=40)
    return figure


def _tiles(kernel: np.ndarray) -> np.ndarray:
    """The channels of a filter (C, kh, kw) in a nearly square grid, a blank line between them."""
    columns = int(np.ceil(len(kernel) ** 0.5))
    padded = np.pad(kernel, ((0, -len(kernel) % columns), (0, 1), (0, 1)), constant_values=np.nan)
    padded[len(kernel) :] = np.nan
    grid = padded.reshape(-1, columns, *padded.shape[1:]).swapaxes(1, 2)
    return grid.reshape(grid.shape[0] * grid.shape[1], -1)[:-1, :-1]


# --- chapter 7 and the README -----------------------------------------------------------------------------------------


@_styled
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


@_styled
def paired_differences(differences: Mapping[str, Sequence[float]]) -> Figure:
    """Test error less the baseline's at the same seed, in points: a ring a seed, the mean ± its standard error.

    `differences` by method, a value a seed, the same seeds in the same order for all.
    """
    figure, axes = _figure(1, 1, 6, 0.9 + 0.6 * len(differences))
    _paired(axes[0, 0], differences)
    return figure


@_styled
def paired_differences_by_case(cases: Mapping[str, Mapping[str, Sequence[float]]]) -> Figure:
    """`paired_differences` for several cases on one scale, a panel each, `cases[case][method]`."""
    rows = [len(differences) for differences in cases.values()]
    figure, axes = _figure(
        len(cases), 1, 6.4, 0.6 + sum(0.7 + 0.4 * n for n in rows), sharex=True,
        gridspec_kw={"height_ratios": [n + 0.8 for n in rows]},
    )  # fmt: skip
    for axis, (case, differences) in zip(axes[:, 0], cases.items(), strict=True):
        _paired(axis, differences)
        axis.set_title(case, loc="left")
    for axis in axes[:-1, 0]:
        axis.set_xlabel("")
    return figure


def _paired(axis, differences: Mapping[str, Sequence[float]]) -> None:
    for row, (methods, values) in enumerate(differences.items()):
        error = np.std(values, ddof=1) / len(values) ** 0.5
        axis.errorbar(np.mean(values), row, xerr=error, color=colour(methods), fmt="D", ms=6, lw=2.5, capsize=4)
        axis.plot(values, [row + 0.28] * len(values), "o", mfc="none", color=colour(methods), ms=7)
    axis.axvline(0, color=BLACK, lw=0.8, ls=":")
    axis.set_yticks(range(len(differences)), list(differences))
    axis.set(xlabel="test error less the baseline's of the same seed (points)", ylim=(len(differences) - 0.4, -0.5))


@_styled
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


@_styled
def planned_hours(hours: Mapping[str, Mapping[str, float]]) -> Figure:
    """Hours of every table, `hours[gpu][table]`, a mark a GPU, on a logarithmic axis."""
    tables = list(next(iter(hours.values())))
    figure, axes = _figure(1, 1, 6.8, 1.0 + 0.27 * len(tables))
    axis = axes[0, 0]
    for (gpu, values), mark, shade in zip(hours.items(), "oDs^v", (ORANGE, BLUE, GREEN, PINK, SKY), strict=False):
        axis.plot([values[table] for table in tables], range(len(tables)), mark, color=shade, ms=6, label=gpu)
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter("{x:g}")
    axis.grid(lw=0.4, alpha=0.5)
    axis.set_yticks(range(len(tables)), tables)
    axis.set(xlabel="hours of one GPU", ylim=(len(tables) - 0.5, -0.5))
    axis.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


@_styled
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
    tested = [epoch["epoch"] for epoch in record.evaluated]
    axes[0].plot(tested, [epoch["test_loss"] for epoch in record.evaluated], color=RED, ls="--", label="hard, test")
    axes[1].plot(epochs, [epoch["train_error"] for epoch in record.curve], color=SKY, label="training")
    axes[1].plot(tested, [epoch["test_error"] for epoch in record.evaluated], color=RED, ls="--", label="test")
    for axis, label in zip(axes, ("loss", "error (%)"), strict=True):
        axis.set(xlabel="epoch", ylabel=label)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.legend()
    return figure


@_styled
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
    `local` (N, m), those of each layer; `similarities`, three (n, n): of pixels, of one layer, and of labels;
    `covariance` (F, F) of one convolution's filters.
    """
    with plt.rc_context(STYLE):
        figure = Figure(figsize=(7, 5.4), layout="constrained")
        panels = figure.subfigures(2, 2, hspace=0.06, wspace=0.06).flat
        titles = (
            "out: one image, four dropout masks;\nthe predictions teach one another",
            "mid: every layer predicts;\ndeeper layers teach shallower ones",
            "pull-push: from the similarity of images\nto the similarity of labels",
            "kernel: the filters of a convolution\nare made less alike",
        )
        for panel, title in zip(panels, titles, strict=True):
            panel.suptitle(title, fontsize=10, fontweight="bold")
        left, right = panels[0].subplots(1, 2, width_ratios=(1, 2.2))
        left.imshow(image)
        left.set(xticks=[], yticks=[])
        _probabilities(right, predictions, label, classes, "mask")
        _probabilities(panels[1].subplots(), local, label, classes, "layer")
        names = ("pixels", "one layer", "labels")
        for axis, matrix, name in zip(panels[2].subplots(1, 3), similarities, names, strict=True):
            axis.imshow(matrix, vmin=-1, vmax=1, cmap="RdBu_r")
            axis.set(title=name, xticks=[], yticks=[])
        axis = panels[3].subplots()
        shown = axis.imshow(covariance, vmin=-0.2, vmax=0.2, cmap="RdBu_r")
        axis.set(xlabel="filter", ylabel="filter")
        panels[3].colorbar(shown, label="covariance", shrink=0.8, extend="both")
    return figure


def _probabilities(axis, rows: np.ndarray, label: int, classes: Sequence[str], what: str) -> None:
    """Probabilities (rows, m) as shades, brighter for higher, the true class framed."""
    axis.imshow(rows, vmin=0, aspect="auto", cmap="cividis")
    axis.add_patch(plt.Rectangle((label - 0.5, -0.5), 1, len(rows), fill=False, ec=RED, lw=1.5))
    axis.set_xticks(range(len(classes)), classes)
    shown = range(0, len(rows), 1 + len(rows) // 8)
    axis.set_yticks(shown, [str(row + 1) for row in shown])
    axis.set(xlabel="class", ylabel=what)


# --- errata -----------------------------------------------------------------------------------------------------------


@_styled
def claims_against_tables(claims: Sequence[tuple[str, float, float]]) -> Figure:
    """What a text says against how far that is above what its tables give (points); labels where they differ.

    `claims`: a label, what is said and what the tables give, for each.
    """
    figure, axes = _figure(1, 1, 6, 3.2)
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


# --- results ----------------------------------------------------------------------------------------------------------


@_styled
def label_noise(
    errors: Mapping[str, Mapping[float, Sequence[float]]], printed: Mapping[str, float], gain: float
) -> Figure:
    """The paper's Fig. 2: test error (%) by portion of noisy labels, mean and deviation over seeds as error bars.

    `errors[methods][noise]`: a value a seed. The paper prints few numbers of it: errors without noise, `printed`, are
    crosses; its `gain` over the baseline at the highest noise is written down.
    """
    figure, axes = _figure(1, 1, 6.5, 3.8)
    axis = axes[0, 0]
    for place, (methods, by_noise) in enumerate(errors.items()):
        shade, shift = colour(methods), 0.5 * (place - (len(errors) - 1) / 2)
        axis.plot(shift, printed[methods], "x", color=shade, ms=6)
        found = [(100 * noise + shift, values) for noise, values in by_noise.items() if len(values)]
        axis.errorbar(
            [x for x, _ in found],
            [np.mean(values) for _, values in found],
            yerr=[np.std(values, ddof=1) if len(values) > 1 else 0 for _, values in found],
            color=shade, marker="o", ms=3, lw=1.2, capsize=3, label=methods,
        )  # fmt: skip
    if not any(len(values) for by_noise in errors.values() for values in by_noise.values()):
        axis.text(0.5, 0.5, "no run yet: the crosses are the paper's", transform=axis.transAxes, ha="center")
    highest = 100 * max(max(by_noise) for by_noise in errors.values())
    axis.set(xlabel="noisy labels (%)", ylabel="test error (%)", xlim=(-3, highest + 3))
    last = list(errors)[-1]
    axis.set_title(
        f"×: printed by the paper; at {highest:g} % it prints a gain of {gain:.2f} points, {last}", fontsize=9
    )
    figure.legend(*axis.get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


# --- what collaboration costs -----------------------------------------------------------------------------------------


@_styled
def memory_bars(parts: Mapping[str, Mapping[str, float]], printed: Mapping[str, float] | None = None) -> Figure:
    """What a training step holds (GB) by method, a part on top of the other: `parts[method][part]`.

    Diamonds mark what the paper prints.
    """
    figure, axes = _figure(1, 1, 6.5, 1.2 + 0.4 * len(parts))
    axis, below = axes[0, 0], np.zeros(len(parts))
    for part, shade in zip(next(iter(parts.values())), (BLUE, SKY, GREEN, ORANGE, BLACK), strict=False):
        values = np.array([held[part] for held in parts.values()])
        axis.barh(list(parts), values, 0.7, below, color=shade, label=part)
        below += values
    for name, total in zip(parts, below, strict=True):
        axis.annotate(f"{total:.2f}", (total, name), (8, 0), textcoords="offset points", va="center", fontsize=8)
    if printed:
        axis.plot(printed.values(), printed.keys(), "D", mfc="white", mec=RED, mew=2, label="printed in the paper")
    axis.invert_yaxis()
    axis.margins(x=0.1)
    axis.set(xlabel="memory of a training step (GB)")
    figure.legend(loc="outside upper center", ncols=3)
    return figure


@_styled
def ratios_of_splits(
    ratios: np.ndarray, groups: Mapping[str, int], level: float, marked: Mapping[str, tuple[int, int]]
) -> Figure:
    """A tree's memory over the baseline's by the places (first, second) of its two splits, NaN where there is none.

    `groups` names parts of the network and the place each begins at; a line follows the places where the ratio is
    `level`; `marked` are pairs of places worth pointing at.
    """
    figure, axes = _figure(1, 1, 6.2, 4.6)
    axis = axes[0, 0]
    shown = axis.imshow(ratios.T, origin="lower", cmap="cividis", aspect="auto")
    axis.contour(ratios.T, [level], colors=[RED], linewidths=2)
    axis.plot([], [], color=RED, lw=2, label=f"{level:.2f}, as in the paper")
    for (name, place), marker in zip(marked.items(), "osD^v", strict=False):
        axis.plot(*place, marker, color=YELLOW, mec=BLACK, ms=8, ls="none", label=name)
    axis.set_xticks(list(groups.values()), list(groups), rotation=30, ha="right")
    axis.set_yticks(list(groups.values()), list(groups))
    axis.set(xlabel="piece behind the first split", ylabel="piece behind the second split")
    figure.colorbar(shown, ax=axis, label="memory of the tree / of the baseline")
    figure.legend(loc="outside upper center", ncols=2)
    return figure


@_styled
def memory_growth(panels: Mapping[str, Mapping[str, Mapping[Any, float]]]) -> Figure:
    """Memory of a training step (GB) by something that grows: `panels[label][method][value]`, names or numbers."""
    figure, axes = _figure(-(-len(panels) // 2), 2, 7, 2.6 * -(-len(panels) // 2))
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    for axis, (label, methods) in zip(axes.flat, panels.items(), strict=False):
        for i, (name, values) in enumerate(methods.items()):
            size = {"lw": 1.3, "ms": 5} if i else {"lw": 4, "ms": 8}  # the first shows below one that costs the same
            axis.plot(list(values), list(values.values()), color=colour(name), marker=_marker(name), label=name, **size)
        axis.set_xticks(list(dict.fromkeys(value for values in methods.values() for value in values)))
        axis.set(xlabel=label, ylabel="memory (GB)")
        axis.set_ylim(bottom=0)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return figure


@_styled
def error_against_cost(
    errors: Mapping[str, Sequence[float]],
    costs: Mapping[str, Mapping[str, Sequence[float]]],
    fronts: Mapping[str, Sequence[str]],
) -> Figure:
    """Test error (%) over costs relative to the baseline's: `errors[method]` a value a seed, `costs[label][method]`.

    A mark is the mean error, with its deviation, at the median cost, with its range; a cost that is counted is one
    value. The dotted line of a panel joins `fronts[label]`, the methods that no other beats in both.
    """
    figure, axes = _figure(1, len(costs), 7, 3.6, sharey=True)
    means = {name: np.mean(values) for name, values in errors.items()}
    for axis, (label, by_method) in zip(axes[0], costs.items(), strict=True):
        middle = {name: np.median(values) for name, values in by_method.items()}
        for name, values in errors.items():
            spread = np.std(values, ddof=1) if len(values) > 1 else 0
            reach = [[middle[name] - min(by_method[name])], [max(by_method[name]) - middle[name]]]
            style = {"color": colour(name), "marker": _marker(name), "ls": "none", "elinewidth": 1, "capsize": 2}
            axis.errorbar(middle[name], means[name], spread, reach, label=f"{name} ({len(values)})", **style)
        front = sorted(fronts[label], key=middle.get)
        places = [middle[name] for name in front], [means[name] for name in front]
        axis.step(*places, where="post", color="0.4", ls=":", lw=1, zorder=0)
        axis.set(xlabel=f"{label}\n(baseline = 1)")
        axis.margins(0.12)
        axis.set_xlim(left=0)
    axes[0, 0].set_ylabel("test error of the last epoch (%)")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4, title="method (seeds)")
    return figure


def _marker(methods: str) -> str:
    """A shape for a method, so that colour is not all that tells it apart; a cross for combinations."""
    return dict(zip(COLOURS, "osD^vP*<", strict=False)).get(methods, "X")


# --- many heads -------------------------------------------------------------------------------------------------------


@_styled
def pieces_and_copies(patterns: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Networks with several heads, the image on top: a row a piece, a box a copy of it; the kept path is orange.

    A network is a sequence of parts, each with the names of its `pieces`, the number of its `copies`, a multiple of the
    part's above, and the `parameters` of one copy. All networks have the same pieces.
    """
    rows = [name for part in next(iter(patterns.values())) for name in part["pieces"]]
    widths = [max(2, parts[-1]["copies"]) + 1.6 for parts in patterns.values()]
    figure, axes = _figure(1, len(patterns), 7, 0.8 + 0.19 * len(rows), sharey=True, width_ratios=widths)
    for axis, (name, parts), width in zip(axes[0], patterns.items(), widths, strict=True):
        top, above = 0, np.zeros(1)
        for part in parts:
            places, bottom = np.arange(part["copies"]) - (part["copies"] - 1) / 2, top + len(part["pieces"])
            for i, x in enumerate(places):
                parent = above[i * len(above) // len(places)]
                axis.plot([parent, x], [top - 0.6, top - 0.4], color=BLACK, lw=0.8)
                axis.bar(x, 0.8, 0.7, np.arange(top, bottom) - 0.4, color=ORANGE if i == 0 else SKY)
            text = f"{part['copies']} × {part['parameters'] / 1e6:.2f} M"
            axis.text(places[-1] + 0.5, (top + bottom - 1) / 2, text, va="center", fontsize=8)
            top, above = bottom, places
        axis.set_title(name, fontsize=10)
        left = -max(parts[-1]["copies"], 2) / 2
        axis.set(xlim=(left, left + width), ylim=(len(rows) - 0.4, -0.7), xticks=[])
        axis.spines[:].set_visible(False)
        axis.tick_params(left=False)
    axes[0, 0].set_yticks(range(len(rows)), rows, fontsize=8)
    return figure


@_styled
def gradients_by_part(norms: Mapping[str, Sequence[float]], parts: Sequence[str]) -> Figure:
    """The length of a gradient in each part of a network, as multiples of another: bars by name, a value a part."""
    figure, axes = _figure(1, 1, 6, 3)
    axis = axes[0, 0]
    _grouped_bars(axis, norms, parts)
    for bars in axis.containers:
        axis.bar_label(bars, fmt="{:.2f}", fontsize=8)
    axis.axhline(1, color=BLACK, lw=0.8, ls=":")
    axis.set(ylabel="gradient (one path's = 1)")
    axis.legend()
    return figure


@_styled
def heads_by_epoch(panels: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """Several heads over training, a panel a quantity: values (epochs, n) by name, their mean and range (a band).

    A name is a method's, drawn solid, or begins with one and a comma, drawn dashed. Panels in % share their axis.
    """
    figure, axes = _figure(1, len(panels), 7, 3.2, sharey=True)
    for axis, (label, by_name) in zip(axes[0], panels.items(), strict=True):
        for name, values in by_name.items():
            method, *rest = name.split(",")
            epochs, dash = np.arange(1, len(values) + 1), "--" if rest else "-"
            axis.plot(epochs, values.mean(axis=1), color=colour(method), ls=dash, marker="o", ms=3, label=name)
            axis.fill_between(epochs, values.min(axis=1), values.max(axis=1), color=colour(method), alpha=0.1, lw=0)
            axis.set_xticks(epochs)
        axis.set_title(label, fontsize=10)
        axis.set_xlabel("epoch")
    axes[0, 0].set(ylabel="test images (%)", ylim=(0, 100))
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure


# --- your own network -------------------------------------------------------------------------------------------------


@_styled
def costs_by_method(costs: Mapping[str, Mapping[str, float]]) -> Figure:
    """What each method adds, relative to the network's own: `costs[label][method]`, a panel a label."""
    rows = max(len(by_method) for by_method in costs.values())
    figure, axes = _figure(1, len(costs), 6.5, 1.1 + 0.36 * rows, sharey=True)
    for axis, (label, by_method) in zip(axes[0], costs.items(), strict=True):
        bars = axis.barh(list(by_method), list(by_method.values()), 0.7, color=[colour(name) for name in by_method])
        axis.bar_label(bars, fmt="{:.3g}", padding=4, fontsize=8)
        axis.axvline(1, color=BLACK, lw=0.8, ls=":")
        axis.margins(x=0.18)
        axis.set_xlabel(f"{label}\n(network = 1)")
    axes[0, 0].invert_yaxis()
    return figure


@_styled
def scheduled_terms(factors: Mapping[str, Sequence[float]], terms: Mapping[str, Sequence[float]]) -> Figure:
    """A schedule and what becomes of the terms: a method's factor and the value of its terms, summed, by epoch.

    NaN, or a value of 0, stands for an epoch in which a method is off.
    """
    figure, axes = _figure(2, 1, 6, 4.4, sharex=True, height_ratios=[1, 2])
    above, below = axes[:, 0]
    for i, (methods, values) in enumerate(factors.items()):
        width = max(1.2, 4.5 - 1.6 * i)  # the first shows below one of equal factor
        above.plot(np.arange(1, len(values) + 1), values, color=colour(methods), drawstyle="steps-mid", lw=width)
    for name, values in terms.items():
        shown = np.where(np.nan_to_num(values) > 0, values, np.nan)
        style = {"color": COLOURS.get(name, BLACK), "marker": _marker(name), "ms": 5}
        below.plot(np.arange(1, len(shown) + 1), shown, **style, label=name)
    above.set(ylabel="factor", ylim=(-0.15, 1.15))
    below.set(xlabel="epoch", ylabel="sum of the terms", yscale="log")
    below.yaxis.set_major_formatter("{x:g}")
    below.xaxis.get_major_locator().set_params(integer=True)
    figure.legend(*below.get_legend_handles_labels(), loc="outside upper center", ncols=len(terms))
    return figure


# --- neighbours -------------------------------------------------------------------------------------------------------


@_styled
def neighbours_at_work(
    images: np.ndarray,
    cut: np.ndarray,
    maps: np.ndarray,
    kept: Mapping[str, np.ndarray],
    covariances: Mapping[str, np.ndarray],
    relations: Mapping[str, np.ndarray],
) -> Figure:
    """What neighbours do to one batch, a row each: to images, to maps, to hidden units, to relations of images.

    `images` and `cut` (n, H, W, 3), floats from 0 to 1. `maps` (C, H, W) of one image; `kept` by name (C, H, W), False
    where a unit is dropped. `covariances` by name (d, d), on one scale, and the correlations that follow from them.
    `relations` by name (n, n), each on a scale of its own.
    """
    figure = plt.figure(figsize=(7, 7.7), layout="constrained")
    plt.close(figure)
    panels = figure.subfigures(4, 1, height_ratios=(2, 1.75, 2.15, 2.15), hspace=0.03)
    titles = (
        "cutout: a square of every image",
        "the maps of one image: what is left of them (orange: dropped)",
        "decov: hidden units over a batch (red: they rise together)",
        "relations of images in a batch, sorted by class (red: alike)",
    )
    for panel, title in zip(panels, titles, strict=True):
        panel.suptitle(title, fontsize=10, fontweight="bold")
    for line, row in zip(panels[0].subplots(2, len(images)), (images, cut), strict=True):
        for axis, image in zip(line, row, strict=True):
            axis.imshow(image, interpolation="nearest")
    shades = plt.get_cmap("cividis").with_extremes(bad=ORANGE, over="white")
    whole = {"as the layer returns them": np.ones(maps.shape, bool)}
    columns = panels[1].subplots(1, 1 + len(kept))
    for axis, (name, mask) in zip(columns, (whole | dict(kept)).items(), strict=True):
        shown = np.where(mask, maps, np.nan)
        axis.imshow(_mosaic(shown), vmin=0, vmax=maps.max(), cmap=shades, interpolation="nearest")
        axis.set_title(name, fontsize=9)
    limit = float(np.quantile(np.abs(np.stack(list(covariances.values()))), 0.98))
    drawn = {f"{name}\ncovariance": (matrix, limit) for name, matrix in covariances.items()}
    drawn |= {f"{name}\ncorrelation": (_correlation(matrix), 1) for name, matrix in covariances.items()}
    for axis, (name, (matrix, limit)) in zip(panels[2].subplots(1, len(drawn)), drawn.items(), strict=True):
        axis.imshow(matrix, vmin=-limit, vmax=limit, cmap="RdBu_r", interpolation="nearest")
        axis.set_title(name, fontsize=9)
    for axis, (name, matrix) in zip(panels[3].subplots(1, len(relations)), relations.items(), strict=True):
        limit = float(np.quantile(np.abs(matrix), 0.98))
        axis.imshow(matrix, vmin=-limit, vmax=limit, cmap="RdBu_r", interpolation="nearest")
        axis.set_title(name, fontsize=9)
    for axis in figure.axes:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set(visible=axis in panels[2].axes or axis in panels[3].axes, color="0.6")
    return figure


def _correlation(covariance: np.ndarray) -> np.ndarray:
    """Of units with these covariances (d, d); 0 where one is constant."""
    deviation = np.sqrt(np.maximum(np.diag(covariance), 0))
    scale = np.outer(deviation, deviation)
    return np.divide(covariance, scale, out=np.zeros_like(covariance), where=scale > 0)


def _mosaic(maps: np.ndarray) -> np.ndarray:
    """Maps (C, H, W) in a grid of eight columns, what is above them all between them."""
    columns = min(8, len(maps))
    rows = -(-len(maps) // columns)
    height, width = maps.shape[1] + 1, maps.shape[2] + 1
    grid = np.full((rows * height - 1, columns * width - 1), 2 * np.nanmax(maps) + 1)
    for i, channel in enumerate(maps):
        top, left = i // columns * height, i % columns * width
        grid[top : top + height - 1, left : left + width - 1] = channel
    return grid


@_styled
def neighbours_compared(
    differences: Mapping[str, Sequence[float]], bounds: Mapping[str, tuple[float, float]], own: Sequence[str]
) -> Figure:
    """Test error less the baseline's of the same seed, in points: a ring a seed, a mark at the mean, the lowest on top.

    `differences` by method, a value a seed; a bar joins `bounds`, of the methods that have them. Those of `own` are
    orange diamonds, all others blue circles.
    """
    order = sorted(differences, key=lambda methods: np.mean(differences[methods]))
    figure, axes = _figure(1, 1, 6.5, 1.2 + 0.42 * len(order))
    axis = axes[0, 0]
    kinds = {"the paper's four": (ORANGE, "D"), "neighbours": (BLUE, "o")}
    for row, methods in enumerate(order):
        label = "the paper's four" if methods in own else "neighbours"
        shade, marker = kinds[label]
        if methods in bounds:
            axis.plot(bounds[methods], [row, row], color=shade, lw=1.5, marker="|", ms=8, label="_bounds")
        axis.plot(np.mean(differences[methods]), row, marker, color=shade, ms=7, ls="none", label=label)
        values = differences[methods]
        axis.plot(values, [row + 0.27] * len(values), "o", mfc="none", color=shade, ms=5, label="_seeds")
    axis.axvline(0, color=BLACK, lw=0.8, ls=":")
    axis.grid(axis="y", lw=0.4, alpha=0.4)
    names = [f"{methods} ({len(differences[methods])})" for methods in order]
    axis.set_yticks(range(len(order)), names)
    axis.set(xlabel="test error less the baseline's of the same seed (points)", ylim=(len(order) - 0.4, -0.6))
    handles = dict(zip(*axis.get_legend_handles_labels()[::-1], strict=True))
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=2)
    return figure


# --- beyond classification --------------------------------------------------------------------------------------------

PIXEL_COLOURS = (BLUE, ORANGE, GREEN, PINK, YELLOW, SKY, RED, "#8C4A00")  # of classes on label maps
UNLABELLED = "#FFFFFF"


@_styled
def label_maps(rows: Mapping[str, Mapping[str, np.ndarray]], classes: Sequence[str]) -> Figure:
    """Images and maps of labels in a grid, `rows[row][column]`: images (3, H, W) of bytes, labels (H, W).

    Columns have the names of the first row; a label of no class is white.
    """
    columns = list(next(iter(rows.values())))
    height = (6.4 / len(columns) + 0.06) * len(rows) + 0.65
    figure, axes = _figure(len(rows), len(columns), 7, height)
    for line, (name, row) in zip(axes, rows.items(), strict=True):
        for axis, panel in zip(line, row.values(), strict=True):
            _picture(axis, panel, len(classes))
        line[0].set_ylabel(name)
    for axis, name in zip(axes[0], columns, strict=True):
        axis.set_title(name, fontsize=9)
    _name_classes(figure, classes)
    return figure


def _picture(axis, panel: np.ndarray, classes: int) -> None:
    """An image (3, H, W), or a map of labels (H, W) in the colours of its classes."""
    if panel.ndim == 3:
        axis.imshow(panel.transpose(1, 2, 0), interpolation="nearest")
    else:
        shades = ListedColormap(PIXEL_COLOURS[:classes]).with_extremes(over=UNLABELLED)
        axis.imshow(panel, vmin=-0.5, vmax=classes - 0.5, cmap=shades, interpolation="nearest")
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set(visible=True, color="0.6")


def _name_classes(figure: Figure, classes: Sequence[str]) -> None:
    patches = [plt.Rectangle((0, 0), 1, 1, color=shade) for shade in PIXEL_COLOURS[: len(classes)]]
    figure.legend(patches, classes, loc="outside lower center", ncols=3, fontsize=9)


@_styled
def predictions_of_pixels(
    image: np.ndarray, labels: np.ndarray, predictions: np.ndarray, classes: Sequence[str], place: tuple[int, int]
) -> Figure:
    """Several predictions for every pixel of an image, probabilities (n, m, H, W), and how far they disagree.

    Above, the image (3, H, W), its labels (H, W) and what each prediction says; below, the entropy (nats) of their mean
    at every pixel, and all of them at one `place` (row, column), which is ringed; its label is in brackets.
    """
    figure = plt.figure(figsize=(7, 4.6), layout="constrained")
    plt.close(figure)
    above, below = figure.subfigures(2, 1, height_ratios=(1, 1.9))
    panels = {"image": image, "labels": labels}
    panels |= {f"mask {h + 1}": p.argmax(axis=0) for h, p in enumerate(predictions)}
    ring = {"marker": "o", "mfc": "none", "mec": BLACK, "ms": 9, "mew": 2}
    for axis, (name, panel) in zip(above.subplots(1, len(panels)), panels.items(), strict=True):
        _picture(axis, panel, len(classes))
        axis.plot(*place[::-1], **(ring | {"mec": "white", "mew": 4}))
        axis.plot(*place[::-1], **ring)
        axis.set_title(name, fontsize=9)
    mean = predictions.mean(axis=0)
    entropy = -(mean * np.log(np.maximum(mean, 1e-12))).sum(axis=0)
    left, right = below.subplots(1, 2, width_ratios=(1, 1.7))
    shown = left.imshow(entropy, vmin=0, vmax=np.log(len(classes)), interpolation="nearest")
    left.plot(*place[::-1], **(ring | {"mec": "white", "mew": 4}))
    left.plot(*place[::-1], **ring)
    left.set(xticks=[], yticks=[], title="entropy of the mean (nats)")
    below.colorbar(shown, ax=left, location="bottom", aspect=25)
    at_place = {f"mask {h + 1}": p[:, *place] for h, p in enumerate(predictions)}
    names = [name.replace(" ", "\n") for name in classes]
    names[labels[place]] = f"[{names[labels[place]]}]"
    _grouped_bars(right, at_place, names, (BLUE, SKY, GREEN, ORANGE))
    right.set(ylabel="probability", ylim=(0, 1), title="the ringed pixel")
    right.legend(ncols=2)
    return figure


@_styled
def dense_compared(
    values: Mapping[str, Sequence[float]],
    differences: Mapping[str, Sequence[float]],
    bounds: Mapping[str, tuple[float, float]],
    label: str,
) -> Figure:
    """A quantity by method, and its difference to the baseline of the same seed: a ring a seed, a mark at the mean.

    `values` has the baseline too; a bar joins the `bounds` of a mean difference.
    """
    figure, ((left, right),) = _figure(1, 2, 7, 1.2 + 0.45 * len(values), sharey=True)
    for axis, by_method in ((left, values), (right, differences)):
        for row, methods in enumerate(values):
            if methods in by_method:
                found, shade = by_method[methods], colour(methods)
                axis.plot(found, [row + 0.22] * len(found), "o", mfc="none", color=shade, ms=6, label="_seeds")
                axis.plot(np.mean(found), row - 0.1, _marker(methods), color=shade, ms=7, label=methods)
        axis.grid(axis="y", lw=0.4, alpha=0.4)
    for methods, ends in bounds.items():
        row = list(values).index(methods) - 0.1
        right.plot(ends, [row, row], color=colour(methods), lw=1.5, marker="|", ms=9, label="_bounds")
    right.axvline(0, color=BLACK, lw=0.8, ls=":")
    left.set_yticks(range(len(values)), [f"{methods} ({len(found)})" for methods, found in values.items()])
    left.set(xlabel=label, ylim=(len(values) - 0.4, -0.6))
    right.set(xlabel="less the baseline's of the same seed")
    return figure


@_styled
def curves_by_method(curves: Mapping[str, np.ndarray], label: str) -> Figure:
    """A quantity (seeds, epochs) by epoch for each method: the mean over seeds, and the baseline's range as a band."""
    figure, axes = _figure(1, 1, 6.5, 3.6)
    axis = axes[0, 0]
    for methods, runs in curves.items():
        epochs = np.arange(1, runs.shape[1] + 1)
        axis.plot(epochs, runs.mean(axis=0), color=colour(methods), marker=_marker(methods), ms=5, label=methods)
        if methods == "baseline":
            axis.fill_between(epochs, runs.min(axis=0), runs.max(axis=0), color=colour(methods), alpha=0.15, lw=0)
    axis.set(xlabel="epoch", ylabel=label)
    axis.xaxis.get_major_locator().set_params(integer=True)
    figure.legend(*axis.get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure
