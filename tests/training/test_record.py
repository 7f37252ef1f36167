"""The record of a run."""

import json

import pytest
from made_records import record
from runs import CPU, load_digits, outcome, run, tiny

from imcl_core import ImclError
from imcl_core.study import ledger
from imcl_core.training import checkpoints
from imcl_core.training import run as training
from imcl_core.training.files import NAME
from imcl_core.training.record import read_record, write_record


@pytest.mark.parametrize("damage", [lambda text: text[:-40], lambda text: text.replace('"seed": 0', '"seed": 1')])
def test_a_damaged_record_is_moved_aside_and_named(tmp_path, damage):
    config = tiny(epochs=1)
    path = write_record(run(config), tmp_path)
    path.write_text(damage(path.read_text()))
    with pytest.raises(ImclError, match="damaged"):
        run(config, out=tmp_path)
    assert not path.exists()
    assert path.with_name(path.name + ".corrupt").exists()


def test_the_record_holds_what_a_reader_needs(tmp_path):
    record = run(tiny(methods="mid", epochs=2))
    path = write_record(record, tmp_path)
    assert path.stem == record.config.name
    content = json.loads(path.read_text())
    assert {"device", "torch", "python", "numpy", "threads", "seconds", "images_per_s", "peak_memory_gb"} <= content[
        "run"
    ].keys()
    assert content["config"]["mid_alpha"] == 0.05
    epoch = content["curve"][-1]
    assert epoch["loss"] == pytest.approx(sum(epoch["terms"].values()))
    assert {"epoch", "lr", "train_error", "test_loss", "test_error", "test_error_top5"} <= epoch.keys()
    assert 0 <= epoch["test_error_top5"] <= epoch["test_error"] <= 100
    again = read_record(path)
    assert outcome(again) == outcome(record)
    table = ledger.read(tmp_path)
    assert table.loc[0, "last_error"] == record.last_error == epoch["test_error"]
    assert table.loc[0, "best_error"] == min(e["test_error"] for e in record.curve)


def test_a_record_copes_with_epochs_that_are_not_evaluated(tmp_path):
    every, some = (run(tiny(epochs=13, train_size=32, evaluate_every=n), out=tmp_path) for n in (1, 2))
    assert [epoch["epoch"] for epoch in some.evaluated] == [2, *range(4, 14)]
    assert [e for e in every.curve if e["epoch"] in (2, *range(4, 14))] == some.evaluated
    assert some.curve[0].items() < every.curve[0].items()
    assert some.last_error == every.last_error
    assert some.best_error == min(epoch["test_error"] for epoch in some.evaluated)
    assert (ledger.read(tmp_path).best_error_top5 <= 100).all()
    (found,) = ledger.Ledger(tmp_path).runs(some.config)
    assert found.errors["top1_error"] == (some.last_error, some.best_error)


def test_a_run_can_be_evaluated_at_its_end_alone(tmp_path):
    every, last = (run(tiny(epochs=3, train_size=32, evaluate_every=n), out=tmp_path) for n in (1, 0))
    assert last.config.evaluations == 1 and [epoch["epoch"] for epoch in last.evaluated] == [3]
    assert last.evaluated == every.curve[-1:]
    assert last.config.name != every.config.name


def test_a_record_that_is_read_is_the_one_that_was_written(tmp_path):
    record = run(tiny(epochs=1))
    assert read_record(write_record(record, tmp_path)) == record


def test_the_speed_is_that_of_the_usual_epoch_and_the_peak_that_of_training(monkeypatch):
    now = []
    monkeypatch.setattr(training, "forget_peak", lambda _: now.append("forgotten"))
    monkeypatch.setattr(training, "peak_memory", lambda _: now.append("read") or 10**9 * now.count("read"))
    evaluate = training.Run.evaluate
    monkeypatch.setattr(training.Run, "evaluate", lambda run: now.append("evaluated") or evaluate(run))
    at = training.Run(tiny(), load_digits(), CPU)
    at.finish(checkpoints.Keeper(None, 0), progress=False)
    assert now == ["forgotten", "read", "evaluated"] * 3
    at.seconds = [(30.0, 1.0), (2.0, 1.0), (2.0, 1.0)]  # the first one captures the step
    assert at.record().images_per_s == 96 / 2
    assert at.record().run["peak_memory_gb"] == 3.0


def test_a_name_that_only_looks_like_a_runs_has_no_portion_of_noise():
    name = "digits-vgg16-out-noise{}-smoke-seed0-0123456789ab"
    found = {noise: NAME.fullmatch(name.format(noise))[5] for noise in ("0.5", "1e-05", "1.2.3")}
    assert found == {"0.5": "0.5", "1e-05": "1e-05", "1.2.3": None}


def test_a_row_has_the_last_and_the_lowest_error_of_both_kinds():
    row = record(last=25.0, best=24.0, top5=5.0).row()
    found = [row[f"{which}_error{kind}"] for kind in ("", "_top5") for which in ("last", "best")]
    assert found == [25.0, 24.0, 6.0, 5.0]
