"""Pull-push: its projections, that it is local, and what it compares of images."""

import numpy as np
import pytest
import torch
from collaborations import gradients, make, make_batch, recomputed_gradients


@pytest.mark.parametrize("form", ["1x1", "none"])
def test_pull_push_by_another_projection(form):
    collaboration = make("resnet18", "pull-push", pp_projection=form)
    sizes = {name: tuple(p.shape[2:]) for name, p in collaboration.heads.named_parameters()}
    assert set(sizes.values()) == ({(1, 1)} if form == "1x1" else set())
    torch.manual_seed(7)
    expected = recomputed_gradients(collaboration, *make_batch())[1]
    torch.manual_seed(7)
    collaboration(*make_batch()).backward()
    found = gradients(collaboration)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-9, atol=1e-12, msg=name)


def cosines(rows):
    """Eq. 8 of vectors, pair by pair."""
    found = np.zeros((len(rows), len(rows)))
    for i, a in enumerate(rows):
        for j, b in enumerate(rows):
            a_, b_ = a - a.mean(), b - b.mean()
            found[i, j] = (a_ * b_).sum() / np.sqrt((a_**2).sum() * (b_**2).sum())
    return found


@pytest.mark.parametrize("way", ["deviations", "pixels"])
def test_the_push_is_from_what_the_setting_compares_of_images(way):
    settings = {"pp_projection": "none", "pp_pull": (0.0, 0.0), "pp_push": (1.0, 1.0)}
    collaboration, (images, labels) = make("resnet18", "pull-push", pp_input=way, **settings), make_batch()
    x = images.numpy()
    source = [image.ravel() if way == "pixels" else image.std(axis=(1, 2)) for image in x]
    first = collaboration.layers[0]  # whose input is the image
    maps = collaboration.network.get_submodule(first)(images).detach().numpy()
    expected = -np.sqrt(((cosines(maps.std(axis=(2, 3))) - cosines(source)) ** 2).sum()) / len(x)
    assert collaboration.objective(images, labels)[f"pull-push/{first}"].item() == pytest.approx(expected, rel=1e-9)


def test_grey_images_differ_by_their_pixels():
    images = make_batch()[0][:, :1].expand(-1, 3, -1, -1)
    task = make("resnet18", "pull-push").task
    assert not task.image_similarity(images, "sample").abs().max() > 1e-6
    found = task.image_similarity(images, "sample", pixels=True).numpy()
    np.testing.assert_allclose(found, cosines(images.flatten(1).numpy()), atol=1e-12)


def test_without_a_push_images_are_not_compared(monkeypatch):
    collaboration, (images, labels) = make("resnet18", "pull-push", pp_push=(0.0, 0.0)), make_batch()
    torch.manual_seed(7)
    expected = recomputed_gradients(collaboration, images, labels)[1]  # of Eq. 9 with both distances
    monkeypatch.setattr(collaboration.task, "image_similarity", lambda *_: pytest.fail("S(x) is computed"))
    torch.manual_seed(7)
    collaboration(images, labels).backward()
    for name, gradient in gradients(collaboration).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-9, atol=1e-12, msg=name)
