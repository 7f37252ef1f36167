"""Figures of chapter 1: heads, their opinions and teachers, and what a temperature does."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from imcl_book.figures.shared import grouped_bars
from imcl_book.figures.style import (
    BLACK,
    BLUE,
    GREEN,
    ORANGE,
    PINK,
    RED,
    SKY,
    YELLOW,
    blank,
    legend_above,
    panels,
    powers_of_two,
    styled,
)


@styled
def patterns_of_heads(patterns: Mapping[str, Sequence[int]]) -> Figure:
    """Networks made of subnets, input at the bottom: `patterns` gives how many copies there are of each subnet."""
    widths = [max(*counts, 2) for counts in patterns.values()]
    figure, axes = panels(1, len(patterns), 6.5, 2.9, width_ratios=widths)
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


@styled
def opinions_and_teachers(opinions: np.ndarray, teachers: np.ndarray, classes: Sequence[str], label: int) -> Figure:
    """What each head says, probabilities (H, m), beside what the other heads teach it, (H, m); a panel a head."""
    figure, axes = panels(1, len(opinions), 7, 3, sharey=True)
    for h, axis in enumerate(axes[0]):
        series = {"what the head says": opinions[h], "what the others teach it": teachers[h]}
        grouped_bars(axis, series, _with_label_in_brackets(classes, label))
        axis.set_title(f"head {h + 1}", fontsize=10)
        axis.set_xlabel("class")
    axes[0, 0].set(ylabel="probability", ylim=(0, 1))
    legend_above(figure, axes[0, 0], columns=2)
    return figure


def _with_label_in_brackets(classes: Sequence[str], label: int) -> list[str]:
    return [f"[{name}]" if i == label else name for i, name in enumerate(classes)]


@styled
def softening(temperatures: np.ndarray, probabilities: np.ndarray, classes: Sequence[str]) -> Figure:
    """Every class's probability (temperatures, m) as the temperature rises; dotted: all classes alike."""
    figure, axes = panels(1, 1, 5.5, 3.2)
    axis = axes[0, 0]
    for i, name in enumerate(classes):
        shade, dash = (BLUE, RED, GREEN, PINK, BLACK)[i % 5], ("-", "--", "-.")[i % 3]
        axis.plot(temperatures, probabilities[:, i], color=shade, ls=dash, lw=2, label=name)
    axis.axhline(1 / len(classes), color=BLACK, lw=0.8, ls=":")
    powers_of_two(axis)
    axis.set(xlabel="temperature T", ylabel="probability", ylim=(0, 1))
    axis.legend(title="class")
    return figure


@styled
def two_means(opinions: np.ndarray, means: Mapping[str, np.ndarray], classes: Sequence[str]) -> Figure:
    """Left: what several heads say, probabilities (H, m). Right: means (m,) of them, side by side."""
    figure, (axes,) = panels(1, 2, 7, 2.8, sharey=True)
    heads = {f"head {h + 1}": opinion for h, opinion in enumerate(opinions)}
    grouped_bars(axes[0], heads, classes, (SKY, GREEN, PINK, YELLOW))
    grouped_bars(axes[1], means, classes)
    for axis, title in zip(axes, ("what the heads say", "their mean"), strict=True):
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("class")
        axis.legend()
    axes[0].set(ylabel="probability", ylim=(0, 1))
    return figure


@styled
def hard_and_soft_gradients(
    gradients: Mapping[str, np.ndarray],
    classes: Sequence[str],
    temperatures: Sequence[float],
    lengths: Mapping[str, Sequence[float]],
) -> Figure:
    """Left: gradients (m,) by one head's logits. Right: lengths of gradients by temperature."""
    figure, ((left, right),) = panels(1, 2, 7, 3.6)
    grouped_bars(left, gradients, classes)
    left.set(xlabel="class", ylabel="gradient by the logit")
    for (name, values), shade, mark in zip(lengths.items(), (BLUE, ORANGE, GREEN), "^os", strict=False):
        right.plot(temperatures, values, color=shade, marker=mark, label=name)
    _lengths_by_temperature(right)
    for axis in (left, right):
        axis.legend(loc="lower left", bbox_to_anchor=(0, 1))
    return figure


def _lengths_by_temperature(axis: Axes) -> None:
    """Logarithmic scales and their names."""
    powers_of_two(axis)
    axis.set_yscale("log")
    axis.set(xlabel="temperature T", ylabel="length of the gradient")


@styled
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
    figure, columns = blank(7, 3.4), -(-len(opinions) // 2)
    left, right = figure.subfigures(1, 2, width_ratios=(columns + 0.4, 1.3))
    _softened_heads(left, columns, opinions, teachers, _with_label_in_brackets(classes, label))
    axis = right.subplots()
    for h, (values, shade, mark) in enumerate(zip(lengths.T, (BLUE, RED, GREEN, PINK), "os^D", strict=False)):
        axis.plot(temperatures, values, color=shade, marker=mark, markevery=[place], label=f"head {h + 1}")
    _lengths_by_temperature(axis)
    axis.legend(loc="lower left")
    return figure


def _softened_heads(
    part: SubFigure, columns: int, opinions: np.ndarray, teachers: np.ndarray, names: Sequence[str]
) -> None:
    """Two rows of panels, one a head: its probabilities beside its teacher's."""
    axes = part.subplots(2, columns, sharex=True, sharey=True, squeeze=False)
    for h, (axis, opinion, teacher) in enumerate(zip(axes.flat, opinions, teachers, strict=False)):
        grouped_bars(axis, {"the head": opinion, "what the others teach it": teacher}, names)
        axis.set_title(f"head {h + 1}", fontsize=9)
        axis.set_ylim(0, 1)
    part.supxlabel("class", fontsize=9)
    part.supylabel("softened probability", fontsize=9)
    legend_above(part, axes[0, 0], columns=2)


@styled
def errors_by_rate(rates: Sequence[float], errors: Mapping[str, np.ndarray]) -> Figure:
    """Test error (%) by learning rate, an array (rates, seeds) a line: the mean over seeds, and the range as a band."""
    figure, axes = panels(1, 1, 6, 3.4)
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
