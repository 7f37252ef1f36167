"""The step's precision."""

import dataclasses

import pytest
import torch
from runs import CPU, load_digits, needs_bfloat16, run, tiny

from imcl_core import ImclError, RunConfig
from imcl_core.training import run as training
from imcl_core.training import step as steps
from imcl_core.training.recipes import PROFILES


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
