"""A checkpoint or a teacher's file with a wrong content is damage: moved aside in one sentence, then trained anew."""

import hashlib
import io
import os
import pickle
import subprocess
import sys

import pytest
import torch

from imcl_core import ImclError, RunConfig, train
from imcl_core.study import batch
from imcl_core.training import checkpoints
from imcl_core.training.files import Files

TINY = {"width": 1 / 16, "train_size": 64, "hidden": 16, "epochs": 3}


class Stop(Exception):
    pass


def stop(run):
    if len(run.curve) == 2:
        raise Stop


def begun(folder, **settings):
    """The files of a run that was stopped in its third epoch."""
    config = RunConfig(**TINY | settings)
    with pytest.raises(Stop):
        train(config, out=folder, progress=False, save_every=0, after_epoch=stop)
    return Files(folder, config.name)


@pytest.fixture(scope="module")
def undisturbed():
    return train(RunConfig(**TINY), progress=False).curve


def signed(content: bytes) -> bytes:
    return hashlib.sha256(content).digest() + content


def changed(change):
    def spoil(path):
        state = checkpoints.load(path)
        change(state)
        checkpoints.save(path, state)

    return spoil


def other_network(state):
    state["collaboration"] = {name: value[:1] for name, value in state["collaboration"].items() if value.ndim}


def foreign_pickle(path):
    path.write_bytes(signed(pickle.dumps(os.system)))


SPOILS = {
    "no key": changed(lambda state: state.pop("name")),
    "no curve": changed(lambda state: state.pop("curve")),
    "no step": changed(lambda state: state.pop("step")),
    "another run": changed(lambda state: state.update(name="digits-resnet18-baseline-smoke-seed9-000000000000")),
    "too many epochs": changed(lambda state: [state[part].extend(state[part]) for part in ("curve", "seconds")]),
    "no epoch": changed(lambda state: (state["curve"].clear(), state["seconds"].clear())),
    "a list": lambda path: checkpoints.save(path, [1, 2]),
    "another network": changed(other_network),
    "a foreign pickle": foreign_pickle,
    "no pickle": lambda path: path.write_bytes(signed(b"text")),
    "nothing": lambda path: path.write_bytes(b""),
    "half": lambda path: path.write_bytes(path.read_bytes()[:-500]),
}  # fmt: skip


@pytest.mark.parametrize("spoil", SPOILS)
def test_a_wrong_checkpoint_is_moved_aside_in_one_sentence_and_the_next_run_is_whole(spoil, tmp_path, undisturbed):
    files = begun(tmp_path)
    SPOILS[spoil](files.checkpoint)
    bad = files.checkpoint.read_bytes()
    with pytest.raises(ImclError, match=r"The checkpoint .* is damaged \(.*\); it is now .*\.corrupt: run") as caught:
        train(RunConfig(**TINY), out=tmp_path, progress=False)
    assert "\n" not in str(caught.value)
    assert files.checkpoint.with_name(f"{files.checkpoint.name}.corrupt").read_bytes() == bad
    assert train(RunConfig(**TINY), out=tmp_path, progress=False).curve == undisturbed


@pytest.mark.parametrize("other", [{"seed": 1}, {"lr": 0.01}, {"epochs": 8}])
def test_a_checkpoint_of_another_run_under_this_name_is_refused(other, tmp_path, undisturbed):
    there, here = begun(tmp_path / "other", **other), Files(tmp_path, RunConfig(**TINY).name)
    there.checkpoint.rename(here.checkpoint)
    with pytest.raises(ImclError, match="it is of the run "):
        train(RunConfig(**TINY), out=tmp_path, progress=False)
    assert train(RunConfig(**TINY), out=tmp_path, progress=False).curve == undisturbed


def test_a_batch_goes_on_at_once_after_a_damaged_checkpoint(tmp_path, undisturbed, capsys):
    files = begun(tmp_path)
    SPOILS["no curve"](files.checkpoint)
    outcome = batch.run_batch([RunConfig(**TINY)], tmp_path, progress=False)
    assert (outcome.done, outcome.failed) == ([RunConfig(**TINY).name], {})
    assert "It is run again now." in capsys.readouterr().err
    assert train(RunConfig(**TINY), out=tmp_path, progress=False).curve == undisturbed


def test_a_checkpoint_of_a_newer_version_is_left_as_it_is(tmp_path):
    files = begun(tmp_path)
    changed(lambda state: state.update(format=99))(files.checkpoint)
    with pytest.raises(ImclError, match="made by a newer version of this project"):
        train(RunConfig(**TINY), out=tmp_path, progress=False)
    assert files.checkpoint.exists()


TAUGHT = RunConfig(**TINY | {"epochs": 1}, methods="kd")


def other_weights(path):
    weights = torch.load(path)
    torch.save({name: value + 1 for name, value in weights.items()}, path)


def foreign_weights(path):
    buffer = io.BytesIO()
    torch.save({"weight": torch.zeros(2)}, buffer)
    path.write_bytes(buffer.getvalue())


TEACHERS = {
    "weights changed": other_weights,
    "another network": foreign_weights,
    "a foreign pickle": lambda path: path.write_bytes(pickle.dumps(os.system)),
    "half": lambda path: path.write_bytes(path.read_bytes()[:-500]),
}


@pytest.mark.parametrize("spoil", TEACHERS)
def test_a_wrong_teacher_is_moved_aside_and_trained_anew(spoil, tmp_path, capsys):
    train(TAUGHT.teacher, out=tmp_path, progress=False)
    network = Files(tmp_path, TAUGHT.teacher.name).network
    TEACHERS[spoil](network)
    curve = train(TAUGHT, out=tmp_path, progress=False).curve
    told = capsys.readouterr().err
    assert f"{network.name}.corrupt: its network is trained anew." in told and told.count("\n") == 1
    assert curve == train(TAUGHT, progress=False).curve
    assert network.exists()


def test_the_next_run_of_a_name_removes_what_a_killed_one_left(tmp_path):
    config = RunConfig(**TINY | {"epochs": 1})
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    left = tmp_path / f".{config.name}.checkpoint.pt.{gone.pid}.partial"
    living = tmp_path / f".{config.name}.checkpoint.pt.{os.getppid()}.partial"
    other = tmp_path / f".{RunConfig().name}.json.{gone.pid}.partial"
    for path in (left, living, other):
        path.touch()
    train(config, out=tmp_path, progress=False)
    assert [path.exists() for path in (left, living, other)] == [False, True, True]
