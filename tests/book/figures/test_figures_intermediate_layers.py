"""The figure of chapter 4: what is drawn is what Eq. 6 says."""

import numpy as np
from imcl_book.figures import intermediate_layers as figures


def test_every_layer_has_all_deeper_teachers_and_their_shares_add_up_to_one():
    figure = figures.teachers(5)
    shares = np.ma.filled(figure.axes[1].images[0].get_array(), np.nan)
    assert shares.shape == (4, 5)
    assert np.allclose(np.nansum(shares, axis=1), 1)
    assert np.array_equal(np.isnan(shares), np.tri(4, 5, dtype=bool))  # nobody teaches itself or what is deeper
    arrows = [text for text in figure.axes[0].texts if getattr(text, "arrow_patch", None) and text.xy[1] == 0]
    assert sorted((a.xyann[0], a.xy[0]) for a in arrows) == [(j, i) for j in range(5) for i in range(j)]
