"""Figure 2, test errors by portion of noisy labels: as a table beside the paper's numbers, and drawn."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from imcl_core.errors import needed
from imcl_core.files import write_whole
from imcl_core.study.grids import BEST, NOISE, NOISY
from imcl_core.study.ledger import Ledger
from imcl_core.study.tables.paper import beside, paper_figures
from imcl_core.study.tables.write import Table, method_name
from imcl_core.training.config import RunConfig

if TYPE_CHECKING:  # a machine that runs batches need not draw
    from matplotlib.figure import Figure

_TABLE_1, _GAIN = "table1/cifar100/vgg16", f"figure2/cifar100-noise50/vgg16/{BEST[0]}"


def noise_errors(ledger: Ledger) -> dict[str, dict[float, list[float]]]:
    """Figure 2: the last epoch's errors, %, a value a seed, by method and portion of noisy labels."""
    return {
        methods: {
            noise: [run.errors["top1_error"][0] for run in ledger.runs(_noisy(methods, noise))] for noise in NOISE
        }
        for methods in NOISY
    }


def noise_printed() -> tuple[dict[str, float], float]:
    """What the paper prints of Figure 2: errors without noise, in Table I, and one gain at the highest noise."""
    printed = paper_figures()
    return {methods: printed[f"{_TABLE_1}/{methods}"].value for methods in NOISY}, printed[_GAIN].value


def draw_figure_2(
    errors: Mapping[str, Mapping[float, Sequence[float]]],
    printed: Mapping[str, float],
    gain: float,
    colours: Mapping[str, str] | None = None,
) -> "Figure":
    """The paper's Fig. 2: test error (%) by portion of noisy labels, mean and deviation over seeds as error bars.

    `errors[methods][noise]`: a value a seed. The paper prints few numbers of it: errors without noise, `printed`, are
    crosses; its `gain` over the baseline at the highest noise is written down. `colours` by method: matplotlib's own,
    where none are given. `ImclError` without matplotlib.
    """
    figure = needed("matplotlib.figure", "matplotlib", "study").Figure((6.5, 3.8), layout="constrained")
    axis = figure.subplots()
    for place, (methods, by_noise) in enumerate(errors.items()):
        shade, shift = colours[methods] if colours else f"C{place}", 0.5 * (place - (len(errors) - 1) / 2)
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
    title = f"×: printed by the paper; at {highest:g} % it prints a gain of {gain:.2f} points, {list(errors)[-1]}"
    axis.set_title(title, fontsize=9)
    figure.legend(*axis.get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


def write_figure_2(ledger: Ledger, folder: str | Path) -> Path:
    """Draws Figure 2 with error bars into `<folder>/figure-2.svg`."""
    path = Path(folder) / "figure-2.svg"
    figure = draw_figure_2(noise_errors(ledger), *noise_printed())
    write_whole(path, lambda file: figure.savefig(file, format="svg"))
    return path


def _noisy(methods: str, noise: float) -> RunConfig:
    return RunConfig(dataset="cifar100", model="vgg16", methods=methods, noise=noise, profile="paper")


def figure_2_table(ledger: Ledger) -> Table:
    """A row a method, a column a noise level."""
    printed, gain = noise_printed()
    places = [[(_noisy(m, noise), None if noise else printed[m]) for noise in NOISE] for m in NOISY]
    note = (
        f" The paper draws this figure and prints one number of it: at {NOISE[-1]:.0%} noise "
        f"{method_name(BEST[0])} gains {gain:.2f} points. Its numbers without noise are those of Table I."
    )
    heads = [method_name(methods) for methods in NOISY]
    return beside("figure-2", heads, [f"{noise:.0%} noise" for noise in NOISE], places, ledger, note)
