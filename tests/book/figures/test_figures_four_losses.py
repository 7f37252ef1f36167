"""The README's picture: what is drawn is what was given, of a network trained here."""

import importlib.util
from pathlib import Path

import numpy as np
from imcl_book.figures.four_losses import four_losses
from matplotlib.patches import Rectangle

from imcl_core.training.config import RunConfig

ROOT = Path(__file__).parents[3]


def test_the_four_losses_show_every_matrix_and_frames_the_true_class():
    random = np.random.default_rng(0)
    predictions, local = random.random((4, 3)), random.random((5, 3))
    similarities = [random.random((6, 6)) for _ in range(3)]
    covariance = random.random((7, 7))
    image = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    figure = four_losses(image, 2, ("a", "b", "c"), predictions, local, similarities, covariance)
    shown = [axis.images[0].get_array() for axis in figure.axes if axis.images]
    for array, expected in zip(shown, [image, predictions, local, *similarities, covariance], strict=True):
        np.testing.assert_array_equal(array, expected)
    frames = [patch.get_x() for axis in figure.axes for patch in axis.patches if isinstance(patch, Rectangle)]
    assert frames == [1.5, 1.5]
    said = " ".join(axis.get_xlabel() for axis in figure.axes) + " ".join(
        part.get_supxlabel() for part in figure.subfigs
    )
    for drawn in ("framed", "brighter", "red", "blue", "sorted by class"):
        assert drawn in said


def test_the_picture_of_the_readme_comes_from_a_trained_network():
    spec = importlib.util.spec_from_file_location("readme_picture", ROOT / "benchmarks/readme_picture.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = RunConfig(model="vgg16", methods="out+mid+pull-push+kernel", epochs=1, train_size=64)
    figure = module.picture(config)
    image, predictions, local, source, layer, target, covariance = (
        axis.images[0].get_array() for axis in figure.axes if axis.images
    )
    assert image.shape == (32, 32, 3)
    assert predictions.shape == (4, 10)
    assert local.shape == (14, 10)
    np.testing.assert_allclose(np.concatenate([predictions, local]).sum(axis=1), 1, rtol=1e-5)
    assert not np.allclose(predictions[0], predictions[1])
    assert source.shape == layer.shape == target.shape == (60, 60)
    np.testing.assert_allclose(np.unique(target.round(4)), [-1 / 9, 1], atol=1e-4)
    assert covariance.shape == (64, 64)
    assert (ROOT / "book/_static/readme.png").stat().st_size <= 250_000
