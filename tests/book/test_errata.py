"""The page of errata: verdicts follow from numbers, a changed table changes them, and every known slip is found."""

from decimal import Decimal
from pathlib import Path

import pandas as pd
import pytest
from imcl_book.figures.errata import claims_against_tables

from imcl_core.study.notebook import read

ROOT = Path(__file__).parents[2]
PAPER = "../imcl_core/study/paper.csv"
KNOWN_SLIPS = {
    "wide-helps", "imagenet-resnet18-single", "cifar10-single", "cifar10-over-single", "eq1-index", "eq2-temperature",
    "eq6-weights",
}  # fmt: skip


def run(paper_csv):
    """What the notebook's cells leave behind when they read this copy of the paper's tables."""
    names = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT / "notebooks")
        for cell in read("errata.ipynb").cells:
            if cell.cell_type == "code":
                exec(cell.source, names)
                if "parameters" in cell.metadata.get("tags", []):
                    names["paper_csv"] = str(paper_csv)
    return names


@pytest.fixture(scope="module")
def page():
    return run(PAPER)


def verdicts(page):
    """Every verdict on the page by id: those of the text, the tables and the equations."""
    return pd.concat([page["claims"].verdict, page["tables"].verdict, page["equations"].verdict])


@pytest.mark.parametrize(
    ("claim", "found", "expected"),
    [
        ("9.28", ["9.28"], "holds"),
        ("1.00", ["1"], "holds"),
        ("9.28", ["9.29"], "rounding"),
        ("9.28", ["9.26"], "slip"),
        ("2.19", ["2.09"], "slip"),
        ("1.5", ["1.5006"], "rounding"),
        ("4", ["3"], "slip"),
        ("50", ["50"], "holds"),
        ("each", [True, True], "holds"),
        ("each", [True, False], "slip"),
        ("0.5", [], "cannot be checked"),
    ],
)
def test_a_verdict_follows_from_the_numbers(page, claim, found, expected):
    results = [Decimal(x) if isinstance(x, str) else x for x in found]
    assert page["verdict"](claim, results) == expected


def test_each_claim_is_either_computed_or_has_a_reason(page):
    claims, found = page["claims"], page["found"]
    assert claims.index.is_unique and len(claims) > 100
    for name, row in claims.iterrows():
        assert bool(row.expression) == bool(found[name]) == (not row.reason), name
        assert row.verdict == page["verdict"](row.claim, found[name]), name
        assert 0 < len(row.quote.split()) <= 12, name


def test_formulas_give_what_the_tables_print(page):
    recompute, printed = page["recompute"], pd.read_csv(ROOT / "imcl_core/study/paper.csv", dtype=str)
    cell = printed.set_index(["source", "dataset", "model", "method"])["value"].map(Decimal).sort_index()
    stl10 = cell["table2", "stl10", "vgg16"]
    assert recompute("stl10/vgg16: baseline - pull-push") == [stl10["baseline"] - stl10["pull-push"]]
    singles = [stl10[method] for method in ("out", "mid", "pull-push", "kernel")]
    assert recompute("stl10/vgg16: single") == singles
    assert recompute("stl10/vgg16: best single") == [min(singles)]
    assert recompute("stl10/vgg16: worst single") == [max(singles)]
    assert recompute("stl10/vgg16: single < mid") == [error < stl10["mid"] for error in singles]
    memory = cell["memory", "64x3x64x64", "resnet101"]
    (beyond,) = recompute("64x3x64x64/resnet101: tree beyond baseline")
    assert 1 + beyond == memory["tree"] / memory["baseline"]
    assert [len(recompute(f"{place}: baseline")) for place in ("*/*", "cifar*/*", "*/vgg16")] == [8, 4, 4]
    assert len(recompute("cifar100/resnet18: out+any < any")) == 7


@pytest.mark.parametrize("formula", ["stl10/vgg16: baselin - mid", "stl10/vgg19: mid", "text: no-such-claim"])
def test_a_mistyped_formula_is_no_verdict(page, formula):
    with pytest.raises(KeyError):
        page["recompute"](formula)


def test_every_known_slip_is_found_and_explained(page):
    called = verdicts(page)
    slips = set(called.index[called == "slip"])
    assert slips >= KNOWN_SLIPS
    explained = pd.read_csv(ROOT / "book/slips.csv", index_col="id")
    assert slips == set(explained.index) == set(page["slips"].index)
    assert explained.notna().all(axis=None)


CHANGES = {
    "table2,stl10,top1_error,resnet18,baseline,33.31": ("33.41", {"abstract-stl10-resnet18": "slip"}),
    "table2,stl10,top1_error,vgg16,baseline-2x,39.70": ("29.70", {"wide-helps": "holds"}),
    "table2,imagenet32,top5_error,resnet18,mid,22.01": (
        "21.91",
        {"imagenet-resnet18-single": "holds", "imagenet-over-single": "slip"},
    ),
    "table2,stl10,top1_error,vgg16,kernel,29.53": ("30.25", {"abstract-each": "slip", "conclusion-each": "slip"}),
    "table3,cifar100,top1_error,vgg16,mid,24.93": ("24.94", {"repeats": "slip"}),
    "table3,cifar100,top1_error,vgg16,out+kernel,25.62": ("25.64", {"vgg16-with-out": "slip"}),
    "memory,64x3x64x64,training_memory_gb,resnet101,tree,13.16": ("21.93", {"memory-beyond": "rounding"}),
}


@pytest.mark.parametrize("line", CHANGES)
def test_a_changed_number_changes_its_verdicts(page, tmp_path, line):
    number, expected = CHANGES[line]
    before = (ROOT / "imcl_core/study/paper.csv").read_text(encoding="utf-8")
    assert before.count(line + "\n") == 1
    copy = tmp_path / "paper.csv"
    copy.write_text(before.replace(line, line.rpartition(",")[0] + "," + number), encoding="utf-8")
    old, new = verdicts(page), verdicts(run(copy))
    for name, verdict in expected.items():
        assert old[name] != new[name] == verdict, name


def test_the_figure_labels_what_differs_and_nothing_else():
    figure = claims_against_tables([("a", 2.19, 2.09), ("b", 4.0, 4.0), ("c", 0.3, 0.3)])
    (axis,) = figure.axes
    points = [(line.get_xdata()[0], line.get_ydata()[0]) for line in axis.get_lines() if line.get_marker() in "oD"]
    assert points == [(2.19, pytest.approx(0.1)), (4.0, 0.0), (0.3, 0.0)]
    assert [text.get_text() for text in axis.texts] == ["a\nsays 2.19, tables 2.09"]
