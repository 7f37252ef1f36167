"""The page to decide by: its advice is a rule on records, and changes when they do."""

import pytest
from made_records import record, write

from imcl_core.study.ledger import Ledger
from imcl_core.study.tables import advice, narrow

PLACE = {"dataset": "stl10", "profile": "narrow", "model": "resnet18"}


def found(folder, **errors):
    """The choices from runs with these errors, a list of seeds a method; the baseline errs 33, 34, 35 times."""
    write(folder, *(record(33 + s, seed=s, methods="baseline", **PLACE) for s in range(3)))
    for methods, values in errors.items():
        name = methods.replace("_", "-")
        write(folder, *(record(e, seed=s, methods=name, **PLACE) for s, e in enumerate(values)))
    return advice.choices(Ledger(folder), {("resnet18", "out"): 1.04})


@pytest.fixture(autouse=True)
def no_counting(monkeypatch):
    monkeypatch.setattr(advice, "_memory", lambda *_: 1.2)


@pytest.mark.parametrize(
    ("pairs", "lower", "upper", "expected"),
    [
        (3, 0.1, 2.0, "helps"),
        (3, -2.0, -0.1, "hurts"),
        (3, -1.0, 1.0, "no difference seen"),
        (2, 0.1, 2.0, "too few runs"),
        (0, None, None, "too few runs"),
    ],
)
def test_the_rule(pairs, lower, upper, expected):
    assert advice.word(pairs, lower, upper) == expected


def test_what_helps_most_surely_is_advised_with_its_price(tmp_path):
    choices = found(tmp_path, out=[31, 32.1, 33], kernel=[32, 33, 34.1], mid=[33.5, 33.6, 35], pull_push=[35, 36, 37.1])
    assert list(choices.method) == ["out", "kernel", "mid", "pull-push"]
    assert list(choices.word) == ["helps", "helps", "no difference seen", "hurts"]
    (sentence,) = advice.advice(choices)
    assert sentence.startswith("ResNet-18 on STL-10: use out: +1.97 points, from +1.87 to +2.06, n = 3, at 1.04 times")
    assert "; helps too: kernel by 0.97; " in sentence  # whose time is not measured
    assert "leave out pull-push" in sentence and "no difference seen with mid" in sentence


def test_others_that_help_are_told_with_their_price_and_a_baseline_at_another_rate_costs_nothing(tmp_path):
    write(tmp_path, *(record(32.5 + s, seed=s, methods="baseline", lr=0.025, **PLACE) for s in range(3)))
    choices = found(tmp_path, kernel=[30, 31, 32.1], out=[31, 32, 33.1])
    assert dict(zip(choices.method, choices.time, strict=True))["baseline at half its rate"] == 1
    (sentence,) = advice.advice(choices)
    assert "; helps too: out by 1.97 at 1.04 times, baseline at half its rate by 0.50 at 1.00 times." in sentence


def test_it_changes_when_the_records_do(tmp_path):
    before = advice.advice(found(tmp_path / "a", out=[31, 32, 33]))
    after = advice.advice(found(tmp_path / "b", out=[35, 36, 37]))
    assert "use out" in before[0]
    assert "stay with the baseline; leave out out" in after[0]


def test_two_seeds_advise_nothing(tmp_path):
    (sentence,) = advice.advice(found(tmp_path, out=[20, 21]))
    assert sentence == "ResNet-18 on STL-10: too few runs yet of out."


def test_without_records_there_is_no_sentence(tmp_path):
    assert advice.advice(advice.choices(Ledger(tmp_path), {})) == []


def test_memory_is_counted(monkeypatch):
    monkeypatch.undo()
    assert 1 < advice._memory("stl10", "vgg16", "mid", "3x3") < 2
    bare, projected = (advice._memory("stl10", "vgg16", "pull-push", way) for way in ("none", "3x3"))
    assert 1 < bare < projected


def test_a_gain_is_told_with_a_verdict_where_the_paper_claims_one(tmp_path):
    found(tmp_path, out=[31, 32.1, 33], deep_supervision=[31, 32.1, 33])
    ledger, gain = Ledger(tmp_path), "ResNet-18 on STL-10: +1.97 points, from +1.87 to +2.06, n = 3"
    assert narrow.told(ledger, "out") == [f"{gain}: not supported"]  # the upper bound is below half of the paper's
    assert narrow.told(ledger, "deep-supervision") == [gain]
    assert narrow.told(ledger, "mid") == ["No pair of runs yet."]


def test_the_best_is_the_surest_not_the_largest(tmp_path):
    choices = found(tmp_path, kernel=[28, 30, 33.5], out=[31, 32.1, 33])
    assert list(choices.method) == ["out", "kernel"] and choices.gain.is_monotonic_increasing
