"""`run.ipynb`: the same record as `imcl train`, and mistakes stop it before it trains."""

import os
from pathlib import Path

import pytest
from imcl_book import checks, execute

from imcl_core import cli
from imcl_core.errors import ImclError
from imcl_core.study import ledger

ROOT = Path(__file__).parents[2]
RUN = ROOT / "notebooks" / "run.ipynb"


@pytest.fixture(autouse=True)
def kernel(monkeypatch):
    """Kernels use this checkout and, like the tests, one thread."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def test_it_gives_the_record_that_the_command_line_gives(tmp_path):
    executed, from_notebook, from_shell = (tmp_path / name for name in ("run.ipynb", "notebook", "shell"))
    parameters = {"model": "vgg16", "methods": "kernel+out", "seed": 3, "noise": 0.25, "validation": True}
    settings = {"epochs": 2, "train_size": 100, "milestones": [1]}
    execute.execute(RUN, executed, {**parameters, "settings": settings, "out": str(from_notebook), "device": "cpu"})
    shell = "train --quiet --device cpu --model vgg16 --methods out+kernel --seed 3 --noise 0.25 --validation"
    shell += f" --epochs 2 --train-size 100 --milestones 1 --out {from_shell}"
    assert cli.main(shell.split()) == 0
    (one,), (other,) = ledger.records(from_notebook), ledger.records(from_shell)
    assert one.config == other.config
    assert one.curve == other.curve
    assert len(one.curve) == 2
    assert checks.check([executed]) == []  # the progress bar among others
    assert sorted(file.name for file in from_notebook.iterdir()) == sorted(file.name for file in from_shell.iterdir())


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"dataset": "digitz"}, "Unknown data set 'digitz'. Did you mean 'digits'"),
        ({"settings": {"epocs": 1}}, "Unknown setting 'epocs'. Did you mean 'epochs'"),
        ({"metods": "mid"}, "no parameter 'metods'. Did you mean 'methods'"),
        ({"seed": "1"}, "'seed' must be of type int"),
    ],
)
def test_a_mistake_stops_it_before_it_trains(tmp_path, parameters, message):
    out, executed = tmp_path / "runs", tmp_path / "run.ipynb"
    with pytest.raises(ImclError, match=message):
        execute.execute(RUN, executed, {"out": str(out), **parameters})
    assert not out.exists()
    assert not executed.exists()


def test_without_a_folder_nothing_is_written(tmp_path):
    before = sorted(RUN.parent.iterdir())
    settings = {"epochs": 1, "train_size": 64}
    execute.execute(RUN, tmp_path / "run.ipynb", {"model": "vgg16", "settings": settings}, cwd=tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["run.ipynb"]
    assert sorted(RUN.parent.iterdir()) == before
