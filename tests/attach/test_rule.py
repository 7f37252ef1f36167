"""Which layers, kernels and classifier are found, and which modules a pattern stands for."""

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from imcl_core import Collaboration, ImclError, MethodSettings, losses
from imcl_core.attach.layer import find_modules
from imcl_core.attach.rule import Rule
from imcl_core.attach.trace import Trace
from imcl_core.networks.classifier import hierarchical_dropout, make_classifier

CLASSES = 5


def vgg16_bn():
    network = torchvision.models.vgg16_bn(init_weights=False)
    network.avgpool = nn.AdaptiveAvgPool2d(1)
    network.classifier = make_classifier(512, 16, CLASSES)
    return network


def vit_tiny_patch16_224():
    timm = pytest.importorskip("timm", reason="timm is not installed: pip install timm")
    return timm.create_model("vit_tiny_patch16_224", img_size=64, depth=4, num_classes=CLASSES)


def build(name):
    own = {"vgg16_bn": vgg16_bn, "vit_tiny_patch16_224": vit_tiny_patch16_224}
    return own[name]() if name in own else getattr(torchvision.models, name)(num_classes=CLASSES)


def make_batch(side=64, size=2):
    images = torch.randn(size, 3, side, side, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return images, torch.arange(size) % CLASSES


class Habits(nn.Module):
    """A small classifier (3, 16, 16) whose `middle` says what happens between stem and head."""

    def __init__(self, middle, **modules):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        for name, module in modules.items():
            self.add_module(name, module)
        self.middle = middle
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x):
        x = self.middle(self, self.stem(x))
        return self.head(x.flatten(2).mean(dim=2) if x.ndim == 4 else x.mean(dim=1))


class Block(nn.Module):
    """Changes its input in place, takes an argument by name, and has another channel order inside."""

    def __init__(self):
        super().__init__()
        self.conv, self.linear = nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 8)

    def forward(self, x, *, scale=1.0):
        x = self.conv(F.relu(x, inplace=True))
        return x + scale * self.linear(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def tokens(net, x):
    return net.linear(torch.cat([x.mean(dim=(2, 3))[:, None], x.flatten(2).mT], dim=1)).tanh()


def test_a_layer_ends_in_front_of_pooling():
    network = Habits(lambda net, x: net.pool(net.act(x)), act=nn.ReLU(), pool=nn.MaxPool2d(3, stride=1, padding=1))
    (layer,) = Rule(Trace(network, (3, 16, 16))).layers("layers")
    assert (layer.name, layer.source) == ("stem", "act")


class Stage(nn.Module):
    """Blocks in a row, as a module of its own: neither a block nor a layer."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(Block(), Block())

    def forward(self, x):
        return self.blocks(x)


def test_blocks_are_found_inside_stages():
    network = Habits(lambda net, x: net.stage2(net.stage1(x)), stage1=Stage(), stage2=Stage())
    layers = [layer.name for layer in Rule(Trace(network, (3, 16, 16))).layers("blocks")]
    assert layers == ["stem", *(f"stage{i}.blocks.{j}" for i in (1, 2) for j in (0, 1))]


def test_shortcuts_are_kernels_where_asked():
    both = (MethodSettings(kernel_pointwise=on) for on in (False, True))
    shape = {"image_shape": (3, 64, 64)}  # one position, as of 32 pixels, would be taken for squeeze-and-excitation
    plain, asked = (set(Collaboration(build("resnet18"), "kernel", settings=s, **shape).kernels) for s in both)
    assert plain < asked and asked - plain == {"layer3.0.downsample.0", "layer4.0.downsample.0"}


def test_tokens_become_maps():
    network = Habits(tokens, linear=nn.Linear(8, 8))
    (layer,) = Trace(network, (3, 16, 8)).named_layers("linear")
    features = torch.arange(2 * 129 * 8.0).view(2, 129, 8)
    maps = layer.as_maps(features)
    assert layer.shape == maps.shape[1:] == (8, 16, 8)
    assert torch.equal(maps[1, :, 3, 5], features[1, 1 + 3 * 8 + 5])


def test_the_classifier_with_dropout_is_found():
    torch.manual_seed(0)
    network = build("mobilenet_v3_small").double()
    collaboration = Collaboration(network, "out")
    images, labels = make_batch()
    torch.manual_seed(1)
    loss = collaboration(images, labels)
    torch.manual_seed(1)
    predictions = hierarchical_dropout(network.classifier, network.avgpool(network.features(images)).flatten(1), 2)
    assert collaboration.classifier == "classifier"
    torch.testing.assert_close(loss, losses.output_loss(predictions, labels))


def test_a_network_without_dropout_is_told_what_to_do():
    with pytest.raises(
        ImclError, match=r"network\.fc = imcl_core\.networks\.classifier\.make_classifier\(512, 512, 5\)"
    ) as caught:
        Collaboration(build("resnet18"), "out")
    assert "\n" not in str(caught.value)
    network = build("resnet18")
    network.fc = make_classifier(512, 16, CLASSES)
    assert Collaboration(network, "out").classifier == "fc"


def test_patterns_are_matched_part_by_part():
    network = build("resnet18")
    names = [name for name, _ in find_modules(network, "layer[34].*")]
    assert names == ["layer3.0", "layer3.1", "layer4.0", "layer4.1"]
    collaboration = Collaboration(network, "mid+kernel", layers=["layer4", "layer[12].*"], kernels="layer4.?.*")
    assert collaboration.layers == ["layer1.0", "layer1.1", "layer2.0", "layer2.1", "layer4"]
    assert collaboration.kernels == [f"layer4.{block}.conv{i}" for block in (0, 1) for i in (1, 2)]
