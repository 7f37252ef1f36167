"""Data: loading, downloading, damaged files, splits, and batches that are augmented as torchvision would."""

import hashlib
import io
import pickle
import struct
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as tv
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from imcl_core.data import download
from imcl_core.data.download import Archive
from imcl_core.data.sets import DataSet, Split, TrainBatches, evaluation_batches, load, reduced, stratified_order
from imcl_core.errors import ImclError

# --- material


def arrays(train=200, test=40, classes=10, side=32, seed=0):
    """A small data set in the layout of the .npz, every class in it."""
    random = np.random.default_rng(seed)
    made = {"classes": np.array([f"c{i}" for i in range(classes)])}
    for split, n in (("train", train), ("test", test)):
        made[f"x_{split}"] = random.integers(0, 256, (n, side, side, 3), dtype=np.uint8)
        made[f"y_{split}"] = random.permutation(np.arange(n) % classes)
    return made


def data_set(train=200, side=32, classes=10, seed=0):
    made, splits = arrays(train, 40, classes, side, seed), []
    for split in ("train", "test"):
        images = torch.from_numpy(made[f"x_{split}"]).permute(0, 3, 1, 2).contiguous()
        splits.append(Split(images, torch.from_numpy(made[f"y_{split}"])))
    mean, std = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.25, 0.3])
    return DataSet("made", tuple(map(str, range(classes))), *splits, mean, std)


@pytest.fixture
def folder(tmp_path):
    made = arrays()
    np.savez(tmp_path / "cifar10.npz", **made)
    return tmp_path


class Python2Pickler(pickle._Pickler):
    """Writes text and bytes as Python 2's `str`, as the pickles of the original CIFAR archives have them."""

    def save_string(self, value):
        raw = value.encode("latin1") if isinstance(value, str) else value
        self.write(pickle.BINSTRING + struct.pack("<i", len(raw)) + raw)
        self.memoize(value)

    dispatch = {**pickle._Pickler.dispatch, str: save_string, bytes: save_string}  # noqa: RUF012

    def save_reduce(self, func, args, *rest, obj=None, **named):
        if func.__name__ == "encode":  # how Python 3 spells bytes in an old pickle
            self.save_string(args[0])
        else:
            super().save_reduce(func, args, *rest, obj=obj, **named)


def python2_pickle(value):
    out = io.BytesIO()
    Python2Pickler(out, protocol=2).dump(value)
    return out.getvalue()


def tar(files):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


def rows(images):
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2)).reshape(len(images), -1)


def cifar100_archive(made):
    batch = {
        s: {"data": rows(made[f"x_{s}"]), "fine_labels": made[f"y_{s}"].tolist(), "coarse_labels": []}
        for s in ("train", "test")
    }
    batch["meta"] = {"fine_label_names": made["classes"].tolist()}
    return tar({f"cifar-100-python/{name}": python2_pickle(value) for name, value in batch.items()})


def md5(content):
    return hashlib.md5(content).hexdigest()


# --- the files of each data set


def test_npz_is_loaded_channel_first_with_its_own_statistics(folder):
    made, data = arrays(), load("cifar10", folder=folder)
    assert data.train.images.shape == (200, 3, 32, 32)
    assert data.train.images.is_contiguous()
    assert data.train.images.dtype == torch.uint8
    assert data.train.labels.dtype == torch.int64
    assert np.array_equal(data.train.images.permute(0, 2, 3, 1), made["x_train"])
    assert np.array_equal(data.test.images.permute(0, 2, 3, 1), made["x_test"])
    assert np.array_equal(data.test.labels, made["y_test"])
    assert data.classes == tuple(made["classes"])
    assert data.num_classes == 10
    np.testing.assert_allclose(data.mean, made["x_train"].mean((0, 1, 2)) / 255, rtol=1e-6)
    np.testing.assert_allclose(data.std, made["x_train"].std((0, 1, 2)) / 255, rtol=1e-6)


