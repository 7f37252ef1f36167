"""The checks of a device find what is wrong, and go on."""

import pytest
import torch

from imcl_core import losses
from imcl_core.study.gpu import checks, speeds
from imcl_core.training.config import RunConfig

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


def test_no_check_is_begun_when_the_time_is_over():
    told = []
    assert checks.run_checks(CPU, -1, told.append) == {}
    assert told[0].startswith("checks: no time for the last ")


def test_speeds_say_how_fast_and_how_large():
    row = speeds.method_row(RunConfig(dataset="cifar100", model="vgg16", methods="mid", profile="smoke"), CPU, 1)
    assert row["images_per_s"] > 0
    assert row["evaluation_seconds"] > 0
    assert row["start_seconds"] > 0
