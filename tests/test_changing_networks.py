"""Networks that do more in training, or keep losses of their own."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from imcl_core import Collaboration, DenseCollaboration, ImclError, MethodSettings
from imcl_core.methods import TERMS, Term, register
from imcl_core.settings import Settings, setting

SHAPE = (3, 8, 8)
IMAGES, LABELS = torch.randn(6, *SHAPE, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 4


def unit(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU())


def tail(classes: int = 4) -> tuple[nn.Module, ...]:
    return nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes)


# --- more in training


class Twice(nn.Module):
    """In training its convolutions run twice, or a shared activation once more."""

    def __init__(self, more: str):
        super().__init__()
        self.more, self.c1, self.c2, self.side = more, *(nn.Conv2d(i, 8, 3, padding=1) for i in (3, 8, 3))
        self.relu, self.tail = nn.ReLU(), nn.Sequential(*tail())

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.more == "activation":
            self.relu(self.side(x))
        if self.training and self.more == "all":
            self.relu(self.c2(self.relu(self.c1(x))))
        return self.tail(self.relu(self.c2(self.relu(self.c1(x)))))


@pytest.mark.parametrize(("more", "count"), [("activation", 3), ("all", 4)])
def test_a_module_that_runs_more_often_in_training_is_not_read_at_another_call(more, count):
    collaboration = Collaboration(Twice(more), "mid", image_shape=SHAPE)
    with pytest.raises(ImclError, match=f"'relu' ran {count} times in this step and 2 times when"):
        collaboration(IMAGES, LABELS)
    collaboration.eval()(IMAGES, LABELS).backward()


class Named(nn.Module):
    """A layer whose second input comes by name, or is no tensor, in training alone."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor, shift: Tensor | None = None, scale: Tensor | float | None = None) -> Tensor:
        x = self.conv(x)
        return (x if shift is None else x + shift) * (1.0 if scale is None else scale)


class Calling(nn.Module):
    def __init__(self, *given, **named):
        super().__init__()
        self.a, self.b, self.tail, self.given, self.named = unit(3, 8), Named(), nn.Sequential(*tail()), given, named

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.tail(self.b(x, *self.given, **self.named) if self.training else self.b(x))


@pytest.mark.parametrize(
    ("given", "named"),
    [((), {"scale": torch.tensor(3.0)}), ((None, 0.5), {}), ((torch.ones(8, 1, 1),), {"scale": 2.0})],
)
def test_a_layer_gets_what_the_network_gives_it_in_training(given, named):
    network = Calling(*given, **named)
    collaboration = Collaboration(network, "mid", image_shape=SHAPE, layers="b")
    collaboration(IMAGES, LABELS).backward()
    torch.testing.assert_close(collaboration.logits, network(IMAGES), rtol=1e-4, atol=1e-6)


class Auxiliary(nn.Module):
    """Returns more logits than one in training, as GoogLeNet does."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.tail, self.aux = unit(3, 8), nn.Sequential(*tail()), nn.Sequential(*tail())

    def forward(self, x: Tensor) -> Tensor | tuple:
        from torchvision.models import GoogLeNetOutputs

        x = self.body(x)
        return GoogLeNetOutputs(self.tail(x), self.aux(x), None) if self.training else self.tail(x)


@pytest.mark.parametrize("methods", ["baseline", "kernel", "mid"])
def test_auxiliary_logits_are_not_left_out_in_silence(methods):
    assert Collaboration(Auxiliary(), image_shape=SHAPE)(IMAGES).shape == (6, 4)  # to look at, as before
    with pytest.raises(ImclError, match="aux_logits=False"):
        Collaboration(Auxiliary(), methods, image_shape=SHAPE, kernels="body.0")(IMAGES, LABELS)


class Listed(nn.Module):
    """A layer that gets features in a list in training."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor, more: list[Tensor] = ()) -> Tensor:
        return sum(more, self.conv(x))


class Skipping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.skip, self.b, self.tail = unit(3, 8), nn.Conv2d(3, 8, 1), Listed(), nn.Sequential(*tail())

    def forward(self, x: Tensor) -> Tensor:
        return self.tail(self.b(self.a(x), [self.skip(x)]) if self.training else self.b(self.a(x)))


def test_features_in_a_list_have_their_gradient():
    gradients = []
    for methods in ("baseline", "mid"):
        torch.manual_seed(0)
        network = Skipping()
        collaboration = Collaboration(network, methods, image_shape=SHAPE, layers="b" if methods == "mid" else None)
        collaboration.objective(IMAGES, LABELS)["hard"].backward()
        gradients.append(network.skip.weight.grad)
    torch.testing.assert_close(*gradients)


# --- losses of their own


class Keeping(nn.Module):
    """A layer that keeps a loss, as of a code book or of experts, in what `holder` makes of it."""

    def __init__(self, holder: Callable[[Tensor], Any] = lambda loss: loss) -> None:
        super().__init__()
        self.scale, self.conv, self.holder = nn.Parameter(torch.ones(8, 1, 1)), nn.Conv2d(8, 8, 1), holder

    def forward(self, x: Tensor) -> Tensor:
        self.kept = self.holder(self.conv(x).square().mean())
        return x * self.scale


