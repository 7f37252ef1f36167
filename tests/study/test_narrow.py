"""The narrow reproduction: its table, what stands beside the paper's gains, and how far it has come."""

import statistics

import pytest
from made_records import cell, record, write

from imcl_core.study import grids, tables
from imcl_core.study.ledger import Ledger
from imcl_core.study.tables import advice, judge, narrow


def test_the_narrow_reproduction_is_apart_pairs_seeds_and_is_judged_as_a_proxy(tmp_path):
    place = {"dataset": "stl10", "profile": "narrow", "model": "resnet18"}
    write(
        tmp_path,
        *(record(33 + s, seed=s, methods="baseline", **place) for s in range(3)),
        *(record(28 + s + s % 2, seed=s, **place) for s in (0, 1, 2, 5)),
        *(record(33 + s, seed=s, methods="kernel", **place) for s in range(3)),
        record(43.0, methods="baseline", augment=False, **place),
        record(40.0, methods="pull-push", augment=False, **place),
        record(34.0, methods="baseline", lr=0.025, **place),
        record(30.0, methods="baseline", **grids.TUNED_BASELINE, **place),
        record(10.0, methods="mid", mid_alpha=1.0, **place),
        record(10.0, methods="mid", dataset="stl10", profile="smoke"),
        record(10.0, methods="cutout", **place),  # a neighbour
        record(11.0, methods="cutout", augment=False, **place),
    )
    table = tables.table("narrow", Ledger(tmp_path))
    assert [" ".join(cells[1].lines) for cells in table.rows] == [
        "baseline", "out", "baseline at half its rate", "kernel", "baseline tuned", "cutout", "baseline", "pull-push",
        "cutout",
    ]  # fmt: skip
    assert table.data["gain"].iloc[-1] == 32.0  # over the baseline without augmentation

    here = {"dataset": "stl10", "model": "resnet18"}
    out, kernel = (cell(table, method=method, **here) for method in ("out", "kernel"))
    slow, plain = cell(table, method="baseline", lr=0.025, **here), cell(table, method="pull-push", **here)
    assert (out["n"], out["pairs"], out["paper_gain"], out["verdict"]) == (4, 3, 5.42, "supported")
    assert out["gain"] == pytest.approx(statistics.fmean([5, 4, 5]))
    assert (out["lower"], out["upper"]) == pytest.approx(judge.bounds([5, 4, 5]))
    assert kernel["verdict"] == "not supported"  # and by a proxy not refuted
    assert plain["gain"] == 3 and plain["verdict"] == "too little evidence (2 of 6 runs)"
    assert slow["gain"] == -1 and slow["verdict"] == ""
    assert cell(table, method="baseline", lr=grids.TUNED_BASELINE["lr"], **here)["gain"] == 3
    assert "+4.67 ± 0.58" in table.html() and "never refutes" in table.note
    for name in ("table-2", "figure-2"):
        assert not tables.table(name, Ledger(tmp_path)).data.n.any()


@pytest.mark.parametrize("model", ["resnet18", "vgg16"])
def test_where_the_paper_prints_no_gain_there_are_bounds_and_no_verdict(tmp_path, model):
    place = {"dataset": "stl10", "profile": "narrow", "model": model}
    write(tmp_path, *(record(33 + s, seed=s, methods="baseline", **place) for s in range(3)))
    others = {"tree": {}, "baseline-2x": {}, "baseline": {"lr": 0.025}}  # VGG-16's 2x is printed as worse
    for methods, settings in others.items():
        write(tmp_path, *(record(32 + s * s, seed=s, methods=methods, **settings, **place) for s in range(3)))
    table = tables.table("narrow", Ledger(tmp_path))
    for methods, settings in others.items():
        found = cell(table, dataset="stl10", model=model, method=methods, **settings)
        assert (found["lower"], found["upper"]) == pytest.approx(judge.bounds([1, 1, -1]))
        printed = methods == "baseline-2x" and model == "resnet18"
        assert bool(found["verdict"]) == printed


def test_what_is_known_stands_beside_what_the_paper_prints(tmp_path):
    assert narrow.beside_the_paper(Ledger(tmp_path)) == {}
    place = {"dataset": "stl10", "profile": "narrow", "model": "vgg16"}
    for augment in (True, False):
        write(tmp_path, *(record(30, seed=s, methods="baseline", augment=augment, **place) for s in range(2)))
    write(tmp_path, *(record(29 - s, seed=s, methods="kernel", **place) for s in range(2)))
    write(tmp_path, record(28, methods="kernel", augment=False, **place))
    wide = place | {"profile": "paper", "augment": False}
    write(tmp_path, record(25, methods="baseline", **wide), record(24.5, methods="kernel", **wide))
    write(tmp_path, record(25, methods="baseline", **wide | {"augment": True}))  # without its pair
    ((case, methods),) = narrow.beside_the_paper(Ledger(tmp_path)).items()
    assert case == "VGG-16 on STL-10" and list(methods) == [*grids.COLUMNS[1:]]
    assert methods["kernel"] == {"paper": [0.72], "augmented": [1, 2], "not augmented": [2], "wide": [0.5]}
    assert methods["mid"] == {"paper": [1.38]}
    assert narrow.beside_the_paper(Ledger(tmp_path), ["kernel"]) == {case: {"kernel": methods["kernel"]}}


