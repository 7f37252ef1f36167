"""The tables: every number from a record or from the paper, and none from a run that does not belong there."""

import ast
import contextlib
import csv
import dataclasses
import io
import json
import re
import statistics
import time
from pathlib import Path

import nbformat
import pytest
from imcl_book import figures

from imcl_core import ImclError, Record, RunConfig
from imcl_core.cli import main
from imcl_core.neighbours import NEIGHBOURS
from imcl_core.study import claims, grids, ledger, search, tables
from imcl_core.study.ledger import Ledger
from imcl_core.training.record import write_record

ROOT = Path(__file__).parents[1]
CELL = {"dataset": "cifar100", "model": "vgg16", "methods": "out", "profile": "paper"}
RUN = {"device": "Device <1>", "seconds": 1.0, "evaluation_seconds": 0.1, "images_per_s": 1.0, "peak_memory_gb": 1.0}


def record(last=25.0, best=24.0, top5=5.0, **settings):
    """A record of two epochs: first the lowest error, then the last."""
    curve = [{"epoch": i + 1, "test_error": e, "test_error_top5": top5 + i} for i, e in enumerate((best, last))]
    return Record(RunConfig(**CELL | settings), curve, RUN)


def write(folder, *written):
    return [write_record(one, folder) for one in written]


def cell(table, dataset="cifar100", model="vgg16", method="out", noise=0.0):
    """The figures of one cell."""
    data = table.data
    found = data[(data.dataset == dataset) & (data.model == model) & (data.method == method) & (data.noise == noise)]
    (figures_of_cell,) = found.to_dict("records")
    return figures_of_cell


def change(path, epoch, value):
    """Changes one error in a record."""
    content = json.loads(path.read_text())
    content["curve"][epoch]["test_error"] = value
    path.write_text(json.dumps(content))


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
                shown.append(value.html() if isinstance(value, tables.Table) else str(value))
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
    assert (cell(table, "imagenet32")["last_mean"], cell(table, "imagenet32")["best_mean"]) == (31.0, 30.0)
    assert cell(table, "stl10")["last_mean"] == 25.0


def test_each_cell_says_what_it_rests_on(tmp_path):
    (path,) = write(tmp_path / "runs", record(seed=4))
    table = tables.table("table-1", Ledger(tmp_path))
    html = table.html(tmp_path)
    assert f'<a href="runs/{path.name}">seed 4</a>' in html
    assert "profile paper<br>Device &lt;1&gt;<br>" in html
    assert (cell(table)["hardware"], cell(table)["records"]) == ("Device <1>", path.name)
    assert "Hardware: Device $<$1$>$." in table.latex()
    (page_file, *_) = table.write(tmp_path / "out")
    (link,) = re.findall(r'href="([^"]+)"', page_file.read_text())
    assert (page_file.parent / link).resolve() == path.resolve()


