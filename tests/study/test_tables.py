"""The tables: every number from a record or from the paper, and none from a run that does not belong there."""

import ast
import csv
import io
import itertools
import json
import re
import statistics
import time
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pytest
from made_records import RUN, cell, change, record, write, write_many

from imcl_core import Record
from imcl_core.cli import main
from imcl_core.study import grids, tables
from imcl_core.study.ledger import Ledger
from imcl_core.study.tables import claims, figure_2, judge
from imcl_core.study.tables import write as writing

ROOT = Path(__file__).parents[2]


def page(results, monkeypatch):
    """All that the chapter shows when it runs on a folder of records."""
    memory = {"baseline": 100, "out": 100, "tree": 150}
    monkeypatch.setattr(claims, "counted_memory", lambda: memory)
    names, shown = {}, []
    for code in nbformat.read(ROOT / "notebooks/results.ipynb", as_version=4).cells:
        if code.cell_type == "code":
            *body, last = ast.parse(code.source).body
            exec(compile(ast.Module(body, []), "chapter", "exec"), names)
            if isinstance(last, ast.Expr):
                value = eval(compile(ast.Expression(last.value), "chapter", "eval"), names)
                shown.append(value.html() if isinstance(value, writing.Table) else str(value))
            else:
                exec(compile(ast.Module([last], []), "chapter", "exec"), names)
        if "parameters" in code.metadata.get("tags", []):
            names["results"] = str(results)
    return "\n".join(shown)


# --- what a cell shows ----------------------------------------------------------------------------------------------


def test_a_cell_shows_mean_deviation_n_best_epoch_and_the_difference_to_the_paper(tmp_path):
    write(tmp_path, *(record(last, best, seed=s) for s, last, best in [(0, 25, 24), (1, 26, 24.5), (7, 28, 25)]))
    table = tables.table("table-1", Ledger(tmp_path))
    shown = cell(table)
    assert shown["n"] == 3
    assert shown["last_mean"] == pytest.approx(statistics.fmean([25, 26, 28]))
    assert shown["last_deviation"] == pytest.approx(statistics.stdev([25, 26, 28]))
    assert shown["best_mean"] == pytest.approx(24.5)
    assert shown["difference"] == pytest.approx(24.5 - 25.90)
    assert '<td data-value="26.3333"><br>25.90<br>26.33<br>± 1.53 (3)<br>24.50<br>−1.40<details>' in table.html()
    assert all(text in table.latex() for text in (r"$\pm$ 1.53 (3)", "26.33", "$-$1.40"))
    assert str(table).count("no run yet") == 31


def test_one_run_has_no_deviation(tmp_path):
    write(tmp_path, record(seed=4))
    table = tables.table("table-1", Ledger(tmp_path))
    assert cell(table)["n"] == 1
    assert cell(table)["last_deviation"] is None or cell(table)["last_deviation"] != cell(table)["last_deviation"]
    assert "25.00<br>(1)<br>24.00" in table.html()


def test_imagenet32_counts_top5_errors(tmp_path):
    write(tmp_path, record(dataset="imagenet32", top5=30.0), record(dataset="stl10"))
    table = tables.table("table-2", Ledger(tmp_path))
    assert (cell(table, dataset="imagenet32")["last_mean"], cell(table, dataset="imagenet32")["best_mean"]) == (
        31.0,
        30.0,
    )
    assert cell(table, dataset="stl10", augment=True)["last_mean"] == 25.0
    assert not cell(table, dataset="stl10", augment=False)["n"]


def test_each_cell_says_what_it_rests_on(tmp_path):
    (path,) = write(tmp_path / "runs #1", record(seed=4))
    table = tables.table("table-1", Ledger(tmp_path))
    html = table.html(tmp_path)
    assert f'<a href="runs%20%231/{path.name}">seed 4</a>' in html
    assert "profile paper<br>Device &lt;1&gt;<br>" in html
    assert (cell(table)["hardware"], cell(table)["records"]) == ("Device <1>", path.name)
    assert "Hardware: Device $<$1$>$." in table.latex()
    (page_file, *_) = table.write(tmp_path / "out")
    (link,) = re.findall(r'href="([^"]+)"', page_file.read_text())
    assert (page_file.parent / unquote(link)).resolve() == path.resolve()


