"""Figures of chapter 7 and the README: what is drawn is what was given."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from imcl_book import figures
from matplotlib.patches import Rectangle

from imcl_core import Record, RunConfig

ROOT = Path(__file__).parents[1]


def lines(axis):
    return {line.get_label(): line for line in axis.get_lines() if not line.get_label().startswith("_")}


def test_gradient_norms_draws_each_part_and_leaves_out_what_it_does_not_reach():
    nan = float("nan")
    figure = figures.gradient_norms({"out": [1.0, 0.1, 0.5], "kernel": [nan, nan, 0.01]})
    (axis,) = figure.axes
    drawn = lines(axis)
    np.testing.assert_array_equal(drawn["out"].get_xydata(), [[1, 1.0], [2, 0.1], [3, 0.5]])
    np.testing.assert_array_equal(drawn["kernel"].get_ydata(), [nan, nan, 0.01])
    assert drawn["kernel"].get_color() == figures.COLOURS["kernel"]
    assert axis.get_yscale() == "log"


def test_paired_differences_marks_seeds_mean_and_standard_error():
    values = [-1.0, -2.0, 0.0]
    figure = figures.paired_differences({"out": values, "out+mid": [1.0, 1.0, 1.0]})
    (axis,) = figure.axes
    rings = [line for line in axis.get_lines() if line.get_marker() == "o"]
    np.testing.assert_array_equal(rings[0].get_xdata(), values)
    (bar,) = axis.containers[0].lines[2]
    (left, right), _ = bar.get_segments()[0].T
    assert (left + right) / 2 == pytest.approx(-1.0)
    assert (right - left) / 2 == pytest.approx(1 / 3**0.5)
    assert [label.get_text() for label in axis.get_yticklabels()] == ["out", "out+mid"]
    assert "points" in axis.get_xlabel()


def test_paired_differences_by_case_share_a_scale():
    cases = {"A": {"out": [-1.0, -2.0]}, "B": {"out": [3.0, 4.0], "mid": [0.0, 1.0]}}
    figure = figures.paired_differences_by_case(cases)
    assert [axis.get_title(loc="left") for axis in figure.axes] == list(cases)
    for axis, differences in zip(figure.axes, cases.values(), strict=True):
        rings = [list(line.get_xdata()) for line in axis.get_lines() if line.get_marker() == "o"]
        assert rings == list(differences.values())
        assert axis.get_xlim() == figure.axes[0].get_xlim()
    assert [bool(axis.get_xlabel()) for axis in figure.axes] == [False, True]


def test_planned_hours_marks_every_table_of_every_gpu():
    hours = {"T4": {"table-1": 80.0, "all": 600.0}, "H100": {"table-1": 5.0, "all": 40.0}}
    (axis,) = figures.planned_hours(hours).axes
    assert {line.get_label(): list(line.get_xdata()) for line in axis.get_lines()} == {
        gpu: list(values.values()) for gpu, values in hours.items()
    }
    assert [label.get_text() for label in axis.get_yticklabels()] == ["table-1", "all"]
    assert axis.get_xscale() == "log" and "hours" in axis.get_xlabel()


def test_combinations_rings_the_lowest_and_marks_the_baseline():
    errors = {"A": {"out": 3.0, "mid": 2.0, "out+mid": 2.5}, "B": {"out": 5.0, "mid": 4.5, "out+mid": 4.25}}
    figure = figures.combinations(errors, {"A": 4.0, "B": 6.0})
    assert [axis.get_title() for axis in figure.axes] == ["A", "B"]
    assert [axis.texts[0].get_text() for axis in figure.axes] == ["2.00", "4.25"]
    assert [axis.texts[0].xy for axis in figure.axes] == [(2.0, 1), (4.25, 2)]
    for axis, (network, values) in zip(figure.axes, errors.items(), strict=True):
        points = [line.get_xdata()[0] for line in axis.get_lines() if line.get_markersize() == 5]
        assert points == list(values.values())
        (dotted,) = [line for line in axis.get_lines() if line.get_linestyle() == ":"]
        assert dotted.get_xdata()[0] == {"A": 4.0, "B": 6.0}[network]


def test_run_curves_adds_up_the_terms_of_each_part():
    curve = [
        {
            "epoch": n,
            "terms": {"hard": 2.0 / n, "mid/a": 0.25, "mid/b": 0.5 * n},
            "test_loss": 3.0,
            "train_error": 50.0 / n,
            "test_error": 60.0 / n,
        }
        for n in (1, 2)
    ]
    figure = figures.run_curves(Record(RunConfig(methods="mid", epochs=2), curve, {}))
    loss, error = figure.axes
    drawn = {name.split(",")[0]: line.get_ydata() for name, line in lines(loss).items() if "training" in name}
    assert drawn.keys() == {"hard", "mid"}
    np.testing.assert_allclose(drawn["mid"], [0.75, 1.25])
    np.testing.assert_allclose(drawn["hard"], [2.0, 1.0])
    np.testing.assert_allclose(lines(error)["test"].get_ydata(), [60, 30])
    assert "%" in error.get_ylabel()


def test_curves_skip_epochs_that_were_not_evaluated():
    curve = [{"epoch": n, "terms": {"hard": 1.0}, "train_error": 50.0} for n in (1, 2, 3)]
    curve[1] |= {"test_loss": 3.0, "test_error": 60.0}
    curve[2] |= {"test_loss": 2.0, "test_error": 40.0}
    record = Record(RunConfig(epochs=3), curve, {})
    loss, error = figures.run_curves(record).axes
    for line in (lines(loss)["hard, test"], lines(error)["test"], *figures.learning_curves([record]).axes[0].lines):
        np.testing.assert_array_equal(line.get_xdata(), [2, 3])
    np.testing.assert_array_equal(lines(error)["training"].get_xdata(), [1, 2, 3])


def test_overview_shows_every_matrix_and_frames_the_true_class():
    random = np.random.default_rng(0)
    predictions, local = random.random((4, 3)), random.random((5, 3))
    similarities = [random.random((6, 6)) for _ in range(3)]
    covariance = random.random((7, 7))
    image = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    figure = figures.overview(image, 2, ("a", "b", "c"), predictions, local, similarities, covariance)
    shown = [axis.images[0].get_array() for axis in figure.axes if axis.images]
    for array, expected in zip(shown, [image, predictions, local, *similarities, covariance], strict=True):
        np.testing.assert_array_equal(array, expected)
    frames = [patch.get_x() for axis in figure.axes for patch in axis.patches if isinstance(patch, Rectangle)]
    assert frames == [1.5, 1.5]


def test_the_picture_of_the_readme_comes_from_a_trained_network():
    spec = importlib.util.spec_from_file_location("readme_picture", ROOT / "benchmarks/readme_picture.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = RunConfig(model="vgg16", methods="out+mid+pull-push+kernel", epochs=1, train_size=64)
    figure = module.picture(config)
    image, predictions, local, source, layer, target, covariance = (
        axis.images[0].get_array() for axis in figure.axes if axis.images
    )
    assert image.shape == (32, 32, 3)
    assert predictions.shape == (4, 10)
    assert local.shape == (14, 10)
    np.testing.assert_allclose(np.concatenate([predictions, local]).sum(axis=1), 1, rtol=1e-5)
    assert not np.allclose(predictions[0], predictions[1])
    assert source.shape == layer.shape == target.shape == (60, 60)
    np.testing.assert_allclose(np.unique(target.round(4)), [-1 / 9, 1], atol=1e-4)
    assert covariance.shape == (64, 64)
    assert (ROOT / "book/_static/readme.png").stat().st_size <= 250_000
