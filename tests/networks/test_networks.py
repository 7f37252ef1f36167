"""Networks and heads: the paper's layers, torchvision's shapes, and dropout masks as branches."""

from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from imcl_core import ImclError, losses
from imcl_core.networks import REDUCTION, ConvUnit, build
from imcl_core.networks.classifier import (
    LocalClassifier,
    LocalSegmenter,
    hierarchical_dropout,
    make_classifier,
    make_projection,
)

STEM = {"vgg16": (64, 3, 3, 3), "resnet18": (64, 3, 3, 3), "resnet101": (64, 3, 3, 3)}


def torchvision_trunk(model):
    if model == "vgg16":
        return torchvision.models.vgg16_bn().features.state_dict()
    state = getattr(torchvision.models, model)().state_dict()
    return {name: value for name, value in state.items() if not name.startswith("fc.")}


@pytest.mark.parametrize("model", ["vgg16", "resnet18", "resnet101"])
def test_trunk_has_torchvisions_shapes(model):
    ours = [tuple(v.shape) for v in build(model, 10).trunk.state_dict().values()]
    theirs = [tuple(v.shape) for v in torchvision_trunk(model).values()]
    assert ours[0] == STEM[model]  # 3×3 instead of ImageNet's 7×7
    assert ours[1:] == theirs[1:]


@pytest.mark.parametrize("model", ["vgg16", "resnet18"])
def test_trunk_computes_what_torchvisions_does(model):
    torch.manual_seed(0)
    ours = build(model, 10).eval()
    theirs = getattr(torchvision.models, {"vgg16": "vgg16_bn", "resnet18": "resnet18"}[model])().eval()
    if model == "resnet18":
        theirs.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        theirs.maxpool, theirs.fc = nn.Identity(), nn.Identity()
    else:
        theirs = theirs.features
    values = iter(ours.trunk.state_dict().values())
    theirs.load_state_dict({name: next(values) for name in theirs.state_dict()})
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        found = ours.pool(ours.trunk(images))
        torch.testing.assert_close(found, theirs(images).flatten(1))


@pytest.mark.parametrize(
    ("model", "layers", "groups", "blocks"),
    [
        ("vgg16", 13, [2, 2, 3, 3, 3], 5),
        ("resnet18", 17, [1, 4, 4, 4, 4], 9),
        ("resnet101", 100, [1, 9, 12, 69, 9], 34),
    ],
)
def test_layers_are_ordered_by_depth(model, layers, groups, blocks):
    network = build(model, 10, width=1 / 16)
    called = []
    for name, unit in network.layers.items():
        unit.register_forward_hook(lambda *_, name=name: called.append(name))
    network.eval()(torch.zeros(1, 3, 32, 32))
    assert called == list(network.layers)
    assert (len(called), [len(g) for g in network.groups], len(network.blocks)) == (layers, groups, blocks)
    assert [n for g in network.groups for n in g] == called


@pytest.mark.parametrize("model", ["vgg16", "resnet18", "resnet101"])
@pytest.mark.parametrize("size", [32, 96])
def test_logits_for_every_image_size(model, size):
    assert build(model, 7, width=1 / 16).eval()(torch.zeros(2, 3, size, size)).shape == (2, 7)


@pytest.mark.parametrize(("model", "size", "pool"), [("resnet18", 32, 2), ("resnet18", 96, 4), ("vgg16", 96, 3)])
def test_the_classifier_may_see_several_positions(model, size, pool):
    network = build(model, 7, width=1 / 16, pool=pool).eval()
    images = torch.randn(2, 3, size, size)
    maps = network.trunk(images)
    side = size // REDUCTION[model] // pool
    means = maps.unflatten(3, (pool, side)).unflatten(2, (pool, side)).mean(dim=(3, 5))
    torch.testing.assert_close(network(images), network.classifier(means.flatten(1)))


@pytest.mark.parametrize(("model", "ratio"), [("vgg16", 4), ("resnet18", 4)])
def test_double_width_has_four_times_the_convolution_weights(model, ratio):
    def inner(width):
        units = list(build(model, 10, width=width).layers.values())[1:]
        return sum(unit.conv.weight.numel() for unit in units)

    assert inner(1 / 4) == ratio * inner(1 / 8)


@pytest.mark.parametrize("width", [0.3, 0.001, -1])
def test_widths_that_make_no_whole_filters_are_refused(width):
    with pytest.raises(ImclError, match="power of two"):
        build("vgg16", 10, width=width)


def test_a_units_shortcut_belongs_to_it():
    shortcut = nn.Conv2d(2, 4, 1)
    unit = ConvUnit(3, 4, shortcut=shortcut)
    assert {id(p) for p in shortcut.parameters()} <= {id(p) for p in unit.parameters()}
    x, residual = torch.randn(2, 3, 5, 5), torch.randn(2, 2, 5, 5)
    torch.testing.assert_close(unit.eval()(x, residual), (unit.bn(unit.conv(x)) + shortcut(residual)).relu())