@pytest.mark.parametrize(("name", "source"), [("table-1", "table1"), ("table-2", "table2"), ("table-3", "table3")])
def test_rows_and_columns_are_the_papers(tmp_path, name, source):
    with (ROOT / "imcl_core/study/paper.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["source"] == source]
    table = tables.table(name, Ledger(tmp_path))
    plain = [row for row in rows if row["dataset"] == "stl10"]  # has a second line, without augmentation
    for augment, expected in ((True, rows), (False, plain)):
        data = table.data[table.data.augment == augment]
        assert list(data[["dataset", "model", "method"]].itertuples(index=False, name=None)) == [
            (row["dataset"], row["model"], row["method"]) for row in expected
        ]
        assert [f"{value:.2f}" for value in data.paper] == [row["value"] for row in expected]
        shown = [
            cell.lines[1:]
            for row in table.rows
            for cell in row[1:]
            if ("no augmentation" in row[0].lines[0]) != augment
        ]
        assert shown == [(row["value"], "no run yet") for row in expected]
    assert set(table.data.metric) == {row["metric"] for row in rows}
    assert {len(row) for row in table.rows} == {len(table.columns)}


def test_the_cells_are_the_runs_of_the_grids(tmp_path):
    for name in ("table-1", "table-2", "table-3", "figure-2"):
        for config in grids.grid(name):
            if name != "table-3" or config.methods != "baseline":
                write(tmp_path, Record(config, record().curve, RUN))
        assert (tables.table(name, Ledger(tmp_path)).data.n == 1).all(), name


# --- what must not slip in ------------------------------------------------------------------------------------------

OTHER = (
    {"out_alpha": 0.4}, {"lr": 0.05}, {"train_size": 20_000}, {"validation": True}, {"width": 0.5}, {"epochs": 100},
    {"hidden": 256}, {"nesterov": True}, {"batch_size": 64}, {"noise": 0.5}, {"profile": "cpu"}, {"weight_decay": 1e-4},
    {"milestones": (1, 2, 3)}, {"dropout": 0.1}, {"methods": "out+mid"}, {"model": "resnet18"},
)  # fmt: skip


@pytest.mark.parametrize("settings", OTHER, ids=str)
def test_a_run_with_another_setting_is_in_no_cell_of_the_default(tmp_path, settings):
    write(tmp_path, record(**settings), record(seed=1))
    assert cell(tables.table("table-1", Ledger(tmp_path)))["n"] == 1


def assert_left_out(folder, path, capsys, why):
    """The table is made without the file, which is told in one line and left as it is."""
    before = path.read_bytes()
    assert cell(tables.table("table-1", Ledger(folder)))["n"] == 0
    told = capsys.readouterr().err
    assert path.name in told and why in told and told.count("\n") == 1
    assert [file.name for file in folder.iterdir()] == [path.name] and path.read_bytes() == before


def test_a_run_renamed_to_the_default_is_damaged(tmp_path, capsys):
    (path,) = write(tmp_path, record(out_alpha=0.4))
    path = path.rename(tmp_path / f"{record().config.name}.json")
    assert_left_out(tmp_path, path, capsys, "is damaged (its name and its content differ)")


@pytest.mark.parametrize("damage", ["", "{", "[]", "null", '{"config": {}}'])
@pytest.mark.parametrize("keep", [0, 0.5])
def test_a_damaged_record_is_named_and_left_out(tmp_path, damage, keep, capsys):
    (path,) = write(tmp_path, record())
    text = path.read_text()
    path.write_text(text[: int(keep * len(text))] + damage)
    assert_left_out(tmp_path, path, capsys, "run it again")


@pytest.mark.parametrize("part", ["curve", "test_error", "run"])
def test_a_record_without_a_part_is_damaged(tmp_path, part, capsys):
    (path,) = write(tmp_path, record())
    content = json.loads(path.read_text())
    if part == "test_error":
        del content["curve"][0][part]
    else:
        content[part] = [] if part == "curve" else {}
    path.write_text(json.dumps(content))
    assert_left_out(tmp_path, path, capsys, "is damaged")


def test_settings_of_methods_that_are_off_do_not_matter_nor_do_those_an_old_record_lacks(tmp_path):
    paths = write(tmp_path, record(kernel_weight=5.0), record(seed=1))
    content = json.loads(paths[1].read_text())
    del content["config"]["pp_centre"]
    paths[1].write_text(json.dumps(content))
    assert cell(tables.table("table-1", Ledger(tmp_path)))["n"] == 2


def test_baseline_2x_is_the_method_and_not_a_wide_baseline(tmp_path):
    write(tmp_path, record(methods="baseline", width=2.0), record(methods="baseline-2x", seed=1))
    table = tables.table("table-1", Ledger(tmp_path))
    assert [cell(table, method=method)["n"] for method in ("baseline", "baseline-2x")] == [0, 1]


def test_one_record_in_two_folders_counts_once(tmp_path):
    write(tmp_path / "a", record())
    write(tmp_path / "b", record())
    assert cell(tables.table("table-1", Ledger(tmp_path)))["n"] == 1


# --- change one number ----------------------------------------------------------------------------------------------


def test_one_changed_number_changes_table_page_and_every_form(tmp_path, monkeypatch):
    path, *_ = write(tmp_path, *(record(25 + s / 10, seed=s) for s in range(3)))
    shown = page(tmp_path, monkeypatch)
    before = tables.table("table-1", Ledger(tmp_path))
    change(path, epoch=-1, value=40.0)
    after = tables.table("table-1", Ledger(tmp_path))
    assert cell(after)["last_mean"] == pytest.approx(cell(before)["last_mean"] + 5)
    for form in (writing.Table.html, writing.Table.csv, writing.Table.latex, str):
        assert form(before) != form(after)
    changed = page(tmp_path, monkeypatch)
    assert "25.10<br>± 0.10 (3)" in shown
    assert "25.10<br>± 0.10 (3)" not in changed
    assert "30.10<br>" in changed


def test_the_chapter_runs_without_any_record(tmp_path, monkeypatch):
    shown = page(tmp_path, monkeypatch)
    assert shown.count("no run yet") >= 130
    assert "too little evidence<br>(0 of 6 runs)" in shown


# --- Figure 2 and the narrow reproduction ----------------------------------------------------------------------


def test_figure_2_has_a_cell_for_each_noise_level_and_error_bars(tmp_path):
    runs = [record(30 + s, seed=s, methods="baseline", noise=0.5) for s in range(3)]
    write(tmp_path, *runs, record(26.0, methods="baseline"))
    found = Ledger(tmp_path)
    table = tables.table("figure-2", found)
    assert cell(table, method="baseline", noise=0.5)["last_mean"] == 31
    assert table.columns[1:] == ("0% noise", "10% noise", "20% noise", "30% noise", "40% noise", "50% noise")
    assert [len(row) for row in table.rows] == [7] * 6
    printed, gain = figure_2.noise_printed()
    axis = figure_2.draw_figure_2(figure_2.noise_errors(found), printed, gain).axes[0]
    points, _, (bars,) = axis.containers[0].lines
    assert list(points.get_ydata()) == [26.0, 31.0]
    assert [tuple(segment[:, 1]) for segment in bars.get_segments()] == [(26.0, 26.0), (30.0, 32.0)]
    crosses = [line.get_ydata()[0] for line in axis.get_lines() if line.get_marker() == "x"]
    assert crosses == list(printed.values())
    assert f"{gain:.2f} points" in axis.get_title()


def test_figure_2_without_runs_says_so(tmp_path):
    axis = figure_2.draw_figure_2(figure_2.noise_errors(Ledger(tmp_path)), *figure_2.noise_printed()).axes[0]
    assert [text.get_text() for text in axis.texts] == ["no run yet: the crosses are the paper's"]


# --- the decisions --------------------------------------------------------------------------------------------------


def test_a_decision_taken_the_other_way_stands_beside_the_same_seeds_as_decided(tmp_path):
    none = tables.table("decisions", Ledger(tmp_path))
    assert not none.rows and "attach blocks of mid" in none.note and "mid_own" in none.note
    assert ", weight_decay (ImageNet32), " in none.note
    assert ", pp_projection none (STL-10, VGG-16, no augmentation), " in none.note
    *_, unknown = none.note.rpartition("Not run yet: ")
    assert unknown.count(", ") - 4 == len(grids.ABLATIONS) - 1  # within brackets there are four more

    def runs(profile, errors_changed, errors_decided):
        for errors, which in ((errors_changed, 0), (errors_decided, 1)):
            for seed, error in enumerate(errors):
                config = grids.ablation("mid", {"mid_own": True}, profile, seed)[which]
                write(tmp_path, Record(config, record(error).curve, RUN))

    runs("narrow", [80.0, 82.0, 90.0], [79.0, 80.0])
    runs("paper", [21.0], [])
    found = tables.table("decisions", Ledger(tmp_path))
    assert "mid_own" not in found.note and "attach blocks of mid" in found.note
    paper, narrow = found.data.to_dict("records")
    assert (paper["profile"], paper["n"], paper["pairs"], paper["last_mean"]) == ("paper", 1, 0, 21.0)
    assert (narrow["n"], narrow["pairs"], narrow["last_mean"], narrow["gain"]) == (3, 2, 84.0, -1.5)
    lower, upper = judge.bounds([-1.0, -2.0])
    assert [c.lines for c in found.rows[1]] == [
        ("ResNet-18 on STL-10",), ("mid",), ("mid_own", "False →", "True"), ("narrow",), ("3",), ("84.00 ± 5.29",),
        ("−1.50", f"{writing.signed(lower)} to {writing.signed(upper)}", "2 pairs"),
    ]  # fmt: skip
    assert found.rows[0][0].lines == ("ResNet-18 on CIFAR-100",)
    assert {len(row) for row in found.rows} == {len(found.columns)}


def test_a_decision_with_and_without_augmentation_is_two_lines_of_text_that_differ(tmp_path):
    for seed, augment in itertools.product(range(3), (True, False)):
        place = {"model": "resnet18"} | ({} if augment else {"dataset": "stl10", "augment": False})
        for config in grids.ablation("pull-push", place | grids.WITHOUT_PROJECTION, "narrow", seed):
            write(tmp_path, Record(config, record(30.0).curve, RUN))
    lines = [
        line
        for line in str(tables.table("decisions", Ledger(tmp_path))).splitlines()
        if "pp_projection     3x3" in line
    ]
    assert len(lines) == 2 and lines[0] != lines[1]


# --- the forms ------------------------------------------------------------------------------------------------------


def every_table(folder):
    found = Ledger(folder)
    return [*(tables.table(name, found) for name in tables.TABLES), claims.claims_table(found)]


def test_html_fetches_nothing_and_has_heads_a_keyboard_reaches(tmp_path):
    write(tmp_path, record())
    for table in every_table(tmp_path):
        html = table.html(tmp_path)
        assert not re.search(r"https?:|//|\bsrc=|@import|url\(", html)
        assert html.count('<th scope="col"') == len(table.columns)
        assert html.count('<th scope="row"') == len(table.rows)
        assert 'tabindex="0"' in html and 'role="region"' in html
        assert "button" in html and "aria-sort" in html


def test_latex_has_equal_rows_and_escapes(tmp_path):
    write(tmp_path, record())
    for table in every_table(tmp_path):
        body = table.latex().split(r"\toprule")[1].split(r"\bottomrule")[0]
        lines = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert {len(re.findall(r"(?<!\\)&", line)) for line in lines} == {len(table.columns) - 1}
        assert not re.search(r"(?<!\\)[%#]|[±−≥<>](?!\$)", re.sub(r"\$[^$]*\$", "", table.latex()))
        assert table.latex().count("{") == table.latex().count("}")
    assert writing._latex(r"50 % & a_b \ {#}") == r"50 \% \& a\_b \textbackslash{} \{\#\}"


def test_csv_is_a_line_a_cell(tmp_path):
    write(tmp_path, record())
    rows = list(csv.DictReader(io.StringIO(tables.table("table-1", Ledger(tmp_path)).csv())))
    assert len(rows) == 32
    (row,) = [row for row in rows if row["n"] == "1"]
    assert (row["dataset"], row["method"], float(row["last_mean"]), row["profile"]) == (
        "cifar100",
        "out",
        25.0,
        "paper",
    )


def test_the_command_prints_and_writes_all_forms(tmp_path, capsys):
    write(tmp_path / "results", record())
    out = tmp_path / "out"
    assert main(["tables", "figure-2", "--results", str(tmp_path / "results"), "--out", str(out)]) == 0
    assert sorted(path.name for path in out.iterdir()) == [f"figure-2.{form}" for form in ("csv", "html", "svg", "tex")]
    assert "Figure 2: test error" in capsys.readouterr().out
    text = (out / "figure-2.html").read_text()
    assert text.startswith("<!doctype html>") and "width=device-width" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tabel-2"], "Did you mean 'table-2'"),
        (["--results", "nowhere"], "There is no folder nowhere"),
        (["table-1", "--results", ".", "--out", "file/x"], "choose another folder"),
    ],
)
def test_mistakes_are_one_line_and_status_2(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert main(["tables", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


# --- scale ----------------------------------------------------------------------------------------------------------


def test_ten_thousand_records_make_every_table_in_two_seconds(tmp_path):
    names, count = ("table-1", "table-2", "table-3", "figure-2"), 10_000
    cells = [config for profile in ("paper", "narrow") for name in names for config in grids.grid(name, profile)]
    cells = list({config.key: config for config in cells}.values())
    write_many(tmp_path, cells, count)
    began = time.process_time()
    shown = every_table(tmp_path)
    for table in shown:
        table.html(), table.csv(), table.latex()
    seconds = time.process_time() - began
    assert (shown[0].data.n >= count // len(cells)).all()
    assert shown[4].data.n.sum() > 0.2 * count
    assert seconds < 2 * BUSY


BUSY = 2  # where another process shares the core, the processor's own time nearly doubles
