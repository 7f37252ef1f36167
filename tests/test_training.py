"""One run: learns, resumes bit for bit, and stops with a sentence that names the remedy."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from imcl_core import ImclError, Record, RunConfig, train
from imcl_core.collaboration import Collaboration
from imcl_core.networks import build
from imcl_core.study import ledger
from imcl_core.training import checkpoints
from imcl_core.training import run as training
from imcl_core.training import step as steps
from imcl_core.training.config import PROFILES
from imcl_core.training.record import read_record, write_record
from imcl_core.training.step import has_bfloat16

CPU = torch.device("cpu")
needs_bfloat16 = pytest.mark.skipif(not has_bfloat16(CPU), reason="this processor does not compute in bfloat16")


def tiny(**settings):
    defaults = {"width": 1 / 16, "epochs": 3, "train_size": 96, "hidden": 16}
    return RunConfig(**defaults | settings)


def run(config, **options):
    return train(config, progress=False, **options)


def outcome(record):
    """What must not depend on interruptions, hosts or time."""
    return record.config, record.curve


@pytest.fixture
def stop_after(monkeypatch):
    """Makes the next run die, as by Ctrl-C, when it has written so many checkpoints."""

    def arrange(count):
        save, written = checkpoints.save, []

        def save_then_stop(path, state):
            save(path, state)
            written.append(path)
            if len(written) == count:
                raise KeyboardInterrupt

        monkeypatch.setattr(checkpoints, "save", save_then_stop)

    yield arrange
    monkeypatch.undo()


def test_a_run_is_reproducible_and_depends_on_its_seed():
    first, second, other = (run(tiny(methods="out", seed=s)) for s in (0, 0, 1))
    assert outcome(first) == outcome(second)
    assert first.curve != other.curve


def test_a_run_does_not_touch_the_callers_random_numbers():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    run(tiny(epochs=1))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("methods", ["baseline", "out+mid+pull-push+kernel"])
@pytest.mark.parametrize("stopped_after", [1, 2])
@pytest.mark.parametrize("precision", ["float32", pytest.param("bfloat16", marks=needs_bfloat16)])
def test_resumed_run_gives_the_same_record(tmp_path, stop_after, monkeypatch, methods, stopped_after, precision):
    config = tiny(methods=methods, noise=0.2, epochs=3, milestones=(1, 2), precision=precision)
    expected = run(config)
    stop_after(stopped_after)
    with pytest.raises(ImclError, match=r"Interrupted; its checkpoint is kept: run the same command"):
        run(config, out=tmp_path)
    monkeypatch.undo()
    resumed = run(config, out=tmp_path)
    assert outcome(resumed) == outcome(expected)
    assert {p.suffixes[-1] for p in tmp_path.iterdir()} == {".json", ".npz", ".pt"}
    assert not (tmp_path / f"{config.name}.checkpoint.pt").exists()


def test_a_killed_process_resumes(tmp_path):
    config = tiny(epochs=15, methods="mid")
    command = [sys.executable, "-m", "imcl_core.cli", "train", "--quiet", "--out", str(tmp_path)]
    for name in ("width", "epochs", "train_size", "hidden", "methods"):
        command += [f"--{name.replace('_', '-')}", str(getattr(config, name))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(command, env=environment)
    checkpoint = tmp_path / f"{config.name}.checkpoint.pt"
    deadline = time.monotonic() + 60
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert checkpoint.exists()
    done = len(checkpoints.load(checkpoint)["curve"])
    assert 1 <= done < 15
    assert not list(tmp_path.glob("*.json"))
    assert outcome(run(config, out=tmp_path)) == outcome(run(config))


def test_a_finished_run_is_not_trained_again(tmp_path, monkeypatch):
    first = run(tiny(epochs=1), out=tmp_path)
    monkeypatch.setattr(training, "load", lambda *_, **__: pytest.fail("trained again"))
    assert outcome(run(tiny(epochs=1), out=tmp_path)) == outcome(first)


def test_a_corrupt_checkpoint_is_moved_aside_and_named(tmp_path, stop_after, monkeypatch):
    config = tiny()
    stop_after(1)
    with pytest.raises(ImclError):
        run(config, out=tmp_path)
    monkeypatch.undo()
    checkpoint = tmp_path / f"{config.name}.checkpoint.pt"
    content = bytearray(checkpoint.read_bytes())
    content[len(content) // 2] ^= 1
    checkpoint.write_bytes(content)
    with pytest.raises(ImclError, match="damaged") as caught:
        run(config, out=tmp_path)
    assert checkpoint.name in str(caught.value)
    assert not checkpoint.exists()
    assert checkpoint.with_name(checkpoint.name + ".corrupt").read_bytes() == content
    assert not list(tmp_path.glob("*.json"))


@pytest.mark.parametrize("damage", [lambda text: text[:-40], lambda text: text.replace('"seed": 0', '"seed": 1')])
def test_a_damaged_record_is_moved_aside_and_named(tmp_path, damage):
    config = tiny(epochs=1)
    path = write_record(run(config), tmp_path)
    path.write_text(damage(path.read_text()))
    with pytest.raises(ImclError, match="damaged"):
        run(config, out=tmp_path)
    assert not path.exists()
    assert path.with_name(path.name + ".corrupt").exists()


def test_a_full_disk_leaves_nothing_half_written(tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ImclError, match=r"No space left on device.*another folder"):
        run(tiny(epochs=2), out=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "term"), [({"lr": 1e30}, "hard"), ({"methods": "mid", "mid_temperature": 1e-38}, "mid/")]
)
def test_a_loss_that_is_not_finite_is_named(settings, term):
    with pytest.raises(ImclError, match=rf"not finite: .*{term}.* in epoch \d+, step \d+\. Lower"):
        run(tiny(**settings))


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("[enforce fail] can't allocate memory: x")]
)
def test_exhausted_memory_names_the_batch_size(monkeypatch, error):
    def exhausted(*_):
        raise error

    monkeypatch.setattr(Collaboration, "objective", exhausted)
    with pytest.raises(ImclError, match=r"lower batch_size \(to 16\)"):
        run(tiny())


def test_other_errors_are_not_taken_for_exhausted_memory(monkeypatch):
    def broken(*_):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(Collaboration, "objective", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        run(tiny())


def test_the_baseline_starts_and_sees_what_every_method_sees():
    """Local terms change nothing but weights: with their weights at zero the curve is the baseline's."""
    baseline = run(tiny(model="vgg16", weight_decay=0.0))
    silent = run(
        tiny(
            model="vgg16", methods="mid+pull-push+kernel", mid_alpha=0.0, mid_beta=0.0, pp_pull=(0, 0), pp_push=(0, 0),
            kernel_weight=0.0, weight_decay=0.0,
        )
    )  # fmt: skip
    for ours, theirs in zip(silent.curve, baseline.curve, strict=True):
        assert {k: ours[k] for k in ("test_error", "test_loss")} == {k: theirs[k] for k in ("test_error", "test_loss")}