def of_what_is_kept(methods: str, holder: Callable[[Tensor], Any]) -> Tensor:
    """The gradient of what a layer keeps, at the first convolution."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), Keeping(holder), *tail())
    collaboration = Collaboration(network, methods, image_shape=SHAPE, layers="2" if methods == "mid" else None)
    loss = collaboration(IMAGES, LABELS)
    (kept,) = tree_leaves(network[2].kept)
    (0 * loss + kept).backward()
    return network[0].weight.grad


HOLDERS = {"attribute": lambda loss: loss, "list": lambda loss: [loss], "dictionary": lambda loss: {"loss": loss}}


@pytest.mark.parametrize("holder", HOLDERS.values(), ids=HOLDERS)
def test_a_loss_that_a_layer_keeps_has_all_its_gradient(holder):
    torch.testing.assert_close(of_what_is_kept("mid", holder), of_what_is_kept("baseline", holder))


class KeepingInTraining(Keeping):
    """The same in training alone, and the loss in a list that the loop empties."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.losses.append(self.conv(x).square().mean())
        return x * self.scale


def test_a_loss_that_a_layer_keeps_in_training_alone_is_refused():
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), KeepingInTraining(), *tail())
    collaboration = Collaboration(network, "mid", image_shape=SHAPE, layers=["0", "2"])
    for _ in range(2):
        loss = collaboration(IMAGES, LABELS) + network[2].losses.pop()
        with pytest.raises(ImclError, match="Layer '2' keeps something that reaches below it in training"):
            loss.backward()


def of_what_is_hooked(methods: str) -> Tensor:
    """The gradient of a feature inside of a layer, at the first convolution."""
    torch.manual_seed(0)
    network, seen = nn.Sequential(unit(3, 8), unit(8, 8), *tail()), []
    collaboration = Collaboration(network, methods, image_shape=SHAPE)
    network[1][0].register_forward_hook(lambda module, inputs, output: seen.append(output))
    (0 * collaboration(IMAGES, LABELS) + seen[0].square().mean()).backward()
    return network[0][0].weight.grad


def test_a_feature_that_a_hook_takes_out_of_a_layer_has_all_its_gradient():
    torch.testing.assert_close(of_what_is_hooked("mid"), of_what_is_hooked("baseline"))


class Shared(nn.Module):
    """Two convolutions of one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.tail = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 8, 1)
        self.b.weight, self.end = self.a.weight, nn.Sequential(*tail())

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.tail(self.b(self.a(x).relu())))


def test_a_hook_on_a_layer_of_shared_weights_changes_no_gradient():
    gradients = []
    for hooked in (False, True):
        torch.manual_seed(0)
        network = Shared()
        if hooked:
            network.b.register_forward_hook(lambda *_: None)
        collaboration = Collaboration(network, "mid", image_shape=SHAPE, layers="b")
        collaboration.objective(IMAGES, LABELS)["mid/b"].backward()
        gradients.append(network.a.weight.grad)
    torch.testing.assert_close(*gradients, rtol=0, atol=0)


def test_a_layer_of_shared_weights_that_are_computed_is_refused():
    network = Shared()
    collaboration = Collaboration(network, "mid", image_shape=SHAPE, layers="b")
    network.b.register_forward_pre_hook(lambda *_: None)
    with pytest.raises(ImclError, match="'b' shares weights with another module and cannot be run apart"):
        collaboration(IMAGES, LABELS)


# --- layers that the rule finds


class Padded(nn.Module):
    """A residual block whose branch begins with a function."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.act = nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x + self.b(self.act(self.a(F.pad(x, (1, 1, 1, 1))))))


def test_a_sum_joins_no_layer_whose_output_goes_elsewhere_too():
    network = nn.Sequential(unit(3, 8), Padded(), Padded(), *tail())
    collaboration = Collaboration(network, "mid", image_shape=SHAPE)
    assert [layer.modules for layer in collaboration._local][:1] == [("0",)]
    assert all(len(layer.modules) == 1 for layer in collaboration._local)
    collaboration(IMAGES, LABELS).backward()


class TwoWays(nn.Module):
    """Down and up again: the first and the last unit are of one size, with another between them."""

    def __init__(self) -> None:
        super().__init__()
        self.e1, self.e2, self.d1, self.end = unit(3, 8), unit(8, 8), unit(16, 8), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.e1(x)
        b = F.interpolate(self.e2(F.max_pool2d(a, 2)), scale_factor=2)
        return self.end(self.d1(torch.cat([a, b], 1)))


def test_a_block_by_size_holds_units_in_a_row():
    settings = MethodSettings(attach="blocks")
    collaboration = DenseCollaboration(TwoWays(), "mid", image_shape=SHAPE, settings=settings)
    assert collaboration.layers == ["e1", "e2", "d1"]
    collaboration(IMAGES, torch.randint(4, (6, 8, 8))).backward()


