"""Data sets: loading, damaged files, splits, smaller images."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_data import arrays, data_set

from imcl_core.data.sets import load, reduced, stratified_order
from imcl_core.errors import ImclError


@pytest.fixture
def folder(tmp_path):
    made = arrays()
    np.savez(tmp_path / "cifar10.npz", **made)
    return tmp_path


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


def names(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


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
        ({"classes": np.array("cat")}, r"has classes of shape \(\), not a list of names"),
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
    for number in (len(full.train), -5):
        with pytest.raises(
            ImclError, match=f"held_out of cifar10 must be from 1 to {len(full.train) - 1}, not {number}"
        ):
            load("cifar10", folder=folder, validation=True, held_out=number)


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


@pytest.mark.parametrize("side", [0, -16])
def test_images_without_a_side_are_refused(folder, side):
    with pytest.raises(ImclError, match=f"side of cifar10 must be 1 or more, not {side}"):
        load("cifar10", folder=folder, side=side)


def test_to_moves_every_tensor():
    moved = data_set().to("meta")
    parts = (*vars(moved.train).values(), *vars(moved.test).values(), moved.mean, moved.std)
    assert len(parts) == 6
    assert all(part.device.type == "meta" for part in parts)


def test_the_digits_are_the_same_bytes_on_any_machine():
    assert load("digits").origin.digest == "ad3f235dc10ba354"


def test_statistics_are_those_of_the_images_that_are_trained_on(folder):
    few = load("cifar10", folder=folder, train_size=30)
    pixels = few.train.images.double().transpose(0, 1).flatten(1) / 255
    torch.testing.assert_close(few.mean.double(), pixels.mean(1), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(few.std.double(), pixels.std(1, correction=0), rtol=1e-5, atol=1e-6)
