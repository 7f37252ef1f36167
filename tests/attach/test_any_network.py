"""Collaboration on networks of other packages, and on small ones with every habit that could break it."""

import copy
import itertools
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from imcl_core import Collaboration, MethodSettings, losses
from imcl_core.attach.rule import Rule
from imcl_core.attach.trace import Trace
from imcl_core.networks.classifier import make_classifier

CLASSES = 5


SMALL = {"mid_width": 4, "mid_pool": 2}


LOCAL = "mid+pull-push+kernel"


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


# By imcl_core.attach.rule: layers, blocks, kernels. Then the images' side, and what the tests of gradients
# attach and where: in wide networks no projections of pull-push (C×C×3×3), and not every linear layer.
NETWORKS = {
    "resnet18": ((17, 9, 8), 32, LOCAL, {}),
    "resnet50": ((49, 17, 9), 64, "mid+kernel", {}),
    "vgg16_bn": ((13, 5, 6), 32, LOCAL, {}),
    "densenet121": ((120, 62, 40), 64, LOCAL, {}),
    "mobilenet_v3_small": ((34, 13, 15), 64, LOCAL, {}),
    "efficientnet_b0": ((49, 18, 21), 64, "mid+kernel", {"attach": "blocks"}),
    "convnext_tiny": ((22, 22, 24), 64, "mid+kernel", {"kernels": "features.[13].*.block.[35]"}),
    "regnet_y_400mf": ((49, 17, 12), 64, LOCAL, {}),
    "vit_tiny_patch16_224": ((5, 5, 16), 64, LOCAL, {}),
}


