"""All terms on other networks: tokens, activations in place, nothing to attach to; compiled; counted."""

import pytest
import torch
import torch.nn.functional as F
import torchvision
from small import CLASSES, EVERY, NAMES, gradients, head_of, make, make_batch
from torch import nn

from imcl_core import Collaboration, ImclError
from imcl_core.networks import build
from imcl_core.networks.classifier import make_classifier


class Small(nn.Module):
    """One activation for all layers, which works in place; a classifier with hidden units."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, stride=2, padding=1)
        self.relu, self.head = nn.ReLU(inplace=True), make_classifier(4, 6, 3)

    def forward(self, x):
        return self.head(self.relu(self.conv2(self.relu(self.conv1(x)))).mean(dim=(2, 3)))


class Tokens(nn.Module):
    """Patches as tokens (B, T, C), and nothing hidden in the classifier."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, stride=4)
        self.blocks = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x):
        return self.head(self.blocks(self.patches(x).flatten(2).mT).mean(dim=1))


@pytest.mark.parametrize("methods", [*NAMES, EVERY])
def test_any_classifier(methods):
    torch.manual_seed(0)
    options = {"layers": ["conv?"]} if methods == "hsic" else {}
    teacher = Small() if "kd" in methods else None
    collaboration = Collaboration(Small(), methods, image_shape=(1, 12, 12), teacher=teacher, **options)
    collaboration.progress = 1.0
    collaboration(torch.randn(4, 1, 12, 12), torch.tensor([0, 1, 2, 0])).backward()
    assert all(p.grad is not None for n, p in collaboration.named_parameters() if "teacher" not in n)
    kinds = {name.split("/")[0] for name in collaboration.terms}
    assert kinds >= set(methods.split("+")) - {"spatial-dropout", "dropblock", "cutout"}


def test_features_that_the_network_changes_in_place_are_read_before():
    collaboration = Collaboration(Small(), "deep-supervision", layers=["conv1", "conv2"], image_shape=(1, 12, 12))
    images = torch.randn(4, 1, 12, 12)
    collaboration(images, torch.tensor([0, 1, 2, 0])).backward()
    expected = F.cross_entropy(
        head_of(collaboration, "deep-supervision", "conv1")(collaboration.network.conv1(images)),
        torch.tensor([0, 1, 2, 0]),
    )
    weight = collaboration.settings.deep_weight
    assert collaboration.terms["deep-supervision/conv1"].item() == pytest.approx(weight * expected.item())


@pytest.mark.parametrize("methods", ["predsim", "hsic"])
def test_tokens_have_local_terms(methods):
    collaboration = Collaboration(Tokens(), methods, layers="blocks.*", image_shape=(3, 16, 16))
    collaboration(torch.randn(4, 3, 16, 16), torch.arange(4)).backward()
    assert all(p.grad is not None for p in collaboration.network.blocks.parameters())


def on_tokens(methods):
    return Collaboration(Tokens(), methods, layers="blocks.*", image_shape=(3, 16, 16))


@pytest.mark.parametrize(
    ("build_it", "message"),
    [
        (lambda: on_tokens("dropblock"), "dropblock drops parts of maps .* returns tokens: leave it out"),
        (lambda: on_tokens("spatial-dropout"), "spatial-dropout drops parts of maps"),
        (lambda: on_tokens("deep-supervision"), "all map sizes but the last"),
        (lambda: on_tokens("decov"), "hidden layer: give it one made by imcl_core.networks.classifier.make_classifier"),
        (lambda: Collaboration(torchvision.models.resnet18(num_classes=3), "decov"), "hidden layer"),
        (lambda: Collaboration(nn.Linear(3, 2), "predsim"), "Name the modules"),
        (lambda: Collaboration(Tokens(), "kd", image_shape=(3, 16, 16)), r"teacher=network"),
        (lambda: make("kd", teacher=build("vgg16", 3, width=1 / 16).double())(*make_batch()), "the same classes"),
        (lambda: make("hsic")(*(x[:1] for x in make_batch())), "hsic compares images with one another"),
    ],
)
def test_misuse_is_one_clear_sentence(build_it, message):
    with pytest.raises(ImclError, match=message) as caught:
        build_it()
    assert "\n" not in str(caught.value)


def test_cost_counts_what_each_adds():
    collaboration = make(EVERY)
    rows = collaboration.cost(batch_size=8)
    kinds = [name.split("/")[0] for name in rows.index]
    counted = [kinds.count(k) for k in ("decov", "deep-supervision", "predsim", "hsic", "kd", "dropblock")]
    assert counted == [2, 3, 17, 17, 1, 2]
    heads = [name for name in rows.index if name.split("/")[0] in ("deep-supervision", "predsim", "mid", "pull-push")]
    assert rows.loc[heads, "parameters"].sum() == sum(p.numel() for p in collaboration.heads.parameters())
    assert rows.loc["kd", "parameters"] == rows.loc["network", "parameters"]
    assert rows.loc["kd", "multiply-adds"] == rows.loc["network", "multiply-adds"]
    assert rows.loc["kd", "bytes"] == 0


@pytest.mark.filterwarnings("ignore:The .grad attribute")
@pytest.mark.parametrize("methods", ["kd", "decov+deep-supervision+predsim"])
def test_compiled(methods):
    torch.compiler.reset()
    torch.manual_seed(0)
    networks = [Small(), Small()]
    networks[1].load_state_dict(networks[0].state_dict())
    images, labels = torch.randn(4, 1, 12, 12), torch.tensor([0, 1, 2, 0])
    found = []
    for network, wrap in zip(networks, (lambda c: c, lambda c: torch.compile(c, backend="aot_eager")), strict=True):
        collaboration = Collaboration(network, methods, image_shape=(1, 12, 12), teacher=networks[0])
        call = wrap(collaboration.eval())
        for progress in (0.0, 0.5):
            collaboration.progress = progress
            call(images, labels).backward()
        found.append(gradients(collaboration))
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, msg=lambda m, n=name: f"{n}: {m}")
