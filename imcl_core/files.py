"""Files written whole, and damaged ones moved aside."""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from imcl_core.errors import ImclError

_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP}


def unreadable(path: Path, error: OSError) -> ImclError:
    """What to raise where a file is there and cannot be read, which is no damage of it."""
    return ImclError(f"{path} cannot be read ({error.strerror or error}): make it readable and run again.")


def write_whole(path: Path, content: bytes | Callable[[IO[bytes]], None]) -> None:
    """Writes a file so that it is there in full or not at all: to a temporary name, then renamed.

    `content`: the bytes, or a function that writes them to an open file. `ImclError` where there is no room or right.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            content(file) if callable(content) else file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise ImclError(
            f"Could not write {path} ({error.strerror}): free some space or choose another folder."
        ) from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def write_if_changed(path: Path, text: str) -> bool:
    """Writes a text file whole, unless it holds this text already; whether it was written."""
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return False
    write_whole(path, text.encode())
    return True


def move_aside(path: Path) -> Path:
    """Renames a damaged file to a free name, `<name>.corrupt`, `<name>.corrupt.1`, …; returns the new path.

    `ImclError` where that is not allowed.
    """
    aside, number = path.with_name(f"{path.name}.corrupt"), 0
    while aside.exists():
        number += 1
        aside = path.with_name(f"{path.name}.corrupt.{number}")
    try:
        return path.rename(aside)
    except OSError as error:
        raise ImclError(
            f"{path} is damaged and cannot be moved aside ({error.strerror}): put a good copy there, or remove it."
        ) from error


def remove_partials(folder: Path, name: str) -> None:
    """Removes what `write_whole` left of the files `<name>.…` in processes that were killed."""
    for partial in folder.glob(f".{name}.*.partial"):
        process = partial.name.split(".")[-2]
        if process.isdigit() and not _lives(int(process)):
            partial.unlink(missing_ok=True)


def _lives(process: int) -> bool:
    """Whether another process of this machine has the number; signal 0 reaches nobody, but means something else on
    Windows."""
    if process == os.getpid() or os.name != "posix":
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is somebody else's
        return True
    return True


@contextmanager
def locked(path: Path, wait: bool = False) -> Iterator[bool]:
    """Whether this process alone holds the lock file `path`; with `wait`, only once it does. Freed if it dies.

    `ImclError` where the file system has no locks.
    """
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, timeout=-1 if wait else 0)
    try:
        lock.acquire()
    except Timeout:
        yield False
        return
    except (OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
            raise
        raise ImclError(
            f"The file system of {path.parent} has no file locks, which keep two processes from one run: use a folder "
            "on a local disk."
        ) from error
    try:
        yield True
    finally:
        lock.release()