@pytest.mark.parametrize(("name", "source"), [("table-1", "table1"), ("table-2", "table2"), ("table-3", "table3")])
def test_rows_and_columns_are_the_papers(tmp_path, name, source):
    with (ROOT / "book/paper.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["source"] == source]
    table = tables.table(name, Ledger(tmp_path))
    assert list(table.data[["dataset", "model", "method"]].itertuples(index=False, name=None)) == [
        (row["dataset"], row["model"], row["method"]) for row in rows
    ]
    assert [f"{value:.2f}" for value in table.data.paper] == [row["value"] for row in rows]
    assert set(table.data.metric) == {row["metric"] for row in rows}
    shown = [cell.lines[1:] for row in table.rows for cell in row[1:]]
    assert shown == [(row["value"], "no run yet") for row in rows]
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


def test_a_run_renamed_to_the_default_is_damaged(tmp_path):
    (path,) = write(tmp_path, record(out_alpha=0.4))
    path.rename(tmp_path / f"{record().config.name}.json")
    with pytest.raises(ImclError, match=r"is damaged \(its name and its content differ\)"):
        tables.table("table-1", Ledger(tmp_path))
    assert len(list(tmp_path.glob("*.corrupt"))) == 1
    assert cell(tables.table("table-1", Ledger(tmp_path)))["n"] == 0


@pytest.mark.parametrize("damage", ["", "{", "[]", "null", '{"config": {}}'])
@pytest.mark.parametrize("keep", [0, 0.5])
def test_a_damaged_record_is_moved_aside_and_named(tmp_path, damage, keep):
    (path,) = write(tmp_path, record())
    text = path.read_text()
    path.write_text(text[: int(keep * len(text))] + damage)
    with pytest.raises(ImclError, match=f"{path.stem}.*is damaged.*run it again"):
        tables.table("table-1", Ledger(tmp_path))
    assert not path.exists()


@pytest.mark.parametrize("part", ["curve", "test_error", "run"])
def test_a_record_without_a_part_is_damaged(tmp_path, part):
    (path,) = write(tmp_path, record())
    content = json.loads(path.read_text())
    if part == "test_error":
        del content["curve"][0][part]
    else:
        content[part] = [] if part == "curve" else {}
    path.write_text(json.dumps(content))
    with pytest.raises(ImclError, match="is damaged"):
        tables.table("table-1", Ledger(tmp_path))


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
    change(path, epoch=1, value=40.0)
    after = tables.table("table-1", Ledger(tmp_path))
    assert cell(after)["last_mean"] == pytest.approx(cell(before)["last_mean"] + 5)
    for form in (tables.Table.html, tables.Table.csv, tables.Table.latex, str):
        assert form(before) != form(after)
    changed = page(tmp_path, monkeypatch)
    assert "25.10<br>± 0.10 (3)" in shown
    assert "25.10<br>± 0.10 (3)" not in changed
    assert "30.10<br>" in changed


def test_the_chapter_runs_without_any_record(tmp_path, monkeypatch):
    shown = page(tmp_path, monkeypatch)
    assert shown.count("no run yet") >= 130
    assert "too little evidence<br>(0 of 6 runs)" in shown


# --- Figure 2 and the study -----------------------------------------------------------------------------------------


def test_figure_2_has_a_cell_for_each_noise_level_and_error_bars(tmp_path):
    runs = [record(30 + s, seed=s, methods="baseline", noise=0.5) for s in range(3)]
    write(tmp_path, *runs, record(26.0, methods="baseline"))
    found = Ledger(tmp_path)
    table = tables.table("figure-2", found)
    assert cell(table, method="baseline", noise=0.5)["last_mean"] == 31
    assert table.columns[1:] == ("0% noise", "10% noise", "20% noise", "30% noise", "40% noise", "50% noise")
    assert [len(row) for row in table.rows] == [7] * 6
    printed, gain = tables.noise_printed()
    axis = figures.label_noise(tables.noise_errors(found), printed, gain).axes[0]
    points, _, (bars,) = axis.containers[0].lines
    assert list(points.get_ydata()) == [26.0, 31.0]
    assert [tuple(segment[:, 1]) for segment in bars.get_segments()] == [(26.0, 26.0), (30.0, 32.0)]
    crosses = [line.get_ydata()[0] for line in axis.get_lines() if line.get_marker() == "x"]
    assert crosses == list(printed.values())
    assert f"{gain:.2f} points" in axis.get_title()


def test_figure_2_without_runs_says_so(tmp_path):
    axis = figures.label_noise(tables.noise_errors(Ledger(tmp_path)), *tables.noise_printed()).axes[0]
    assert [text.get_text() for text in axis.texts] == ["no run yet: the crosses are the paper's"]


def test_the_study_is_apart_and_pairs_seeds(tmp_path):
    cpu = {"profile": "cpu", "model": "resnet18"}
    write(
        tmp_path,
        *(record(80 + s, seed=s, methods="baseline", **cpu) for s in range(3)),
        *(record(79 + 2 * s, seed=s, **cpu) for s in (1, 2, 5)),
        record(10.0, methods="mid", mid_alpha=1.0, **cpu),
        record(10.0, methods="mid", profile="smoke"),
        record(10.0, methods="cutout", **cpu),  # a neighbour
    )
    study = tables.table("study", Ledger(tmp_path))
    assert list(study.data.method) == ["baseline", "out"]
    shown = cell(study, model="resnet18")
    assert (shown["n"], shown["pairs"]) == (3, 2)
    assert shown["difference_mean"] == pytest.approx(statistics.fmean([0, 1]))
    assert shown["difference_deviation"] == pytest.approx(statistics.stdev([0, 1]))
    assert "+0.50 ± 0.71 (2)" in study.html()
    assert "paper's scale" in study.title
    for name in ("table-1", "table-3", "figure-2"):
        assert not tables.table(name, Ledger(tmp_path)).data.n.any()


def test_an_empty_study_is_a_table_too(tmp_path):
    study = tables.table("study", Ledger(tmp_path))
    assert "no run yet" in str(study)
    assert study.csv().count("\n") == 1
    assert study.latex().count(r"\\") == 1
    assert "<tbody>" in study.html()


# --- the decisions --------------------------------------------------------------------------------------------------


def test_a_decision_taken_the_other_way_stands_beside_the_same_seeds_as_decided(tmp_path):
    table = tables.table("decisions", Ledger(tmp_path))
    assert len(table.rows) == len(grids.ABLATIONS) and set(table.data.n) == {0}

    def runs(profile, errors_changed, errors_decided):
        for errors, which in ((errors_changed, 0), (errors_decided, 1)):
            for seed, error in enumerate(errors):
                config = grids.ablation("mid", {"mid_own": True}, profile, seed)[which]
                write(tmp_path, Record(config, record(error).curve, RUN))

    runs("cpu", [80.0, 82.0, 90.0], [79.0, 80.0])
    runs("paper", [21.0], [])
    found = tables.table("decisions", Ledger(tmp_path))
    assert len(found.rows) == len(grids.ABLATIONS) + 1
    at = [i for i, name in enumerate(found.data.setting) if name == "mid_own"]
    (paper, cpu), cells = found.data.iloc[at].to_dict("records"), found.rows[at[1]]
    assert (paper["profile"], paper["n"], paper["pairs"], paper["last_mean"]) == ("paper", 1, 0, 21.0)
    assert (cpu["n"], cpu["pairs"], cpu["last_mean"], cpu["difference_mean"]) == (3, 2, 84.0, 1.5)
    assert [c.lines[0] for c in cells] == [
        "mid", "CIFAR-100", "mid_own", "False", "True", "cpu", "3", "84.00 ± 5.29", "+1.50 ± 0.71 (2)", "Device <1>",
    ]  # fmt: skip
    assert {len(row) for row in found.rows} == {len(found.columns)}


# --- the neighbours -------------------------------------------------------------------------------------------------


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
    table = tables.neighbours_table(Ledger(folder), **options)
    return next((cells, data) for cells, data in zip(table.rows, table.data.to_dict("records"), strict=True)
                if data["method"] == method)  # fmt: skip


def test_the_neighbours_stand_beside_the_four_with_their_differences_and_trials(tmp_path, untuned):
    write(tmp_path, *compared({"baseline": 80.0, "kernel": 79.0, "cutout": 81.5}), *compared({"baseline": 9.0}, [3]))
    write(tmp_path, *trials({"cutout": (90.0, 89.0, None)}))
    table = tables.table("neighbours", Ledger(tmp_path))
    assert list(table.data.method) == ["baseline", *grids.STRENGTHS] and len(table.rows) == 13
    cells, data = row(tmp_path, "cutout")
    assert (data["n"], data["pairs"], data["difference_mean"], data["tried"]) == (3, 3, 1.5, 2)
    assert [cell.lines for cell in cells] == [
        ("cutout",), ("DeVries 2017",), ("cutout_size", "4: 90.00", "8: 89.00, chosen", "16: none yet"), ("3 of 3",),
        ("81.50 ± 0.00",), ("+1.50 ± 0.00 (3)",), ("Device <1>",),
    ]  # fmt: skip
    assert row(tmp_path, "baseline")[1]["last_mean"] == 80.0  # seed 3 is there to teach, and for nothing else
    cells, data = row(tmp_path, "kd")
    assert (cells[3].lines, cells[4].lines, data["pairs"]) == (("0 of 3",), ("no run yet",), 0)
    assert "2 of 36 such runs" in table.note and "9 of 39" in table.note
    html = table.html(tmp_path)
    assert re.search(r'<a href="cifar100-resnet18-cutout-cpu-seed0-\w+\.json">4</a>, <a href="[^"]+">8</a>', html)
    assert re.search(r'<a href="cifar100-resnet18-cutout-cpu-seed2-\w+\.json">seed 2</a>', html)


def test_operations_are_a_column_where_they_are_given(tmp_path):
    table = tables.neighbours_table(Ledger(tmp_path), {"baseline": 1.0, "kd": 1.5})
    assert "operations" in table.columns and {len(cells) for cells in table.rows} == {len(table.columns)}
    assert row(tmp_path, "kd", operations={"kd": 1.5})[0][6].lines == ("1.50",)
    assert "operations" not in tables.table("neighbours", Ledger(tmp_path)).columns


def test_one_changed_number_changes_the_comparison(tmp_path, untuned):
    runs = compared({"baseline": 80.0, "hsic": 81.0})
    *_, path = write(tmp_path, *runs)
    (tried,) = write(tmp_path, *trials({"hsic": (None, 90.0, None)}))
    before = tables.table("neighbours", Ledger(tmp_path))
    change(path, epoch=1, value=84.0)
    after = tables.table("neighbours", Ledger(tmp_path))
    change(tried, epoch=1, value=95.0)
    last = tables.table("neighbours", Ledger(tmp_path))
    means = [table.data.set_index("method").difference_mean["hsic"] for table in (before, after)]
    assert means == [pytest.approx(1.0), pytest.approx(2.0)]
    for form in (tables.Table.html, tables.Table.csv, tables.Table.latex, str):
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


def test_each_method_is_tried_at_three_strengths_with_its_default_among_them():
    assert grids.TUNED.keys() == grids.STRENGTHS.keys() == {*grids.SINGLES, *NEIGHBOURS}
    for method, strengths in grids.STRENGTHS.items():
        runs = [RunConfig(methods=method, **strength) for strength in strengths]
        assert len({run.key for run in runs}) == 3 and RunConfig(methods=method) in runs
        assert grids.TUNED[method] in strengths


def test_the_compared_runs_have_the_strengths_that_the_trials_chose():
    chosen = search.chosen(ledger.records(ROOT / "results/neighbours"))
    if missing := [method for method in grids.TUNED if method not in chosen]:
        pytest.skip(f"trials are missing of {', '.join(missing)}")
    assert chosen == grids.TUNED


def test_a_neighbours_strength_is_named_where_weights_are_searched():
    assert search.difference(RunConfig(methods="hsic", hsic_weight=0.003)) == "hsic_weight=0.003"


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
    assert "0 of 36 trials are there" in said and "too few pairs: 12" in said and "kd (0 of 3)" in said
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
    assert "hsic (2 of 3)" in said and len(few) == 8
    assert "6 of 36 trials are there; all three of 2 of 12 methods" in said
    assert "another one in: hsic" in said and "may lie beyond: hsic" in said
    assert "predsim less kernel: -1.00 points, from -1.00 to -1.00: predsim is better" in said
    assert "8 bounds were compared with zero" in said


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
    assert tables._latex(r"50 % & a_b \ {#}") == r"50 \% \& a\_b \textbackslash{} \{\#\}"


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
    cells = [config for profile in ("paper", "cpu") for name in names for config in grids.grid(name, profile)]
    cells, curve = list({config.key: config for config in cells}.values()), record().curve
    for i in range(count):
        config = cells[i % len(cells)]
        object.__setattr__(config, "seed", i // len(cells))
        content = {"name": config.name, "config": dataclasses.asdict(config), "curve": curve, "run": RUN}
        (tmp_path / f"{config.name}.json").write_text(json.dumps(content))
    began = time.process_time()
    shown = every_table(tmp_path)
    for table in shown:
        table.html(), table.csv(), table.latex()
    seconds = time.process_time() - began
    assert (shown[0].data.n >= count // len(cells)).all()
    assert shown[4].data.n.sum() > 0.4 * count
    assert seconds < 2 * BUSY


BUSY = 2  # where another process shares the core, the processor's own time nearly doubles


# --- no number typed by hand ----------------------------------------------------------------------------------------

# A share or a difference of errors in words around a number. Settings and results alike are looked up: {paper},
# {setting}, or printed by a cell. A share that is part of a sentence's sense can be written out, "half of the labels".
TYPED = re.compile(r"\d(?:[\d.,]*\d)?\s*(?:\\?%|per\s?cent|percentage points)|\d\.\d+\s*points")
QUOTED = {"errata.ipynb": ["9.28%"]}  # the paper's own words, on the page about them; all others are looked up
NOT_PROSE = re.compile(r"^(```|~~~).*?^\1|`[^`\n]+`", re.MULTILINE | re.DOTALL)
PROSE = (*sorted((ROOT / "book").glob("*.md")), *sorted((ROOT / "notebooks").glob("*.ipynb")))


def typed_percentages(path):
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = nbformat.reads(text, as_version=4).cells
        text = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    return TYPED.findall(NOT_PROSE.sub("", text))


@pytest.mark.parametrize("path", PROSE, ids=lambda path: path.name)
def test_no_percentage_is_typed(path):
    assert typed_percentages(path) == QUOTED.get(path.name, [])


def test_typed_percentages_are_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "5 % and 3.5%, $7\\%$, 12 per cent, 0.96 points; not `5 %`, {paper}`table1/x` %, 3 points\n```\n9 %\n```"
    )
    assert typed_percentages(page) == ["5 %", "3.5%", "7\\%", "12 per cent", "0.96 points"]
