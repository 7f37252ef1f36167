"""Collaboration: every gradient against running each layer a second time on a detached input."""

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from collaborations import CLASSES, gradients, make, make_batch, recomputed_gradients
from torch import nn

from imcl_core import Collaboration, ImclError
from imcl_core.collaboration import METHODS, parse_methods
from imcl_core.networks import build

SUBSETS = ["+".join(s) or "baseline" for n in range(5) for s in itertools.combinations(METHODS, n)]


@pytest.mark.parametrize("model", ["vgg16", "resnet18"])
@pytest.mark.parametrize("methods", SUBSETS)
def test_gradients_equal_detach_and_recompute(model, methods):
    collaboration = make(model, methods)
    images, labels = make_batch()
    torch.manual_seed(7)
    expected_loss, expected = recomputed_gradients(collaboration, images, labels)
    torch.manual_seed(7)
    loss = collaboration(images, labels)
    loss.backward()
    found = gradients(collaboration)
    torch.testing.assert_close(loss.detach(), expected_loss, rtol=1e-12, atol=1e-12)
    assert found.keys() == expected.keys()
    assert any(name.startswith("heads") for name in found) == bool({"mid", "pull-push"} & set(collaboration.methods))
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-9, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("model", ["vgg16", "resnet18"])
@pytest.mark.parametrize("method", ["mid", "pull-push", "kernel"])
def test_a_local_term_reaches_its_own_layer_only(model, method):
    collaboration = make(model, method)
    images, labels = make_batch()
    for name in collaboration.layers or collaboration.kernels:
        collaboration.zero_grad(set_to_none=True)
        collaboration.objective(images, labels)[f"{method}/{name}"].backward()
        reached = {n for n, g in gradients(collaboration).items() if g.abs().max() > 0}
        own = {f"network.{name}.{n}" for n, _ in collaboration.network.get_submodule(name).named_parameters()}
        head = {n for n in reached if n.startswith(f"heads.{method}/{name.replace('.', '/')}.")}
        assert bool(head) == (method != "kernel")
        assert reached - head <= own
        assert f"network.{name}.conv.weight" in reached or f"network.{name}.weight" in reached


@pytest.mark.parametrize("model", ["vgg16", "resnet18", "resnet101"])
def test_a_step_with_every_method_off_is_a_plain_step_bit_for_bit(model):
    torch.manual_seed(0)
    plain = build(model, CLASSES, width=1 / 16, hidden=16)
    collaboration = Collaboration(copy.deepcopy(plain), "baseline")
    images, labels = make_batch()
    for module, step in (
        (plain, lambda x: F.cross_entropy(plain(x), labels)),
        (collaboration, lambda x: collaboration(x, labels)),
    ):
        torch.manual_seed(3)
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
        for _ in range(2):
            optimizer.zero_grad()
            step(images.float()).backward()
            optimizer.step()
    after = collaboration.network.state_dict()
    assert plain.state_dict().keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in plain.state_dict().items())


def test_batch_norm_statistics_are_updated_once_a_step():
    collaboration, baseline = make(methods="out+mid+pull-push+kernel"), make()
    images, labels = make_batch()
    collaboration(images, labels)
    baseline(images, labels)
    ours, theirs = (dict(c.network.named_buffers()) for c in (collaboration, baseline))
    assert ours["trunk.stem.conv1.bn.num_batches_tracked"] == 1
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name])


def test_network_stays_plain():
    collaboration = make(methods="out+mid+pull-push+kernel")
    images, labels = make_batch()
    collaboration(images, labels).backward()
    fresh = build("resnet18", CLASSES, width=1 / 16, hidden=16).double()
    fresh.load_state_dict(collaboration.network.state_dict())
    assert not any("forward" in vars(m) for m in collaboration.network.modules())
    collaboration.eval(), fresh.eval()
    assert torch.equal(collaboration(images), fresh(images))


def test_forward_is_restored_when_a_step_fails():
    collaboration = make(methods="out+mid")
    with pytest.raises(RuntimeError):
        collaboration(torch.zeros(2, 4, 32, 32, dtype=torch.float64), torch.zeros(2, dtype=torch.long))
    assert not any("forward" in vars(m) for m in collaboration.network.modules())


def test_heads_leave_the_random_stream_alone():
    torch.manual_seed(5)
    network = build("vgg16", CLASSES, width=1 / 16)
    state = torch.get_rng_state()
    first = Collaboration(network, "mid+pull-push", seed=1).heads.state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    second = Collaboration(network, "mid+pull-push", seed=1).heads.state_dict()
    other = Collaboration(network, "mid+pull-push", seed=2).heads.state_dict()
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert not all(torch.equal(first[k], other[k]) for k in first)
    alone = Collaboration(network, "pull-push", seed=1).heads.state_dict()
    assert all(torch.equal(first[k], alone[k]) for k in alone)


def test_terms_add_up_to_the_loss_and_name_every_layer():
    collaboration = make(methods="out+mid+pull-push+kernel")
    loss = collaboration(*make_batch())
    assert sum(v.item() for v in collaboration.terms.values()) == pytest.approx(loss.item())
    kinds = [name.split("/")[0] for name in collaboration.terms]
    assert [kinds.count(k) for k in ("out", "mid", "pull-push", "kernel")] == [1, 17, 17, 8]
    assert not any(v.requires_grad for v in collaboration.terms.values())


