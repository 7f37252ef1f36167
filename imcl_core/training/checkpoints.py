"""Checkpoints: written whole with a checksum, so that a damaged one is known before it is used."""

import hashlib
import io
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from imcl_core.errors import ImclError
from imcl_core.files import move_aside, write_whole

_DIGEST = hashlib.sha256().digest_size


def save(path: Path, state: dict[str, Any]) -> None:
    """Writes `state`: the SHA-256 of what follows, then `torch.save`'s bytes."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    write_whole(path, hashlib.sha256(content).digest() + content)


def load(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Reads what `save` wrote; a damaged file is moved aside and reported by an `ImclError`."""
    content = path.read_bytes()
    if hashlib.sha256(content[_DIGEST:]).digest() != content[:_DIGEST]:
        aside = move_aside(path)
        raise ImclError(
            f"The checkpoint {path} is damaged; it is now {aside.name}: "
            "run again to start afresh, or put back a good copy."
        )
    return torch.load(io.BytesIO(content[_DIGEST:]), map_location=device, weights_only=True)


def save_network(path: Path, network: nn.Module) -> None:
    """Writes a network's `state_dict` for `torch.load`, on the CPU; nothing of this package is needed to read it."""
    buffer = io.BytesIO()
    torch.save({name: value.cpu() for name, value in network.state_dict().items()}, buffer)
    write_whole(path, buffer.getvalue())


class Keeper:
    """Keeps a run's state after every epoch, and writes it where `seconds` have passed since the last time.

    A state that is not written is kept in the machine's own memory: on a fast GPU an epoch takes less time than its
    checkpoint. `flush` writes it, where a run ends before its time. `path` None: nothing is kept.
    """

    def __init__(self, path: Path | None, seconds: float):
        self.path, self.every, self.held = path, seconds, None
        self.written, self.spent = time.monotonic(), 0.0

    def keep(self, state: dict[str, Any], last: bool) -> None:
        if self.path is None:
            return
        began, self.held = time.monotonic(), None
        if last or began - self.written >= self.every:
            save(self.path, state)
            self.written = time.monotonic()
        else:
            self.held = tree_map_only(Tensor, lambda x: x.detach().to("cpu", copy=True), state)
        self.spent += time.monotonic() - began

    def flush(self) -> None:
        if self.held is not None:
            save(self.path, self.held)
            self.held = None
