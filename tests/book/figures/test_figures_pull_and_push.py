"""The figure of chapter 5: what is drawn is what was given."""

import numpy as np
from imcl_book.figures import pull_and_push as figures


def test_descriptors_are_the_standard_deviations_of_the_maps():
    rng = np.random.default_rng(0)
    images, maps = rng.random((2, 6, 6, 3)), rng.random((2, 4, 6, 6))
    maps[1, 2] = 0.5  # a constant map
    figure = figures.descriptors(images, maps, ["as it is", "moved"])
    axes = np.array(figure.axes).reshape(2, 6)
    assert np.array_equal(axes[1, 3].images[0].get_array(), maps[1, 2])
    heights = [bar.get_height() for bar in axes[1, -1].patches]
    assert np.allclose(heights, maps[1].std(axis=(1, 2)))
    assert heights[2] == 0
