"""The figure of the plan: what is drawn is what was given."""

from imcl_book.figures import plan as figures


def test_planned_hours_marks_every_table_of_every_gpu():
    hours = {"T4": {"table-1": 80.0, "all": 600.0}, "H100": {"table-1": 5.0, "all": 40.0}}
    (axis,) = figures.planned_hours(hours).axes
    assert {line.get_label(): list(line.get_xdata()) for line in axis.get_lines()} == {
        gpu: list(values.values()) for gpu, values in hours.items()
    }
    assert [label.get_text() for label in axis.get_yticklabels()] == ["table-1", "all"]
    assert axis.get_xscale() == "log" and "hours" in axis.get_xlabel()
