"""The checks of a device find what is wrong, and go on."""

import itertools

import pytest
import torch

from imcl_core import losses
from imcl_core.study.gpu import checks, speeds
from imcl_core.training.config import RunConfig
from imcl_core.training.step import half_type

CPU = torch.device("cpu")


def test_there_is_a_check_for_every_method_that_can_be_compared():
    on_a_cpu, on_a_gpu = ([name for name, _ in checks.checks(torch.device(kind))] for kind in ("cpu", "cuda"))
    for methods in ("baseline", checks.ALL, "mid", "tree", "multi-instance", "kd", "predsim", "hsic"):
        assert {f"gradients vgg16 {methods}", f"gradients resnet18 {methods}"} <= set(on_a_cpu)
    assert "resume" in on_a_cpu
    assert {"fresh numbers", "replay dropblock", "replay deep-supervision", f"replay {checks.ALL}"} <= set(on_a_gpu)
    assert "replay hsic" not in on_a_gpu
    assert not any(name.startswith("replay") for name in on_a_cpu)


def test_right_gradients_pass_and_wrong_ones_do_not(monkeypatch):
    checks.check_gradients(CPU, "resnet18", "mid+kernel")
    right = losses.kernel_loss

    def wrong(weight, biased=True):
        return right(weight, biased) * (2 if weight.dtype == torch.float32 else 1)

    monkeypatch.setattr(losses, "kernel_loss", wrong)
    with pytest.raises(AssertionError, match=r"float32 is .* off"):
        checks.check_gradients(CPU, "resnet18", "kernel")


def test_a_run_resumed_on_the_device_is_the_same():
    checks.check_resume(CPU)


half_of_capability = pytest.mark.parametrize(
    ("capability", "half"), [((7, 5), torch.float16), ((8, 0), torch.bfloat16)]
)


@half_of_capability
def test_a_gpu_is_checked_in_the_half_precision_that_it_trains_in(monkeypatch, capability, half):
    asked, gpu = [], torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.Tensor, "to", lambda self, *_: self)
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, *_: self.double())
    monkeypatch.setattr(torch, "arange", lambda n, device=None: torch.tensor(range(n)))
    autocast = torch.autocast
    monkeypatch.setattr(
        torch, "autocast", lambda _, dtype=None, enabled=True: asked.append(dtype) or autocast("cpu", enabled=False)
    )
    checks._gradients("resnet18", "baseline", gpu, torch.float64, half=True)
    assert asked[0] is half
    assert half_type(gpu) is half and half_type(CPU) is torch.bfloat16


@half_of_capability
def test_speeds_are_told_and_measured_in_the_half_precision_that_a_gpu_trains_in(monkeypatch, capability, half):
    asked, gpu, autocast = [], torch.device("cuda"), torch.autocast
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: None)
    monkeypatch.setattr(torch, "randn", lambda *_, dtype, **__: asked.append(dtype) or torch.ones(1, 1))
    monkeypatch.setattr(
        torch, "autocast", lambda _, dtype=None, enabled=True: asked.append(dtype) or autocast("cpu", enabled=False)
    )
    speeds.matrix_peak(gpu)
    monkeypatch.setattr(speeds, "half_type", lambda _: half)
    batch = torch.zeros(2, 3, 32, 32), torch.zeros(2, dtype=torch.int64)
    speeds.plain_loop(RunConfig(dataset="cifar100", profile="smoke"), CPU, True, [batch])
    assert asked == [half, half]
    monkeypatch.setattr(speeds, "plain_rate", lambda *_: {})
    name = str(half).removeprefix("torch.")
    told = [row["what"] for row in itertools.islice(speeds.rows("smoke", gpu, 1), 3)]
    assert told == [f"fastest matrix product, {name}", "plain loop, float32", f"plain loop, {name}"]


def test_checks_and_trials_run_midway_through_the_training():
    run = checks._run("dropblock", CPU)
    assert run.collaboration.progress == 0.5
    run.step.set_progress(0.0)
    run.trial(1)
    assert run.collaboration.progress == 0.5


def test_speeds_wait_for_the_gpu_that_is_measured(monkeypatch):
    waited, second = [], torch.device("cuda", 1)
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    speeds.seconds(lambda: None, 1, second)
    assert waited == [second, second]


def test_no_check_is_begun_when_the_time_is_over():
    told = []
    assert checks.run_checks(CPU, -1, told.append) == {}
    assert told[0].startswith("checks: no time for the last ")


def test_speeds_say_how_fast_and_how_large():
    row = speeds.method_row(RunConfig(dataset="cifar100", model="vgg16", methods="mid", profile="smoke"), CPU, 1)
    assert row["images_per_s"] > 0
    assert row["evaluation_seconds"] > 0
    assert row["start_seconds"] > 0


@pytest.mark.parametrize("broken", ["baseline", "mid"])
def test_what_cannot_be_measured_says_why_and_stops_nothing(monkeypatch, broken):
    def method_row(config, *_):
        if config.methods == broken:
            raise RuntimeError("CUDA error:\n out of memory")
        return {"images_per_s": 10.0 if config.methods == "baseline" else 5.0, "peak_memory_gb": 2.0}

    for name, found in (("matrix_peak", 1e12), ("flops_per_image", 1e9), ("plain_rate", {"images_per_s": 1.0})):
        monkeypatch.setattr(speeds, name, lambda *_, found=found: found)
    monkeypatch.setattr(speeds, "method_row", method_row)
    steps = [row for row in speeds.rows("smoke", CPU, 1) if row["what"] == "training step"]
    assert len(steps) == len(speeds.MODELS) * len(speeds.METHODS)
    for row in steps:
        assert row.get("failed") == ("RuntimeError: CUDA error: out of memory" if row["methods"] == broken else None)
        if row["methods"] == "out":
            assert row["share_of_peak"] == 5e-3
            assert row.get("time_over_baseline") == (None if broken == "baseline" else 2.0)
