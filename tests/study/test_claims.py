"""The ledger of claims: sizes from the paper, verdicts from records, and each by a test that can be worked by hand."""

import csv
import itertools
import math
import statistics
from pathlib import Path

import made_records
import numpy as np
import pytest
from scipy import stats

from imcl_core import RunConfig
from imcl_core.study.grids import SINGLES
from imcl_core.study.ledger import Ledger
from imcl_core.study.tables import claims
from imcl_core.study.tables.claims import Claim, judge
from imcl_core.study.tables.judge import NOT_SUPPORTED, REFUTED, SUPPORTED, TOO_LITTLE, bounds, settle
from imcl_core.study.tables.write import NAMES
from imcl_core.training.record import Record

ROOT = Path(__file__).parents[2]
PLACE = ("cifar100", "vgg16")
GAIN = Claim("", "out lowers the error", "", 1.0, ((1, (*PLACE, "baseline", 0.0)), (-1, (*PLACE, "out", 0.0))))
RUN = {"device": "cpu", "seconds": 1.0, "evaluation_seconds": 0.1, "images_per_s": 1.0, "peak_memory_gb": 1.0}


def write(folder, methods, errors, seeds=None, noise=0.0, profile="paper", best=1.0, **settings):
    """A record a seed, with these errors at the last epoch."""
    dataset, model = PLACE
    paths = []
    for seed, error in zip(seeds or itertools.count(), errors, strict=False):
        config = RunConfig(
            dataset=dataset, model=model, methods=methods, seed=seed, noise=noise, profile=profile, **settings
        )
        curve = [{"epoch": i, "test_error": e, "test_error_top5": 1.0} for i, e in ((1, best), (2, error))]
        paths += made_records.write(folder, Record(config, curve, RUN))
    return paths


def verdict(folder, claim=GAIN, profile="paper"):
    return judge(claim, Ledger(folder), profile)


# --- the claims -----------------------------------------------------------------------------------------------------


def test_sizes_are_the_papers():
    with (ROOT / "imcl_core/study/paper.csv").open() as file:
        rows = {(r["source"], r["dataset"], r["model"], r["method"]): float(r["value"]) for r in csv.DictReader(file)}
    by_statement = {claim.statement: claim for claim in claims.claims()}
    for source, dataset, model in {key[:3] for key in rows if key[0] in ("table1", "table2")}:
        name = f"{NAMES[model]} on {NAMES[dataset]}"
        value = {key[3]: number for key, number in rows.items() if key[:3] == (source, dataset, model)}
        single = min(SINGLES, key=value.get)
        best = {"vgg16": "out+mid+pull-push", "resnet18": "mid+pull-push+kernel"}[model]
        for methods in SINGLES:
            claim = by_statement[f"{methods} lowers the error, {name}"]
            assert claim.size == pytest.approx(value["baseline"] - value[methods])
            assert [cell for _, cell in claim.cells] == [(dataset, model, m, 0.0) for m in ("baseline", methods)]
        combining = by_statement[f"{best} is better than the best single one, {single}, {name}"]
        assert combining.size == pytest.approx(value[single] - value[best])
    growth = by_statement["The gain of out+mid+pull-push grows with noise"]
    assert growth.size == pytest.approx(3.53 - (26.94 - 24.18))
    all_four = by_statement["All four are not best: out+mid+pull-push is better, VGG-16 on CIFAR-100"]
    assert all_four.size == pytest.approx(24.89 - 24.18)


def test_each_claim_is_there_once_and_is_one_of_a_positive_size():
    found = claims.claims()
    assert len({claim.statement for claim in found}) == len(found) > 60
    assert all(claim.size > 0 for claim in found)
    assert not any("baseline (2x), VGG-16 on STL-10" in claim.statement for claim in found)
    for claim in found:
        if isinstance(claim, Claim):
            assert sum(sign for sign, _ in claim.cells) == 0
            assert f"{claim.size / 2:.2f} points" in claim.test


# --- the test -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("degrees", "t"), [(1, 6.313752), (2, 2.919986), (3, 2.353363), (4, 2.131847), (9, 1.833113), (30, 1.697261)]
)
def test_the_bounds_reach_as_far_as_students_t_of_the_books(degrees, t):
    values = np.arange(degrees + 1.0)
    lower, upper = bounds(list(values))
    assert (lower + upper) / 2 == pytest.approx(values.mean())
    assert (upper - lower) / 2 == pytest.approx(t * values.std(ddof=1) / math.sqrt(degrees + 1), rel=1e-6)