def test_the_folder_comes_from_the_argument_then_imcl_data_then_the_cache(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("IMCL_DATA", str(tmp_path / "elsewhere"))
    assert len(load("cifar10", folder=folder).train) == 200
    monkeypatch.setenv("IMCL_DATA", str(folder))
    assert len(load("cifar10").train) == 200
    monkeypatch.delenv("IMCL_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "imcl").symlink_to(folder)
    assert len(load("cifar10").train) == 200


def test_keras_column_labels_are_read(tmp_path):
    made = arrays()
    np.savez(tmp_path / "cifar10.npz", **{**made, "y_train": made["y_train"][:, None].astype(np.uint8)})
    assert np.array_equal(load("cifar10", folder=tmp_path).train.labels, made["y_train"])


def test_digits_need_no_folder_and_are_split_in_fixed_proportion():
    data, again = load("digits", folder="/nowhere"), load("digits")
    assert data.train.images.shape == (1437, 3, 32, 32)
    assert data.test.images.shape == (360, 3, 32, 32)
    assert data.train.images.max() == 255
    assert (data.train.images[:, 0] == data.train.images[:, 2]).all()
    everything = torch.cat([data.train.labels, data.test.labels]).bincount()
    assert ((data.test.labels.bincount() - everything / 5).abs() <= 1).all()
    assert torch.equal(data.test.images, again.test.images)
    from sklearn.datasets import load_digits

    small = data.test.images[:, 0].float().unfold(1, 4, 4).unfold(2, 4, 4).mean((3, 4)) / 255 * 16
    original = torch.from_numpy(load_digits().images).float().flatten(1)
    nearest = torch.cdist(small.flatten(1), original).argmin(1)  # each is still recognisably one original
    assert torch.equal(torch.from_numpy(load_digits().target)[nearest], data.test.labels)


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
        made["classes"] = np.array(download.STL10_CLASSES)
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


# --- downloads


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server, mode = self.server, self.path.split("/")[1]
        wanted = self.headers.get("Range")
        server.log.append((mode, wanted))
        content = b"x" * len(server.content) if mode == "wrong" else server.content
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and mode != "norange" else 0
        if mode == "missing" or start >= len(content):
            return self.send_error(404 if mode == "missing" else 416)
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        stop = start + 1000 if mode == "breaks" else 700 if mode == "short" else len(content)
        self.wfile.write(content[start:stop])

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    made = arrays(train=20, test=10)
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.content, httpd.log, httpd.made = cifar100_archive(made), [], made
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()

    def sources(*modes):
        urls = tuple(f"http://127.0.0.1:{httpd.server_port}/{mode}/c.tar.gz" for mode in modes)
        archive = Archive("c.tar.gz", md5(httpd.content), urls, download.read_cifar100)
        monkeypatch.setitem(download.ARCHIVES, "cifar100", archive)

    httpd.sources = sources
    yield httpd
    httpd.shutdown()
    thread.join()
    httpd.server_close()


def loads(server, folder):
    data = load("cifar100", folder=folder, progress=False)
    assert np.array_equal(data.train.images.permute(0, 2, 3, 1), server.made["x_train"])
    assert np.array_equal(data.test.labels, server.made["y_test"])


def names(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def test_download_falls_through_bad_sources_and_leaves_only_the_npz(server, tmp_path):
    server.sources("missing", "wrong", "good", "missing")
    loads(server, tmp_path / "new" / "folder")
    assert [mode for mode, _ in server.log] == ["missing", "wrong", "good"]
    assert names(tmp_path / "new" / "folder") == ["c.tar.gz.part.corrupt", "cifar100.npz"]
    loads(server, tmp_path / "new" / "folder")
    assert len(server.log) == 3  # nothing is downloaded twice


def test_download_resumes_a_part(server, tmp_path):
    server.sources("good")
    (tmp_path / "c.tar.gz.part").write_bytes(server.content[:1234])
    loads(server, tmp_path)
    assert server.log == [("good", "bytes=1234-")]
    assert names(tmp_path) == ["cifar100.npz"]


def test_download_of_a_complete_part_asks_for_nothing_more(server, tmp_path):
    server.sources("good")
    (tmp_path / "c.tar.gz.part").write_bytes(server.content)
    loads(server, tmp_path)
    assert names(tmp_path) == ["cifar100.npz"]


def test_a_server_that_ignores_range_restarts_cleanly(server, tmp_path):
    server.sources("norange")
    (tmp_path / "c.tar.gz.part").write_bytes(server.content[:1234])
    loads(server, tmp_path)
    assert server.log == [("norange", "bytes=1234-")]
    assert names(tmp_path) == ["cifar100.npz"]


def test_a_bad_part_is_moved_aside_and_the_same_source_tried_afresh(server, tmp_path):
    server.sources("good")
    (tmp_path / "c.tar.gz.part").write_bytes(b"?" * 1234)
    loads(server, tmp_path)
    assert server.log == [("good", "bytes=1234-"), ("good", None)]
    assert names(tmp_path) == ["c.tar.gz.part.corrupt", "cifar100.npz"]


def test_a_connection_that_keeps_breaking_is_resumed_until_whole(server, tmp_path):
    server.made = arrays(train=2, test=1, classes=1)
    server.content = cifar100_archive(server.made)
    server.sources("breaks")
    loads(server, tmp_path)
    assert server.log[:3] == [("breaks", None), ("breaks", "bytes=1000-"), ("breaks", "bytes=2000-")]


def test_a_truncated_answer_is_finished_by_the_next_source(server, tmp_path):
    server.sources("short", "good")
    loads(server, tmp_path)
    assert server.log[0] == ("short", None)
    assert server.log[-1] == ("good", "bytes=700-")


def test_when_every_source_fails_the_message_says_what_to_put_where(server, tmp_path):
    server.sources("missing", "wrong")
    with pytest.raises(ImclError) as error:
        load("cifar100", folder=tmp_path, progress=False)
    message = str(error.value)
    for part in ("cifar100.npz", "c.tar.gz", md5(server.content), str(tmp_path), "404", "wrong MD5"):
        assert part in message
    assert "\n" not in message
    assert names(tmp_path) == ["c.tar.gz.part.corrupt"]


def test_without_a_network_there_is_one_clear_sentence(tmp_path, monkeypatch):
    archive = Archive("c.tar.gz", "0" * 32, ("http://127.0.0.1:9/c.tar.gz",), download.read_cifar100)
    monkeypatch.setitem(download.ARCHIVES, "cifar100", archive)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(ImclError, match=r"Could not download cifar100: put the original c\.tar\.gz"):
        load("cifar100", folder=tmp_path, progress=False)


def test_an_archive_with_a_wrong_md5_is_moved_aside_never_over_another_and_fetched_anew(server, tmp_path):
    server.sources("good")
    (tmp_path / "c.tar.gz").write_bytes(b"half a file")
    (tmp_path / "c.tar.gz.corrupt").write_bytes(b"an earlier one")
    loads(server, tmp_path)
    assert (tmp_path / "c.tar.gz.corrupt").read_bytes() == b"an earlier one"
    assert (tmp_path / "c.tar.gz.corrupt.1").read_bytes() == b"half a file"


def test_processes_that_miss_the_same_file_download_it_once(server, tmp_path):
    server.sources("good")
    arguments = ("cifar100", tmp_path, False)
    threads = [threading.Thread(target=download.prepare, args=arguments) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert server.log == [("good", None)]
    assert names(tmp_path) == ["cifar100.npz"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ImclError, match=r"Cannot make .*file.*IMCL_DATA"):
        load("cifar100", folder=tmp_path / "file")


# --- what is refused


def test_unknown_name_gets_the_nearest():
    with pytest.raises(ImclError, match=r"'cifar-100'.*Did you mean 'cifar100'"):
        load("cifar-100")


@pytest.mark.parametrize("damage", ["truncated", "flipped", "garbage", "empty", "compressed"])
def test_a_damaged_npz_is_moved_aside_and_named(folder, damage):
    path = folder / "cifar10.npz"
    if damage == "compressed":
        np.savez_compressed(path, **arrays())
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle] ^= 255
    bad = {"truncated": content[:middle], "garbage": b"<html>", "empty": b""}.get(damage, content)
    for number in ("", ".1"):
        path.write_bytes(bad)
        with pytest.raises(ImclError, match=rf"cifar10\.npz was damaged .*cifar10\.npz\.corrupt{number}:"):
            load("cifar10", folder=folder)
        assert not path.exists()
        assert (folder / f"cifar10.npz.corrupt{number}").read_bytes() == bad


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y_test": None}, "lacks y_test"),
        ({"classes": None, "x_train": None}, "lacks x_train, classes"),
        ({"x_train": np.zeros((200, 3, 32, 32), np.uint8)}, r"x_train of uint8 \(200, 3, 32, 32\)"),
        ({"x_test": np.zeros((40, 32, 32, 3), np.float32)}, "x_test of float32"),
        ({"x_test": np.zeros((40, 16, 16, 3), np.uint8)}, "different sizes"),
        ({"y_train": np.zeros(199, np.int64)}, r"y_train of int64 \(199,\)"),
        ({"y_train": np.zeros(200)}, "y_train of float64"),
        ({"y_train": np.full(200, 10)}, "labels from 10 to 10 in y_train, but 10 classes"),
        ({"y_test": np.full(40, -1)}, "labels from -1 to -1 in y_test"),
        ({"classes": np.array(["a", 1], dtype=object)}, "not readable as arrays"),
    ],
)
def test_a_wrong_layout_is_refused_and_left_where_it_is(folder, change, message):
    changed = {key: value for key, value in {**arrays(), **change}.items() if value is not None}
    np.savez(folder / "cifar10.npz", **changed)
    with pytest.raises(ImclError, match=rf"cifar10\.npz .*{message}"):
        load("cifar10", folder=folder)
    assert names(folder) == ["cifar10.npz"]


@pytest.mark.parametrize("size", [0, -1, 181])
def test_an_impossible_train_size_is_refused(folder, size):
    with pytest.raises(ImclError, match="from 1 to 180"):
        load("cifar10", folder=folder, train_size=size, validation=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 201}, r"batch_size must be from 1 to 200.*smaller batch"),
        ({"batch_size": 0}, "batch_size"),
        ({"padding": -1}, "padding"),
        ({"noise": 1.5}, "noise"),
    ],
)
def test_impossible_batches_are_refused(arguments, message):
    with pytest.raises(ImclError, match=message):
        TrainBatches(data_set(), **{"batch_size": 8, **arguments})


