"""Numbers that are not finite: refused in settings, null in a record, the end of a run whose error says nothing."""

import json
import math

import pytest
import torch

from imcl_core import ImclError, Record, RunConfig, train
from imcl_core.cli import main
from imcl_core.training import run
from imcl_core.training.record import read_record, write_record

TINY = {"width": 1 / 16, "train_size": 64, "hidden": 16, "epochs": 2}
FLAGS = ["--width", "0.0625", "--train-size", "64", "--hidden", "16", "--epochs", "2", "--quiet"]
REFUSED = (
    "--mid-alpha nan", "--methods out --out-temperature inf", "--momentum 3", "--momentum -1", "--weight-decay -1",
    "--nesterov --momentum 0", "--mid-pool 0", "--mid-width 0", "--lr 1e300", "--lr inf", "--gamma 1e200",
    "--gamma -1", "--momentum 2", "--kernel-weight -1e9", "--milestones 3 1", "--lr -inf", "--noise nan",
)  # fmt: skip


@pytest.mark.parametrize("flags", REFUSED)
def test_a_setting_that_cannot_be_is_refused_in_one_line(flags, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", *FLAGS, *flags.split()]) == 2
    error = capsys.readouterr().err
    assert error.startswith("imcl: ") and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "settings", [{"gamma": 10.0, "milestones": (1,) * 400}, {"gamma": 10.0, "lr": 1e30, "milestones": (1,)}]
)
def test_a_rate_that_would_overflow_is_refused(settings):
    with pytest.raises(ImclError, match="would grow beyond 1e30"):
        RunConfig(**settings)


@pytest.mark.parametrize("lr", [1000.0, 1e6, 1e30])
def test_a_run_that_diverges_ends_in_a_sentence_or_in_a_record(lr, tmp_path, capsys):
    ended = main(["train", *FLAGS, "--lr", str(lr), "--out", str(tmp_path)])
    error, written = capsys.readouterr().err, list(tmp_path.glob("*.json"))
    assert (ended, len(written)) in ((0, 1), (2, 0))
    assert ("not finite" in error and error.count("\n") == 1) == (ended == 2)
    assert all(read_record(path).curve for path in written)


def spoiled(monkeypatch, value):
    """Networks that predict `value` when they are evaluated."""
    build = run.build_collaboration

    def built(config, data):
        made = build(config, data)
        made.register_forward_hook(lambda module, _, out: out if module.training else torch.full_like(out, value))
        return made

    monkeypatch.setattr(run, "build_collaboration", built)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_evaluation_without_meaning_stops_the_run_and_names_the_epoch(value, tmp_path, monkeypatch):
    spoiled(monkeypatch, value)
    with pytest.raises(ImclError, match="evaluation of epoch 1 is not finite: the predictions for 100"):
        train(RunConfig(**TINY), out=tmp_path, progress=False)


def test_a_loss_that_is_infinite_is_null_and_the_record_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(run.Run, "_evaluation", lambda _: [math.inf, 0.9, 0.5, 0.0])
    record = train(RunConfig(**TINY), out=tmp_path, progress=False)
    assert [epoch["test_loss"] for epoch in record.curve] == [None, None]
    assert read_record(tmp_path / f"{record.config.name}.json").curve == record.curve


def test_a_record_can_always_be_written(tmp_path):
    made = train(RunConfig(**TINY), progress=False)
    spoiled = Record(made.config, [epoch | {"test_loss": math.inf} for epoch in made.curve], made.run | {"x": math.nan})
    path = write_record(spoiled, tmp_path)
    assert json.loads(path.read_text())["run"]["x"] is None
    assert [epoch["test_loss"] for epoch in read_record(path).curve] == [None, None]


def test_the_record_tells_data_and_project(tmp_path):
    first, again = (train(RunConfig(**TINY, seed=seed), out=tmp_path, progress=False) for seed in (0, 1))
    assert first.run["data"] == again.run["data"] and len(first.run["data"]) == 16
    assert first.run["project"] not in ("", "unknown")