def test_bounds_cover_the_truth_as_often_as_they_say():
    draws = np.random.default_rng(0).normal(2.0, 1.0, (4000, 4))
    lower, upper = np.array([bounds(list(values)) for values in draws]).T
    assert np.mean(lower > 2) == pytest.approx(0.05, abs=0.012)
    assert np.mean(upper < 2) == pytest.approx(0.05, abs=0.012)


@pytest.mark.parametrize(
    ("lower", "upper", "outcome"),
    [
        (0.1, 0.9, SUPPORTED), (0.1, 0.5, SUPPORTED), (0.1, 0.49, NOT_SUPPORTED), (-0.1, 0.49, NOT_SUPPORTED),
        (-2.0, -1.0, NOT_SUPPORTED), (-0.1, 0.5, TOO_LITTLE), (0.0, 3.0, TOO_LITTLE), (2.0, 3.0, SUPPORTED),
    ],
)  # fmt: skip
def test_the_three_outcomes(lower, upper, outcome):
    assert settle(lower, upper, size=1.0) == outcome


def test_a_verdict_by_hand(tmp_path):
    write(tmp_path, "baseline", [26.0, 26.2, 26.4])
    write(tmp_path, "out", [25.0, 25.1, 25.5])
    found = verdict(tmp_path)
    gains = [1.0, 1.1, 0.9]
    assert (found.outcome, found.n, str(found)) == (SUPPORTED, 3, "supported")
    assert found.mean == pytest.approx(1.0)
    reach = 2.919986 * statistics.stdev(gains) / math.sqrt(3)
    assert (found.lower, found.upper) == pytest.approx((1 - reach, 1 + reach), abs=1e-5)


def test_one_changed_number_changes_the_verdict_and_the_page(tmp_path):
    write(tmp_path, "baseline", [26.0, 26.2, 26.4])
    path, *_ = write(tmp_path, "out", [25.0, 25.1, 25.5])
    before = claims.claims_table(Ledger(tmp_path))
    made_records.change(path, epoch=-1, value=26.5)
    after = claims.claims_table(Ledger(tmp_path))
    (i,) = np.flatnonzero(before.data.claim == "out lowers the error, VGG-16 on CIFAR-100")
    assert before.data.verdict[i] == "supported"
    assert after.data.verdict[i].startswith("too little evidence (6 of ")
    for form in (type(before).html, type(before).csv, type(before).latex, str):
        assert form(before) != form(after)


def test_only_seeds_with_every_run_count(tmp_path):
    write(tmp_path, "baseline", [26.0] * 3, seeds=(0, 1, 2))
    write(tmp_path, "out", [25.0] * 3, seeds=(2, 3, 4))
    found = verdict(tmp_path)
    assert (found.outcome, found.n, found.mean) == (TOO_LITTLE, 1, 1.0)
    assert str(found) == "too little evidence (4 of 6 runs)"
    write(tmp_path, "out", [25.0, 25.0], seeds=(0, 1))
    assert str(verdict(tmp_path)) == "supported"


def test_two_seeds_settle_nothing_however_clear(tmp_path):
    write(tmp_path, "baseline", [26.0, 26.1])
    write(tmp_path, "out", [25.0, 25.1])
    assert str(verdict(tmp_path)) == "too little evidence (4 of 6 runs)"


def test_without_runs_nothing_is_settled(tmp_path):
    assert str(verdict(tmp_path)) == "too little evidence (0 of 6 runs)"
    data = claims.claims_table(Ledger(tmp_path)).data
    assert data.verdict.str.startswith("too little evidence (0 of ").all()
    assert data["mean"].isna().all()


def test_the_runs_that_would_settle_it_are_more_than_there_are_and_enough(tmp_path):
    gains = [0.9, 0.1, 0.5]
    write(tmp_path, "baseline", [26.0] * 3)
    write(tmp_path, "out", [26.0 - gain for gain in gains])
    found = verdict(tmp_path)
    assert (found.outcome, found.runs) == (TOO_LITTLE, 6)
    seeds, deviation = found.needed // 2, statistics.stdev(gains)
    reach = [stats.t.ppf(0.95, n - 1) * deviation / math.sqrt(n) for n in (seeds - 1, seeds)]
    assert reach[0] > GAIN.size / 4 >= reach[1]
    assert 3 < seeds < 30