# --- subsets


@settings(derandomize=True, deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=200))
def test_every_prefix_of_the_stratified_order_is_proportional(labels):
    labels = torch.tensor(labels)
    order = stratified_order(labels)
    assert torch.equal(order.sort().values, torch.arange(len(labels)))
    one_hot = torch.nn.functional.one_hot(labels[order], 7).double()
    share = torch.arange(1, len(labels) + 1)[:, None] * one_hot.mean(0)
    assert (one_hot.cumsum(0) - share).abs().max() <= 1.5


def pairs_of(split):
    images = [image.numpy().tobytes() for image in split.images]
    return list(zip(images, split.labels.tolist(), strict=True))


def images_of(split):
    return {image for image, _ in pairs_of(split)}


def test_so_many_training_images_can_be_held_out(folder):
    full = load("cifar10", folder=folder)
    held = load("cifar10", folder=folder, validation=True, held_out=50, train_size=30)
    assert len(held.test) == 50 and len(held.train) == 30
    tenth = load("cifar10", folder=folder, validation=True)
    kept = {image.numpy().tobytes() for image in held.test.images}
    assert {image.numpy().tobytes() for image in tenth.test.images} <= kept  # of one order, so that none is trained on
    assert not kept & {image.numpy().tobytes() for image in held.train.images}
    with pytest.raises(ImclError, match=f"held_out of cifar10 must be less than {len(full.train)}"):
        load("cifar10", folder=folder, validation=True, held_out=len(full.train))


