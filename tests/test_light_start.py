"""The command line answers before PyTorch is there; the package's names are found when they are asked for."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import imcl_core
from imcl_core.cli import main

SOURCE = Path(imcl_core.__file__)
HELP = "import sys\nfrom imcl_core.cli import main\ntry:\n    main({})\nfinally:\n    print('torch' in sys.modules)"


@pytest.mark.parametrize(
    "line", [["--help"], ["data", "--help"], ["batch", "--help"], ["tables", "--help"], ["memory", "--help"]]
)
def test_help_needs_no_torch(line):
    done = subprocess.run([sys.executable, "-c", HELP.format(line)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "False"
    assert "usage: imcl" in done.stdout


def test_every_name_is_found_where_type_checkers_look():
    tree = ast.parse(SOURCE.read_text(encoding="utf-8"))
    (checking,) = [node for node in tree.body if isinstance(node, ast.If)]
    listed = {alias.name: node.module for node in checking.body for alias in node.names}
    assert listed == {name: f"imcl_core.{home}" for name, home in imcl_core._HOMES.items()}
    assert sorted(listed) == imcl_core.__all__
    for name, module in listed.items():
        assert getattr(imcl_core, name) is getattr(sys.modules[module], name)
    assert set(imcl_core.__all__) <= set(dir(imcl_core))


def test_modules_are_found_and_nothing_else():
    code = "import imcl_core; print(imcl_core.losses.hard_loss.__name__, imcl_core.networks.MODELS[0])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["hard_loss", "vgg16"]
    with pytest.raises(AttributeError, match="no attribute 'Colaboration'"):
        imcl_core.Colaboration  # noqa: B018


def test_train_takes_the_data_set_by_its_place(tmp_path, capsys):
    tiny = ["--width", "0.0625", "--epochs", "1", "--train-size", "64", "--hidden", "16", "--quiet"]
    assert main(["train", "digits", *tiny, "--out", str(tmp_path)]) == 0
    assert "on digits" in capsys.readouterr().out
    for line, message in (
        (["cifra10"], "Did you mean 'cifar10'"),
        (["digits", "--dataset", "stl10"], "name one data set"),
    ):
        assert main(["train", *line, "--out", str(tmp_path)]) == 2
        assert message in capsys.readouterr().err