def test_the_last_epoch_decides_not_the_best(tmp_path):
    write(tmp_path, "baseline", [26.0, 26.2, 26.4], best=26.0)
    write(tmp_path, "out", [26.0, 26.1, 26.5], best=20.0)
    assert verdict(tmp_path).outcome == REFUTED


def test_a_refutation_needs_the_papers_protocol_its_baseline_and_every_seed(tmp_path):
    nothing, baseline = [26.0, 26.1, 26.5], [26.0, 26.2, 26.4]
    cases = {
        "refuted": ("paper", baseline, nothing),
        "a proxy": ("narrow", baseline, nothing),
        "another baseline": ("paper", [b + 4 for b in baseline], [n + 4 for n in nothing]),
        "one seed says yes": ("paper", baseline * 2, [28.0, 28.0, 28.0, 28.0, 28.0, 25.5]),
    }
    for name, (profile, of_baseline, of_out) in cases.items():
        write(tmp_path / name, "baseline", of_baseline, profile=profile, best=of_baseline[0])
        write(tmp_path / name, "out", of_out, profile=profile)
        expected = REFUTED if name == "refuted" else NOT_SUPPORTED
        assert verdict(tmp_path / name, profile=profile).outcome == expected, name


def test_other_settings_and_profiles_never_decide(tmp_path):
    for settings in ({"profile": "narrow"}, {"lr": 0.05}, {"validation": True}, {"train_size": 1000}):
        write(tmp_path, "baseline", [26.0] * 3, **settings)
        write(tmp_path, "out", [25.0, 25.1, 24.9], **settings)
    assert str(verdict(tmp_path)) == "too little evidence (0 of 6 runs)"
    assert str(verdict(tmp_path, profile="narrow")) == "supported"
    row = claims.claims_table(Ledger(tmp_path)).data.set_index("claim").loc["out lowers the error, VGG-16 on CIFAR-100"]
    assert (row.verdict, row.narrow_verdict) == ("too little evidence (0 of 6 runs)", "supported")


def test_a_claim_on_stl10_is_tested_on_augmented_runs_and_on_plain_ones(tmp_path):
    place = {"dataset": "stl10", "model": "resnet18", "profile": "narrow"}
    for augment, gain in ((True, 0.1), (False, 8.0)):
        for seed in range(3):
            for methods, error in (("baseline", 40.0 + seed), ("out", 40.0 + seed - gain - seed / 100)):
                made_records.write(
                    tmp_path, made_records.record(error, methods=methods, seed=seed, augment=augment, **place)
                )
    table = claims.claims_table(Ledger(tmp_path))
    rows = table.data.set_index("claim")
    row = rows.loc["out lowers the error, ResNet-18 on STL-10"]
    assert (row.narrow_verdict, row.plain_narrow_verdict) == ("not supported", "supported")
    assert (row.narrow_mean, row.plain_narrow_mean) == (pytest.approx(0.11), pytest.approx(8.01))
    assert row.plain_verdict == "too little evidence (0 of 6 runs)"
    cells = table.rows[rows.index.get_loc(row.name)]
    assert cells[-1].lines[:2] == ("not supported", "+0.11") and "not augmented:" in cells[-1].lines
    assert "not augmented:" in cells[-2].lines
    elsewhere = rows.loc["out lowers the error, ResNet-18 on CIFAR-100"]  # as the paper it follows does
    assert (elsewhere.plain_verdict, elsewhere.plain_narrow_verdict) == ("", "")


def test_gains_that_grow_with_noise_need_four_runs_a_seed(tmp_path):
    claim = next(claim for claim in claims.claims() if "grows with noise" in claim.statement)
    best = "out+mid+pull-push"
    write(tmp_path, "baseline", [26.0, 26.1, 26.2])
    write(tmp_path, best, [24.0, 24.2, 24.1])
    write(tmp_path, "baseline", [40.0, 40.1, 40.3], noise=0.5)
    assert str(verdict(tmp_path, claim)) == "too little evidence (9 of 12 runs)"
    write(tmp_path, best, [37.0, 37.1, 37.3], noise=0.5)
    found = verdict(tmp_path, claim)
    assert found.mean == pytest.approx(statistics.fmean([1.0, 1.1, 0.9]))
    assert found.outcome == SUPPORTED