def test_validation_holds_out_a_stratified_tenth_and_leaves_the_test_set_out(folder):
    full, held = load("cifar10", folder=folder), load("cifar10", folder=folder, validation=True)
    assert held.test.labels.bincount().tolist() == [2] * 10
    assert held.train.labels.bincount().tolist() == [18] * 10
    assert images_of(held.train) | images_of(held.test) == images_of(full.train)
    assert not images_of(held.train) & images_of(held.test)
    expected = held.train.images.float().mean((0, 2, 3)) / 255
    torch.testing.assert_close(held.mean, expected)  # no statistics of held-out images
    assert torch.equal(load("cifar10", folder=folder, validation=True).test.images, held.test.images)


def test_subsets_are_fixed_stratified_nested_and_keep_image_and_label_together(folder):
    full = load("cifar10", folder=folder)
    label_of = dict(pairs_of(full.train))
    small, large = (load("cifar10", folder=folder, train_size=n) for n in (50, 120))
    assert small.train.labels.bincount().tolist() == [5] * 10
    assert large.train.labels.bincount().tolist() == [12] * 10
    assert images_of(small.train) < images_of(large.train) < images_of(full.train)
    kept = dict(pairs_of(small.train))
    assert list(kept.items()) == [pair for pair in label_of.items() if pair[0] in kept]  # in their first order
    assert torch.equal(small.test.images, full.test.images)
    held = load("cifar10", folder=folder, train_size=50, validation=True)
    assert len(held.train) == 50
    assert not images_of(held.train) & images_of(held.test)


