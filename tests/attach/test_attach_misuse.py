"""What a network can do that a term cannot bear, each told in a sentence."""

import pytest
import torch
import torchvision
from torch import nn

from imcl_core import Collaboration, ImclError
from imcl_core.networks.classifier import make_classifier

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


class Odd(nn.Module):
    """A network that does what a classifier should not, in training where it says so."""

    def __init__(self):
        super().__init__()
        self.conv, self.conv2, self.idle = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(3, 4, 3)
        self.depthwise, self.act, self.dropout = nn.Conv2d(4, 4, 3, groups=4), nn.ReLU(), nn.Dropout(0.5, inplace=True)
        self.head = nn.Sequential(nn.Flatten(), nn.LazyLinear(3))
        self.skip = self.extra = False

    def forward(self, x):
        x = self.conv2(self.conv2(self.conv(x)))
        x = self.dropout(self.depthwise(x) if not (self.skip and self.training) else x[:, :, 1:-1, 1:-1].clone())
        x = self.head(self.act(x))
        return (x, x) if self.extra and self.training else x


def odd(methods="mid", **options):
    network = Odd()
    network.eval()(torch.zeros(1, 3, 8, 8))
    network.train()
    return Collaboration(network, methods, image_shape=(3, 8, 8), **options)


def called(change=None, labels=(0, 1, 2, 0), dtype=torch.int64, methods="mid", layers="conv", size=4, **options):
    collaboration = odd(methods, layers=layers, **options)
    for name in change or ():
        setattr(collaboration.network, name, True)
    return collaboration(torch.randn(size, 3, 8, 8), torch.tensor(labels, dtype=dtype))


@pytest.mark.parametrize(
    ("misuse", "message"),
    [
        (lambda: odd(layers="covn"), "no module 'covn'. Did you mean 'conv'"),
        (lambda: odd(layers="XYZ"), "no module 'XYZ'. It has: conv, conv2, idle, depthwise, act, dropout, head"),
        (lambda: odd(layers=["conv", "con.*"]), r"no module 'con\.\*'. Did you mean 'conv'"),
        (lambda: odd(layers="idle"), "'idle' never runs"),
        (lambda: odd(layers="conv2"), "'conv2' runs 2 times"),
        (lambda: odd(layers="act"), "'act' has no parameters"),
        (lambda: odd(layers="head"), r"'head' returns shape \(B, 3\)"),
        (lambda: Collaboration(build("resnet18"), "mid", layers=["layer1", "layer1.0"]), "'layer1' holds layer"),
        (lambda: Collaboration(build("resnet18"), "mid", layers="layer1.*.relu"), "name others"),
        (lambda: odd("kernel", kernels="depthwise"), "depth-wise"),
        (lambda: odd("kernel", kernels="idle"), "'idle' never runs"),
        (lambda: odd("kernel", kernels="act"), "no convolution"),
        (lambda: odd("out"), "does not end in an nn.Sequential with dropout"),
        (lambda: odd("out", classifier="head"), "no nn.Sequential with dropout layers, .* name another"),
        (lambda: odd("out", classifier="hea*"), "by its full name, .* not 'hea[*]'"),
        (lambda: odd("out", classifier=["head"]), "by its full name, .* not .'head'."),
        (lambda: odd("out", classifier=5), "by its full name, .* not 5"),
        (lambda: Collaboration(nn.Conv2d(3, 2, 1), "mid", layers="x"), "no module 'x'. It is one module by itself."),
        (lambda: odd(layers=5), "named by strings, .* not by 5"),
        (lambda: called(labels=(0, 1, 2, 3), label_smoothing=0.1), r"must be in 0 \.\.\. 2"),
        (lambda: called(labels=(0, 1, 2, -1), label_smoothing=0.1), r"got -1 \.\.\. 2"),
        (lambda: Collaboration(Odd(), "mid", image_shape=(1, 8, 8)), "give the right `image_shape`"),
        (lambda: Collaboration(nn.Conv2d(3, 4, 3), "kernel"), r"returns shape \(1, 4, 30, 30\)"),
        (lambda: called(["extra"]), "returns a tuple"),
        (lambda: called(["skip"], layers="depthwise"), "'depthwise' did not run"),
        (lambda: called(layers="depthwise"), "inplace=False"),
        (lambda: called(labels=(0, 1, 2, 3)), r"must be in 0 \.\.\. 2"),
        (lambda: called(labels=(0, 1, 2, -1)), r"got -1 \.\.\. 2"),
        (lambda: called(labels=(0, 1, 2)), r"shape \(4,\)"),
        (lambda: called(labels=[[0, 1, 0]] * 4), r"int64 of shape \(4, 3\)"),
        (lambda: called(labels=[[0, 1]] * 4, dtype=torch.float32), "Soft labels have 2 columns, and the network 3"),
        (lambda: called(labels=[[0, 1, 1]] * 4, dtype=torch.float32), "must be probabilities, whose sum is 1"),
        (lambda: called(labels=(0, 1, 2, -100)), "pass ignore_label=-100"),
        (lambda: called(dtype=torch.int32), "int32"),
        (lambda: called(labels=(0,), size=1, methods="pull-push"), "drop_last"),
        (lambda: called(labels=(), size=0, methods="baseline"), "drop_last"),
        (lambda: odd(layers="conv")(torch.randn(4, 3, 9, 8), torch.arange(4)), r"image_shape=\(3, 9, 8\)"),
    ],
)  # fmt: skip
def test_misuse_is_one_clear_sentence(misuse, message):
    with pytest.raises(ImclError, match=message) as caught:
        misuse()
    assert "\n" not in str(caught.value)


def test_what_cannot_be_counted_is_told():
    network = torchvision.models.resnet18(num_classes=CLASSES)
    with pytest.raises(ImclError, match=r"A step of 1 images cannot be counted .*: name a larger batch_size"):
        Collaboration(network, "mid").cost(batch_size=1)
    with pytest.raises(ImclError, match="on the meta device: make it on the CPU"):
        Collaboration(network.to("meta"), "kernel").cost()
