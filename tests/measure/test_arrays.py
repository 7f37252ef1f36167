"""The small arrays kept of a trained network: their values, their size, where they lie."""

import numpy as np
import pytest
import torch

from imcl_core import RunConfig, losses, train
from imcl_core.data.batches import evaluation_batches
from imcl_core.data.sets import load
from imcl_core.measure import arrays
from imcl_core.networks import build


@pytest.fixture(scope="module")
def data():
    return load("digits")


@pytest.mark.parametrize("model", ["vgg16", "resnet18"])
def test_arrays_are_those_of_the_layers(data, model):
    torch.manual_seed(0)
    network = build(model, 10, width=0.125).train()
    found = arrays.small_arrays(network, data)
    assert network.training
    labels = data.test.labels[:64]
    assert found["labels"].tolist() == sorted(labels.tolist())
    layers = [name.removeprefix("similarity/") for name in found if name.startswith("similarity/")]
    assert layers == ["images", *network.layers]

    first = network.eval().layers[layers[1]]
    images = next(iter(evaluation_batches(data)))[0][:64][labels.argsort(stable=True)]
    for name, seen in (("images", images), (layers[1], first(images))):
        expected = losses.similarity_matrix(seen).detach().numpy()
        np.testing.assert_allclose(found[f"similarity/{name}"], expected, atol=2e-3)


def test_the_most_redundant_filters_are_found(data):
    torch.manual_seed(0)
    network = build("vgg16", 10, width=0.125)
    weight = network.layers["trunk.group5.conv3"].conv.weight
    with torch.no_grad():
        weight[5] = -2 * weight[40]
    found = arrays.small_arrays(network, data)
    covariance = found["covariance/trunk.group5.conv3"]
    assert covariance.shape == (48, 48) and covariance.diagonal().any() == 0
    assert covariance[0, 1] == pytest.approx(-1, abs=1e-3)
    redundancy = found["redundancy/trunk.group5.conv3"]
    assert redundancy.sum() == 64 * 63 // 2 and redundancy[-1] == 1


def test_they_are_written_with_the_record_and_small_at_full_width(data, tmp_path):
    config = RunConfig(epochs=1, train_size=64, hidden=16)
    train(config, out=tmp_path, progress=False)
    assert arrays.read(config.name, tmp_path / "nothing", tmp_path.parent)["labels"].shape == (64,)
    assert arrays.read("another", tmp_path) is None
    for model in ("vgg16", "resnet18"):
        arrays.write(tmp_path / "full.npz", arrays.small_arrays(build(model, 100), data))
        assert (tmp_path / "full.npz").stat().st_size < 1_000_000
