"""Layers whose graph is not the plain one: replicas, checkpointing, no_grad, recomputed weights, second derivatives."""

import copy

import pytest
import torch
import torch.nn.functional as F
from attach.test_any_network import CLASSES, Habits, assert_same_gradients, conv, make_batch, step
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.utils.checkpoint import checkpoint

from imcl_core import Collaboration, ImclError
from imcl_core.networks.classifier import make_classifier


def attached(middle, methods="mid", layers="stem", **modules):
    torch.manual_seed(0)
    return Collaboration(Habits(middle, **modules), methods, layers=layers, image_shape=(3, 16, 16))


def batch(size=4):
    images, labels = make_batch(16, size)
    return images.float(), labels


def test_replicas_are_refused_whoever_makes_them():
    collaboration = attached(lambda net, x: x)
    for whole in (collaboration, nn.Sequential(collaboration)):
        with pytest.raises(ImclError, match=r"DistributedDataParallel\(collaboration\)"):
            # as torch.nn.parallel.replicate does, which needs several GPUs
            [module._replicate_for_data_parallel() for module in whole.modules()]
    with pytest.raises(ImclError, match="instead, in DistributedDataParallel"):
        Collaboration(nn.DataParallel(collaboration.network), "mid")


def test_a_layer_whose_parameters_are_gone_is_refused():
    collaboration = attached(lambda net, x: x)
    stem = collaboration.network.stem
    for name, parameter in list(stem._parameters.items()):  # as FSDP does, and replicas
        delattr(stem, name)
        setattr(stem, name, parameter.detach().requires_grad_())
    with pytest.raises(ImclError, match="'stem' has lost its weights"):
        collaboration(*batch())


def around(reentrant):
    return lambda net, x: checkpoint(net.conv, x, use_reentrant=reentrant)


def frozen(net, x):
    with torch.no_grad():
        return net.conv(x)


class Inside(nn.Module):
    """Checkpointing inside of a layer: of a module, or of a function of its own weight."""

    def __init__(self, reentrant, module=True):
        super().__init__()
        self.reentrant, self.module = reentrant, module
        self.conv, self.norm, self.weight = conv(), nn.InstanceNorm2d(8, affine=True), nn.Parameter(torch.rand(8, 1, 1))

    def forward(self, x):
        run = self.conv if self.module else lambda x: x * self.weight
        return self.norm(checkpoint(run, x, use_reentrant=self.reentrant)).relu()


AGAIN, NOTHING = (
    "runs in torch.utils.checkpoint, which runs it again",
    "'conv' runs without gradients, under torch.no_grad",
)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize(
    ("middle", "part", "methods", "message"),
    [
        *((around(False), conv(), m, AGAIN) for m in ("mid", "pull-push", "dropblock", "deep-supervision")),
        *((around(True), conv(), m, NOTHING) for m in ("mid", "pull-push", "dropblock", "deep-supervision")),
        *((frozen, conv(), m, NOTHING) for m in ("mid", "pull-push", "dropblock", "deep-supervision")),
        (lambda net, x: net.conv(x), Inside(True), "mid", NOTHING),
        (lambda net, x: net.conv(x), Inside(True, module=False), "mid", "pass use_reentrant=False"),
    ],
)
def test_no_term_teaches_a_layer_that_runs_without_a_graph_of_its_own(middle, part, methods, message):
    collaboration = attached(
        lambda net, x: net.late(F.avg_pool2d(middle(net, x), 2)), methods, ["conv", "late"],
        conv=copy.deepcopy(part), late=nn.Conv2d(8, 8, 1),
    )  # fmt: skip
    collaboration.progress = 0.5
    with pytest.raises(ImclError, match=message) as caught:
        collaboration(*batch()).backward()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("methods", ["out", "r-drop"])
