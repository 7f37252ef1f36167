"""Pull-push: its projections, and that it is local."""

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
