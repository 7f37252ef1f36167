"""SpatialDropout and DropBlock: what they drop, how much, and where."""

import pytest
import torch
import torch.nn.functional as F
from small import loss_of, make, make_batch

from imcl_core.methods.dropblock import drop_blocks


@pytest.mark.parametrize("kind", [float, torch.tensor])
def test_dropped_units_form_blocks_in_the_portion_asked_for(kind):
    torch.manual_seed(0)
    dropped = (drop_blocks(torch.ones(64, 8, 16, 16), kind(0.1), 3) == 0).float()
    seeds = -F.max_pool2d(-dropped, 3, stride=1)  # where a whole block is dropped
    assert torch.equal(F.max_pool2d(F.pad(seeds, (2,) * 4), 3, stride=1), dropped)
    assert dropped.mean().item() == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize("kind", [float, torch.tensor])
@pytest.mark.parametrize(("side", "size"), [(8, 7), (4, 7), (2, 7), (8, 4)])
def test_blocks_fit_into_small_maps_and_keep_the_sum(side, size, kind):
    torch.manual_seed(0)
    maps = torch.ones(32, 16, side, side, dtype=torch.float64)
    dropped = drop_blocks(maps, kind(0.2), size)
    assert 0 < (dropped == 0).double().mean() < 0.4
    assert dropped.sum().item() == pytest.approx(maps.sum().item(), rel=1e-6)
    torch.testing.assert_close(drop_blocks(maps, kind(0.0), size), maps, rtol=1e-8, atol=0)
    assert torch.equal(drop_blocks(maps, 0.0, size), maps)


def test_dropblock_counts_more_units_than_half_precision_can():
    maps = torch.ones(64, 32, 8, 8, dtype=torch.float16)
    dropped = drop_blocks(maps, 0.1, 3)
    assert dropped.dtype == torch.float16
    assert dropped.float().mean().item() == pytest.approx(1, abs=0.01)


def seen_by(collaboration, names):
    """What the modules of these names are given in a training step."""
    seen, hooks = {}, []
    for name in names:
        module = collaboration.network.get_submodule(name)
        hooks.append(module.register_forward_pre_hook(lambda _, x, name=name: seen.update({name: x[0].detach()})))
    collaboration(*make_batch())
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize(("groups", "dropping"), [(0, 5), (2, 2)])
def test_spatial_dropout_takes_whole_maps_behind_groups(groups, dropping):
    collaboration = make("spatial-dropout", "vgg16", spatial_rate=0.5, spatial_groups=groups)
    pools = [f"trunk.group{g}.pool" for g in range(1, 6)]
    seen, plain = seen_by(collaboration, pools), seen_by(make("baseline", "vgg16"), pools)
    kept = [seen[name].flatten(2).abs().amax(dim=2) > 0 for name in pools]
    gone = [(plain[name].flatten(2).abs().amax(dim=2) > 0) & ~kept for name, kept in zip(pools, kept, strict=True)]
    assert [bool(g.any()) for g in gone] == [False] * (5 - dropping) + [True] * dropping
    first = pools[-dropping]
    scaled = torch.where(kept[-dropping][:, :, None, None], 2 * plain[first], 0)
    torch.testing.assert_close(seen[first], scaled)


def test_dropblock_grows_with_progress_behind_the_last_groups():
    pools = [f"trunk.group{g}.pool" for g in range(1, 6)]
    collaboration = make("dropblock", "vgg16", dropblock_rate=0.5, dropout=0.0)
    collaboration.progress = 0.0
    assert loss_of(collaboration) == loss_of(make("baseline", "vgg16", dropout=0.0))
    zeros = {}
    for progress in (0.0, 0.5, 1.0):
        collaboration.progress = progress
        zeros[progress] = [(x == 0).double().mean().item() for x in seen_by(collaboration, pools).values()]
    assert zeros[0.0][:3] == zeros[0.5][:3] == zeros[1.0][:3]
    for group in (3, 4):
        assert zeros[0.0][group] < zeros[0.5][group] < zeros[1.0][group]
