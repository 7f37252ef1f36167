"""The step: its precision, and what it takes from a state of another device."""

import contextlib
import dataclasses

import pytest
import torch
from runs import CPU, load_digits, needs_bfloat16, run, tiny

from imcl_core import ImclError, RunConfig, losses
from imcl_core.training import run as training
from imcl_core.training import step as steps
from imcl_core.training.foreach import Foreach
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


def a_step(**changed):
    """A step of a tiny run, with what is `changed` in its optimiser as it would be on another device."""
    run = training.Run(tiny(), load_digits(), CPU)
    run.step.optimizer.param_groups[0].update(changed)
    return run.step


def test_a_state_from_a_cpu_leaves_a_gpus_rate_a_tensor_and_sgd_fused():
    rate = torch.tensor(0.5)
    step, state = a_step(lr=rate, fused=True), a_step(lr=0.25).state_dict()
    step.load_state_dict(state)
    (group,) = step.optimizer.param_groups
    assert group["lr"] is rate
    assert rate == 0.25
    assert group["fused"] is True


def test_a_state_from_a_gpu_leaves_a_cpus_rate_a_number():
    step, state = a_step(), a_step(lr=torch.tensor(0.25), fused=True).state_dict()
    step.load_state_dict(state)
    (group,) = step.optimizer.param_groups
    assert type(group["lr"]) is float
    assert group["lr"] == 0.25
    assert not group["fused"]


def test_a_state_without_a_scale_goes_on_in_float16():
    step, state = a_step(), a_step().state_dict()
    assert state["scaler"] == {}
    step.scaler = torch.amp.GradScaler("cpu", enabled=True)
    step.load_state_dict(state)
    assert step.scaler.state_dict()["scale"] > 1


def test_a_captured_step_takes_no_state():
    step = object.__new__(steps.GraphedStep)
    step.graph = "captured"
    with pytest.raises(ImclError, match="load a state before it trains"):
        step.load_state_dict({})


class Stream:
    def wait_stream(self, other):
        self.waited_for = other


def test_warm_up_waits_for_the_stream_of_its_own_device(monkeypatch):
    device, current = torch.device("cuda", 1), {torch.device("cuda", 1): Stream()}
    step = object.__new__(steps.GraphedStep)
    step.start, step.eager_steps, step.device, step.stream = torch.zeros((), dtype=torch.int64), 0, device, Stream()
    step.warm_up = 3
    monkeypatch.setattr(torch.cuda, "current_stream", lambda asked=None: current[asked])
    monkeypatch.setattr(torch.cuda, "stream", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(steps.Step, "__call__", lambda *_: "metrics")
    assert step(64) == "metrics"
    assert step.stream.waited_for is current[device]
    assert current[device].waited_for is step.stream


def test_all_runs_capture_on_one_stream_of_a_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: object())
    steps._capture_stream.cache_clear()
    first, again, other = (steps._capture_stream(torch.device("cuda", n)) for n in (0, 0, 1))
    steps._capture_stream.cache_clear()
    assert first is again is not other


@pytest.mark.parametrize(
    ("processes", "backend", "watch", "captured"),
    [(1, "", "1", True), (2, "nccl", "0", True), (2, "nccl", "1", False), (2, "gloo", "0", False)],
)
def test_a_step_of_several_processes_is_captured_where_pytorch_allows_it(
    monkeypatch, processes, backend, watch, captured
):
    monkeypatch.setenv("TORCH_NCCL_ASYNC_ERROR_HANDLING", watch)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: processes > 1)
    monkeypatch.setattr(torch.distributed, "get_backend", lambda: backend)
    assert steps._can_be_captured() == captured


@pytest.mark.parametrize("processes", [1, 2])
def test_a_captured_exchange_of_gradients_is_made_and_warmed_up_as_pytorch_asks(monkeypatch, processes):
    run, streams, made_on = training.Run(tiny(methods="mid"), load_digits(), CPU), [], []
    monkeypatch.setattr(steps, "_capture_stream", lambda _: Stream())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: Stream())
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext(streams.append(stream)))
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: processes > 1)
    monkeypatch.setattr(steps, "DistributedDataParallel", lambda *_, **__: made_on.append(streams[-1]))
    step = steps.GraphedStep(run.collaboration, run.batches, run.config, CPU)
    assert step.warm_up == (3 if processes == 1 else 11)
    assert made_on == ([] if processes == 1 else [step.stream])
    assert isinstance(step.foreach, Foreach) == (processes == 1)


