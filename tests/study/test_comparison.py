"""The comparison with neighbours: its runs, its table, and what its chapter reads off."""

import ast
import contextlib
import io
import re
from pathlib import Path

import nbformat
import pytest
from made_records import RUN, change, record, write

from imcl_core import Record, RunConfig
from imcl_core.methods import NEIGHBOURS, TERMS
from imcl_core.study import grids, tables
from imcl_core.study.ledger import Ledger
from imcl_core.study.search import shortened
from imcl_core.study.tables import neighbours
from imcl_core.study.tables.write import Table

ROOT = Path(__file__).parents[2]


def judged(errors, model="resnet18", **settings):
    """Records on the held-out images of the search: `errors` by method."""
    return [
        Record(grids.as_judged(methods, model, **settings), record(error).curve, RUN)
        for methods, error in errors.items()
    ]


def on_stl10(errors, model="resnet18", seeds=range(3), shift=0.0, **settings):
    """Records on STL-10: `errors` by method, the same at each seed but for `shift` a seed."""
    place = {"dataset": "stl10", "profile": "narrow", "model": model} | settings
    return [record(error + shift * s, methods=m, seed=s, **place) for m, error in errors.items() for s in seeds]


def row(folder, method, **options):
    table = neighbours.neighbours_table(Ledger(folder), **options)
    return next((cells, data) for cells, data in zip(table.rows, table.data.to_dict("records"), strict=True)
                if data["method"] == method)  # fmt: skip


