"""The command line: help with examples, one-line errors, records on disk."""

import pytest

from imcl_core import RunConfig
from imcl_core.cli import main
from imcl_core.study import ledger

TINY = ["--width", "0.0625", "--epochs", "1", "--train-size", "64", "--hidden", "16", "--quiet"]


def test_train_writes_the_record_of_its_settings(tmp_path, capsys):
    assert main(["train", *TINY, "--methods", "kernel+mid", "--pp-pull", "1", "2", "--out", str(tmp_path)]) == 0
    [record] = ledger.records(tmp_path)
    expected = RunConfig(width=0.0625, epochs=1, train_size=64, hidden=16, methods="mid+kernel", pp_pull=(1.0, 2.0))
    assert record.config == expected
    assert f"{record.last_error:.2f} %" in capsys.readouterr().out


def test_data_describes_the_set(capsys):
    assert main(["data", "digits"]) == 0
    assert "1437 training and 360 test images of 32×32" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--methods", "mod"], "Did you mean 'mid'"),
        (["train", "--methds", "mid"], "Did you mean '--methods'"),
        (["train", "--dataset", "cifar"], "Did you mean 'cifar10'"),
        (["train", "--dataset", "imagenet32", "--data-folder", "nowhere"], "nowhere"),
        (["train", "--device", "gpu"], "Did you mean 'cuda'"),
        (["data", "cifra10"], "Did you mean 'cifar10'"),
    ],
)
def test_mistakes_are_one_line_and_status_2(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("command", ["data", "train"])
def test_help_has_examples(command, capsys):
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    assert f"  imcl {command} " in capsys.readouterr().out