@pytest.mark.parametrize(("model", "count"), [("vgg16", 5), ("resnet18", 9)])
def test_attaching_to_blocks(model, count):
    collaboration = make(model, "mid+pull-push", attach="blocks")
    collaboration(*make_batch()).backward()
    assert len(collaboration.layers) == count
    assert len(collaboration.terms) == 1 + 2 * count


def test_settings_reach_the_losses():
    images, labels = make_batch()
    changed = {
        "out": {"out_alpha": 0.9, "out_temperature": 3.0, "out_t_squared": True, "out_branches": 3},
        "mid": {
            "mid_alpha": 0.5, "mid_beta": 0.5, "mid_temperature": 1.0, "mid_pool": 2, "mid_width": 2, "mid_own": True,
        },
        "pull-push": {
            "pp_pull": (1.0, 0.2), "pp_push": (0.3, 0.7), "pp_normalise": False, "pp_centre": "batch",
            "pp_projection": "1x1", "pp_input": "pixels",
        },
        "kernel": {"kernel_weight": 3.0, "kernel_biased": False},
    }  # fmt: skip
    base = {"pull-push": {"pp_push": (0.1, 0.0)}}  # without a push the images have no part
    for method, settings in changed.items():
        torch.manual_seed(0)
        reference = make("vgg16", method, **base.get(method, {}))
        torch.manual_seed(1)
        default = reference(images, labels).item()
        for name, value in settings.items():
            changed_one = make("vgg16", method, **base.get(method, {}) | {name: value})
            torch.manual_seed(1)
            assert changed_one(images, labels).item() != pytest.approx(default, rel=1e-6), name


def test_any_classifier_by_module_names():
    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.features = nn.Sequential(
                nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU()), nn.MaxPool2d(2)
            )
            self.head = nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 3))

        def forward(self, x):
            return self.head(self.features(x).mean(dim=(2, 3)))

    collaboration = Collaboration(
        Plain(), "out+mid+pull-push+kernel", layers=["features.0"], kernels=["features.0.0"], classifier="head",
        image_shape=(1, 12, 12),
    )  # fmt: skip
    collaboration(torch.randn(4, 1, 12, 12), torch.tensor([0, 1, 2, 0])).backward()
    assert all(p.grad is not None for p in collaboration.parameters())
    assert collaboration(torch.randn(4, 1, 12, 12)).shape == (4, 3)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("baseline", ()),
        ("kernel+mid", ("mid", "kernel")),
        (" out + mid ", ("out", "mid")),
        ("pull-push", ("pull-push",)),
    ],
)
def test_parse_methods(text, expected):
    assert parse_methods(text) == expected


@pytest.mark.parametrize(
    ("build_it", "message"),
    [
        (lambda: parse_methods("mod"), "mid"),
        (lambda: parse_methods(""), "Unknown method"),
        (lambda: parse_methods("mid+mid"), "twice"),
        (lambda: parse_methods("baseline+mid"), "leave it out of 'baseline[+]mid'"),
        (lambda: Collaboration(nn.Linear(3, 2), "mid"), "Name the modules"),
        (lambda: Collaboration(nn.Linear(3, 2), "kernel"), "Name the convolutions"),
        (lambda: Collaboration(nn.Sequential(nn.Linear(3, 2)), "mid", layers=["1"]), "no module '1'"),
        (lambda: make(methods="mid", attach="nowhere"), "nowhere"),
        (lambda: make(methods="mid", mid_alfa=1), "mid_alpha"),
        (lambda: make(methods="mid", mid_alpha="1"), "type float"),
    ],
)
def test_misuse_is_one_clear_sentence(build_it, message):
    with pytest.raises(ImclError, match=message) as caught:
        build_it()
    assert "\n" not in str(caught.value)


def test_second_backward_is_refused():
    collaboration = make(methods="mid")
    loss = collaboration(*make_batch())
    loss.backward(retain_graph=True)
    with pytest.raises(ImclError, match="once"):
        loss.backward()


def test_gradients_accumulate_over_calls():
    collaboration = make("vgg16", "mid+pull-push+kernel").eval()  # no masks, no batch statistics: calls are alike
    images, labels = make_batch()
    collaboration(images, labels).backward()
    once = {name: gradient.clone() for name, gradient in gradients(collaboration).items()}
    collaboration(images, labels).backward()
    for name, gradient in gradients(collaboration).items():
        torch.testing.assert_close(gradient, 2 * once[name])


def test_frozen_layers_stay_frozen():
    collaboration = make("vgg16", "mid+pull-push")
    frozen = collaboration.layers[:3]
    for name in frozen:
        collaboration.network.get_submodule(name).requires_grad_(False)
    collaboration(*make_batch()).backward()
    for name, parameter in collaboration.network.named_parameters():
        assert (parameter.grad is None) == name.startswith(tuple(f"{layer}." for layer in frozen))


@pytest.mark.parametrize("methods", ["mid", "out+mid+pull-push+kernel"])
def test_half_precision_gives_finite_gradients(methods):
    collaboration = make("vgg16", methods).float()
    images, labels = make_batch()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = collaboration(images.float(), labels)
    loss.backward()
    assert loss.dtype == torch.float32
    assert all(p.grad.isfinite().all() for p in collaboration.parameters())
