"""The comparison with neighbours: its table, the strengths that trials chose, and what its chapter reads off."""

import ast
import contextlib
import dataclasses
import io
import re
from pathlib import Path

import nbformat
import pytest
from made_records import RUN, change, record, write

from imcl_core import Record, RunConfig
from imcl_core.methods import NEIGHBOURS
from imcl_core.study import grids, ledger, search, tables
from imcl_core.study.ledger import Ledger
from imcl_core.study.tables.write import Table

ROOT = Path(__file__).parents[2]


@pytest.fixture
def untuned(monkeypatch):
    """The middle strength of each method is the compared one, whatever the trials chose."""
    for method, strengths in grids.STRENGTHS.items():
        monkeypatch.setitem(grids.TUNED, method, strengths[1])


def compared(errors, seeds=range(3), shift=0.0):
    """Records of the comparison with neighbours: `errors` by method, the same at each seed but for `shift` a seed."""
    runs = (run for run in grids.grid("neighbours", "cpu", 4) if run.methods in errors and run.seed in seeds)
    return [Record(run, record(errors[run.methods] + shift * run.seed).curve, RUN) for run in runs]


def trials(errors):
    """Records of the trials: `errors` by method, a value a strength; None for no record."""
    found = []
    for method, values in errors.items():
        for strength, error in zip(grids.STRENGTHS[method], values, strict=True):
            if error is not None:
                found.append(Record(grids.trial(method, strength, "cpu"), record(error).curve, RUN))
    return found


def row(folder, method, **options):
    table = tables.neighbours.neighbours_table(Ledger(folder), **options)
    return next((cells, data) for cells, data in zip(table.rows, table.data.to_dict("records"), strict=True)
                if data["method"] == method)  # fmt: skip


def test_the_neighbours_stand_beside_the_four_with_their_gains_and_trials(tmp_path, untuned):
    write(tmp_path, *compared({"baseline": 80.0, "kernel": 79.0, "cutout": 81.5}), *compared({"baseline": 9.0}, [3]))
    write(tmp_path, *trials({"cutout": (90.0, 89.0, None)}))
    table = tables.table("neighbours", Ledger(tmp_path))
    assert list(table.data.method) == ["baseline", *grids.STRENGTHS] and len(table.rows) == 15
    cells, data = row(tmp_path, "cutout")
    assert (data["n"], data["pairs"], data["gain_mean"], data["tried"]) == (3, 3, -1.5, 2)
    assert [cell.lines for cell in cells] == [
        ("cutout",), ("DeVries 2017",), ("cutout_size", "4: 90.00", "8: 89.00, chosen", "16: none yet"), ("3 of 3",),
        ("81.50 ± 0.00",), ("−1.50 ± 0.00 (3)",), ("Device <1>",),
    ]  # fmt: skip
    assert row(tmp_path, "baseline")[1]["last_mean"] == 80.0  # seed 3 is there to teach, and for nothing else
    cells, data = row(tmp_path, "kd")
    assert (cells[3].lines, cells[4].lines, data["pairs"]) == (("0 of 3",), ("no run yet",), 0)
    assert "2 of 42 such runs" in table.note and "9 of 45" in table.note
    html = table.html(tmp_path)
    assert re.search(r'<a href="cifar100-resnet18-cutout-cpu-seed0-\w+\.json">4</a>, <a href="[^"]+">8</a>', html)
    assert re.search(r'<a href="cifar100-resnet18-cutout-cpu-seed2-\w+\.json">seed 2</a>', html)


def test_operations_are_a_column_where_they_are_given(tmp_path):
    table = tables.neighbours.neighbours_table(Ledger(tmp_path), {"baseline": 1.0, "kd": 1.5})
    assert "operations" in table.columns and {len(cells) for cells in table.rows} == {len(table.columns)}
    assert row(tmp_path, "kd", operations={"kd": 1.5})[0][6].lines == ("1.50",)
    assert "operations" not in tables.table("neighbours", Ledger(tmp_path)).columns


def test_one_changed_number_changes_the_comparison(tmp_path, untuned):
    runs = compared({"baseline": 80.0, "hsic": 81.0})
    *_, path = write(tmp_path, *runs)
    (tried,) = write(tmp_path, *trials({"hsic": (None, 90.0, None)}))
    before = tables.table("neighbours", Ledger(tmp_path))
    change(path, epoch=-1, value=84.0)
    after = tables.table("neighbours", Ledger(tmp_path))
    change(tried, epoch=-1, value=95.0)
    last = tables.table("neighbours", Ledger(tmp_path))
    means = [table.data.set_index("method").gain_mean["hsic"] for table in (before, after)]
    assert means == [pytest.approx(-1.0), pytest.approx(-2.0)]
    for form in (Table.html, Table.csv, Table.latex, str):
        assert form(before) != form(after)
    assert "0.001: 90.00, chosen" in after.html() and "0.001: 95.00, chosen" in last.html()


