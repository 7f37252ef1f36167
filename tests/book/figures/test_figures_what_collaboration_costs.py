"""Figures of chapter 9: what is drawn is what was given."""

import numpy as np
import pytest
from imcl_book.figures import what_collaboration_costs as figures


def marks(axis):
    return {line.get_label(): line for line in axis.get_lines() if not line.get_label().startswith("_")}


def test_memory_bars_stack_parts_up_to_the_total_and_mark_what_is_printed():
    parts = {"baseline": {"weights": 1.0, "activations": 4.0}, "tree": {"weights": 2.0, "activations": 7.0}}
    figure = figures.memory_bars(parts, {"tree": 6.5})
    (axis,) = figure.axes
    drawn = {c.get_label(): [(bar.get_x(), bar.get_width()) for bar in c] for c in axis.containers}
    assert drawn == {"weights": [(0, 1), (0, 2)], "activations": [(1, 4), (2, 7)]}
    assert [text.get_text() for text in axis.texts] == ["5.00", "9.00"]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["baseline", "tree"]
    (diamond,) = marks(axis).values()
    assert axis.yaxis.convert_units(diamond.get_ydata()[0]) == 1  # in the tree's row
    assert list(diamond.get_xdata()) == [6.5]
    assert "GB" in axis.get_xlabel()


def test_memory_bars_without_printed_figures_have_no_diamonds():
    (axis,) = figures.memory_bars({"out": {"weights": 1.0}}).axes
    assert not axis.get_lines()


def test_ratios_have_the_first_split_across_and_the_second_up():
    ratios = np.full((4, 4), np.nan)
    ratios[1, 2], ratios[1, 3], ratios[2, 3] = 3.0, 2.0, 1.2
    figure = figures.ratios_of_splits(ratios, {"stage 1": 1, "stage 2": 3}, 1.5, {"ours": (1, 3), "nearest": (2, 3)})
    axis = figure.axes[0]
    shown = np.ma.filled(axis.images[0].get_array(), np.nan)
    np.testing.assert_array_equal(shown, ratios.T)
    assert axis.images[0].origin == "lower"
    drawn = marks(axis)
    assert [tuple(drawn[name].get_xydata()[0]) for name in ("ours", "nearest")] == [(1, 3), (2, 3)]
    assert drawn["ours"].get_marker() != drawn["nearest"].get_marker()
    assert "1.50, as in the paper" in drawn
    assert [c.levels.tolist() for c in axis.collections] == [[1.5]]
    for ticks, labels in (
        (axis.get_xticks(), axis.get_xticklabels()),
        (axis.get_yticks(), axis.get_yticklabels()),
    ):
        assert list(ticks) == [1, 3]
        assert [label.get_text() for label in labels] == ["stage 1", "stage 2"]
    assert "first" in axis.get_xlabel()
    assert "second" in axis.get_ylabel()


def test_growth_draws_a_line_a_method_and_ticks_where_there_are_values():
    heads = {"baseline": {1: 1.0}, "out": {4: 1.0, 9: 1.1}, "tree": {2: 1.5, 4: 2.0}}
    networks = {"baseline": {"small": 1.0, "large": 3.0}}
    figure = figures.memory_growth({"predictions": heads, "network": networks, "batch": {"out": {32: 1.0, 64: 2.0}}})
    first, second, third, empty = figure.axes
    drawn = marks(first)
    assert {name: line.get_xydata().tolist() for name, line in drawn.items()} == {
        name: [list(point) for point in values.items()] for name, values in heads.items()
    }
    assert set(first.get_xticks()) == {1, 2, 4, 9}
    assert drawn["baseline"].get_markersize() > drawn["out"].get_markersize()  # still seen where both cost the same
    figure.canvas.draw()
    assert [label.get_text() for label in second.get_xticklabels()] == ["small", "large"]
    assert [axis.get_xlabel() for axis in (first, second, third)] == ["predictions", "network", "batch"]
    assert all(axis.get_ylim()[0] == 0 for axis in (first, second, third))
    assert not empty.axison


@pytest.fixture
def pareto():
    errors = {"baseline": [30.0, 32.0], "out": [28.0], "out+mid": [33.0, 35.0, 34.0]}
    time = {"baseline": [0.8, 1.2], "out": [1.5], "out+mid": [2.0, 5.0, 3.0]}
    memory = {"baseline": [1.0], "out": [1.1], "out+mid": [1.7]}
    fronts = {"training time": ["out", "baseline"], "memory": ["baseline"]}
    return errors, figures.error_against_cost(errors, {"training time": time, "memory": memory}, fronts)


def bars(container):
    """Ends of the horizontal bar and of the vertical one."""
    (across,), (up,) = (lines.get_segments() for lines in container.lines[2])
    return across[:, 0].tolist(), up[:, 1].tolist()


def test_error_stands_at_its_mean_with_its_deviation_and_cost_at_its_median_with_its_range(pareto):
    errors, figure = pareto
    time, memory = figure.axes
    places = [[tuple(c.lines[0].get_xydata()[0]) for c in axis.containers] for axis in (time, memory)]
    assert places == [[(1.0, 31.0), (1.5, 28.0), (3.0, 34.0)], [(1.0, 31.0), (1.1, 28.0), (1.7, 34.0)]]
    ranges, deviations = zip(*(bars(c) for c in time.containers), strict=True)
    assert [pytest.approx(ends) for ends in ranges] == [[0.8, 1.2], [1.5, 1.5], [2.0, 5.0]]
    wanted = [np.std(v, ddof=1) if len(v) > 1 else 0 for v in errors.values()]
    assert [(high - low) / 2 for low, high in deviations] == pytest.approx(wanted)


def test_a_method_whose_cost_is_not_known_is_left_out_of_that_panel():
    errors = {"out": [30.0], "tree": [28.0]}
    costs = {"memory": {"out": [1.0], "tree": [2.0]}, "time": {"out": [1.1]}}
    first, second = figures.error_against_cost(errors, costs, {"memory": ["tree"], "time": ["out"]}).axes
    assert [len(axis.containers) for axis in (first, second)] == [2, 1]


def test_combinations_are_told_apart_by_shape():
    errors = {"out+mid": [30.0], "mid+kernel": [28.0]}
    (axis,) = figures.error_against_cost(errors, {"time": errors}, {"time": ["mid+kernel"]}).axes
    assert len({container.lines[0].get_marker() for container in axis.containers}) == len(errors)


def test_each_front_is_a_staircase_from_the_cheapest_down_and_the_legend_counts_seeds(pareto):
    _, figure = pareto
    steps = [[line for line in axis.get_lines() if line.get_linestyle() == ":"] for axis in figure.axes]
    assert [line.get_xydata().tolist() for (line,) in steps] == [[[1.0, 31.0], [1.5, 28.0]], [[1.0, 31.0]]]
    assert steps[0][0].get_drawstyle() == "steps-post"
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["baseline (2)", "out (1)", "out+mid (3)"]
    assert figure.axes[0].get_xlabel().startswith("training time")