def test_a_branched_classifier_in_checkpointing_is_refused(methods, reentrant):
    class Around(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.head = nn.Conv2d(3, 8, 3), make_classifier(8, 8, CLASSES)

        def forward(self, x):
            return checkpoint(self.head, self.stem(x).mean(dim=(2, 3)), use_reentrant=reentrant)

    collaboration = Collaboration(Around(), methods, classifier="head", image_shape=(3, 16, 16))
    with pytest.raises(ImclError, match=r"torch.utils.checkpoint|reentrant checkpointing"):
        collaboration(*batch()).backward()


def test_checkpointing_inside_of_a_layer_gives_the_same_gradients():
    torch.manual_seed(0)
    layer = Inside(False)
    found = {}
    for name in ("checkpointed", "plain"):
        collaboration = attached(
            lambda net, x: net.conv(x), "mid+pull-push", ["stem", "conv"], conv=copy.deepcopy(layer)
        )
        if name == "plain":
            collaboration.network.conv.forward = lambda x, c=collaboration.network.conv: c.norm(c.conv(x)).relu()
        collaboration(*batch()).backward()
        found[name] = {n: p.grad for n, p in collaboration.named_parameters() if p.grad is not None}
    assert found["plain"].keys() == found["checkpointed"].keys()
    assert all(torch.equal(g, found["plain"][n]) for n, g in found["checkpointed"].items())


@pytest.mark.parametrize("reentrant", [False, True])
def test_the_whole_objective_can_be_checkpointed(reentrant):
    collaboration, plain = (
        attached(lambda net, x: net.conv(x), "mid+kernel", ["stem", "conv"], conv=conv()) for _ in "ab"
    )
    images, labels = batch()
    checkpoint(collaboration, images.requires_grad_(), labels, use_reentrant=reentrant).backward()
    plain(*batch()).backward()
    for ours, theirs in zip(collaboration.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)


@pytest.mark.parametrize("methods", ["mid+pull-push", "deep-supervision"])
def test_heads_learn_on_a_frozen_trunk_under_no_grad_as_on_a_frozen_one(methods):
    found = []
    for middle in (frozen, lambda net, x: net.conv(x)):
        torch.manual_seed(0)
        network = Habits(
            lambda net, x, m=middle: F.avg_pool2d(m(net, x), 2) * net.scale(x), conv=conv(), scale=nn.Conv2d(8, 8, 2, 2)
        )
        network.conv.requires_grad_(False)
        network.stem.requires_grad_(False)
        collaboration = Collaboration(network, methods, layers=["conv", "scale"], image_shape=(3, 16, 16))
        collaboration(*batch()).backward()
        found.append([p.grad for p in collaboration.parameters()])
    assert all((a is None) == (b is None) and (a is None or torch.equal(a, b)) for a, b in zip(*found, strict=True))
    assert found[0][-1] is not None


@pytest.mark.parametrize("layers", [["conv", "norm"], "conv", None])
def test_a_second_derivative_is_refused(layers):
    collaboration = attached(lambda net, x: net.norm(net.conv(x)), "mid", layers, conv=conv(), norm=nn.GroupNorm(2, 8))
    loss = collaboration(*batch())
    with pytest.raises(ImclError, match="first derivatives alone: leave out create_graph=True"):
        torch.autograd.grad(loss, list(collaboration.network.parameters()), create_graph=True)


def test_objectives_are_evaluated_under_inference_mode_as_under_no_grad():
    def objective(enclosing):
        torch.manual_seed(0)
        network = Habits(lambda net, x: net.conv(x), conv=conv())
        network.head = make_classifier(8, 8, CLASSES)
        network.middle = lambda net, x: net.conv(x).mean(dim=(2, 3))[..., None, None]
        with enclosing():
            collaboration = Collaboration(network, "out+mid+pull-push+kernel+predsim+hsic", layers=["stem", "conv"],
                                          image_shape=(3, 16, 16))  # fmt: skip
        with enclosing():
            value = collaboration.eval()(*batch())
        collaboration.train()(*batch()).backward()  # nothing of it is left
        return value

    assert objective(torch.inference_mode).item() == objective(torch.no_grad).item()


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated")
@pytest.mark.parametrize("named", [None, ["stem", "conv"], "block"])
@pytest.mark.parametrize(
    "change",
    [
        nn.utils.weight_norm,
        nn.utils.spectral_norm,
        lambda m: prune.l1_unstructured(m, "weight", amount=0.5),
        parametrizations.weight_norm,
    ],
)
def test_weights_that_hooks_recompute_have_the_plain_gradients(change, named):
    torch.manual_seed(0)
    network = Habits(lambda net, x: net.block(net.conv(x)), conv=conv(), block=nn.Sequential(conv(), nn.Tanh()))
    network = network.double()
    for module in (network.conv, network.block[0]):
        change(module)
    collaboration = Collaboration(
        network, "mid+kernel", layers=named, kernels=["conv", "block.0"], image_shape=(3, 16, 16)
    )
    images, labels = make_batch(16, 4)
    expected = {}
    for term, value in collaboration.eval().objective(images, labels).items():  # each alone: nothing is shared
        collaboration.zero_grad()
        collaboration.objective(images, labels)[term].backward()
        for name, parameter in collaboration.named_parameters():
            if parameter.grad is not None:
                expected[name] = expected.get(name, 0) + parameter.grad
        assert value.isfinite()
    collaboration.zero_grad()
    collaboration(images, labels).backward()
    for name, parameter in collaboration.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated")
def test_a_teacher_whose_weights_hooks_recompute_is_copied():
    teacher = Habits(lambda net, x: net.conv(x), conv=nn.utils.weight_norm(conv()))
    teacher(batch()[0])  # its weight now has a graph
    collaboration = Collaboration(Habits(lambda net, x: x), "kd", teacher=teacher, image_shape=(3, 16, 16))
    collaboration(*batch()).backward()
    assert torch.equal(collaboration.teacher(batch()[0]), teacher.eval()(batch()[0]))


class Left(nn.Module):
    """A layer that uses what its network leaves with it."""

    def __init__(self):
        super().__init__()
        self.conv, self.left = conv(), None

    def forward(self, x):
        return self.conv(x) * self.left


def leaving(net, x):
    net.block.left = net.gate(x.mean(dim=(2, 3), keepdim=True)).sigmoid()
    return net.block(x)


def test_what_a_layer_takes_by_another_way_than_its_input_gets_its_gradient():
    torch.manual_seed(0)
    result = step(Habits(leaving, block=Left(), gate=nn.Conv2d(8, 8, 1)), "mid+pull-push", *make_batch(16, 4),
                  layers=["stem", "block"])  # fmt: skip
    assert_same_gradients(result)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*is deprecated")
def test_compiled_parts_are_named():
    network = Habits(lambda net, x: net.block(x), block=torch.jit.script(nn.Sequential(conv())))
    for methods in ("mid", "kernel"):
        with pytest.raises(ImclError, match=r"Module 'block' is a ScriptModule, .*: attach to the Python module"):
            Collaboration(network, methods, image_shape=(3, 16, 16))
    with pytest.raises(ImclError, match="The network is a ScriptModule"):
        Collaboration(torch.jit.trace(conv(), torch.zeros(1, 8, 4, 4)), "mid")
    Collaboration(network, "baseline")(*batch()).backward()


def test_a_place_that_a_step_skips_is_named():
    def middle(net, x):
        return F.avg_pool2d(x if net.training else net.conv(x), 2)

    for methods in ("mid", "deep-supervision"):
        network = Habits(lambda net, x: net.late(middle(net, x)), conv=conv(), late=conv())
        collaboration = Collaboration(network, methods, layers=["conv", "late"], image_shape=(3, 16, 16))
        with pytest.raises(ImclError, match="'conv' did not run in this step: leave it out"):
            collaboration(*batch())
