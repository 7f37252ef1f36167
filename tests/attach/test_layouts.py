"""Which way round weights and features lie, what is on maps at all, and what has a weight together with another."""

import importlib.util

import pytest
import torch
import torch.nn.functional as F
from attach.test_any_network import CLASSES, Habits, assert_same_gradients, conv, make_batch, step
from torch import nn

from imcl_core import Collaboration, DenseCollaboration, ImclError, MethodSettings, losses
from imcl_core.attach.rule import Rule
from imcl_core.attach.trace import Trace

needs_timm = pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is not installed")


def value_of(kernel, methods="kernel"):
    """The unweighted loss of a network's one kernel, by name."""
    return kernel.item() / MethodSettings().kernel_weight


def attached(middle, methods="kernel", kernels=None, layers=None, **modules):
    torch.manual_seed(0)
    return Collaboration(Habits(middle, **modules), methods, kernels=kernels, layers=layers, image_shape=(3, 16, 16))


def batch(size=4):
    images, labels = make_batch(16, size)
    return images.float(), labels


@pytest.mark.parametrize("groups", [1, 2])
def test_filters_of_a_transposed_convolution_are_its_outputs(groups):
    up = nn.ConvTranspose2d(8, 4 * groups, 2, 2, groups=groups)
    back = nn.Conv2d(4 * groups, 8, 2, 2)
    collaboration = attached(lambda net, x: net.back(net.up(x)), kernels=["up"], up=up, back=back)
    collaboration(*batch())
    found = value_of(collaboration.terms["kernel/up"])
    norms = []
    for part in up.weight.chunk(groups):
        filters = part.transpose(0, 1).flatten(1)
        norms.append((torch.corrcoef(filters) - torch.eye(4)).square().sum())
    assert found == pytest.approx(sum(norms).sqrt().item(), rel=1e-5)


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.down, self.low = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 32, 3, 2, 1)
        self.up, self.out = nn.ConvTranspose2d(32, 16, 2, 2), nn.Conv2d(32, CLASSES, 1)

    def forward(self, x):
        x = self.down(x).relu()
        return self.out(torch.cat([x, self.up(self.low(x).relu())], dim=1))


def test_a_u_net_that_transposes_has_the_loss_of_its_outputs():
    torch.manual_seed(0)
    collaboration = DenseCollaboration(UNet(), "kernel", image_shape=(3, 16, 16))
    assert "up" in collaboration.kernels
    collaboration(torch.randn(2, 3, 16, 16), torch.randint(CLASSES, (2, 16, 16)))
    expected = losses.kernel_loss(collaboration.network.up.weight.transpose(0, 1))
    assert value_of(collaboration.terms["kernel/up"]) == pytest.approx(expected.item())


