"""`Collaboration.weigh`: terms that follow a schedule, and cost nothing while they are off."""

import itertools

import pytest
import torch

from imcl_core import Collaboration, ImclError, MethodSettings, losses
from imcl_core.networks import build

CLASSES, BATCH = 5, 6
FOUR = "out+mid+pull-push+kernel"
EVERY = FOUR + "+spatial-dropout+dropblock+cutout+decov+deep-supervision+predsim+hsic+kd"
SCALED = ("mid", "pull-push", "kernel", "decov", "deep-supervision", "predsim", "hsic")


def make(methods, **settings):
    torch.manual_seed(0)
    network = build("resnet18", CLASSES, width=1 / 16, hidden=16).double()
    teacher = build("resnet18", CLASSES, width=1 / 16, hidden=16).double()
    collaboration = Collaboration(network, methods, settings=MethodSettings(**settings), teacher=teacher).double()
    collaboration.progress = 0.5
    return collaboration


def step(collaboration, seed=3):
    """Terms by name and every gradient, from random draws that do not depend on what was drawn before."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(BATCH, 3, 32, 32, generator=generator, dtype=torch.float64)
    torch.manual_seed(seed)
    collaboration.zero_grad(set_to_none=True)
    collaboration(images, torch.arange(BATCH) % CLASSES).backward()
    return collaboration.terms, {n: p.grad for n, p in collaboration.named_parameters() if p.grad is not None}


def assert_equal(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=0)


@pytest.mark.parametrize("method", SCALED)
def test_a_factor_scales_the_terms_of_its_method_alone(method):
    collaboration = make("+".join(SCALED))
    plain, _ = step(collaboration)
    collaboration.weigh(method, 0.25)
    weighed, _ = step(collaboration)
    for name, value in plain.items():
        expected = 0.25 * value if name.partition("/")[0] == method else value
        torch.testing.assert_close(weighed[name], expected, rtol=1e-12, atol=0)
    collaboration.weigh(method, 1)
    assert_equal(step(collaboration)[0], plain)


def test_a_local_gradient_is_scaled_with_its_term():
    collaboration = make("mid")
    head = next(name for name, _ in collaboration.named_parameters() if name.startswith("heads."))
    _, plain = step(collaboration)
    collaboration.weigh("mid", 0.25)
    _, weighed = step(collaboration)
    torch.testing.assert_close(weighed[head], 0.25 * plain[head], rtol=1e-12, atol=0)


@pytest.mark.parametrize("method", EVERY.split("+"))
def test_a_method_that_is_off_leaves_the_step_of_those_that_are_on_bit_for_bit(method):
    rest = "+".join(m for m in EVERY.split("+") if m != method)
    collaboration = make(EVERY)
    collaboration.weigh(method, 0)
    assert collaboration.active == make(rest).active
    (terms, gradients), (without, their_gradients) = step(collaboration), step(make(rest))
    assert_equal(terms, without)
    assert_equal(gradients, their_gradients)  # so the heads of the method get none


def test_with_every_method_off_the_step_is_the_baselines():
    collaboration = make(EVERY)
    collaboration.weigh(EVERY, 0)
    assert collaboration.active == ()
    for ours, theirs in zip(step(collaboration), step(make("baseline")), strict=True):
        assert_equal(ours, theirs)


def test_out_is_blended_with_the_labels_loss_of_its_predictions():
    collaboration, seen = make("out"), []
    whole = step(collaboration)[0]["out"]
    collaboration.network.register_forward_hook(lambda module, inputs, output: seen.append(output.detach()))
    collaboration.weigh("out", 0.25)
    blended = step(collaboration)[0]["out"]
    hard = torch.stack([losses.hard_loss(z, torch.arange(BATCH) % CLASSES) for z in seen[0].chunk(4)]).mean()
    torch.testing.assert_close(blended, 0.25 * whole + 0.75 * hard)


def test_the_teachers_share_is_what_is_left_of_it():
    (half, _), (as_set, _) = (step(c) for c in (_weighed(make("kd"), "kd", 0.5), make("kd", kd_alpha=0.25)))
    assert_equal(half, as_set)


def test_the_dropouts_rates_are_scaled():
    for method, rate in (("spatial-dropout", "spatial_rate"), ("dropblock", "dropblock_rate")):
        ours = _weighed(make(method, **{rate: 0.4}), method, 0.5)
        for one, other in zip(step(ours), step(make(method, **{rate: 0.2})), strict=True):
            assert_equal(one, other)


def _weighed(collaboration, methods, factor):
    collaboration.weigh(methods, factor)
    return collaboration


def test_a_schedule_is_no_part_of_what_is_saved():
    collaboration = make("mid+kernel")
    state = collaboration.state_dict()
    collaboration.weigh("mid", 0.5)
    assert state.keys() == collaboration.state_dict().keys()
    other = make("mid+kernel")
    other.load_state_dict(collaboration.state_dict())
    assert other.active == ("mid", "kernel") and step(other)[0]["mid/trunk.stem.conv1"] > 0


@pytest.mark.parametrize(
    ("methods", "factor", "message"),
    [
        ("pull-push", 0.5, r"none of the methods of this Collaboration \(out\+mid\+cutout\+kd\)"),
        ("mdi", 0.5, "Did you mean 'mid'"),
        ("mid", -1, "a number from 0 up, not -1"),
        ("mid", float("nan"), "a number from 0 up"),
        ("mid", float("inf"), "a number from 0 up"),
        ("mid", "1", "a number from 0 up, not '1'"),
        ("out", 2, "share or the rate of out more than 1"),
        ("kd", 3, "share or the rate of kd more than 1"),
        ("cutout", 0.5, "on \\(1\\) or off \\(0\\)"),
    ],
)
def test_misuse_is_one_clear_sentence(methods, factor, message):
    with pytest.raises(ImclError, match=message) as caught:
        make("out+mid+cutout+kd").weigh(methods, factor)
    assert "\n" not in str(caught.value)


def test_a_schedule_by_epoch_switches_terms_on_and_off():
    collaboration, seen = make(FOUR), []
    for epoch, methods in enumerate(itertools.accumulate(("mid", "pull-push", "kernel"), lambda a, b: f"{a}+{b}")):
        collaboration.weigh(methods, 0)
        terms, _ = step(collaboration, seed=epoch)
        seen.append({name.partition("/")[0] for name in terms})
    assert seen == [{"out", "pull-push", "kernel"}, {"out", "kernel"}, {"out"}]
