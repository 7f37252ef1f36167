"""Networks and loops that are unusual and right: hooks, gates, an input for its size alone, two dtypes, a kept loss."""

import gc

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from imcl_core import Collaboration, losses
from imcl_core.collaboration import DenseCollaboration, MethodSettings
from imcl_core.errors import ImclError

SHAPE = (3, 8, 8)


def unit(inputs, outputs):
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU())


def tail(channels=8):
    return nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 4)


class Apart(nn.Module):
    """A convolution, its normalisation and its ReLU beside one another: a layer that is no module."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.tail = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Sequential(*tail())

    def forward(self, x):
        return self.tail(F.relu(self.norm(self.conv(x))))


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def batch(count=6):
    return torch.randn(count, *SHAPE), torch.randint(4, (count,))


def attached(network, methods="mid", **options):
    return Collaboration(network, methods, image_shape=SHAPE, **options)


@pytest.mark.parametrize("network", [lambda: nn.Sequential(unit(3, 8), *tail()), Apart])
def test_a_hook_on_a_weight_runs_once(network):
    images, labels = batch()
    gradients = []
    for scale in (1.0, 0.1):
        torch.manual_seed(1)
        collaboration, calls = attached(network()), []
        weight = next(collaboration.network.parameters())
        weight.register_hook(lambda g, scale=scale, calls=calls: (calls.append(1), g * scale)[1])
        torch.manual_seed(2)
        collaboration(images, labels).backward()
        gradients.append(weight.grad)
        assert len(calls) == 1
    torch.testing.assert_close(gradients[1], 0.1 * gradients[0])


def test_a_loss_that_is_kept_keeps_no_maps():
    collaboration = attached(nn.Sequential(unit(3, 7), unit(7, 7), *tail(7)))
    loss = collaboration(*batch())
    loss.backward()
    gc.collect()
    assert loss.grad_fn is not None
    assert not [o for o in gc.get_objects() if type(o) is torch.Tensor and o.shape == (6, 7, 8, 8)]


def test_a_layer_may_use_an_input_for_its_size_alone():
    class Up(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = unit(8, 8)

        def forward(self, maps, like):
            return self.inner(F.interpolate(maps, size=like.shape[-2:]))

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.up, self.tail = unit(3, 8), unit(8, 8), Up(), nn.Sequential(*tail())

        def forward(self, x):
            a = self.a(x)
            return self.tail(self.up(self.b(F.max_pool2d(a, 2)), a))

    collaboration = attached(Net(), layers=["a", "up"])
    collaboration(*batch()).backward()
    assert all(p.grad is not None for p in collaboration.network.parameters())


def test_a_layer_that_skips_itself_behind_a_frozen_one_is_no_error():
    class Skips(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = unit(8, 8)

        def forward(self, x):
            return x if self.training else x + self.inner(x)

    network = nn.Sequential(unit(3, 8), Skips(), *tail())
    network[0].requires_grad_(False)
    collaboration = attached(network, layers=["1"])
    collaboration(*batch()).backward()
    assert network[-1].weight.grad is not None and network[1].inner[0].weight.grad is None


def test_dropout_in_place_at_the_start_of_a_layer_trains():
    dropped = nn.Sequential(nn.Dropout2d(0.1, inplace=True), *unit(8, 8))
    collaboration = attached(nn.Sequential(unit(3, 8), nn.MaxPool2d(2), dropped, *tail()))
    assert collaboration.layers == ["0", "2"]
    collaboration(*batch()).backward()


@pytest.mark.parametrize("gate", [torch.add, torch.mul])
def test_a_gate_of_the_channels_tells_nothing_of_their_place(gate):
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.linear = unit(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            h = self.inner(x)
            return gate(self.linear(x.mean((2, 3))).view(len(x), 8, 1, 1), h)

    network = nn.Sequential(unit(3, 8), Gated(), *tail())
    collaboration = Collaboration(network, "mid", image_shape=(3, 12, 16), layers=["1"])
    (place,) = collaboration._local
    assert (place.shape, place.layout) == ((8, 12, 16), "maps")


def test_attaching_leaves_buffers_modes_and_the_random_stream_as_they_were():
    class Watches(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.evals = unit(3, 8), 0
            self.register_buffer("largest", torch.tensor(-1.0))

        def train(self, mode=True):
            self.evals += not mode
            return super().train(mode)

        def forward(self, x):
            self.largest.clamp_(min=x.abs().max() + 1)
            return F.dropout(self.inner(x), 0.5)  # always on

    network = nn.Sequential(Watches(), *tail())
    before = torch.get_rng_state()
    attached(network)
    assert torch.equal(torch.get_rng_state(), before)
    assert network[0].largest == -1 and network[0].evals == 0 and network[0].training


def test_heads_have_the_type_of_their_layer():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale, self.trunk = nn.Parameter(torch.ones(())), nn.Sequential(unit(3, 8), *tail()).double()

        def forward(self, x):
            return self.trunk((x * self.scale).double())

    collaboration = attached(Scaled())
    assert {p.dtype for p in collaboration.heads.parameters()} == {torch.float64}
    collaboration(*batch()).backward()


def test_a_network_on_two_devices_is_refused():
    class Split(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = unit(3, 8), nn.Sequential(unit(8, 8), *tail()).to("meta")

        def forward(self, x):
            return self.last(self.first(x).to("meta"))

    with pytest.raises(ImclError, match="lies on cpu and meta: terms need all of it on one device"):
        attached(Split())


def test_a_layer_that_runs_twice_in_training_alone_is_refused():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.tail = unit(3, 8), nn.Sequential(*tail())

        def forward(self, x):
            h = self.inner(x)
            return self.tail(h + self.inner(x.flip(3)) if self.training else h)

    with pytest.raises(ImclError, match="'inner' ran 2 times in this step"):
        attached(Twice(), layers=["inner"])(*batch())


def test_a_classifier_called_by_keyword_is_branched():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.trunk = nn.Sequential(unit(3, 8), *tail()[:2])
            self.classifier = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5), nn.Linear(8, 4))

        def forward(self, x):
            return self.classifier(input=self.trunk(x))

    attached(Net(), "out")(*batch()).backward()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"methods": ["mid", "kernel"]}, r"Methods are one string, joined by '\+'"),
        ({"settings": {"mid_alpha": 0.1}}, r"such as MethodSettings\(mid_alpha=0.1\), not {'mid_alpha': 0.1}"),
        ({"settings": MethodSettings}, "Settings are an object"),
        ({"layers": [nn.ReLU()]}, "Modules are named by strings, such as '3', not by a ReLU"),
        ({"image_shape": 32}, r"image_shape is \(channels, height, width\), not 32"),
    ],
)
def test_what_is_no_option_is_told(options, told):
    with pytest.raises(ImclError, match=told):
        Collaboration(nn.Sequential(unit(3, 8), *tail()), **{"methods": "mid", "image_shape": SHAPE} | options)


def test_a_network_that_returns_nothing_is_told():
    class Nothing(nn.Linear):
        def forward(self, x):
            return None

    with pytest.raises(ImclError, match="returns a NoneType, not logits"):
        Collaboration(Nothing(1, 1))(*batch())


def test_settings_without_those_of_pixels_have_their_defaults():
    network = nn.Sequential(unit(3, 8), nn.Conv2d(8, 4, 1))
    dense = DenseCollaboration(network, "mid", settings=MethodSettings(mid_alpha=0.1), image_shape=SHAPE)
    dense(torch.randn(2, *SHAPE), torch.full((2, 8, 8), 1)).backward()


def test_tokens_of_another_image_size_are_refused():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.patches, self.block, self.last = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 8), nn.Conv2d(8, 4, 1)

        def forward(self, x):
            maps = self.patches(x)
            tokens = self.block(maps.flatten(2).mT)
            return self.last(tokens.mT.unflatten(2, maps.shape[2:]))

    dense = DenseCollaboration(Tokens(), "mid", image_shape=(3, 16, 16), layers=["block"])
    dense(torch.randn(2, 3, 16, 16), torch.ones(2, 16, 16, dtype=torch.int64)).backward()
    with pytest.raises(ImclError, match="returns 64 tokens, and 16 of an image of `image_shape`"):
        dense(torch.randn(2, 3, 32, 32), torch.ones(2, 32, 32, dtype=torch.int64))


def test_a_half_precision_kernel_that_is_a_view_has_the_gradient_of_its_copy():
    weight = torch.randn(6, 8, 3, 3).bfloat16()
    gradients = []
    for whole in (False, True):
        leaf = weight.clone().requires_grad_()
        part = leaf[:, :4].contiguous() if whole else leaf[:, :4]
        losses.kernel_loss(part).backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(*gradients)


def test_decov_leaves_out_images_without_a_label():
    network = nn.Sequential(unit(3, 8), nn.Flatten(), nn.Linear(512, 8), nn.ReLU(), nn.Dropout(0.0), nn.Linear(8, 4))
    network[0][1].eval()
    images, labels = batch()
    found = []
    for factor in (1, 50):
        collaboration = Collaboration(network.eval(), "decov", image_shape=SHAPE, ignore_label=-100)
        collaboration(torch.cat([images, factor * images[:1]]), torch.cat([labels, torch.tensor([-100])]))
        found.append({name: value.item() for name, value in collaboration.terms.items()})
    assert found[0] == pytest.approx(found[1]) and len(found[0]) > 1


def test_what_is_switched_off_compares_nothing():
    collaboration = attached(nn.Sequential(unit(3, 8), *tail()), "mid+pull-push")
    collaboration.weigh("pull-push", 0)
    collaboration(*batch(1)).backward()


def test_weighing_that_fails_changes_nothing():
    collaboration = attached(nn.Sequential(unit(3, 8), *tail()), "mid+kernel")
    with pytest.raises(ImclError, match="pull-push is none of the methods"):
        collaboration.weigh("mid+pull-push", 0)
    assert collaboration.active == ("mid", "kernel")