def make_batch(side=64, size=2):
    images = torch.randn(size, 3, side, side, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return images, torch.arange(size) % CLASSES


def kernel_norm(module):
    """L_kernel where the covariance of filters of different groups is left out."""
    parts = module.weight.chunk(getattr(module, "groups", 1))
    covariance = torch.block_diag(*(losses.kernel_covariance(part) for part in parts))
    return (covariance - covariance.diag().diag()).square().sum().sqrt()


def untouched_run(collaboration, plain, images):
    """Logits (B, m) of an untouched copy of the network, and the maps its layers return, all in one ordinary graph."""
    features, hooks = {}, []
    for layer in collaboration._local:

        def keep(module, inputs, output, layer=layer, calls=itertools.count()):  # noqa: B008
            if next(calls) == layer.call:
                features[layer.name] = output.clone()

        hooks.append(plain.get_submodule(layer.source).register_forward_hook(keep))
    logits = plain(images)
    for hook in hooks:
        hook.remove()
    return logits, [layer.as_maps(features[layer.name]) for layer in collaboration._local]


def local_terms(collaboration, features, logits, images, labels):
    """The weighted value of every local term of each layer, by method."""
    c, s = collaboration, collaboration.settings
    heads = {
        m: [c.heads[f"{m}/{n}".replace(".", "/")] for n in c.layers] for m in c.methods if m in ("mid", "pull-push")
    }
    read = {method: [head(h) for head, h in zip(heads[method], features, strict=True)] for method in heads}
    terms = {"mid": losses.intermediate_losses(read["mid"], logits.detach(), labels)} if "mid" in read else {}
    if "pull-push" in read:
        target = losses.similarity_matrix(F.one_hot(labels, CLASSES).double())
        source = losses.similarity_matrix(images)
        pull, push = (np.linspace(*ends, len(features)) for ends in (s.pp_pull, s.pp_push))
        terms["pull-push"] = [
            losses.pull_push_loss(h, target, source, float(pull[i]), float(push[i]))
            for i, h in enumerate(read["pull-push"])
        ]
    return terms


def expected_step(collaboration, plain, images, labels):
    """Logits; the labels' gradient on every parameter, each local term's on those of its modules and its head alone."""
    c = collaboration
    parameters = {f"network.{n}": p for n, p in plain.named_parameters()}
    parameters |= {f"heads.{n}": p for n, p in c.heads.named_parameters()}
    total = {name: torch.zeros_like(p) for name, p in parameters.items()}

    def add(term, *prefixes):
        names = [n for n in parameters if n.startswith(prefixes)]
        found = torch.autograd.grad(term, [parameters[n] for n in names], retain_graph=True)
        for name, gradient in zip(names, found, strict=True):
            total[name] += gradient

    logits, features = untouched_run(c, plain, images)
    add(losses.hard_loss(logits, labels), "network.")
    for method, terms in local_terms(c, features, logits, images, labels).items():
        for layer, term in zip(c._local, terms, strict=True):
            head = f"heads.{method}/{layer.name.replace('.', '/')}."
            add(term, head, *(f"network.{module}." for module in layer.modules))
    for name in c.kernels:
        add(c.settings.kernel_weight * kernel_norm(plain.get_submodule(name)), f"network.{name}.weight")
    return logits.detach(), total


def step(network, methods, images, labels, **options):
    """One training step with Collaboration, and one of an untouched copy with the same random draws."""
    network = network.double().train()
    run = SimpleNamespace(plain=copy.deepcopy(network), images=images)
    settings = MethodSettings(**SMALL, attach=options.pop("attach", "layers"))
    run.collaboration = Collaboration(network, methods, settings=settings, image_shape=images.shape[1:], **options)
    torch.manual_seed(7)
    run.logits, run.gradients = expected_step(run.collaboration, run.plain, images, labels)
    torch.manual_seed(7)
    run.collaboration(images, labels).backward()
    return run


def assert_same_gradients(run):
    found = {n: p.grad for n, p in run.collaboration.named_parameters() if p.grad is not None}
    assert found.keys() == run.gradients.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(
            gradient, run.gradients[name], rtol=1e-7, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.fixture(scope="module", params=NETWORKS)
def run(request):
    counts, side, methods, options = NETWORKS[request.param]
    torch.manual_seed(0)
    network = build(request.param)
    rule = Rule(Trace(network, (3, side, side)))
    result = step(network, methods, *make_batch(side), **options)
    result.counts = (len(rule.layers("layers")), len(rule.layers("blocks")), len(rule.kernels()))
    result.expected_counts = counts
    return result


def test_layers_blocks_and_kernels_are_found(run):
    assert run.counts == run.expected_counts


def test_local_gradients_stay_in_their_layers(run):
    assert_same_gradients(run)


def test_the_training_forward_is_the_untouched_one(run):
    assert torch.equal(run.collaboration.logits, run.logits)
    assert all(torch.equal(a, b) for a, b in zip(run.collaboration.network.buffers(), run.plain.buffers(), strict=True))


def test_the_network_stays_plain(run):
    network = run.collaboration.network
    for module in network.modules():
        assert "forward" not in vars(module) and not module._forward_hooks and not module._forward_pre_hooks
    run.plain.load_state_dict(network.state_dict())
    network.eval(), run.plain.eval()
    with torch.no_grad():
        assert torch.equal(run.collaboration.eval()(run.images), run.plain(run.images))


def test_a_network_is_loaded_without_this_package(tmp_path):
    torch.manual_seed(0)
    network = build("mobilenet_v3_small")
    collaboration = Collaboration(network, "mid", layers=["features.12"])
    images, labels = make_batch(32)
    collaboration(images.float(), labels).backward()
    torch.save(network.state_dict(), tmp_path / "plain.pt")
    torch.save((images, network.eval()(images.float())), tmp_path / "answers.pt")
    program = """
import sys
sys.modules["imcl_core"] = None
import torch, torchvision
torch.set_num_threads(1)
network = torchvision.models.mobilenet_v3_small(num_classes=5)
network.load_state_dict(torch.load("plain.pt"))
images, answers = torch.load("answers.pt")
assert torch.equal(network.eval()(images.float()), answers)
"""
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)


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


class Scaled(nn.Conv2d):
    def forward(self, x, *, scale):
        return scale * super().forward(x)


def conv(groups=1):
    return nn.Conv2d(8, 8, 3, padding=1, groups=groups)


def added_in_place(net, x):
    out = net.norm(net.conv(x))
    out += x
    return out


def tokens(net, x):
    return net.linear(torch.cat([x.mean(dim=(2, 3))[:, None], x.flatten(2).mT], dim=1)).tanh()


HABITS = {
    "normalisation of groups": ({"conv": conv(2), "norm": nn.GroupNorm(2, 8), "act": nn.GELU()}, None, ["stem", "conv"],
                                lambda net, x: net.act(net.norm(net.conv(x)))),
    "activation as a function": ({"conv": conv(), "norm": nn.InstanceNorm2d(8, affine=True)}, None, ["stem", "conv"],
                                 lambda net, x: F.relu(net.norm(net.conv(x)))),
    "activation in place": ({"conv": conv(), "norm": nn.BatchNorm2d(8)}, None, ["stem", "conv"],
                            lambda net, x: F.relu_(net.norm(net.conv(x)))),
    "addition in place": ({"conv": conv(), "norm": nn.BatchNorm2d(8)}, None, ["stem", "conv"], added_in_place),
    "named module, addition in place": ({"conv": conv(), "norm": nn.BatchNorm2d(8)}, ["conv", "norm"],
                                        ["conv", "norm"], added_in_place),
    "normalisation first": ({"norm": nn.BatchNorm2d(8), "act": nn.ReLU(), "conv": conv(), "conv2": conv()}, None,
                            ["stem", "conv", "conv2"], lambda net, x: x + net.conv2(net.conv(net.act(net.norm(x))))),
    "one activation for several": ({"conv": conv(), "act": nn.ReLU(inplace=True), "conv2": conv()}, None,
                                   ["stem", "conv", "conv2"],
                                   lambda net, x: net.act(net.conv2(net.act(net.conv(net.act(x)))) + 2 * x)),
    "blocks that change their inputs": ({"block": Block(), "again": Block()}, None, ["stem", "block", "again"],
                                     lambda net, x: net.again(net.block(x, scale=2.0))),
    "argument by name": ({"conv": Scaled(8, 8, 1)}, None, ["stem", "conv"],
                         lambda net, x: net.conv(x, scale=2.0).tanh()),
    "block that changes its input": ({"block": Block()}, ["stem", "block"], ["stem", "block"],
                                     lambda net, x: net.block(x)),
    "tokens after a class token": ({"linear": nn.Linear(8, 8)}, ["stem", "linear"], ["stem", "linear"], tokens),
    "channels last": ({"linear": nn.Linear(8, 8)}, ["linear"], ["linear"],
                      lambda net, x: net.linear(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).tanh()),
}  # fmt: skip


@pytest.mark.parametrize("habit", HABITS)
def test_local_gradients_survive(habit):
    modules, named, expected, middle = HABITS[habit]
    torch.manual_seed(0)
    network = Habits(middle, **copy.deepcopy(modules))
    result = step(network, "mid+pull-push", *make_batch(16, 4), layers=named)
    assert result.collaboration.layers == expected
    assert torch.equal(result.collaboration.logits, result.logits)
    assert_same_gradients(result)


def test_a_local_term_reaches_the_modules_of_its_layer_only():
    torch.manual_seed(0)
    collaboration = Collaboration(build("resnet18"), "mid", settings=MethodSettings(**SMALL))
    images, labels = make_batch(32)
    for layer in ("conv1", "layer2.0.conv1", "layer2.0.conv2"):
        collaboration.zero_grad()
        collaboration.objective(images.float(), labels)[f"mid/{layer}"].backward()
        reached = {n for n, p in collaboration.network.named_parameters() if p.grad is not None and p.grad.any()}
        modules = {
            "conv1": ("conv1", "bn1"),
            "layer2.0.conv1": ("layer2.0.conv1", "layer2.0.bn1"),
            "layer2.0.conv2": ("layer2.0.conv2", "layer2.0.bn2", "layer2.0.downsample.0", "layer2.0.downsample.1"),
        }[layer]
        assert {name.rsplit(".", 1)[0] for name in reached} == set(modules)


def test_with_every_method_off_a_step_is_the_plain_one_bit_for_bit():
    torch.manual_seed(0)
    network = build("mobilenet_v3_small")
    plain = copy.deepcopy(network)
    images, labels = make_batch()
    torch.manual_seed(1)
    Collaboration(network)(images.float(), labels).backward()
    torch.manual_seed(1)
    F.cross_entropy(plain(images.float()), labels).backward()
    for ours, theirs in zip(network.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)


def test_frozen_layers_stay_frozen():
    torch.manual_seed(0)
    network = build("resnet18")
    network.layer1.requires_grad_(False)
    network.layer3.requires_grad_(False)
    collaboration = Collaboration(network, "mid+pull-push", settings=MethodSettings(**SMALL, attach="blocks"))
    images, labels = make_batch(32)
    collaboration(images.float(), labels).backward()
    for name, parameter in collaboration.named_parameters():
        assert (parameter.grad is None) == name.startswith(("network.layer1.", "network.layer3.")), name


def test_cost_is_what_a_step_computes_and_keeps():
    torch.manual_seed(0)
    network = build("resnet18")
    network.fc = make_classifier(512, 16, CLASSES)
    settings = MethodSettings(**SMALL, attach="blocks")
    collaboration = Collaboration(network, f"out+{LOCAL}", settings=settings, image_shape=(3, 64, 64))
    before = copy.deepcopy(collaboration.state_dict())
    table = collaboration.cost(batch_size=4)
    assert all(torch.equal(value, before[name]) for name, value in collaboration.state_dict().items())
    images, labels = make_batch(size=4)
    weights, saved = {p.untyped_storage()._cdata for p in collaboration.parameters()}, {}

    def keep(tensor):
        saved[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), FlopCounterMode(display=False) as flops:
        collaboration(images.float(), labels)
    size = sum(t.untyped_storage().nbytes() for key, t in saved.items() if key not in weights)
    assert list(table.index[1:]) == list({"out": 0} | collaboration.terms)
    assert table["multiply-adds"].sum() == pytest.approx(flops.get_total_flops() / 2, rel=1e-5)
    assert table["bytes"].sum() == pytest.approx(size, rel=0.05)
    assert table["parameters"].sum() == sum(p.numel() for p in collaboration.parameters())