def test_learns_and_keeps_a_loadable_network(tmp_path):
    config = RunConfig(width=1 / 16, epochs=4, lr=0.05)
    record = run(config, out=tmp_path)
    assert record.best_error < 50 < record.curve[0]["train_error"]
    network = build(config.model, 10, config.width)
    network.load_state_dict(torch.load(tmp_path / f"{config.name}.network.pt", weights_only=True))


def test_the_record_holds_what_a_reader_needs(tmp_path):
    record = run(tiny(methods="mid", epochs=2))
    path = write_record(record, tmp_path)
    assert path.stem == record.config.name
    content = json.loads(path.read_text())
    assert {"device", "torch", "python", "numpy", "threads", "seconds", "images_per_s", "peak_memory_gb"} <= content[
        "run"
    ].keys()
    assert content["config"]["mid_alpha"] == 0.05
    epoch = content["curve"][-1]
    assert epoch["loss"] == pytest.approx(sum(epoch["terms"].values()))
    assert {"epoch", "lr", "train_error", "test_loss", "test_error", "test_error_top5"} <= epoch.keys()
    assert 0 <= epoch["test_error_top5"] <= epoch["test_error"] <= 100
    again = read_record(path)
    assert outcome(again) == outcome(record)
    table = ledger.read(tmp_path)
    assert table.loc[0, "last_error"] == record.last_error == epoch["test_error"]
    assert table.loc[0, "best_error"] == min(e["test_error"] for e in record.curve)


def test_validation_never_sees_the_test_images(monkeypatch):
    seen = []
    load = training.load

    def spy(*arguments, **options):
        seen.append(load(*arguments, **options))
        return seen[-1]

    monkeypatch.setattr(training, "load", spy)
    run(tiny(epochs=1, validation=True))
    full = load("digits")
    test = {image.numpy().tobytes() for image in full.test.images}
    used = {image.numpy().tobytes() for split in (seen[0].train, seen[0].test) for image in split.images}
    assert not test & used


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


