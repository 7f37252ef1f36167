"""When checkpoints are written, and that a run goes on from what was not."""

import pytest
import torch
from runs import outcome, run, tiny

from imcl_core import ImclError
from imcl_core.training import checkpoints


def test_a_state_is_written_first_after_so_many_seconds_at_the_end_and_when_told_to(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: clock[0])
    path, weight = tmp_path / "checkpoint.pt", torch.zeros(1)
    keeper = checkpoints.Keeper(path, seconds=30)
    for now, last, written in ((1, False, 1), (30, False, 1), (31, False, 31), (40, False, 31), (60, True, 60)):
        clock[0], weight[0] = now, now
        keeper.keep({"weight": weight, "curve": []}, last)
        assert checkpoints.load(path)["weight"].item() == written
    clock[0], weight[0] = 70, 70
    keeper.keep({"weight": weight}, False)
    weight[0] = 71  # of an epoch that is not finished
    keeper.flush()
    assert checkpoints.load(path)["weight"].item() == 70


def test_an_interrupted_run_goes_on_from_its_last_epoch_though_no_checkpoint_was_due(tmp_path):
    config, seen = tiny(), []

    def interrupt(at):
        seen.append(len(at.curve))
        if len(seen) == 2:
            assert len(checkpoints.load(tmp_path / f"{config.name}.checkpoint.pt")["curve"]) == 1
            raise KeyboardInterrupt

    with pytest.raises(ImclError, match="its checkpoint is kept"):
        run(config, out=tmp_path, save_every=1000, after_epoch=interrupt)
    resumed = run(config, out=tmp_path, after_epoch=interrupt)
    assert seen == [1, 2, 3]
    assert outcome(resumed) == outcome(run(config))


@pytest.mark.parametrize(
    "error", [MemoryError(), PermissionError(13, "Permission denied"), OSError(116, "Stale file handle")]
)
def test_a_checkpoint_that_cannot_be_read_now_is_not_called_damaged(tmp_path, error):
    path = tmp_path / "a"
    path.touch()
    with pytest.raises((MemoryError, ImclError)) as raised, checkpoints.damage_moved_aside(path, ""):
        raise error
    assert path.exists() and "damaged" not in str(raised.value)


def test_what_an_interrupted_write_held_is_written_in_the_end(tmp_path, monkeypatch):
    keeper, save, calls = checkpoints.Keeper(tmp_path / "a", 0.0), checkpoints.save, []

    def interrupted(path, state):
        calls.append(state)
        if len(calls) == 1:
            raise KeyboardInterrupt
        save(path, state)

    monkeypatch.setattr(checkpoints, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        keeper.keep({"epoch": torch.tensor(7)}, last=False)
    keeper.flush()
    assert checkpoints.load(tmp_path / "a")["epoch"] == 7