class WithPositions(nn.Module):
    """Adds what a convolution makes of coordinates, for all images alike."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.position, self.tail = unit(3, 8), unit(8, 8), nn.Conv2d(2, 8, 1), nn.Sequential(*tail())

    def forward(self, x: Tensor) -> Tensor:
        return self.tail(self.b(self.a(x) + self.position(torch.ones(1, 2, *x.shape[2:]))))


def test_a_convolution_of_coordinates_is_no_layer():
    collaboration = Collaboration(WithPositions(), "mid", image_shape=SHAPE)
    assert collaboration.layers == ["a", "b"]
    collaboration(IMAGES, LABELS).backward()


class FrozenTrunk(nn.Module):
    """Its first unit runs without gradients, so that nothing behind it comes of the image by the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.tail = unit(3, 8), unit(8, 8), nn.Sequential(*tail())

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = self.a(x)
        return self.tail(self.b(x))


def test_behind_a_trunk_without_gradients_the_rule_still_finds_layers():
    assert "b" in Collaboration(FrozenTrunk(), "mid", image_shape=SHAPE).layers


class Through(nn.Module):
    """What a function does to the image, or to the first unit's maps, ends the graph; or a unit is called by name."""

    def __init__(self, way: str):
        super().__init__()
        self.way, self.a, self.b = way, nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.tail = nn.Sequential(*tail())

    def forward(self, x: Tensor) -> Tensor:
        if self.way == "normalised":
            with torch.no_grad():
                x = (x - 0.5) / 0.5
        if self.way == "rounded":
            x = (x * 255).to(torch.uint8).float() / 255
        x = self.a(input=x) if self.way == "named" else self.a(x)
        return self.tail(self.b(x.detach() if self.way == "detached" else x))


@pytest.mark.parametrize("way", ["normalised", "rounded", "named", "detached"])
def test_a_graph_that_ends_on_the_way_hides_no_layer(way):
    assert Collaboration(Through(way), "mid", image_shape=SHAPE).layers == ["a", "b"]


# --- terms of one's own, and a loop that tells no progress


def test_terms_that_follow_the_progress_are_at_full_strength_where_nobody_tells_it():
    network = nn.Sequential(unit(3, 8), unit(8, 8), *tail())
    settings = MethodSettings(dropblock_rate=0.9)
    collaboration = Collaboration(network, "dropblock", image_shape=SHAPE, settings=settings)
    torch.manual_seed(0)
    collaboration(IMAGES, LABELS)
    assert not torch.allclose(collaboration.logits, network(IMAGES), atol=1e-3)
    network.insert(1, nn.MaxPool2d(2))
    deep = Collaboration(network, "deep-supervision", image_shape=SHAPE)
    deep(IMAGES, LABELS)
    constant = deep.terms
    deep.progress = 0.0
    deep(IMAGES, LABELS)
    assert constant.keys() == deep.terms.keys() and constant.keys() > {"hard"}
    torch.testing.assert_close(list(constant.values()), list(deep.terms.values()))


def test_terms_are_told_after_the_objective_too():
    collaboration = Collaboration(nn.Sequential(unit(3, 8), *tail()), "mid", image_shape=SHAPE)
    found = collaboration.objective(IMAGES, LABELS)
    assert collaboration.terms == {name: value.detach() for name, value in found.items()}


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (lambda step: {"own": 0.0}, "'own' of own is no scalar tensor: float"),
        (lambda step: {"own": step.logits.mean(1)}, r"'own' of own is no scalar tensor: shape \(6,\)"),
        (lambda step: {"hard": step.logits.mean()}, "'hard' of own has the name of another"),
    ],
)
def test_slips_in_a_term_of_ones_own_are_named(returned, message):
    own = type("Own", (Term,), {"name": "own", "losses": lambda self, seen, step: returned(step)})
    register(own)
    try:
        with pytest.raises(ImclError, match=message):
            Collaboration(nn.Sequential(unit(3, 8), *tail()), "own", image_shape=SHAPE)(IMAGES, LABELS)
    finally:
        del TERMS["own"]


def test_settings_of_ones_own_need_the_decorator():
    class Plain(Settings):
        own_weight: float = setting(1.0, "its weight", least=0)

    with pytest.raises(ImclError, match="Plain needs @dataclass"):
        register(type("Own", (Term,), {"name": "own", "Settings": Plain}))


@pytest.mark.parametrize("labels", [[0, 1, 2, 3, 0, 1], LABELS.numpy()])
def test_labels_that_are_no_tensor_name_the_remedy(labels):
    collaboration = Collaboration(nn.Sequential(unit(3, 8), *tail()), image_shape=SHAPE)
    with pytest.raises(ImclError, match=r"Labels are a tensor, not a .*: make one by torch.as_tensor"):
        collaboration(IMAGES, labels)
