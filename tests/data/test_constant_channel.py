"""A channel that is the same in every image of a set."""

import numpy as np
import pytest

from imcl_core.data.sets import load
from imcl_core.errors import ImclError


@pytest.mark.parametrize("value", [0, 77, 255])
def test_it_is_named(value, tmp_path):
    draw = np.random.default_rng(0)
    arrays = {"classes": [str(c) for c in range(10)]}
    for split, count in (("train", 20), ("test", 10)):
        arrays[f"x_{split}"] = draw.integers(256, size=(count, 32, 32, 3), dtype=np.uint8)
        arrays[f"x_{split}"][..., 2] = value
        arrays[f"y_{split}"] = np.arange(count) % 10
    np.savez(tmp_path / "cifar10.npz", **arrays)
    with pytest.raises(ImclError, match="Channel 2 of the images has one value throughout"):
        load("cifar10", folder=tmp_path)