def test_a_gain_is_told_in_a_sentence_with_its_bounds_and_the_verdict(tmp_path):
    assert narrow.told(Ledger(tmp_path), "kernel") == ["No pair of runs yet."]
    place = {"dataset": "stl10", "profile": "narrow", "model": "vgg16"}
    write(tmp_path, *(record(30, seed=s, methods="baseline", **place) for s in range(3)))
    write(tmp_path, *(record(29 - s / 10, seed=s, methods="kernel", **place) for s in range(3)))
    assert narrow.told(Ledger(tmp_path), "kernel") == [
        "VGG-16 on STL-10: +1.10 points, from +0.93 to +1.27, n = 3: supported"
    ]
    write(tmp_path, record(30, methods="baseline", augment=False, **place))
    write(tmp_path, record(31, methods="kernel", augment=False, **place))
    assert narrow.told(Ledger(tmp_path), "kernel")[1] == (
        "VGG-16 on STL-10, no augmentation: −1.00 points, n = 1: too little evidence (2 of 6 runs)"
    )


def test_the_reproduction_counts_the_cells_it_set_out_to_run_whatever_else_has_records(tmp_path):
    place = {"dataset": "stl10", "profile": "narrow", "model": "vgg16"}
    write(tmp_path, *(record(30, seed=s, methods="baseline", **place) for s in range(3)), record(29, **place))
    sentence = "Of its 91 cells, 2 have a run and 1 have 3 seeds or more."
    assert narrow.reached(Ledger(tmp_path)) == sentence
    write(tmp_path, record(29, methods="cutout", **place))  # a neighbour, and a trial of the search for weights
    write(tmp_path, record(40, methods="kernel", model="vgg16", profile="narrow", **grids.SEARCH))
    table = tables.table("narrow", Ledger(tmp_path))
    assert sentence in table.note and len(table.rows) == 3


def test_pull_push_without_its_projection_is_a_row_of_its_own_of_which_the_paper_claims_nothing(tmp_path):
    place = {"dataset": "stl10", "profile": "narrow", "model": "vgg16"}
    for methods, change, errors in (
        ("baseline", {}, (34.0, 33.0, 35.0)),
        ("pull-push", {}, (32.0, 32.0, 33.0)),
        ("pull-push", grids.WITHOUT_PROJECTION, (30.0, 30.0, 30.5)),
    ):
        write(tmp_path, *(record(e, seed=s, methods=methods, **place, **change) for s, e in enumerate(errors)))
    known = {gain.method: gain for gain in narrow.gains(Ledger(tmp_path))}
    assert [*known] == ["pull-push", "pull-push without projection"]
    found = known["pull-push without projection"]
    assert found.printed is None and not found.verdict.outcome and found.verdict.mean == pytest.approx(23 / 6)
    assert len(narrow.told(Ledger(tmp_path), "pull-push")) == 1
    assert [*narrow.beside_the_paper(Ledger(tmp_path))["VGG-16 on STL-10"]["pull-push"]["augmented"]] == [2.0, 1.0, 2.0]
    times = {("vgg16", "pull-push"): 2.0, ("vgg16", "pull-push without projection"): 1.1}
    counted = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(advice, "_memory", lambda *case: counted.append(case) or 1.5)
        rows = advice.choices(Ledger(tmp_path), times).set_index("method")
    assert list(rows.time) == [1.1, 2.0] and list(rows.index) == ["pull-push without projection", "pull-push"]
    assert counted == [("stl10", "vgg16", "pull-push", way) for way in ("3x3", "none")]


def test_rows_of_one_network_and_data_stand_together_and_rates_are_told_in_full(tmp_path):
    for model in ("resnet18", "vgg16"):
        place = {"dataset": "stl10", "profile": "narrow", "model": model}
        slow = {"lr": 0.025}  # in the grid it comes behind the columns, as what is a neighbour's does
        write(
            tmp_path,
            *(record(30, **place, **more) for more in ({"methods": "baseline"}, slow | {"methods": "baseline"})),
        )
        write(tmp_path, record(29, methods="cutout", **place))
    table = tables.table("narrow", Ledger(tmp_path))
    assert [row[0].lines[0] for row in table.rows] == 3 * ["ResNet-18 on STL-10"] + 3 * ["VGG-16 on STL-10"]
    assert " 0.025 " in str(table) and " 0.03 " not in str(table)


def test_an_empty_reproduction_is_a_table_too(tmp_path):
    table = tables.table("narrow", Ledger(tmp_path))
    assert "no run yet" in str(table)
    assert table.csv().count("\n") == 1
    assert table.latex().count(r"\\") == 1
    assert "<tbody>" in table.html()


def test_errors_of_imagenet32_are_top_5(tmp_path):
    write(tmp_path, record(dataset="imagenet32", top5=30.0))
    assert judge.last_errors(record(dataset="imagenet32").config, Ledger(tmp_path)) == {0: 31.0}


def test_noisy_runs_are_compared_with_noisy_baselines(tmp_path):
    place = {"profile": "narrow", "noise": 0.5}
    write(
        tmp_path,
        record(40.0, methods="baseline", profile="narrow"),
        record(60.0, methods="baseline", **place),
        record(57.0, methods=grids.BEST[0], **place),
    )
    found = cell(tables.table("narrow", Ledger(tmp_path)), method=grids.BEST[0], noise=0.5)
    assert (found["gain"], found["paper_gain"]) == (3.0, 3.53)


def test_where_the_paper_claims_nothing_there_is_no_verdict_however_few_the_seeds(tmp_path):
    write(tmp_path, *(record(e, methods=m, seed=s) for m, e in (("baseline", 40.0), ("out", 39.0)) for s in (0, 1)))
    pair = [(1, record(methods="baseline").config), (-1, record(methods="out").config)]
    found = judge.verdict(pair, 0.0, Ledger(tmp_path))
    assert (found.outcome, found.n, found.mean) == ("", 2, 1.0)