# --- batches


def reference(data, image, down, right, mirrored, padding):
    """torchvision's own steps on a PIL image, for a known crop."""
    picture = tv.pad(Image.fromarray(image.permute(1, 2, 0).numpy()), padding)
    picture = tv.crop(picture, down, right, image.shape[1], image.shape[2])
    if mirrored:
        picture = tv.hflip(picture)
    return tv.normalize(tv.to_tensor(picture), data.mean, data.std)


@pytest.mark.parametrize(("side", "padding"), [(32, 4), (12, 3), (8, 0)])
def test_every_image_is_augmented_as_torchvision_would(side, padding):
    data = data_set(side=side)
    batches = TrainBatches(data, 50, padding=padding, seed=3)
    images, labels = zip(*batches.epoch(2), strict=True)
    row = side + 2 * padding
    seen = set()
    for image, label, (index, offset, mirrored) in zip(
        torch.cat(images), torch.cat(labels), batches._plan.tolist(), strict=True
    ):
        down, right = divmod(offset, row)
        expected = reference(data, data.train.images[index], down, right, mirrored, padding)
        torch.testing.assert_close(image, expected, rtol=1e-5, atol=1e-5)
        assert label == data.train.labels[index]
        seen.add((down, right, mirrored))
    corners = {0, 2 * padding}
    assert {d for d, _, _ in seen} >= corners
    assert {r for _, r, _ in seen} >= corners


def test_crops_and_flips_are_uniform_and_the_order_is_a_permutation():
    data = data_set(train=8100, side=2)
    batches = TrainBatches(data, 100, padding=4)
    index, offset, mirrored = batches._plan.unbind(1)
    assert torch.equal(index.sort().values, torch.arange(8100))
    assert not torch.equal(index, torch.arange(8100))
    down, right = offset // 10, offset % 10
    cells = (down * 9 + right).bincount(minlength=81)
    assert down.max() == right.max() == 8
    assert len(cells) == 81
    assert ((cells - 100) / 10).square().sum() < 130  # chi-squared with 80 degrees of freedom: p about 3e-4
    assert abs(mirrored.float().mean() - 0.5) < 0.02
    assert not TrainBatches(data, 100, flip=False)._plan[:, 2].any()


def test_an_epoch_follows_from_seed_and_epoch_alone():
    data = data_set()
    first, second = TrainBatches(data, 32, noise=0.3, seed=5), TrainBatches(data, 32, noise=0.3, seed=5)
    for epoch in range(7):
        first.draw(epoch)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    pairs = list(zip(first.epoch(7), second.epoch(7), strict=True))
    assert torch.equal(torch.get_rng_state(), state)  # the global generator is left alone
    assert len(pairs) == len(first) == 6
    assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in pairs)
    plan = second._plan.clone()
    second.draw(8)
    assert not torch.equal(second._plan[:, 0], plan[:, 0])
    other = TrainBatches(data, 32, seed=6)
    other.draw(7)
    assert not torch.equal(other._plan[:, 0], plan[:, 0])


