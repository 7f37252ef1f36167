"""Batches, augmented as torchvision would."""

import pytest
import torch
import torchvision.transforms.functional as tv
from made_data import data_set
from PIL import Image

from imcl_core.data.batches import TrainBatches, evaluation_batches
from imcl_core.errors import ImclError


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


def test_evaluation_covers_the_test_images_normalised_in_order():
    data = data_set()
    images, labels = zip(*evaluation_batches(data, batch_size=16), strict=True)
    assert [len(part) for part in images] == [16, 16, 8]
    expected = torch.stack([reference(data, image, 0, 0, False, 0) for image in data.test.images])
    torch.testing.assert_close(torch.cat(images), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(torch.cat(labels), data.test.labels)


def test_noise_falls_anywhere_in_the_order():
    data = data_set(train=1000)
    batches = TrainBatches(data, 100, noise=0.5)
    wrong = (batches.labels != data.train.labels)[batches._plan[:, 0]].float()
    assert abs(wrong[:500].mean() - wrong[500:].mean()) < 0.15


def test_no_epoch_of_a_seed_is_that_of_another():
    orders, labels = set(), set()
    for seed in range(3):
        batches = TrainBatches(data_set(), 32, noise=0.5, seed=seed)
        for epoch in range(4):
            batches.draw(epoch)
            orders.add(tuple(batches._plan[:, 0].tolist()))
            labels.add(tuple(batches.labels.tolist()))
    assert len(orders) == len(labels) == 12