# --- heads ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("branches", [2, 3])
def test_hierarchical_dropout_makes_k_to_the_n_predictions(branches):
    classifier = make_classifier(6, 8, 5)
    assert hierarchical_dropout(classifier, torch.randn(4, 6), branches).shape == (branches**2, 4, 5)


def test_each_layer_is_computed_once_for_all_its_branches():
    classifier, rows = make_classifier(6, 8, 5), []
    for module in classifier:
        if isinstance(module, nn.Linear):
            module.register_forward_hook(lambda _m, inputs, _o: rows.append(len(inputs[0])))
    hierarchical_dropout(classifier, torch.randn(4, 6), branches=2)
    assert rows == [4, 8, 16]


def test_branches_share_the_masks_above_them():
    """Predictions 0 and 1 have one first mask, 2 and 3 another; every second mask is its own."""
    classifier, masked = make_classifier(6, 64, 5), []
    for module in classifier:
        if isinstance(module, nn.Dropout):
            module.register_forward_hook(lambda _m, inputs, out: masked.append((inputs[0], out)))
    hierarchical_dropout(classifier, torch.randn(1, 6), branches=2)
    first_masks = masked[0][1].ne(0)
    assert not torch.equal(first_masks[0], first_masks[1])
    second_inputs, second_outputs = masked[1]
    assert torch.equal(second_inputs[0], second_inputs[1])
    assert torch.equal(second_inputs[2], second_inputs[3])
    assert not torch.equal(second_inputs[0], second_inputs[2])
    assert len({tuple(row.ne(0).tolist()) for row in second_outputs}) == 4


def test_without_dropout_every_branch_is_the_plain_prediction():
    classifier, x = make_classifier(6, 8, 5).eval(), torch.randn(4, 6)
    for prediction in hierarchical_dropout(classifier, x, branches=2):
        torch.testing.assert_close(prediction, classifier(x))


@pytest.mark.parametrize(
    ("classifier", "branches", "message"),
    [
        (nn.Linear(6, 5), 2, "nn.Sequential"),
        (nn.Sequential(nn.Linear(6, 5)), 2, "Dropout"),
        (make_classifier(6, 8, 5), 1, "2"),
    ],
)
def test_hierarchical_dropout_refuses_what_it_cannot_branch(classifier, branches, message):
    with pytest.raises(ImclError, match=message):
        hierarchical_dropout(classifier, torch.randn(4, 6), branches)


@pytest.mark.parametrize(("size", "pooled"), [((32, 32), (4, 4)), ((2, 2), (2, 2)), ((1, 1), (1, 1)), ((9, 3), (4, 3))])
def test_local_classifier_pools_to_at_most_four(size, pooled):
    head = LocalClassifier(200, size, 7)
    assert head(torch.randn(2, 200, *size)).shape == (2, 7)
    assert head.size == pooled
    assert head.conv.out_channels == 128
    assert LocalClassifier(16, size, 7).conv.out_channels == 16


@pytest.mark.parametrize(
    ("form", "shapes"), [("3x3", [(5, 5, 3, 3)]), ("1x1", [(5, 5, 1, 1)]), ("none", [])], ids=["3x3", "1x1", "none"]
)
def test_projection_keeps_the_shape_and_has_no_bias(form, shapes):
    projection = make_projection(5, form)
    assert projection(torch.randn(2, 5, 4, 6)).shape == (2, 5, 4, 6)
    assert [tuple(p.shape) for p in projection.parameters()] == shapes


@pytest.mark.parametrize("way", [nullcontext, losses.as_on_a_gpu], ids=["as on a CPU", "as on a GPU"])
@pytest.mark.parametrize("size", [(32, 32), (8, 4), (4, 4), (2, 2), (6, 9)], ids=str)
def test_a_local_classifier_pools_to_maxima_and_keeps_the_layout(size, way):
    head = LocalClassifier(8, size, 7).to(memory_format=torch.channels_last)
    maps = torch.randn(5, 8, *size).contiguous(memory_format=torch.channels_last).requires_grad_()
    expected = head.linear(head.conv(F.adaptive_max_pool2d(maps, head.size)).relu().flatten(1))
    with way():
        logits = head(maps)
    torch.testing.assert_close(logits, expected)
    (wanted,) = torch.autograd.grad(expected.square().sum(), maps)
    (found,) = torch.autograd.grad(logits.square().sum(), maps)
    torch.testing.assert_close(found, wanted)
    if all(side % to == 0 for side, to in zip(size, head.size, strict=True)):
        assert found.is_contiguous(memory_format=torch.channels_last)


def test_a_local_segmenter_predicts_at_every_place():
    head, maps = LocalSegmenter(200, 7), torch.randn(2, 200, 5, 6)
    first, last = (module for module in head if isinstance(module, nn.Conv2d))
    torch.testing.assert_close(head(maps), last(first(maps).relu()))
    assert (first.out_channels, LocalSegmenter(16, 7)[0].out_channels) == (128, 16)
