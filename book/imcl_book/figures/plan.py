"""The figure of the plan: how long each table takes on which GPU."""

from collections.abc import Mapping

from matplotlib.figure import Figure

from imcl_book.figures.style import BLUE, GREEN, ORANGE, PINK, SKY, panels, styled


@styled
def planned_hours(hours: Mapping[str, Mapping[str, float]]) -> Figure:
    """Hours of every table, `hours[gpu][table]`, a mark a GPU, on a logarithmic axis."""
    tables = list(next(iter(hours.values())))
    figure, axes = panels(1, 1, 6.8, 1.0 + 0.27 * len(tables))
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
