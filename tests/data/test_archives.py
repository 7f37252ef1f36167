"""The original archives as arrays, and what in them is refused."""

import pickle

import numpy as np
import pytest
from made_data import arrays, cifar100_archive, md5, python2_pickle, rows, tar

from imcl_core.data import archives, download
from imcl_core.data.download import Archive
from imcl_core.data.sets import load
from imcl_core.errors import ImclError


@pytest.fixture
def folder(tmp_path):
    made = arrays()
    np.savez(tmp_path / "cifar10.npz", **made)
    return tmp_path


def test_imagenet32_is_made_from_the_official_files(tmp_path):
    random, home = np.random.default_rng(1), tmp_path / "imagenet32"
    home.mkdir()
    images = random.integers(0, 256, (34, 32, 32, 3), dtype=np.uint8)
    labels = [1, 1000, *random.integers(1, 1001, 32).tolist()]
    for i in range(11):
        name = f"train_data_batch_{i + 1}" if i < 10 else "val_data"
        part = slice(3 * i, 3 * i + 3) if i < 10 else slice(30, None)
        batch = {"data": rows(images[part]), "labels": labels[part], "mean": np.zeros(3072)}
        (home / name).write_bytes(pickle.dumps(batch, protocol=2 if i % 2 else 4))
    data = load("imagenet32", folder=tmp_path, progress=False)
    assert np.array_equal(data.train.images.permute(0, 2, 3, 1), images[:30])
    assert np.array_equal(data.test.images.permute(0, 2, 3, 1), images[30:])
    assert data.train.labels[:2].tolist() == [0, 999]
    assert data.num_classes == 1000
    assert data.test.labels.tolist() == [label - 1 for label in labels[30:]]
    for file in home.iterdir():
        file.unlink()
    assert len(load("imagenet32", folder=tmp_path).train) == 30  # from the .npz now


def test_imagenet32_names_what_is_missing_and_moves_a_damaged_file_aside(tmp_path):
    for i in range(1, 11):
        (tmp_path / f"train_data_batch_{i}").write_bytes(pickle.dumps({"data": None})[:-5])
    with pytest.raises(ImclError, match=r"train_data_batch_1 .*missing: val_data"):
        load("imagenet32", folder=tmp_path, progress=False)
    (tmp_path / "val_data").write_bytes(b"")
    with pytest.raises(ImclError, match=r"train_data_batch_1 was not .*train_data_batch_1\.corrupt"):
        load("imagenet32", folder=tmp_path, progress=False)
    assert "train_data_batch_1.corrupt" in names(tmp_path)
    assert "train_data_batch_1" not in names(tmp_path)


def test_a_pickle_that_runs_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "owned"), "w"))

    for name in [*(f"train_data_batch_{i}" for i in range(1, 11)), "val_data"]:
        (tmp_path / name).write_bytes(pickle.dumps({"data": Evil(), "labels": [1]}))
    with pytest.raises(ImclError):
        load("imagenet32", folder=tmp_path, progress=False)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "stl10"])
def test_an_original_archive_in_the_folder_is_converted(name, tmp_path, monkeypatch):
    side = 96 if name == "stl10" else 32
    made = arrays(train=20, test=10, side=side)
    if name == "cifar100":
        content = cifar100_archive(made)
    elif name == "cifar10":
        files = {"batches.meta": {"label_names": made["classes"].tolist()}, "readme.html": "not a pickle"}
        for i in range(5):
            part = slice(4 * i, 4 * i + 4)
            batch = {"data": rows(made["x_train"][part]), "labels": made["y_train"][part].tolist()}
            files[f"data_batch_{i + 1}"] = batch
        files["test_batch"] = {"data": rows(made["x_test"]), "labels": made["y_test"].tolist()}
        content = tar({f"cifar-10-batches-py/{k}": python2_pickle(v) for k, v in files.items()})
    else:
        made["classes"] = np.array(archives.STL10_CLASSES)
        files = {}
        for split in ("test", "train"):
            columns = np.ascontiguousarray(made[f"x_{split}"].transpose(0, 3, 2, 1))
            files[f"{split}_X.bin"] = columns.tobytes()
            files[f"{split}_y.bin"] = (made[f"y_{split}"] + 1).astype(np.uint8).tobytes()
        content = tar({f"stl10_binary/{k}": v for k, v in {**files, "unlabeled_X.bin": b"..."}.items()})
    known = download.ARCHIVES[name]
    monkeypatch.setitem(download.ARCHIVES, name, Archive(known.file, md5(content), known.urls, known.read))
    (tmp_path / known.file).write_bytes(content)
    data = load(name, folder=tmp_path, progress=False)
    for split in ("train", "test"):
        loaded = getattr(data, split)
        assert np.array_equal(loaded.images.permute(0, 2, 3, 1), made[f"x_{split}"])
        assert np.array_equal(loaded.labels, made[f"y_{split}"])
    assert data.classes == tuple(made["classes"])
    assert (tmp_path / f"{name}.npz").exists()
    assert (tmp_path / known.file).exists()


def names(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))
