"""Checkpoints: written whole with a checksum, so that a damaged one is known before it is used."""

import hashlib
import io
from pathlib import Path
from typing import Any

import torch
from torch import nn

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