def test_the_grid_has_every_method_on_both_networks_held_out_first_then_by_seeds():
    runs = grids.grid("neighbours", "narrow", 2)
    methods = ["baseline", *grids.SINGLES, *(term.name for term in NEIGHBOURS)]
    assert len(runs) == 2 * len(methods) * (1 + 2 + 2)
    held, tests = runs[: 2 * len(methods)], runs[2 * len(methods) :]
    assert all(run.validation and run.held_out == 10_000 and run.dataset == "cifar10" for run in held)
    assert all(run.dataset == "stl10" and not run.validation for run in tests)
    assert [run.augment for run in tests] == [True] * (len(tests) // 2) + [False] * (len(tests) // 2)
    for method in methods:
        assert {run.model for run in held if run.methods == method} == {"resnet18", "vgg16"}
        strengths = TERMS[method].strengths if method in TERMS else ()
        usual = {name: getattr(RunConfig(), name) for strength in strengths for name in strength}
        assert not usual or any(usual == strength | {n: usual[n] for n in usual if n not in strength}
                                for strength in strengths)  # fmt: skip


def test_the_neighbours_stand_beside_the_four_held_out_and_on_test_images(tmp_path):
    write(tmp_path, *judged({"baseline": 42.0, "cutout": 40.0, "kernel": 39.0}), *judged({"cutout": 41.5}, "vgg16"))
    write(tmp_path, *judged({"baseline": 38.5}, **grids.TUNED_BASELINE))
    write(tmp_path, *on_stl10({"baseline": 33.0}, seeds=range(4)), *on_stl10({"cutout": 31.0}, shift=0.5))
    write(tmp_path, *on_stl10({"baseline": 40.0, "cutout": 36.0}, "vgg16", seeds=[0], augment=False))
    table = tables.table("neighbours", Ledger(tmp_path))
    names = ["baseline", "baseline tuned", *grids.SINGLES, *(term.name for term in NEIGHBOURS)]
    assert list(table.data.method) == names and f"5 of {2 * len(names)} such runs" in table.note
    cells, data = row(tmp_path, "cutout")
    assert [cell.lines for cell in cells] == [
        ("cutout", "DeVries 2017", "cutout_size 2"), ("40.75", "ResNet-18 40.00", "VGG-16 41.50"),
        ("ResNet-18 (3)", "+1.50 ± 0.50", "+0.66 to +2.34"), ("VGG-16 (1)", "+4.00"),
    ]  # fmt: skip
    assert (data["plain_gain_mean_vgg16"], data["plain_pairs_vgg16"], data["plain_pairs_resnet18"]) == (4.0, 1, 0)
    assert (data["held_out"], data["held_out_resnet18"], data["held_out_vgg16"]) == (40.75, 40.0, 41.5)
    assert (data["gain_mean_resnet18"], data["pairs_resnet18"], data["pairs_vgg16"]) == (1.5, 3, 0)
    assert row(tmp_path, "kernel")[0][1].lines == ("no run yet", "ResNet-18 39.00")  # no mean of one network
    assert row(tmp_path, "baseline tuned")[0][1].lines == ("no run yet", "ResNet-18 38.50")
    assert row(tmp_path, "baseline tuned")[0][0].lines[1:] == ("lr 0.02", "weight_decay 0.002")
    assert row(tmp_path, "baseline")[0][2].lines == ("",)
    html = table.html(tmp_path)
    assert re.search(r'<a href="cifar10-resnet18-cutout-narrow-seed0-\w+\.json">ResNet-18</a>, <a [^>]+>VGG-16', html)
    assert re.search(r'<a href="stl10-resnet18-cutout-narrow-seed2-\w+\.json">ResNet-18, seed 2</a>', html)


def test_gains_are_over_the_baseline_of_the_same_network_and_seed(tmp_path):
    write(tmp_path, *judged({"baseline": 42.0, "cutout": 40.0}), *judged({"cutout": 41.5, "kernel": 1.0}, "vgg16"))
    write(tmp_path, *on_stl10({"baseline": 33.0, "kd": 30.0}, "vgg16", shift=1.0), *on_stl10({"kd": 9.0}, seeds=[7]))
    assert neighbours.held_out_gains(Ledger(tmp_path)) == {"cutout": {"resnet18": 2.0}}
    assert neighbours.stl10_gains(Ledger(tmp_path)) == {"kd": {"vgg16": {0: 3.0, 1: 3.0, 2: 3.0}}}


def test_another_strength_is_another_run(tmp_path):
    write(tmp_path, *judged({"cutout": 40.0}, cutout_size=8), *judged({"cutout": 39.0}, epochs=10))
    assert not any(neighbours.held_out(Ledger(tmp_path)).values())


def test_operations_are_a_column_where_they_are_given(tmp_path):
    table = neighbours.neighbours_table(Ledger(tmp_path), {"baseline": 1.0, "kd": 1.5})
    assert "operations" in table.columns and {len(cells) for cells in table.rows} == {len(table.columns)}
    assert row(tmp_path, "kd", operations={"kd": 1.5})[0][2].lines == ("1.50",)
    assert "operations" not in tables.table("neighbours", Ledger(tmp_path)).columns


def test_one_changed_number_changes_the_comparison(tmp_path):
    *_, path = write(tmp_path, *on_stl10({"baseline": 33.0, "hsic": 34.0}))
    (held,) = write(tmp_path, *judged({"hsic": 40.0}))
    before = tables.table("neighbours", Ledger(tmp_path))
    change(path, epoch=-1, value=37.0)
    after = tables.table("neighbours", Ledger(tmp_path))
    change(held, epoch=-1, value=45.0)
    last = tables.table("neighbours", Ledger(tmp_path))
    means = [table.data.set_index("method").gain_mean_resnet18["hsic"] for table in (before, after)]
    assert means == [pytest.approx(-1.0), pytest.approx(-2.0)]
    for form in (Table.html, Table.csv, Table.latex, str):
        assert form(before) != form(after)
    assert "ResNet-18 40.00" in after.html() and "ResNet-18 45.00" in last.html()


def chapter_on_neighbours(results):
    """What the chapter's cells that read records show; operations are not counted."""
    cells = nbformat.read(ROOT / "notebooks/11-neighbours.ipynb", as_version=4).cells
    places = [i for i, cell in enumerate(cells) if "import numpy as np" in cell.source]
    starts, ends = (
        next(i for i, cell in enumerate(cells) if title in cell.source)
        for title in ("## On equal terms", "## One stands out")
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
    assert "searches at their end: 0 of 13" in said and "by chance alone" not in said
    assert "no method has a pair yet" in shown and "no search is at its end yet" in shown
    assert "ResNet-18: not yet, one of each kind is needed" in said


def test_the_verdicts_of_the_chapter_follow_the_records(tmp_path):
    errors = {"baseline": 33.0, "kernel": 32.0, "cutout": 34.0, "predsim": 31.0}
    write(tmp_path, *on_stl10(errors, shift=1.0), *on_stl10({"hsic": 20.0}, seeds=[0, 1]))
    for seed, error in enumerate((32.0, 36.0, 33.0)):  # now better than the baseline, now worse
        write(tmp_path, *on_stl10({"dropblock": error}, seeds=[seed]))
    for rung in (10, 30):
        for i, strength in enumerate(TERMS["hsic"].strengths):
            for model in ("resnet18", "vgg16"):
                write(tmp_path, *judged({"hsic": 40.0 + i}, model, **strength, **schedule(rung)))
    said, _ = chapter_on_neighbours(tmp_path)
    better, worse, unsettled = (
        set(re.findall(r"^  ([\w-]+), ResNet-18", part, re.MULTILINE))
        for part in re.split(r"^(?:worse|not settled): \d+$", said, flags=re.MULTILINE)
    )
    assert (better, worse, unsettled) == ({"kernel", "predsim"}, {"cutout"}, {"dropblock"})
    told = " ".join(said.split())
    assert "without three seeds: out, mid, pull-push, spatial-dropout, decov, deep-supervision, hsic, kd" in told
    assert "searches at their end: 1 of 13" in said and "so that something better may lie beyond: hsic" in told
    assert (
        "ResNet-18: the gain of kernel less that of predsim: -1.00 points, from -1.00 to -1.00: predsim is better"
        in told
    )
    assert "8 bounds were compared with zero" in said


def schedule(epochs):
    """Of a trial of so many epochs."""
    run = shortened(grids.as_judged("baseline", "vgg16"), epochs)
    return {"epochs": run.epochs, "milestones": run.milestones}
