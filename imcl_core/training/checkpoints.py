"""Checkpoints: written whole with a checksum, so that a damaged one is known before it is used."""

import hashlib
import io
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from imcl_core.errors import ImclError
from imcl_core.files import move_aside, unreadable, write_whole
from imcl_core.training.files import tell

_DIGEST = hashlib.sha256().digest_size


def save(path: Path, state: dict[str, Any]) -> None:
    """Writes `state`: the SHA-256 of what follows, then `torch.save`'s bytes."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    write_whole(path, hashlib.sha256(content).digest() + content)


def load(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Reads what `save` wrote; a damaged file is moved aside and reported by an `ImclError`."""
    with damage_moved_aside(path, "run again to start afresh, or put back a good copy"):
        content = path.read_bytes()
        if hashlib.sha256(content[_DIGEST:]).digest() != content[:_DIGEST]:
            raise ValueError("its checksum is wrong")
        return torch.load(io.BytesIO(content[_DIGEST:]), map_location=device, weights_only=True)


@contextmanager
def damage_moved_aside(path: Path, remedy: str) -> Iterator[None]:
    """Whatever fails inside is damage of the file: it is moved aside and reported by an `ImclError`."""
    try:
        yield
    except (ImclError, MemoryError, torch.OutOfMemoryError):
        raise
    except OSError as error:
        raise unreadable(path, error) from error
    except Exception as error:  # PyTorch and pickle have a dozen ways to say that a file is not theirs
        aside = move_aside(path)
        why = " ".join(str(error).split())[:120] or type(error).__name__
        raise ImclError(f"The checkpoint {path} is damaged ({why}); it is now {aside.name}: {remedy}.") from error


def save_network(path: Path, network: nn.Module) -> str:
    """Writes a network's `state_dict` for `torch.load`, on the CPU; nothing of this package is needed to read it.

    Returns the digest of the file.
    """
    buffer = io.BytesIO()
    torch.save({name: value.cpu() for name, value in network.state_dict().items()}, buffer)
    write_whole(path, buffer.getvalue())
    return _short(buffer.getvalue())


def load_network(path: Path, digest: str | None, like: nn.Module) -> dict[str, Any]:
    """The weights that `save_network` wrote, for a network `like` it; damage is treated as that of a checkpoint.

    `digest`: of the file, as it was written; None where nobody knows it.
    """
    with damage_moved_aside(path, "its network is trained anew"):
        content = path.read_bytes()
        if digest and _short(content) != digest:
            raise ValueError("it is not the file that its run wrote")
        weights = torch.load(io.BytesIO(content), weights_only=True)
        shapes = {name: value.shape for name, value in weights.items()}
        if shapes != {name: value.shape for name, value in like.state_dict().items()}:
            raise ValueError("it holds another network")
        return weights


def _short(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def carried_on(path: Path, before: list[dict[str, Any]], now: dict[str, Any], told: bool) -> list[dict[str, Any]]:
    """What made the epochs of a run that goes on from the checkpoint `path`, one after the other, and `now` last.

    Where that is another machine, number of threads or version, its digits are of both, which is `told`; `ImclError`
    where it is other data.
    """
    if not before or before[-1] == now:
        return before or [now]
    last = before[-1]
    if last.get("data") != now.get("data"):
        raise ImclError(f"The data is not that of {path}: put the same back, or remove the checkpoint to start afresh.")
    changes = (f"{name} {last.get(name)}, now {value}" for name, value in now.items() if last.get(name) != value)
    if told:
        tell(f"{path.name} was made otherwise ({'; '.join(changes)}): the run goes on, and its record says so.")
    return [*before, now]


class Keeper:
    """Keeps a run's state after every epoch, and writes the first, then what comes `seconds` after one, and the last.

    A state that is not written is kept in the machine's own memory: on a fast GPU an epoch takes less time than its
    checkpoint. `flush` writes it, where a run ends before its time. `path` None: nothing is kept.
    """

    def __init__(self, path: Path | None, seconds: float):
        self.path, self.every, self.held = path, seconds, None
        self.written: float | None = None

    def keep(self, state: dict[str, Any], last: bool) -> None:
        if self.path is None:
            return
        if last or self.written is None or time.monotonic() - self.written >= self.every:
            self.held = state  # until it is written: an interruption of that shall lose nothing
            save(self.path, state)
            self.held, self.written = None, time.monotonic()
        else:
            self.held = tree_map_only(Tensor, lambda x: x.detach().to("cpu", copy=True), state)

    def flush(self) -> None:
        if self.held is not None:
            save(self.path, self.held)
            self.held = None