def test_the_lowest_error_of_the_trials_is_chosen_and_a_tie_goes_to_the_default():
    found = trials({"out": (90.0, 91.0, 92.0), "hsic": (90.0, 90.0, 90.0), "kd": (80.0, 81.0, None)})
    found += trials({"decov": (70.0, 71.0, 70.0)})
    assert search.chosen(found) == {
        "out": {"out_alpha": 0.75}, "hsic": {"hsic_weight": 1e-3}, "decov": {"decov_weight": 0.03},
    }  # fmt: skip
    assert search.chosen(found, "paper") == {}
    tested = dataclasses.replace(found[0].config, validation=False)
    assert search.chosen([Record(tested, found[0].curve, RUN), *found[1:]]).keys() == {"hsic", "decov"}


def test_each_method_is_tried_at_three_strengths_with_its_default_of_then_among_them():
    assert grids.TUNED.keys() == grids.STRENGTHS.keys() == {*grids.SINGLES, *(term.name for term in NEIGHBOURS)}
    then = {  # the search that took the push away came later, and that of the others
        "pull-push": {"pp_push": (0.1, 0.0)},
        "cutout": {"cutout_size": 8},
        "deep-supervision": {"deep_weight": 0.3},
        "label-smoothing": {"smoothing_epsilon": 0.1},
    }
    for method, strengths in grids.STRENGTHS.items():
        runs = [RunConfig(methods=method, **strength) for strength in strengths]
        assert len({run.key for run in runs}) == 3 and RunConfig(methods=method, **then.get(method, {})) in runs
        assert grids.TUNED[method] in strengths


def test_the_compared_runs_have_the_strengths_that_the_trials_chose():
    chosen = search.chosen(ledger.records(ROOT / "results/neighbours"))
    assert grids.TUNED.keys() - chosen.keys() == {"label-smoothing", "r-drop"}  # whose trials are not run yet
    assert chosen.items() <= grids.TUNED.items()


def chapter_on_neighbours(results):
    """What the chapter's cells that read records show; operations are not counted."""
    cells = nbformat.read(ROOT / "notebooks/11-neighbours.ipynb", as_version=4).cells
    places = [i for i, cell in enumerate(cells) if cell.source.startswith("import numpy")]
    starts, ends = (
        next(i for i, cell in enumerate(cells) if title in cell.source)
        for title in ("## On equal terms", "## What this cannot say")
    )
    names, printed, shown = {"results": str(results), "price": None}, io.StringIO(), []
    imports = [
        node for node in ast.parse(cells[places[0]].source).body if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    exec(compile(ast.Module(imports, []), "chapter", "exec"), names)
    for cell in cells[starts:ends]:
        if cell.cell_type == "code" and "operations(run)" not in cell.source:
            *body, last = ast.parse(cell.source).body
            with contextlib.redirect_stdout(printed):
                if isinstance(last, ast.Expr):
                    exec(compile(ast.Module(body, []), "chapter", "exec"), names)
                    shown.append(str(eval(compile(ast.Expression(last.value), "chapter", "eval"), names)))
                else:
                    exec(compile(ast.Module([*body, last], []), "chapter", "exec"), names)
    return printed.getvalue(), shown


def test_the_chapter_says_what_is_missing(tmp_path):
    said, shown = chapter_on_neighbours(tmp_path)
    assert "0 of 42 trials are there" in said and "too few pairs: 14" in said and "kd (0 of 3)" in said
    assert "no method has a pair yet" in shown
    assert "Not yet:" in said and "by chance alone" not in said


def test_the_verdicts_of_the_chapter_follow_the_records(tmp_path, untuned):
    errors = {"baseline": 80.0, "kernel": 79.0, "cutout": 81.0, "predsim": 78.0}
    write(tmp_path / "neighbours", *compared(errors, shift=1.0), *compared({"hsic": 70.0}, [0, 1]))
    for seed, error in enumerate((79.0, 83.0, 80.0)):  # now better than the baseline, now worse
        write(tmp_path / "neighbours", *compared({"dropblock": error}, [seed]))
    write(tmp_path / "neighbours", *trials({"hsic": (90.0, 95.0, 96.0), "decov": (90.0, 80.0, 95.0)}))
    said, _ = chapter_on_neighbours(tmp_path)
    better, worse, unsettled, few = (
        set(re.findall(r"^  ([\w-]+) \(", part, re.MULTILINE))
        for part in re.split(r"^(?:worse|not settled|too few pairs): \d+$", said, flags=re.MULTILINE)
    )
    assert (better, worse, unsettled) == ({"kernel", "predsim"}, {"cutout"}, {"dropblock"})
    assert "hsic (2 of 3)" in said and len(few) == 10
    assert "6 of 42 trials are there; all three of 2 of 14 methods" in said
    assert "another one in: hsic" in said and "may lie beyond: hsic" in said
    assert "the gain of kernel less that of predsim: -1.00 points, from -1.00 to -1.00: predsim is better" in " ".join(
        said.split()
    )
    assert "8 bounds were compared with zero" in said
