"""Mosaics for segmentation, and training on them."""

import dataclasses

import pytest
import torch

from imcl_core import DenseSettings, ImclError
from imcl_core.networks import UNet
from imcl_core.study import scenes
from imcl_core.study.scenes import SCENE_CLASSES, Segmentation, evaluate, fit, mosaics, normal

SHORT = Segmentation(scenes=16, test_scenes=8, epochs=2, width=4)


def test_mosaics_have_every_class_and_follow_their_seed():
    one, again, other = (mosaics(40, seed=s) for s in (0, 0, 1))
    assert one.images.shape == (40, 3, 32, 32) and one.images.dtype == torch.uint8
    assert one.labels.shape == (40, 32, 32) and one.labels.unique().tolist() == list(range(len(SCENE_CLASSES)))
    assert torch.equal(one.images, again.images) and torch.equal(one.labels, again.labels)
    assert not torch.equal(one.labels, other.labels)
    assert mosaics(2, side=48).labels.shape == (2, 48, 48)


def test_stripes_run_as_their_class_says():
    scenes = mosaics(200, cells=1, noise=0)
    for name, (down, right) in {"lying stripes": (0, 1), "standing stripes": (1, 0), "rising stripes": (1, -1),
                                "falling stripes": (1, 1)}.items():  # fmt: skip
        images = scenes.images[scenes.labels[:, 0, 0] == SCENE_CLASSES.index(name)].float()
        along = images[..., 1:-1, 1:-1] - images[..., 1 + down : 31 + down, 1 + right : 31 + right]
        assert len(images) > 20 and along.abs().max() <= 1, name


def test_a_cell_is_what_lies_nearest_to_its_point():
    labels = mosaics(50, cells=2, noise=0).labels
    changes = (labels[:, :, 1:] != labels[:, :, :-1]).sum(dim=2)
    assert changes.max() == 1, "the border of two cells is a straight line"


@pytest.mark.parametrize("wrong", [{"side": 4}, {"count": 0}, {"cells": 0}, {"noise": -1}])
def test_mistakes_are_one_sentence(wrong):
    with pytest.raises(ImclError, match="A mosaic needs") as caught:
        mosaics(**{"count": 2} | wrong)
    assert "\n" not in str(caught.value)


def test_the_measure_by_hand():
    scenes, network = mosaics(4), UNet(len(SCENE_CLASSES), 4)
    found = evaluate(network, scenes)
    predicted = network.eval()(normal(scenes.images)).argmax(dim=1)
    ratios = []
    for c in range(len(SCENE_CLASSES)):
        both = ((predicted == c) & (scenes.labels == c)).sum()
        either = ((predicted == c) | (scenes.labels == c)).sum()
        ratios += [(both / either).item()] * bool(either)
    assert found["miou"] == pytest.approx(100 * sum(ratios) / len(ratios))
    assert found["error"] == pytest.approx(100 * (predicted != scenes.labels).double().mean().item(), rel=1e-4)


def test_a_run_follows_its_seed_and_leaves_the_random_stream_alone():
    state = torch.get_rng_state()
    (one, _), (again, _), (other, _) = (fit("mid+pull-push", s, how=SHORT, progress=False) for s in (0, 0, 1))
    assert torch.equal(state, torch.get_rng_state())
    assert one["curve"] == again["curve"] != other["curve"]
    assert one["how"] == dataclasses.asdict(SHORT) and one["settings"] == dataclasses.asdict(DenseSettings())


def test_validation_looks_at_other_scenes_than_the_test():
    (test, _), (held_out, _) = (fit("baseline", how=SHORT, validation=v, progress=False) for v in (False, True))
    assert [e["loss"] for e in test["curve"]] == [e["loss"] for e in held_out["curve"]]
    assert [e["miou"] for e in test["curve"]] != [e["miou"] for e in held_out["curve"]]


def test_the_rate_falls_along_a_cosine(monkeypatch):
    epoch, rates = scenes._epoch, []

    def watched(collaboration, optimizer, *rest):
        rates.append(optimizer.param_groups[0]["lr"])
        return epoch(collaboration, optimizer, *rest)

    monkeypatch.setattr(scenes, "_epoch", watched)
    fit("baseline", how=SHORT, progress=False)
    assert rates == pytest.approx([0.01, 0.005])
