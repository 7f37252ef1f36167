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
from imcl_core.training.config import PROFILES
from imcl_core.training.record import read_record, write_record


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
def test_resumed_run_gives_the_same_record(tmp_path, stop_after, monkeypatch, methods, stopped_after):
    config = tiny(methods=methods, noise=0.2, epochs=3, milestones=(1, 2))
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
    ("settings", "term"), [({"lr": 1e30}, "hard"), ({"methods": "mid", "mid_alpha": 1e38}, "mid/")]
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


def test_the_key_names_what_matters():
    base = RunConfig(methods="mid")
    assert base.key == RunConfig(methods="mid", pp_pull=(3, 4), out_alpha=0.1).key
    assert base.key != RunConfig(methods="mid", mid_alpha=0.1).key
    assert base.key != RunConfig(methods="mid", seed=1).key
    assert RunConfig(methods="kernel+mid").key == RunConfig(methods="mid+kernel").key
    assert base.key not in {RunConfig(methods="mid", **change).key for change in ({"mid_own": True}, {"pool": 2})}
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
        ({"lr": float("nan")}, "positive"),
        ({"seed": True}, "type int"),
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