def test_without_augmentation_images_are_as_they_are():
    config = tiny(dataset="cifar10", augment=False, profile="narrow")
    assert (config.padding, config.flip) == (0, False)
    run = training.Run(tiny(augment=False), load_digits(), CPU)
    run.batches.draw(1)
    images, labels = run.batches.batch(0)
    order = run.batches._plan[:32, 0]
    assert order.unique().numel() == 32
    assert not torch.equal(order, order.sort().values)
    assert torch.equal(labels, run.data.train.labels[order])
    restored = (images * run.data.std.view(3, 1, 1) + run.data.mean.view(3, 1, 1)) * 255
    torch.testing.assert_close(restored, run.data.train.images[order].float(), rtol=0, atol=1e-3)


def load_digits():
    return training.load("digits", train_size=96)


def test_every_fifth_epoch_and_the_last_ten_are_evaluated():
    config = RunConfig(dataset="stl10", profile="narrow")
    evaluated = [epoch + 1 for epoch in range(100) if config.evaluates(epoch)]
    assert evaluated == [*range(5, 91, 5), *range(91, 101)]
    assert config.evaluations == len(evaluated) == 28
    assert RunConfig(dataset="stl10", profile="paper").evaluations == 200


def test_a_record_copes_with_epochs_that_are_not_evaluated(tmp_path):
    every, some = (run(tiny(epochs=13, train_size=32, evaluate_every=n), out=tmp_path) for n in (1, 2))
    assert [epoch["epoch"] for epoch in some.evaluated] == [2, *range(4, 14)]
    assert [e for e in every.curve if e["epoch"] in (2, *range(4, 14))] == some.evaluated
    assert some.curve[0].items() < every.curve[0].items()
    assert some.last_error == every.last_error
    assert some.best_error == min(epoch["test_error"] for epoch in some.evaluated)
    assert (ledger.read(tmp_path).best_error_top5 <= 100).all()
    (found,) = ledger.Ledger(tmp_path).runs(some.config)
    assert found.errors["top1_error"] == (some.last_error, some.best_error)


@needs_bfloat16
def test_bfloat16_leaves_weights_and_statistics_in_float32_and_is_in_the_record():
    half, full = (run(tiny(methods="mid", precision=precision)) for precision in ("bfloat16", "float32"))
    assert (half.run["precision"], full.run["precision"]) == ("bfloat16", "float32")
    assert half.curve != full.curve
    assert half.curve[0]["loss"] == pytest.approx(full.curve[0]["loss"], rel=0.05)
    made = training.Run(tiny(methods="mid", precision="bfloat16"), load_digits(), CPU)
    made.step(0)
    kept = [*made.collaboration.state_dict().values(), *(p.grad for p in made.collaboration.parameters())]
    kept += [state["momentum_buffer"] for state in made.step.optimizer.state.values()]
    assert {tensor.dtype for tensor in kept} == {torch.float32, torch.int64}


def test_auto_is_bfloat16_in_narrow_where_the_processor_has_it(monkeypatch):
    narrow, smoke = RunConfig(profile="narrow"), RunConfig(profile="smoke")
    for has, of_narrow in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(steps, "has_bfloat16", lambda _, has=has: has)
        assert steps.compute_type(narrow, CPU) is of_narrow
        assert steps.compute_type(smoke, CPU) is torch.float32
    with pytest.raises(ImclError, match="leave out precision, or use float32"):
        steps.compute_type(dataclasses.replace(smoke, precision="bfloat16"), CPU)


def test_a_gpu_takes_half_precision_unless_float32_is_asked_for(monkeypatch):
    gpu = torch.device("cuda")
    for has, half in ((True, torch.bfloat16), (False, torch.float16)):
        monkeypatch.setattr(steps, "has_bfloat16", lambda _, has=has: has)
        for profile in PROFILES:
            assert steps.compute_type(RunConfig(profile=profile), gpu) is half
        assert steps.compute_type(RunConfig(precision="float32"), gpu) is torch.float32


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
    assert RunConfig(**dataclasses.asdict(base)) == base


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
        ({"lr": float("nan")}, "lr must be more than 0"),
        ({"seed": True}, "type int"),
        ({"side": 24}, "32×32 pixels: with resnet18, side must be one of 32, 16, 8, not 24"),
        ({"model": "vgg16", "side": 16}, "must be one of 32, not 16"),
        ({"precision": "half"}, "bfloat16"),
        ({"evaluate_every": 0}, "between 1"),
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


def test_record_from_json_is_the_record():
    record = run(tiny(epochs=1))
    assert Record.from_json(record.to_json()) == record
