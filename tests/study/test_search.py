"""The search for weights: its table replays the halving on the records, and the defaults are what it chose."""

import contextlib
import dataclasses
import statistics
from pathlib import Path

from made_records import RUN, record, write

from imcl_core import Record
from imcl_core.methods import NEIGHBOURS, TERMS
from imcl_core.study.grids import TUNED_BASELINE, grid
from imcl_core.study.ledger import Ledger
from imcl_core.study.search import candidates_of, halve
from imcl_core.study.tables import search, table
from imcl_core.study.tables.neighbours import held_out_gains

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
    gains = held_out_gains(Ledger(ROOT / "results"))
    means = {name: statistics.fmean(by_network.values()) for name, by_network in gains.items()}
    assert means.pop("hsic") > 2 * max(means.values())
