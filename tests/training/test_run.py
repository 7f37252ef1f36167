"""One run: learns, resumes bit for bit, and stops with a sentence that names the remedy."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from runs import CPU, load_digits, needs_bfloat16, outcome, run, tiny

from imcl_core import ImclError, RunConfig
from imcl_core.collaboration import Collaboration
from imcl_core.networks import build
from imcl_core.training import checkpoints
from imcl_core.training import run as training
from imcl_core.training.record import write_record


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
    command = [sys.executable, "-m", "imcl_core.cli", "train", "--quiet", "--save-every", "0", "--out", str(tmp_path)]
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


def test_a_record_is_never_replaced_by_another_outcome(tmp_path, capsys):
    config = tiny(epochs=1)
    first = run(config, out=tmp_path)
    (path,) = tmp_path.glob("*.json")
    again, _ = run(config, out=tmp_path, return_collaboration=True)  # the same digits, so that it may be written
    assert again.curve == first.curve and capsys.readouterr().err == ""
    first.curve[-1]["test_error"] += 1
    write_record(first, tmp_path)
    other = path.read_bytes()
    run(config, out=tmp_path, return_collaboration=True)
    assert path.read_bytes() == other and "has a record of another outcome" in capsys.readouterr().err


def test_a_run_killed_between_its_last_epoch_and_its_record_is_finished_and_not_begun_again(tmp_path, monkeypatch):
    config = tiny(epochs=2)

    def killed(*_):
        raise SystemExit("killed")

    with monkeypatch.context() as patched:
        patched.setattr(training, "_write", killed)
        with pytest.raises(SystemExit):
            run(config, out=tmp_path)
    monkeypatch.setattr(training.Run, "train_epoch", killed)
    record = run(config, out=tmp_path)
    monkeypatch.undo()
    assert outcome(record) == outcome(run(config))
    assert record.run["peak_memory_gb"] > 0
    assert not [*tmp_path.glob("*.corrupt"), *tmp_path.glob("*.checkpoint.pt")]


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

    monkeypatch.setattr(Collaboration, "forward", exhausted)
    with pytest.raises(ImclError, match=r"lower batch_size \(to 16\)"):
        run(tiny())


def test_other_errors_are_not_taken_for_exhausted_memory(monkeypatch):
    def broken(*_):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(Collaboration, "forward", broken)
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
