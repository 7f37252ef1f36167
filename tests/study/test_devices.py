"""One run on two devices: both outcomes are kept, and a difference is taken between those that are most alike."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from made_records import RUN, cell, record, whole

from imcl_core.errors import ImclError
from imcl_core.study import batch, grids, records
from imcl_core.study.ledger import Ledger, every_sheet, sheets
from imcl_core.study.speeds import Speeds
from imcl_core.study.tables import claims, judge, narrow, neighbours
from imcl_core.study.tables.paper import paper_figures
from imcl_core.training.machine import device_name
from imcl_core.training.record import write_record

CPU = torch.device("cpu")
INTEL, AMD = "Intel(R) Xeon(R) Processor", "AMD EPYC"
H100, H200 = "NVIDIA H100 80GB HBM3", "NVIDIA H200"


def write(folder, device, methods, *errors, seeds=range(9), best=20.0, how=(), **place):
    """A run a seed, on one device; `how` it was made, beside."""
    paths, how = [], dict(how)
    for seed, error in zip(seeds, errors, strict=False):
        made = record(last=error, best=error if best is None else best, methods=methods, seed=seed, **place)
        run = RUN | {"device": device} | ({"at_once": 1} if device.startswith("NVIDIA") else {}) | how
        paths.append(write_record(whole(dataclasses.replace(made, run=run)), folder))
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
    write(tmp_path / "a", H200, "baseline", 26.0, 26.0)
    write(tmp_path / "b", H100, "baseline", 27.0, 27.0)
    write(tmp_path / "a", H100, "out", 25.0)
    write(tmp_path / "a", INTEL, "out", 25.0, seeds=(1,))
    assert judge.gained(*configs("out", "baseline"), Ledger(tmp_path)) == pytest.approx({0: 2.0, 1: 1.0})
    first_only = Ledger(tmp_path, again=False)
    assert judge.gained(*configs("out", "baseline"), first_only) == pytest.approx({0: 1.0, 1: 1.0})


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
    assert "are two outcomes of one run on one device" in capsys.readouterr().err
    assert [(s.config.seed, s.run["device"]) for s in sheets(tmp_path)] == [(0, INTEL)]


def test_merge_takes_what_other_devices_made_into_folders_of_their_own_and_says_so(tmp_path, capsys):
    results = tmp_path / "results"
    write(results / "narrow", INTEL, "out", 25.0)
    write(tmp_path / "source" / "gpu", H200, "out", 26.0, 26.0)
    write(tmp_path / "source" / "cpu", AMD, "out", 27.0)
    (tmp_path / "source" / "cpu" / f"{record().config.name}.npz").write_bytes(b"of AMD")
    new = records.merge(tmp_path / "source", results)
    assert sorted(path.parent.name for path in new) == ["on-amd-epyc", "on-nvidia-h200", "results"]
    assert (
        f"those beside the first are in {results / 'on-amd-epyc'}, {results / 'on-nvidia-h200'}."
        in capsys.readouterr().err
    )
    assert [path.parent.name for path in results.rglob("*.npz")] == ["on-amd-epyc"]
    by_seed = Ledger(results).outcomes(*configs("out"))
    assert {s: {run.device for run in runs} for s, runs in by_seed.items()} == {0: {INTEL, AMD, H200}, 1: {H200}}
    assert records.merge(tmp_path / "source", results) == [] and capsys.readouterr().err == ""


def test_merge_takes_all_devices_of_a_run_that_is_not_there_yet(tmp_path):
    write(tmp_path / "source" / "a", H200, "out", 26.0, how={"finished": "2026-02-02"})
    write(tmp_path / "source" / "b", INTEL, "out", 25.0, how={"finished": "2026-01-01"})
    new = records.merge(tmp_path / "source", tmp_path / "results")
    assert [path.parent.name for path in new] == ["results", "on-nvidia-h200"]


def test_merge_refuses_another_outcome_of_the_same_device(tmp_path):
    write(tmp_path / "results", H200, "out", 25.0)
    write(tmp_path / "source" / "a", INTEL, "out", 24.0)
    write(tmp_path / "source" / "b", H200, "out", 26.0)
    with pytest.raises(ImclError, match="1 runs have two outcomes on one device"):
        records.merge(tmp_path / "source", tmp_path / "results")


def test_the_table_says_how_many_pairs_are_across_kinds_of_device(tmp_path):
    place = {"dataset": "stl10", "profile": "narrow"}
    write(tmp_path / "a", INTEL, "baseline", 26.0, 26.0, **place)
    write(tmp_path / "a", H200, "out", 25.0, 25.0, **place)
    assert "In 2 of 2 pairs, which have none" in narrow.narrow_table(Ledger(tmp_path)).note
    write(tmp_path / "b", H200, "baseline", 27.0, **place)
    table = narrow.narrow_table(Ledger(tmp_path))
    assert "In 1 of 2 pairs, which have none" in table.note
    assert cell(table, dataset="stl10")["gain"] == pytest.approx(1.5)


def test_what_was_made_first_is_the_run_wherever_it_lies(tmp_path):
    write(tmp_path / "z", INTEL, "out", 25.0, how={"finished": "2026-01-01"})
    write(tmp_path, H200, "out", 26.0, how={"finished": "2026-02-02"})
    assert judge.last_errors(*configs("out"), Ledger(tmp_path)) == {0: 25.0}
    assert judge.last_errors(*configs("out"), Ledger(tmp_path, again=False)) == {0: 25.0}


def test_a_difference_of_differences_is_of_pairs_that_are_alike(tmp_path):
    noisy = {"noise": 0.5}
    write(tmp_path / "a", INTEL, "baseline", 50.0, **noisy)
    write(tmp_path / "b", H200, "baseline", 54.0, **noisy)
    write(tmp_path / "b", H200, "out", 49.0, **noisy)
    write(tmp_path / "a", INTEL, "baseline", 26.0)
    write(tmp_path / "a", INTEL, "out", 25.0)
    four = [record(methods=m, noise=n).config for n in (0.5, 0.0) for m in ("baseline", "out")]
    assert [run.device for run in judge.paired(four, Ledger(tmp_path))[0]] == [H200, H200, INTEL, INTEL]


def test_a_gain_backwards_is_the_same_with_the_other_sign(tmp_path):
    write(tmp_path / "a", INTEL, "baseline", 26.0)
    write(tmp_path / "b", H200, "baseline", 28.0)
    write(tmp_path / "a", H100, "out", 25.0)
    write(tmp_path / "b", AMD, "out", 25.5)
    out, baseline = configs("out", "baseline")
    there, back = judge.gained(out, baseline, Ledger(tmp_path)), judge.gained(baseline, out, Ledger(tmp_path))
    assert there == {0: 0.5} and back == {0: -0.5}


@pytest.mark.parametrize(("on_h200", "outcome"), [(60.0, judge.NOT_SUPPORTED), (26.5, judge.REFUTED)])
def test_a_refutation_asks_the_baselines_of_its_pairs(tmp_path, on_h200, outcome):
    claim = next(c for c in claims.claims() if c.statement == "out lowers the error, VGG-16 on CIFAR-100")
    printed = paper_figures()["table1/cifar100/vgg16/baseline"].value
    assert abs(printed - 26.5) < 0.1 * printed
    write(tmp_path / "a", INTEL, "baseline", *[26.5 if outcome == judge.NOT_SUPPORTED else 60.0] * 3, best=None)
    write(tmp_path / "b", H200, "baseline", *[on_h200] * 3, best=None)
    write(tmp_path / "a", H200, "out", on_h200 + 0.1, on_h200, on_h200 - 0.1, best=None)
    assert claims.judge(claim, Ledger(tmp_path)).outcome == outcome


def test_runs_of_several_processes_are_told_and_enter_no_table(tmp_path, capsys):
    write(tmp_path / "a", H100, "out", 25.0, 25.0)
    write(tmp_path / "b", H100, "out", 26.0, how={"processes": 2})
    write(tmp_path / "b", H100, "out", 26.0, how={"processes": 4}, seeds=(7,))
    assert judge.last_errors(*configs("out"), Ledger(tmp_path)) == {0: 25.0, 1: 25.0}
    assert "was trained by 4 processes" in capsys.readouterr().err
    (new, other) = records.merge(tmp_path / "b", tmp_path / "a")
    assert new.parent.name == "on-nvidia-h100-80gb-hbm3-2-processes" and other.parent.name == "a"


def test_held_out_gains_and_links_are_of_what_was_compared(tmp_path):
    def put(folder, device, methods, error):
        made = record(error)
        run = RUN | {"device": device} | ({"at_once": 1} if device == H200 else {})
        made = dataclasses.replace(made, config=grids.as_judged(methods, "vgg16"), run=run)
        write_record(whole(made), tmp_path / folder)

    put("a", INTEL, "baseline", 30.0), put("b", H200, "baseline", 33.0), put("a", H200, "hsic", 31.0)
    assert neighbours.held_out_gains(Ledger(tmp_path)) == {"hsic": {"vgg16": 2.0}}
    place = {"dataset": "stl10", "profile": "narrow"}
    write(tmp_path / "a", INTEL, "hsic", 25.0, **place)
    write(tmp_path / "b", H200, "hsic", 30.0, **place)
    write(tmp_path / "b", H200, "baseline", 32.0, **place)
    table = neighbours.neighbours_table(Ledger(tmp_path))
    (gain,) = [cells[-2] for cells, name in zip(table.rows, table.data.method, strict=True) if name == "hsic"]
    assert gain.lines == ("VGG-16 (1)", "+2.00") and [run.device for run in gain.runs] == [H200]


def test_every_device_tells_how_fast_it_is(tmp_path):
    write(tmp_path / "a", H200, "out", 25.0)
    write(tmp_path / "b", device_name(CPU), "out", 26.0)
    assert Speeds(CPU, every_sheet(tmp_path)).seconds(*configs("out")) is not None
    assert Speeds(CPU, records.Standing(tmp_path).sheets).seconds(*configs("out")) is not None
    planned = batch._speeds(SimpleNamespace(remote=False), "cpu", budget=60.0, folders=[tmp_path], data_folder=None)
    assert planned.seconds(*configs("out")) is not None


def test_more_deviation_never_needs_fewer_seeds():
    needed = [judge.seeds_needed(deviation / 100, 1.0) for deviation in range(10, 2000)]
    assert needed == sorted(needed)
