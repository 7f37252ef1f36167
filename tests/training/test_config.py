"""The configuration of a run: recipes, sizes, names, mistakes."""

import dataclasses

import pytest
from runs import run

from imcl_core import ImclError, RunConfig
from imcl_core.training.recipes import PROFILES


def test_schedule_is_the_papers():
    config = RunConfig(dataset="stl10", profile="paper")
    rates = [config.lr_at(epoch) for epoch in (0, 59, 60, 119, 120, 179, 180, 199)]
    assert rates == pytest.approx([0.05, 0.05, 0.01, 0.01, 0.002, 0.002, 0.0004, 0.0004])
    assert RunConfig(dataset="cifar10", profile="paper", epochs=20).milestones == (6, 12, 16)


def test_every_profile_is_complete_for_every_data_set():
    for dataset in ("digits", "cifar10", "cifar100", "stl10", "imagenet32"):
        for profile in PROFILES:
            config = RunConfig(dataset=dataset, profile=profile)
            assert None not in dataclasses.asdict(config).values()


def test_narrow_is_the_papers_recipe_on_small_images():
    config = RunConfig(dataset="stl10", profile="narrow")
    assert (config.width, config.side, config.padding, config.epochs) == (0.25, 32, 4, 100)
    assert (config.batch_size, config.lr, config.milestones) == (128, 0.05, (30, 60, 90))
    whole = RunConfig(dataset="stl10", profile="narrow", side=96)
    assert (whole.side, whole.padding) == (96, 12)
    assert dataclasses.replace(whole, methods="kd").teacher.side == 96
    assert RunConfig(dataset="stl10", profile="narrow", methods="baseline-2x").width == 0.5
    cifar = RunConfig(dataset="cifar100", profile="narrow")
    assert (cifar.train_size, cifar.epochs, cifar.milestones) == (0, 30, (9, 18, 24))


def test_every_fifth_epoch_and_the_last_ten_are_evaluated():
    config = RunConfig(dataset="stl10", profile="narrow")
    evaluated = [epoch + 1 for epoch in range(100) if config.evaluates(epoch)]
    assert evaluated == [*range(5, 91, 5), *range(91, 101)]
    assert config.evaluations == len(evaluated) == 28
    assert RunConfig(dataset="stl10", profile="paper").evaluations == 200


def test_the_key_names_what_matters():
    base = RunConfig(methods="mid")
    assert base.key == RunConfig(methods="mid", pp_pull=(3, 4), out_alpha=0.1).key
    assert base.key != RunConfig(methods="mid", mid_alpha=0.1).key
    assert base.key != RunConfig(methods="mid", seed=1).key
    assert RunConfig(methods="kernel+mid").key == RunConfig(methods="mid+kernel").key
    changes = (
        {"mid_own": True},
        {"pool": 2},
        {"augment": False},
        {"side": 16},
        {"evaluate_every": 2},
        {"precision": "float32"},
    )
    assert base.key not in {RunConfig(methods="mid", **change).key for change in changes}
    assert base.key == RunConfig(methods="mid", augment=True, side=32, evaluate_every=1, precision="auto").key
    assert base.key == RunConfig(methods="mid", kernel_biased=False, pp_projection="1x1").key
    one, other = (RunConfig(methods="pull-push", pp_input=way) for way in ("deviations", "pixels"))
    assert one.key == RunConfig(methods="pull-push").key != other.key and "pp_input" not in one.identity()
    assert RunConfig(**dataclasses.asdict(base)) == base
    halving, square = (RunConfig(methods="predsim", predsim_pool=pool) for pool in ("halving", "square"))
    assert RunConfig(methods="predsim").name == halving.name != square.name
    assert "predsim_pool" in halving.identity() and "predsim_pool" not in square.identity()  # as of earlier records


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"widht": 1}, "width"),
        ({"width": "wide"}, "type float"),
        ({"width": 0.3}, "power of two"),
        ({"dataset": "cifar"}, "cifar10"),
        ({"profile": "cpus"}, "cpu"),
        ({"model": "resnet-18"}, "resnet18"),
        ({"noise": 1.5}, "between 0 and 1"),
        ({"epochs": 0}, "between 1"),
        ({"lr": float("nan")}, "lr must be a finite number"),
        ({"seed": True}, "type int"),
        ({"side": 24}, "32×32 pixels: with resnet18, side must be one of 32, 16, 8, not 24"),
        ({"model": "vgg16", "side": 16}, "must be one of 32, not 16"),
        ({"precision": "half"}, "bfloat16"),
        ({"evaluate_every": -1}, "between 0"),
        ({"pool": 5}, "4×4: pool must lie between 1 and 4"),
        ({"model": "vgg16", "pool": 2}, "1×1"),
        ({"pp_projection": "5x5"}, "Known: 3x3"),
        ({"attach": "layer"}, "Did you mean 'layers'"),
        ({"pp_centre": "class"}, "sample"),
        ({"train_size": 5000}, "train_size"),
        ({"batch_size": 4096}, "batch"),
    ],
)
def test_wrong_settings_are_one_sentence(settings, message):
    with pytest.raises(ImclError, match=message) as caught:
        run(RunConfig(**settings))
    assert "\n" not in str(caught.value)


def test_images_are_held_out_to_judge_or_not_at_all():
    with pytest.raises(ImclError, match="add validation"):
        RunConfig(held_out=100)