def test_drawing_fills_in_place_and_start_may_be_a_tensor():
    batches = TrainBatches(data_set(), 32, noise=0.5)
    places = batches._plan.data_ptr(), batches.labels.data_ptr()
    batches.draw(3)
    assert places == (batches._plan.data_ptr(), batches.labels.data_ptr())
    for ours, theirs in zip(batches.batch(64), batches.batch(torch.tensor(64)), strict=True):
        assert torch.equal(ours, theirs)


def test_noise_is_exact_redrawn_and_leaves_everything_else_alone():
    data = data_set(train=1000)
    clean_labels, test_labels = data.train.labels.clone(), data.test.labels.clone()
    clean, noisy = (TrainBatches(data, 100, noise=noise) for noise in (0.0, 0.437))
    changed = []
    for epoch in range(20):
        clean.draw(epoch)
        noisy.draw(epoch)
        assert torch.equal(clean._plan, noisy._plan)
        assert torch.equal(clean.labels, clean_labels)
        changed.append(noisy.labels != clean_labels)
    # A tenth of the 437 redrawn labels are what they were before: 393.3 change, give or take 6.3.
    counts = torch.stack(changed).sum(1).double()
    assert counts.max() <= 437
    assert abs(counts.mean() - 393.3) < 5
    assert torch.stack(changed).any(0).all()  # over the epochs noise reaches every image
    assert torch.equal(data.train.labels, clean_labels)
    assert torch.equal(data.test.labels, test_labels)
    assert torch.equal(torch.cat([labels for _, labels in evaluation_batches(data)]), test_labels)


@pytest.mark.parametrize(("noise", "expected"), [(0.0, 0), (0.0049, 1), (0.25, 50), (1.0, 200)])
def test_exactly_the_rounded_number_of_labels_is_redrawn(noise, expected, monkeypatch):
    batches = TrainBatches(data_set(), 10, noise=noise)
    real = torch.randint

    def marked(high, shape, generator):
        drawn = real(high, shape, generator=generator)
        return torch.full_like(drawn, 99) if high == 10 else drawn

    monkeypatch.setattr(torch, "randint", marked)
    for epoch in range(3):
        batches.draw(epoch)
        assert (batches.labels == 99).sum() == expected == batches.num_noisy


@pytest.mark.parametrize("factor", [2, 3])
def test_reduced_pixels_are_rounded_means_of_squares(factor):
    images = data_set(train=20, side=4 * factor).train.images
    means = images.double().unflatten(3, (4, factor)).unflatten(2, (4, factor)).mean((3, 5))
    assert torch.equal(reduced(images, 4), (means + 0.5).floor().to(torch.uint8))
    assert reduced(images, 4 * factor) is images
    with pytest.raises(ImclError, match="a side that divides theirs"):
        reduced(images, 5)


def test_statistics_are_those_of_the_reduced_images(folder):
    whole, small = load("cifar10", folder=folder), load("cifar10", folder=folder, side=16)
    assert torch.equal(small.train.images, reduced(whole.train.images, 16))
    assert torch.equal(small.test.images, reduced(whole.test.images, 16))
    pixels = small.train.images.double().transpose(0, 1).flatten(1) / 255
    torch.testing.assert_close(small.std.double(), pixels.std(1, correction=0), rtol=1e-5, atol=1e-6)
    assert (small.std < whole.std).all()


def test_evaluation_covers_the_test_images_normalised_in_order():
    data = data_set()
    images, labels = zip(*evaluation_batches(data, batch_size=16), strict=True)
    assert [len(part) for part in images] == [16, 16, 8]
    expected = torch.stack([reference(data, image, 0, 0, False, 0) for image in data.test.images])
    torch.testing.assert_close(torch.cat(images), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(torch.cat(labels), data.test.labels)


def test_to_moves_every_tensor():
    moved = data_set().to("meta")
    parts = (*vars(moved.train).values(), *vars(moved.test).values(), moved.mean, moved.std)
    assert len(parts) == 6
    assert all(part.device.type == "meta" for part in parts)
