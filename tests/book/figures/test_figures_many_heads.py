"""Figures of chapter 8: what is drawn is what was given."""

import numpy as np
import pytest
from imcl_book.figures import many_heads as figures
from imcl_book.figures.style import COLOURS, ORANGE
from matplotlib.colors import to_hex

PARTS = [{"pieces": ["stem", "middle"], "parameters": 500_000}, {"pieces": ["end"], "parameters": 2_000_000}]


def pattern(*copies):
    return [part | {"copies": n} for part, n in zip(PARTS, copies, strict=True)]


def boxes(axis):
    """Place and row of every box, and those of the kept path."""
    middle = {(p.get_x() + p.get_width() / 2, round(p.get_y() + 0.4)): to_hex(p.get_facecolor()) for p in axis.patches}
    kept = [place for place, shade in middle.items() if shade == ORANGE.lower()]
    return list(middle), kept


def test_pieces_and_copies_draws_each_copy_of_each_piece_and_one_path_that_is_kept():
    figure = figures.pieces_and_copies({"one path": pattern(1, 1), "tree": pattern(2, 4)})
    one, tree = figure.axes
    assert [axis.get_title() for axis in figure.axes] == ["one path", "tree"]
    assert [label.get_text() for label in one.get_yticklabels()] == ["stem", "middle", "end"]
    everything, kept = boxes(tree)
    assert [row for _, row in sorted(everything, key=lambda box: box[1])] == [0, 0, 1, 1, 2, 2, 2, 2]
    assert sorted(kept, key=lambda box: box[1]) == [
        (pytest.approx(-0.5), 0),
        (pytest.approx(-0.5), 1),
        (pytest.approx(-1.5), 2),
    ]
    assert len(boxes(one)[0]) == len(boxes(one)[1]) == 3
    assert [text.get_text() for text in tree.texts] == ["2 × 0.50 M", "4 × 2.00 M"]


def test_pieces_and_copies_joins_each_copy_to_its_parent():
    figure = figures.pieces_and_copies({"tree": pattern(2, 4)})
    joints = [line.get_xydata().tolist() for line in figure.axes[0].get_lines()]
    second = [(above, below) for (above, top), (below, _) in joints if top > 0]
    assert second == [(-0.5, -1.5), (-0.5, -0.5), (0.5, 0.5), (0.5, 1.5)]
    assert figure.axes[0].yaxis_inverted()


def test_gradients_by_part_draws_and_writes_each_value():
    norms = {"not rescaled": [2.0, 1.25], "rescaled": [0.5, 1.0]}
    figure = figures.gradients_by_part(norms, ["trunk", "head"])
    (axis,) = figure.axes
    drawn = {bars.get_label(): [bar.get_height() for bar in bars] for bars in axis.containers}
    assert drawn == norms
    assert [text.get_text() for text in axis.texts] == ["2.00", "1.25", "0.50", "1.00"]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["trunk", "head"]
    (dotted,) = [line for line in axis.get_lines() if line.get_linestyle() == ":"]
    assert set(dotted.get_ydata()) == {1}


def test_heads_by_epoch_draws_means_and_ranges_and_dashes_what_departs_from_the_method():
    values = np.array([[10.0, 30.0], [50.0, 70.0], [80.0, 100.0]])
    figure = figures.heads_by_epoch(
        {"agree": {"tree": values, "tree, labels only": values / 2}, "vote": {"tree": values}}
    )
    left, right = figure.axes
    assert [axis.get_title() for axis in figure.axes] == ["agree", "vote"]
    solid, dashed = left.get_lines()
    np.testing.assert_array_equal(solid.get_xydata(), [[1, 20], [2, 60], [3, 90]])
    np.testing.assert_array_equal(dashed.get_ydata(), [10, 30, 45])
    assert (solid.get_linestyle(), dashed.get_linestyle()) == ("-", "--")
    assert solid.get_color() == dashed.get_color() == COLOURS["tree"]
    corners = left.collections[0].get_paths()[0].vertices
    assert {y for x, y in corners if x == 2} == {50, 70}
    assert left.get_ylim() == right.get_ylim() == (0, 100)
    assert "%" in left.get_ylabel()
