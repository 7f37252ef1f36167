"""Wrong data under a right name, and files that cannot be read: refused in a sentence before a run begins."""

import io
import os
import struct
import zipfile

import numpy as np
import pytest

from imcl_core import ImclError, RunConfig, train
from imcl_core.data import sets
from imcl_core.data.sets import load


def save(folder, name, train=200, test=50, classes=10, side=32, channels=(0, 1, 2)):
    """A made set of random images; those of other channels than `channels` are black."""
    draw, arrays = np.random.default_rng(0), {"classes": np.arange(classes).astype(str)}
    for split, count in (("train", train), ("test", test)):
        arrays[f"x_{split}"] = draw.integers(256, size=(count, side, side, 3), dtype=np.uint8)
        arrays[f"x_{split}"][..., [c for c in range(3) if c not in channels]] = 0
        arrays[f"y_{split}"] = np.arange(count) % classes
    np.savez(folder / f"{name}.npz", **arrays)
    return arrays


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("cifar10", {"train": 50_000, "test": 10_000, "classes": 100, "side": 1}),
        ("cifar100", {"train": 50_000, "test": 10_000, "classes": 10, "side": 1}),
        ("stl10", {"train": 500, "test": 800, "side": 96}),
        ("stl10", {"train": 5_000, "test": 8_000, "side": 1}),
    ],
)
def test_other_data_under_a_name_is_refused_before_training(name, made, tmp_path):
    save(tmp_path, name, **made)
    with pytest.raises(ImclError, match=f"{name} has .* the file of this name holds .* put the right file there"):
        train(RunConfig(dataset=name, profile="cpu"), out=tmp_path / "out", data_folder=tmp_path, progress=False)
    assert not (tmp_path / "out").exists()


def test_the_digest_is_of_the_arrays_and_not_of_their_file(tmp_path):
    arrays = save(tmp_path, "cifar10")
    digest = load("cifar10", folder=tmp_path).origin.digest
    np.savez_compressed(tmp_path / "cifar10.npz", **arrays | {"y_train": arrays["y_train"][:, None].astype(np.uint8)})
    assert load("cifar10", folder=tmp_path, train_size=20, side=16).origin.digest == digest
    arrays["x_test"][0, 0, 0, 0] ^= 1
    np.savez(tmp_path / "cifar10.npz", **arrays)
    assert load("cifar10", folder=tmp_path).origin.digest != digest


def test_a_channel_with_one_value_is_told(tmp_path):
    save(tmp_path, "cifar10", channels=(0, 2))
    with pytest.raises(ImclError, match="has one value throughout"):
        load("cifar10", folder=tmp_path)


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(24, "Too many open files")])
def test_data_that_cannot_be_read_now_is_told_and_stays(tmp_path, monkeypatch, error):
    save(tmp_path, "cifar10")

    def refuse(*_, **__):
        raise error

    monkeypatch.setattr(sets, "_intact", lambda path: False)  # nor can its checksums be read
    monkeypatch.setattr(sets.np, "load", refuse)
    with pytest.raises(ImclError, match=rf"cifar10.npz cannot be read \({error.strerror}\)"):
        load("cifar10", folder=tmp_path)
    assert (tmp_path / "cifar10.npz").exists()


def test_a_header_that_asks_for_too_much_is_told(tmp_path):
    arrays = save(tmp_path, "cifar10")
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000, 32, 32, 3), }"
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    with zipfile.ZipFile(tmp_path / "cifar10.npz", "w") as file:
        for key, array in arrays.items():
            buffer = io.BytesIO()
            np.save(buffer, array)
            huge = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header
            file.writestr(f"{key}.npy", huge if key == "x_train" else buffer.getvalue())
    with pytest.raises(ImclError, match=r"cifar10.npz .*put a good copy there"):
        load("cifar10", folder=tmp_path)


def test_damaged_data_where_nothing_can_be_moved_is_told(tmp_path, monkeypatch):
    (tmp_path / "cifar10.npz").write_bytes(b"half")

    def refuse(*_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(type(tmp_path), "rename", refuse)
    with pytest.raises(ImclError, match=r"is damaged and cannot be moved aside \(Read-only file system\): put"):
        load("cifar10", folder=tmp_path)


@pytest.mark.skipif("IMCL_DATA" not in os.environ, reason="needs the real data: IMCL_DATA")
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_the_real_data_is_what_its_recipe_says(name):
    from imcl_core.training.run import check_data

    check_data(RunConfig(dataset=name), load(name))
