"""What goes wrong around a batch is told by its cause: full folders, users without a name, locks that lack."""

import errno
import os
import pwd
import tempfile
import time

import filelock
import pytest

from imcl_core import ImclError, RunConfig
from imcl_core.files import locked
from imcl_core.study import batch, executed

TINY = RunConfig(width=1 / 16, train_size=64, hidden=16, epochs=1)


@pytest.mark.parametrize("where", ["live", "folder"])
def test_a_full_temporary_folder_is_told_as_such(where, tmp_path, monkeypatch):
    def full(_notebook, live, *_):
        live.write_text('{"cells": [')  # as far as there was room
        raise OSError(errno.ENOSPC, "No space left on device")

    def nowhere():
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    monkeypatch.setattr(executed, "run_notebook", full)
    if where == "folder":
        monkeypatch.setattr(executed, "TemporaryDirectory", nowhere)
    with pytest.raises(ImclError, match=r"No temporary file could be written \(.*\): free some space, or let TMPDIR"):
        executed.execute(TINY, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_user_without_a_name_gets_one(monkeypatch):
    def nobody(_):
        raise KeyError("getpwuid(): uid not found: 4242")

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    for name in ("USER", "HOME"):
        monkeypatch.setenv(name, "/nowhere")
        monkeypatch.delenv(name)
    executed._name_the_user()
    assert os.environ["USER"] == f"user{os.getuid()}" and os.environ["HOME"] == tempfile.gettempdir()


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK])
def test_a_file_system_without_locks_is_told_as_such(number, tmp_path, monkeypatch):
    def acquire(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(filelock.FileLock, "acquire", acquire)
    with pytest.raises(ImclError, match="use a folder on a local disk"), locked(tmp_path / "a"):
        pass
    with pytest.raises(ImclError, match="has no file locks"):
        batch.run_batch([TINY], tmp_path, progress=False)


def test_a_clock_that_is_set_back_does_not_lengthen_a_budget(tmp_path, monkeypatch):
    now = iter(range(10**9, 0, -(10**6)))
    monkeypatch.setattr(time, "time", lambda: next(now))
    assert batch.run_batch([TINY], tmp_path, budget=0, progress=False).postponed == [TINY.name]