def test_memory_is_counted_and_compared_with_the_papers_ratio(tmp_path):
    out, tree = (claim for claim in claims.claims() if claim.group == "memory")
    empty = Ledger(tmp_path)
    assert str(judge(out, empty)) == "too little evidence (0 of 2 runs)"
    assert str(judge(tree, empty, memory={"baseline": 1})) == "too little evidence (1 of 2 runs)"
    counted = {"baseline": 1000, "out": 1004, "tree": 1550}
    assert [judge(claim, empty, memory=counted).outcome for claim in (out, tree)] == [SUPPORTED, SUPPORTED]
    counted = {"baseline": 1000, "out": 1020, "tree": 1700}
    assert [judge(claim, empty, memory=counted).outcome for claim in (out, tree)] == [NOT_SUPPORTED, NOT_SUPPORTED]
    assert judge(tree, empty, memory=counted).mean == 1.7


def test_the_paper_s_case_is_counted():
    counted = claims.counted_memory()
    assert counted["tree"] > 1.4 * counted["baseline"]
    assert counted["out"] <= 1.01 * counted["baseline"]


@pytest.mark.parametrize(("last", "best", "outcome"), [(26.0, 20.0, NOT_SUPPORTED), (40.0, 26.0, REFUTED)])
def test_a_refutation_asks_the_baseline_at_its_best_epoch_as_the_paper_prints_it(tmp_path, last, best, outcome):
    write(tmp_path, "baseline", [last, last + 0.2, last + 0.4], best=best)
    write(tmp_path, "out", [last, last + 0.1, last + 0.5])
    assert verdict(tmp_path).outcome == outcome


def stated(start, place=""):
    """The claim of a statement that begins so, about a network and its data."""
    (found,) = (c for c in claims.claims() if c.statement.startswith(start) and place in c.statement)
    return found


def test_a_claim_of_two_methods_is_refuted_where_the_baseline_beside_them_is_the_papers(tmp_path):
    claim = stated("out+mid+pull-push is better than the best single one", "VGG-16 on CIFAR-100")
    for _, (_, _, methods, _) in claim.cells:
        write(tmp_path, methods, [25.0, 25.1, 25.2])
    assert verdict(tmp_path, claim).outcome == NOT_SUPPORTED
    write(tmp_path, "baseline", [26.0, 26.1, 26.2], best=26.0)
    assert verdict(tmp_path, claim).outcome == REFUTED


def test_under_noise_it_is_the_baseline_without_that_is_held_against_the_papers(tmp_path):
    claim = stated("out lowers the error where half the labels are noise", "")
    for methods in ("baseline", "out"):
        write(tmp_path, methods, [40.0, 40.1, 40.2], noise=0.5, best=40.0)
    assert verdict(tmp_path, claim).outcome == NOT_SUPPORTED
    write(tmp_path, "baseline", [26.0, 26.1, 26.2], best=26.0)
    assert verdict(tmp_path, claim).outcome == REFUTED


def test_runs_without_augmentation_are_refuted_by_a_baseline_without(tmp_path):
    claim = stated("out lowers the error", "ResNet-18 on STL-10")
    for methods, seed in itertools.product(("baseline", "out"), range(3)):
        plain = {"dataset": "stl10", "model": "resnet18", "augment": False, "methods": methods, "seed": seed}
        made_records.write(tmp_path, made_records.record(33.0 + seed, best=33.0, **plain))
    assert judge(claim, Ledger(tmp_path), augment=False).outcome == REFUTED


def test_a_row_has_the_mean_and_both_bounds(tmp_path):
    write(tmp_path, "baseline", [26.0, 26.2, 26.4])
    write(tmp_path, "out", [25.0, 25.1, 25.5])
    rows = claims.claims_table(Ledger(tmp_path)).data.set_index("claim")
    row = rows.loc["out lowers the error, VGG-16 on CIFAR-100"]
    assert (row["mean"], row.lower, row.upper) == pytest.approx((1.0, *bounds([1.0, 1.1, 0.9])))