class Numbers:
    """A GPU's generator, of which a capture is in progress until it gets another state."""

    captures = True

    def clone_state(self) -> str:
        return "state"

    def graphsafe_set_state(self, state: str) -> None:
        self.captures = state != "state"


@pytest.mark.parametrize(
    ("raised", "seen", "message"),
    [
        (RuntimeError("not permitted when\nstream is capturing"), ImclError, "not permitted when stream is capturing"),
        (torch.OutOfMemoryError("no room"), torch.OutOfMemoryError, "no room"),
        (ImclError("Layer 'a' did not run: leave it out."), ImclError, "Layer 'a' did not run: leave it out."),
        (KeyboardInterrupt("Ctrl-C"), KeyboardInterrupt, "Ctrl-C"),
    ],
)
def test_a_capture_that_fails_leaves_the_process_as_it_was(monkeypatch, raised, seen, message):
    """As CUDA does, the end of such a capture raises too, before PyTorch has let go of the generator."""
    step, numbers, streams = object.__new__(steps.GraphedStep), Numbers(), []
    step.device, step.stream, step.graph, step.start = torch.device("cuda", 0), "capturing", None, 0
    step.optimizer = torch.optim.SGD([torch.zeros(1)], 0.1)

    @contextlib.contextmanager
    def graph(_, stream):
        streams.append(stream)
        try:
            yield
        finally:
            raise RuntimeError("operation failed due to a previous error during capture")

    @contextlib.contextmanager
    def usual(stream):
        try:
            yield
        finally:
            streams.append(stream)

    def fails(*_):
        raise raised

    for name, value in {
        "graph": graph, "CUDAGraph": object, "default_generators": [numbers], "synchronize": lambda _: None,
        "current_stream": lambda _: "usual", "stream": usual,
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(steps.Step, "__call__", fails)
    with pytest.raises(seen, match=message) as told:
        step._capture()
    assert not numbers.captures and step.graph is None and streams == ["capturing", "usual"]
    assert seen is not ImclError or str(told.value).endswith((": set captured to False.", "leave it out."))


@pytest.mark.parametrize(("profile", "repeats"), [("narrow", True), ("paper", False)])
def test_narrow_gives_the_same_digits_each_time_on_a_gpu_too(monkeypatch, profile, repeats):
    """cuDNN takes no algorithm that may sum in another order, and does not look for the fastest."""
    config = RunConfig(profile=profile, width=1 / 16, epochs=1, train_size=64)
    made, seen = training.Run(config, load_digits(), CPU), []
    step, cudnn = made.step, torch.backends.cudnn
    step.foreach = Foreach(made.collaboration, torch.float32)  # as a captured step has it
    made.collaboration.register_forward_pre_hook(lambda *_: seen.append((cudnn.deterministic, cudnn.benchmark)))
    before = cudnn.deterministic, cudnn.benchmark
    step(0)
    assert seen == [(repeats, not repeats)]
    assert (cudnn.deterministic, cudnn.benchmark) == before


def test_one_setting_lets_a_gpus_step_run_as_it_reads(monkeypatch):
    """Neither captured nor with losses in few calls; the backward pass too finds the readable way."""
    monkeypatch.setattr(steps, "has_bfloat16", lambda _: True)
    monkeypatch.setattr(steps, "GraphedStep", lambda *_: "captured")
    monkeypatch.setattr(steps, "Step", lambda *_: "as it reads")
    gpu = torch.device("cuda")
    found = [steps.make_step(None, None, tiny(captured=on), gpu) for on in (True, False)]
    assert found == ["captured", "as it reads"]


@pytest.mark.parametrize("captured", [True, False])
def test_that_setting_decides_how_losses_are_computed(monkeypatch, captured):
    made, asked = training.Run(tiny(methods="mid+kernel", captured=captured), load_digits(), CPU), []
    original = losses.few_calls
    with losses.as_on_a_gpu():
        monkeypatch.setattr(losses, "few_calls", lambda x: asked.append(original(x)) or asked[-1])
        made.step(0)
    assert set(asked) == {captured}
