"""One run on two devices: both outcomes are kept, and a difference is taken between those that are most alike."""

import dataclasses

import pytest
from made_records import RUN, cell, record, whole

from imcl_core.errors import ImclError
from imcl_core.study import records
from imcl_core.study.ledger import Ledger, sheets
from imcl_core.study.tables import judge, narrow
from imcl_core.training.record import write_record

INTEL, AMD = "Intel(R) Xeon(R) Processor", "AMD EPYC"
H100, H200 = "NVIDIA H100 80GB HBM3", "NVIDIA H200"


def write(folder, device, methods, *errors, seeds=range(9), **place):
    """A run a seed, on one device."""
    paths = []
    for seed, error in zip(seeds, errors, strict=False):
        made = record(last=error, best=20.0, methods=methods, seed=seed, **place)
        paths.append(write_record(whole(dataclasses.replace(made, run=RUN | {"device": device})), folder))
    return paths


def configs(*methods):
    return [record(methods=m).config for m in methods]


def test_a_method_stands_beside_the_baseline_of_its_kind_of_device(tmp_path):
    write(tmp_path / "first", INTEL, "baseline", 26.0, 26.0, 26.0, 26.0)
    write(tmp_path / "repeated", H200, "baseline", 28.0, 28.0, 28.0)
    write(tmp_path / "first", INTEL, "out", 25.0)
    write(tmp_path / "first", H100, "out", 25.1, 24.9, seeds=(1, 2))
    write(tmp_path / "first", H200, "out", 25.0, seeds=(3,))  # whose baseline no GPU made
    ledger, (out, baseline) = Ledger(tmp_path), configs("out", "baseline")
    gains = judge.gained(out, baseline, ledger)
    assert gains == pytest.approx({0: 1.0, 1: 2.9, 2: 3.1, 3: 1.0})
    found = judge.verdict(((1, baseline), (-1, out)), 1.0, ledger)
    assert (found.n, found.mean) == (4, pytest.approx(2.0))
    assert judge.last_errors(baseline, ledger) == dict.fromkeys(range(4), 26.0)  # which tables show


def test_of_two_gpus_the_same_one_is_more_alike_and_of_equals_the_first_counts(tmp_path):
    write(tmp_path / "a", H100, "baseline", 26.0, 26.0)
    write(tmp_path / "b", H200, "baseline", 27.0, 27.0)
    write(tmp_path / "a", H200, "out", 25.0)
    write(tmp_path / "a", INTEL, "out", 25.0, seeds=(1,))
    assert judge.gained(*configs("out", "baseline"), Ledger(tmp_path)) == pytest.approx({0: 2.0, 1: 1.0})


def test_of_three_runs_all_count(tmp_path):
    for device, folder, error in ((INTEL, "a", 26.0), (H200, "b", 27.0)):
        write(tmp_path / folder, device, "baseline", error)
        write(tmp_path / folder, device, "out", error - 1)
    write(tmp_path / "a", H200, "mid", 24.0)
    runs = judge.paired(configs("baseline", "out", "mid"), Ledger(tmp_path))
    assert [run.device for run in runs[0]] == [H200] * 3


def test_a_run_counts_once_and_two_outcomes_of_one_device_count_not_at_all(tmp_path, capsys):
    write(tmp_path / "a", INTEL, "out", 25.0, 25.0)
    write(tmp_path / "b", AMD, "out", 26.0)
    write(tmp_path / "b", INTEL, "out", 26.0, seeds=(1,))
    (out,) = configs("out")
    assert [(run.seed, run.device) for run in Ledger(tmp_path).runs(out)] == [(0, INTEL)]
    assert "are one run with two outcomes, both left out" in capsys.readouterr().err
    assert [(s.config.seed, s.run["device"]) for s in sheets(tmp_path)] == [(0, INTEL)]


def test_merge_takes_what_another_device_made_into_a_folder_of_its_own_and_says_so(tmp_path, capsys):
    (here,) = write(tmp_path / "results" / "narrow", INTEL, "out", 25.0)
    write(tmp_path / "source", H200, "out", 26.0, 26.0)
    (new,) = records.merge(tmp_path / "source", tmp_path / "results" / "narrow")
    assert "-seed1-" in new.name
    told = capsys.readouterr().err
    assert "1 runs were made in" in told and "a folder of its own" in told
    assert len(records.merge(tmp_path / "source", tmp_path / "results" / "again")) == 2
    by_seed = Ledger(tmp_path / "results").outcomes(*configs("out"))
    assert {seed: sorted(run.device for run in runs) for seed, runs in by_seed.items()} == {0: [INTEL, H200], 1: [H200]}
    assert records.merge(tmp_path / "source", tmp_path / "results") == []
    assert capsys.readouterr().err == "" and here.exists()


def test_merge_refuses_another_outcome_of_the_same_device(tmp_path):
    write(tmp_path / "results", H200, "out", 25.0)
    write(tmp_path / "source" / "a", INTEL, "out", 24.0)
    write(tmp_path / "source" / "b", H200, "out", 26.0)
    with pytest.raises(ImclError, match="1 runs have another outcome in a second file"):
        records.merge(tmp_path / "source", tmp_path / "results")


def test_the_table_says_how_many_pairs_are_across_kinds_of_device(tmp_path):
    place = {"dataset": "stl10", "profile": "narrow"}
    write(tmp_path / "a", INTEL, "baseline", 26.0, 26.0, **place)
    write(tmp_path / "a", H200, "out", 25.0, 25.0, **place)
    assert "2 of 2 pairs are across" in narrow.narrow_table(Ledger(tmp_path)).note
    write(tmp_path / "b", H200, "baseline", 27.0, **place)
    table = narrow.narrow_table(Ledger(tmp_path))
    assert "1 of 2 pairs are across" in table.note
    assert cell(table, dataset="stl10")["gain"] == pytest.approx(1.5)