class Adapted(nn.Module):
    """As of the package peft."""

    def __init__(self, rank=2):
        super().__init__()
        self.base_layer = nn.Linear(8, 8).requires_grad_(False)
        self.lora_A = nn.ModuleDict({"default": nn.Linear(8, rank, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(rank, 8, bias=False)})

    def forward(self, x):
        return self.base_layer(x) + self.lora_B["default"](self.lora_A["default"](x)) * 2.0


class AdaptedLinear(nn.Linear):
    """As of the package loralib."""

    def __init__(self, rank=2):
        super().__init__(8, 8)
        self.weight.requires_grad_(False)
        self.lora_A, self.lora_B = nn.Parameter(torch.randn(rank, 8)), nn.Parameter(torch.randn(8, rank))

    def forward(self, x):
        return super().forward(x) + x @ self.lora_A.T @ self.lora_B.T


def tokens(net, x):
    return net.plain(net.adapted(x.flatten(2).mT)).mT.unflatten(2, x.shape[2:])


@pytest.mark.parametrize(("adapter", "part"), [(Adapted, "adapted.base_layer"), (Adapted, "adapted.lora_A.default"),
                                               (AdaptedLinear, "adapted")])  # fmt: skip
def test_parts_of_an_adapted_weight_are_left_out_or_refused(adapter, part):
    modules = {"adapted": adapter(), "plain": nn.Linear(8, 8)}
    assert Rule(Trace(Habits(tokens, **modules), (3, 16, 16))).kernels(pointwise=True) == ["stem", "plain"]
    with pytest.raises(ImclError, match=f"'{part}' is a part of 'adapted', which adds to a frozen weight"):
        attached(tokens, kernels=[part], **modules)


def test_a_frozen_layer_beside_one_that_learns_is_no_adapter():
    block = nn.Sequential(conv().requires_grad_(False), conv())
    assert attached(lambda net, x: net.block(x), kernels="block.*", block=block).kernels == ["block.0", "block.1"]


def test_packed_weights_are_refused():
    linear = nn.Linear(8, 8)
    linear.weight = nn.Parameter(linear.weight.detach().reshape(-1, 1))  # as 4-bit layers keep them
    linear.forward = lambda x: F.linear(x, linear.weight.view(8, 8))
    with pytest.raises(ImclError, match="'plain' has no weight of a filter a row"):
        attached(lambda net, x: net.plain(x.flatten(2).mT).mT.unflatten(2, (16, 16)), kernels=["plain"], plain=linear)


class Gated(nn.Module):
    """A residual block whose maps a gate of some kind scales."""

    def __init__(self, gate, stride=1):
        super().__init__()
        self.conv, self.norm, self.gate = nn.Conv2d(8, 8, 3, stride, 1), nn.BatchNorm2d(8), gate

    def forward(self, x):
        x = self.norm(self.conv(x)).relu()
        return x * self.gate(x)


class Channel(nn.Module):
    """Efficient channel attention (Wang et al. 2020)."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 3, padding=1)

    def forward(self, x):
        return self.conv(x.mean(dim=(2, 3))[:, None]).sigmoid().view(len(x), -1, 1, 1)


class Coordinate(nn.Module):
    """Coordinate attention (Hou et al. 2021)."""

    def __init__(self):
        super().__init__()
        self.both, self.rows, self.columns = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1), nn.Conv2d(4, 8, 1)

    def forward(self, x):
        along = torch.cat([x.mean(dim=3, keepdim=True), x.mean(dim=2, keepdim=True).mT], dim=2)
        rows, columns = self.both(along).relu().split(x.shape[2:], dim=2)
        return self.rows(rows).sigmoid() * self.columns(columns.mT).sigmoid()


@pytest.mark.parametrize("gate", [Channel, Coordinate])
def test_gates_are_neither_layers_nor_map_sizes(gate):
    blocks = nn.Sequential(*(Gated(gate(), stride) for stride in (1, 2, 2)))
    rule = Rule(Trace(Habits(lambda net, x: net.blocks(x), blocks=blocks), (3, 16, 16)))
    assert rule.kernels() == ["blocks.1.conv", "blocks.2.conv"]
    assert [layer.name for layer in rule.layers("layers")] == ["stem", *(f"blocks.{i}.conv" for i in range(3))]


@needs_timm
@pytest.mark.parametrize(("name", "side"), [("ecaresnet26t", 320), ("ecaresnet26t", 64)])
def test_a_network_with_gates_has_its_last_two_stages_compared(name, side):
    import timm

    with torch.device("meta"):
        network = timm.create_model(name, num_classes=CLASSES)
    found = Rule(Trace(network, (3, side, side))).kernels()
    assert {kernel.split(".")[0] for kernel in found} == {"layer3", "layer4"}
    assert all(kernel.endswith("conv2.conv") or kernel.endswith("conv2") for kernel in found)


def encoder(net, x):
    return net.encoder(x.flatten(2).permute(2, 0, 1)).permute(1, 0, 2)  # (T, B, C) and back


def test_images_of_a_sequence_first_encoder_are_not_mixed():
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0)
    torch.manual_seed(0)
    network = Habits(lambda net, x: encoder(net, F.avg_pool2d(x, 4)), encoder=nn.Sequential(layer))
    result = step(network, "mid+pull-push", *make_batch(16, 16), layers=["encoder.0"])  # 16 tokens, 16 images
    (place,) = result.collaboration._local
    assert (place.layout, place.shape) == ("sequence first", (8, 4, 4))
    maps = torch.randn(16, 8, 4, 4)
    assert torch.equal(place.as_maps(maps.flatten(2).permute(2, 0, 1)), maps)
    assert_same_gradients(result)


def test_rows_that_are_no_images_are_refused():
    def windows(net, x):
        return net.linear(x.flatten(2).mT.unflatten(1, (16, 16)).flatten(0, 1)).unflatten(0, (-1, 16)).flatten(1, 2)

    with pytest.raises(ImclError, match=r"'linear' returns shape \(16, 16, 8\) for one image"):
        attached(windows, "mid", layers=["linear"], linear=nn.Linear(8, 8))


def test_channels_in_front_of_positions_are_refused():
    with pytest.raises(ImclError, match=r"'conv' returns \(B, C, T\)"):
        attached(lambda net, x: net.conv(x.flatten(2)).mT, "mid", layers=["conv"], conv=nn.Conv1d(8, 8, 1))


def linear_on_maps(net, x):
    return net.part(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


SIDES = {
    "convolution of unequal strides": (nn.Conv2d(8, 16, 3, (1, 2), 1), lambda net, x: net.part(x), (16, 16, 8), "maps"),
    "normalised and activated": (nn.Sequential(nn.Conv2d(8, 16, 3, (1, 2), 1), nn.BatchNorm2d(16), nn.SiLU()),
                                 lambda net, x: net.part(x), (16, 16, 8), "maps"),
    "as many positions as channels": (nn.Linear(8, 16), lambda net, x: linear_on_maps(net, x),
                                      (16, 16, 16), "channels last"),
    "channels last, unequal sides": (nn.Linear(8, 16), lambda net, x: linear_on_maps(net, x[..., ::2]),
                                     (16, 16, 8), "channels last"),
}  # fmt: skip


@pytest.mark.parametrize("case", SIDES)
def test_the_layout_is_told_by_what_made_the_features(case):
    part, middle, shape, layout = SIDES[case]
    network = Habits(lambda net, x: net.fit(middle(net, x)), part=part, fit=nn.Conv2d(16, 8, 1))
    (layer,) = Trace(network, (3, 16, 16)).named_layers(["part"])
    assert (layer.shape, layer.layout) == (shape, layout)


class Tied(Habits):
    def __init__(self, **modules):
        super().__init__(lambda net, x: net.b(net.norm(net.a(x)).relu()).relu(), **modules)
        self.b.weight = self.a.weight


def test_a_tied_weight_and_a_module_with_two_names_count_once():
    network = Tied(a=conv(), b=conv(), norm=nn.BatchNorm2d(8))
    network.alias = network.a
    assert Rule(Trace(network, (3, 16, 16))).kernels() == ["stem", "a"]
    collaboration = Collaboration(
        network, "kernel+mid", kernels=["alias", "a", "b"], layers=["alias", "a"], image_shape=(3, 16, 16)
    )
    assert (collaboration.kernels, collaboration.layers) == (["alias"], ["a"])
    collaboration(*batch())
    expected = losses.kernel_loss(network.a.weight).item()
    assert value_of(collaboration.terms["kernel/alias"]) == pytest.approx(expected)


def test_layers_that_share_a_weight_are_left_out_unless_each_runs_alone():
    network = Tied(a=conv(), b=conv(), norm=nn.BatchNorm2d(8))
    assert [layer.name for layer in Rule(Trace(network, (3, 16, 16))).layers("layers")] == ["stem"]
    torch.manual_seed(0)
    collaboration = Collaboration(network, "mid", layers=["b"], image_shape=(3, 16, 16))
    images, labels = batch()
    collaboration.objective(images, labels)["mid/b"].backward()
    inner = network.norm(network.a(network.stem(images))).relu().detach()
    found = network.a.weight.grad.clone()
    network.zero_grad()
    head = collaboration.heads["mid/b"]
    logits = network(images).detach()
    value = losses.intermediate_losses([head(network.b(inner))], logits, labels)[0]
    torch.testing.assert_close(found, torch.autograd.grad(value, network.b.weight)[0], rtol=1e-4, atol=1e-7)


def test_a_layer_inside_a_branched_classifier_is_found_by_any_name():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            inner = nn.Conv2d(8, 8, 1)
            self.stem, self.alias = nn.Conv2d(3, 8, 3), inner
            self.head = nn.Sequential(inner, nn.Dropout(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES))

        def forward(self, x):
            return self.head(self.stem(x))

    with pytest.raises(ImclError, match="is part of the classifier 'head'"):
        Collaboration(Two(), "out+mid", layers=["alias"], image_shape=(3, 16, 16))
