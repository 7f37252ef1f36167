"""The search for weights: its table replays the halving on the records, and the defaults are what it chose."""

import contextlib
import dataclasses
import json
import statistics
from pathlib import Path

from made_records import RUN, record, write

from imcl_core import Record, RunConfig
from imcl_core.methods import NEIGHBOURS, TERMS
from imcl_core.study.grids import BEST, TUNED_BASELINE, as_judged, grid
from imcl_core.study.ledger import Ledger
from imcl_core.study.search import candidates_of, halve
from imcl_core.study.tables import search, table
from imcl_core.study.tables.judge import bounds, gained, last_errors
from imcl_core.study.tables.neighbours import held_out_gains, stl10_gains

ROOT = Path(__file__).parents[2]


def trials(folder, quality, rungs=2):
    """The records of a search for kernel's weight: the error of strength `i` is `quality(i)`, less in longer runs."""
    candidates = candidates_of(grid("search", "narrow"))["cifar10 kernel"]
    place, seen = {candidate[0].kernel_weight: i for i, candidate in enumerate(candidates)}, []

    def train(runs):
        errors = {r.name: quality(place[r.kernel_weight]) - r.epochs / 10 + (r.model == "vgg16") for r in runs}
        if len(seen) == rungs:
            return {}
        write(folder, *(Record(run, record(errors[run.name]).curve, RUN) for run in runs))
        return errors

    with contextlib.suppress(search.NoRecord):
        halve(candidates, train, seen=seen.append)
    assert len(seen) == rungs
    return candidates


def test_the_strength_with_the_lowest_error_on_both_networks_is_chosen(tmp_path):
    candidates = trials(tmp_path, lambda i: 40 + abs(i - 3))
    assert search.chosen(Ledger(tmp_path)) == {"kernel": candidates[3]}
    shown = table("search", Ledger(tmp_path))
    assert [len(row[i].lines) for row in shown.rows for i in (1, 2)] == [1 + 9, 1 + 3]  # below the name of the setting
    assert len(shown.rows[0][4].runs) == 2 * (9 + 3)
    assert shown.rows[0][4].links[-1].endswith("epochs") and "VGG-16, 0.03, 30 epochs" in shown.rows[0][4].links
    assert shown.rows[0][3].lines == ("0.03",)  # the setting is named beside it
    found = shown.data.set_index(["epochs", "strength"]).error
    assert found[10, "kernel_weight=0.03"] == 39.5 and found[30, "kernel_weight=0.03"] == 37.5
    assert "begun for 1 of 15 methods and come to its end for 1" in shown.note


def test_a_search_that_has_not_come_to_its_end_chooses_nothing(tmp_path):
    trials(tmp_path, lambda i: 40 + abs(i - 3), rungs=1)
    assert search.chosen(Ledger(tmp_path)) == {}
    (row,) = table("search", Ledger(tmp_path)).rows
    assert (row[2].lines, row[3].lines) == (("none yet",), ("not at its end yet",))


def test_without_records_there_is_an_empty_table(tmp_path):
    shown = table("search", Ledger(tmp_path))
    assert not shown.rows and "begun for 0 of 15" in shown.note
    assert shown.html() and shown.csv() and shown.latex()


def test_the_defaults_are_what_the_search_of_this_project_chose():
    chosen = search.chosen(Ledger(ROOT / "results"))
    assert chosen.keys() == {"baseline", "pull-push", "kernel", *(term.name for term in NEIGHBOURS)}
    for methods, candidate in chosen.items():
        if methods == "baseline":  # whose rate and decay stay the paper's: it is shown beside what tuning gives
            assert {name: getattr(candidate[0], name) for name in TUNED_BASELINE} == TUNED_BASELINE
        else:
            for config in candidate:
                usual = {field.name: field.default for field in dataclasses.fields(TERMS[methods].Settings)}
                assert config == dataclasses.replace(config, **usual), methods


def test_hsic_stands_out_as_chapter_11_says():
    ledger = Ledger(ROOT / "results")
    means = {name: statistics.fmean(of_each.values()) for name, of_each in held_out_gains(ledger).items()}
    assert means.pop("hsic") > 2 * max(means.values())
    for network in ("resnet18", "vgg16"):
        gains = {name: statistics.fmean(g[network].values()) for name, g in stl10_gains(ledger).items() if network in g}
        assert gains["hsic"] == max(gains.values())


def test_what_helps_hsic_is_as_chapter_11_says():
    ledger, parts = Ledger(ROOT / "results"), json.loads((ROOT / "benchmarks/hsic_parts.json").read_text())
    errors = {part["part"]: part["held_out_error"] for part in parts if part["model"] == "vgg16"}
    whole = {name: last_errors(as_judged(name, "vgg16"), ledger)[0] for name in ("hsic", "pull-push")}
    misses = {name: error - whole[name.split(":")[0]] for name, error in errors.items()}
    three = ("one number a channel", "not normalised", "weaker at the first layers")
    of_three = [misses[f"hsic: {name}"] for name in three]
    assert max(of_three) == of_three[0] and min(of_three) > 3
    assert misses["hsic: without the input"] < min(of_three)
    assert misses["pull-push: whole maps"] > 0 and misses["pull-push: one weight at all layers"] > 0
    assert misses["pull-push: no projection"] < -1


def test_without_augmentation_hsic_is_not_settled_and_combinations_are_as_chapter_11_says():
    plain, usual = (stl10_gains_of(Ledger(ROOT / "results"), augment) for augment in (False, True))
    lower, upper = bounds(plain["hsic"])
    assert lower < 0 < upper
    for both in BEST:
        assert bounds(plain[both])[0] > 0 and statistics.fmean(plain[both]) > statistics.fmean(usual[both])


def stl10_gains_of(ledger, augment):
    """Of VGG-16, by method, a gain a seed."""
    place = {"dataset": "stl10", "model": "vgg16", "profile": "narrow", "augment": augment}
    baseline = RunConfig(**place)
    return {m: [*gained(RunConfig(methods=m, **place), baseline, ledger).values()] for m in ("hsic", *BEST)}
