"""Figures of chapter 11: what neighbouring methods do to a batch, and how they compare."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D

from imcl_book.figures.style import BLACK, BLUE, ORANGE, blank, panels, styled, without_ticks

TITLES = (
    "cutout: a square of every image",
    "the maps of one image: what is left of them (orange: dropped)",
    "decov: hidden units over a batch (red: they rise together)",
    "relations of images in a batch, sorted by class (red: alike)",
)


@styled
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
    figure = blank(7, 7.7)
    parts = figure.subfigures(4, 1, height_ratios=(2, 1.75, 2.15, 2.15), hspace=0.03)
    for part, title in zip(parts, TITLES, strict=True):
        part.suptitle(title, fontsize=10, fontweight="bold")
    _images_and_cut(parts[0], images, cut)
    _maps_and_kept(parts[1], maps, kept)
    _covariances(parts[2], covariances)
    for axis, (name, matrix) in zip(parts[3].subplots(1, len(relations)), relations.items(), strict=True):
        _matrix(axis, name, matrix, _limit(matrix))
    for part, framed in zip(parts, (False, False, True, True), strict=True):
        for axis in part.axes:
            without_ticks(axis, framed)
    return figure


def _images_and_cut(part: SubFigure, images: np.ndarray, cut: np.ndarray) -> None:
    """Images above, and what is left of each below it."""
    for line, row in zip(part.subplots(2, len(images)), (images, cut), strict=True):
        for axis, image in zip(line, row, strict=True):
            axis.imshow(image, interpolation="nearest")


def _maps_and_kept(part: SubFigure, maps: np.ndarray, kept: Mapping[str, np.ndarray]) -> None:
    """Maps as the layer returns them, then what each method keeps of them."""
    shades = colormaps["cividis"].with_extremes(bad=ORANGE, over="white")
    masks = {"as the layer returns them": np.ones(maps.shape, bool)} | dict(kept)
    for axis, (name, mask) in zip(part.subplots(1, len(masks)), masks.items(), strict=True):
        shown = _mosaic(np.where(mask, maps, np.nan))
        axis.imshow(shown, vmin=0, vmax=maps.max(), cmap=shades, interpolation="nearest")
        axis.set_title(name, fontsize=9)


def _covariances(part: SubFigure, covariances: Mapping[str, np.ndarray]) -> None:
    """Covariances on one scale, then the correlations that follow from them."""
    limit = _limit(np.stack(list(covariances.values())))
    drawn = {f"{name}\ncovariance": (matrix, limit) for name, matrix in covariances.items()}
    drawn |= {f"{name}\ncorrelation": (_correlation(matrix), 1) for name, matrix in covariances.items()}
    for axis, (name, (matrix, bound)) in zip(part.subplots(1, len(drawn)), drawn.items(), strict=True):
        _matrix(axis, name, matrix, bound)


def _matrix(axis: Axes, name: str, matrix: np.ndarray, limit: float) -> None:
    axis.imshow(matrix, vmin=-limit, vmax=limit, cmap="RdBu_r", interpolation="nearest")
    axis.set_title(name, fontsize=9)


def _limit(values: np.ndarray) -> float:
    """The end of a scale from which 2 % of the values stick out."""
    return float(np.quantile(np.abs(values), 0.98))


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


MARKS = ("o", "s", "^")  # a network each


@styled
def neighbours_compared(
    held_out: Mapping[str, Mapping[str, float]],
    tested: Mapping[str, Mapping[str, Sequence[float]]],
    bounds: Mapping[str, Mapping[str, tuple[float, float]]],
    own: Sequence[str],
) -> Figure:
    """Gains over the baseline in points, a row a method, a mark a network: on held-out images, and on test images.

    `held_out` by method and network; `tested` a value a seed, drawn by their mean, with a bar from bound to bound where
    there are `bounds`. Those of `own` are orange, all others blue. The largest mean on held-out images is on top; what
    has none comes last.
    """
    networks = list(dict.fromkeys(n for found in (*held_out.values(), *tested.values()) for n in found))
    on_top = {name: -np.mean([*found.values()]) for name, found in held_out.items()}
    order = sorted({**held_out, **tested}, key=lambda name: on_top.get(name, np.inf))
    figure, axes = panels(1, 2, 8.0, 1.4 + 0.36 * len(order), sharey=True)
    left, right = axes[0]
    for row, name in enumerate(order):
        shade = ORANGE if name in own else BLUE
        for i, network in enumerate(networks):
            place, look = row + 0.3 * (i - (len(networks) - 1) / 2), {"color": shade, "marker": MARKS[i], "ls": "none"}
            if network in held_out.get(name, {}):
                left.plot(held_out[name][network], place, **look, label=network)
            if network in tested.get(name, {}):
                right.plot(np.mean(tested[name][network]), place, **look, label=network)
            if network in bounds.get(name, {}):
                right.plot(bounds[name][network], [place] * 2, color=shade, lw=1.5, label="_bounds")
    _beside_zero(left, "held-out images, one seed")
    _beside_zero(right, "STL-10, mean over seeds and bounds")
    left.set_yticks(range(len(order)), order)
    left.set_ylim(len(order) - 0.4, -0.6)
    kinds = {"the paper's four": ORANGE, "others": BLUE}
    handles = [Line2D([], [], color=shade, lw=3, label=name) for name, shade in kinds.items()]
    handles += [
        Line2D([], [], color=BLACK, marker=m, ls="none", label=n) for n, m in zip(networks, MARKS, strict=False)
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
    return figure


def _beside_zero(axis: Axes, title: str) -> None:
    axis.axvline(0, color=BLACK, lw=0.8, ls=":")
    axis.grid(axis="y", lw=0.4, alpha=0.4)
    axis.set(title=title, xlabel="gain over the baseline (points)")
