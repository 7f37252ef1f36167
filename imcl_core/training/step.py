"""The training step: run as it reads, or captured once as a CUDA graph and replayed."""

import contextlib
import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.distributed as distributed
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from imcl_core import losses
from imcl_core.collaboration import Collaboration
from imcl_core.data.batches import TrainBatches
from imcl_core.errors import ImclError
from imcl_core.training.config import RunConfig
from imcl_core.training.foreach import Foreach

_OF_THE_DEVICE = ("lr", "fused", "foreach", "differentiable")  # of a group of SGD: not to be taken from elsewhere


class Step:
    """A batch, the losses, the gradients, SGD. Weights, statistics and losses are float32 in any precision.

    `dtype`: what convolutions and matrix products compute in, by `compute_type`. In float16 the loss is scaled.
    """

    def __init__(self, collaboration: Collaboration, batches: TrainBatches, config: RunConfig, device: torch.device):
        self.collaboration, self.batches, self.device = collaboration, batches, device
        on_gpu = device.type == "cuda"
        self.dtype = compute_type(config, device)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.dtype == torch.float16)
        self.optimizer = torch.optim.SGD(
            collaboration.parameters(),
            lr=torch.tensor(config.lr, device=device) if on_gpu else config.lr,
            momentum=config.momentum,
            nesterov=config.nesterov,
            weight_decay=config.weight_decay,
            fused=on_gpu,
        )
        self.ways = contextlib.nullcontext if config.captured else functools.partial(losses.as_on_a_gpu, False)
        self.algorithms = functools.partial(_deterministic, config.repeatable)
        self.foreach: contextlib.AbstractContextManager = contextlib.nullcontext()
        self.objective: nn.Module = collaboration
        if distributed.is_initialized():
            # Batch normalisation and similarity matrices see the images of their own process alone.
            self.objective = DistributedDataParallel(collaboration, broadcast_buffers=False)

    def precision(self) -> contextlib.AbstractContextManager:
        """Autocast to `dtype`; its cache of cast weights is off, since a captured step may not keep one."""
        half = self.dtype != torch.float32
        return torch.autocast(self.device.type, dtype=self.dtype if half else None, enabled=half, cache_enabled=False)

    def __call__(self, start: int | Tensor) -> Tensor:
        """Trains on the batch at `start` of the epoch's order: the value of every term, and the error, a fraction."""
        images, labels = self.batches.batch(start)
        images = images.contiguous(memory_format=torch.channels_last)
        with self.algorithms(), self.foreach, self.ways():
            with self.precision():
                loss = self.objective(images, labels)
            self.optimizer.zero_grad(set_to_none=True)
            self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        wrong = (self.collaboration.logits.argmax(dim=1) != labels).mean(dtype=torch.float32)
        return torch.stack([*self.collaboration.terms.values(), wrong])

    def set_lr(self, lr: float) -> None:
        for group in self.optimizer.param_groups:
            self._set_rate(group, lr)

    def _set_rate(self, group: dict[str, Any], lr: float) -> None:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr)  # in place: a captured step reads this very tensor
        else:
            group["lr"] = lr

    def set_progress(self, progress: float) -> None:
        """How much of the training is done, from 0 to 1; some terms follow it."""
        self.collaboration.progress = progress

    def state_dict(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a state of any device; how this one trains, and the tensor of its rate, stay as they are."""
        own = [{name: group[name] for name in _OF_THE_DEVICE} for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(state["optimizer"])
        for group, kept in zip(self.optimizer.param_groups, own, strict=True):
            rate = float(group["lr"])
            group.update(kept)
            self._set_rate(group, rate)
        if state["scaler"]:  # none where the run computed in another precision before
            self.scaler.load_state_dict(state["scaler"])


class GraphedStep(Step):
    """The same step without launch overhead: batch, augmentation, losses, gradients and SGD in one CUDA graph.

    The first steps run eagerly, and count; they let cuDNN choose and SGD make its buffers. Replays read the position
    in the epoch, the learning rate and the progress from tensors, and draw fresh masks by the generator's state. Among
    several processes the exchange of gradients is in the graph, as PyTorch's notes on CUDA graphs tell: made and warmed
    up on another stream than the default one, for 11 steps; weights stay those that DDP watches.
    """

    def __init__(self, collaboration: Collaboration, batches: TrainBatches, config: RunConfig, device: torch.device):
        self.stream, alone = _capture_stream(device), not distributed.is_initialized()
        with torch.cuda.stream(self.stream):
            super().__init__(collaboration, batches, config, device)
        torch.cuda.current_stream(device).wait_stream(self.stream)
        self.warm_up = 3 if alone else 11
        self.start = torch.zeros((), dtype=torch.int64, device=device)
        self.progress = torch.zeros((), device=device)
        if alone:
            self.foreach = Foreach(collaboration, self.dtype)
        self.graph: torch.cuda.CUDAGraph | None = None
        self.metrics: Tensor | None = None
        self.eager_steps = 0

    def __call__(self, start: int | Tensor) -> Tensor:
        self.start.fill_(start)
        if self.eager_steps < self.warm_up:
            self.eager_steps += 1
            current = torch.cuda.current_stream(self.device)
            self.stream.wait_stream(current)
            with torch.cuda.stream(self.stream):
                metrics = super().__call__(self.start)
            current.wait_stream(self.stream)
            return metrics
        if self.graph is None:
            self._capture()
        self.graph.replay()
        return self.metrics.clone()

    def set_progress(self, progress: float) -> None:
        self.progress.fill_(progress)  # in place: a captured step reads this very tensor
        self.collaboration.progress = self.progress

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.graph is not None:
            raise ImclError("A captured step reads the tensors it was captured with: load a state before it trains.")
        super().load_state_dict(state)

    def _capture(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)  # the graph makes its own gradients
        graph, first = torch.cuda.CUDAGraph(), None
        try:
            with torch.cuda.stream(torch.cuda.current_stream(self.device)), torch.cuda.graph(graph, stream=self.stream):
                try:
                    self.metrics = super().__call__(self.start)
                except BaseException as error:
                    first = error  # the end of the capture fails too, and hides it
                    raise
        except BaseException as error:
            _take_back_capture(first or error, self.device)
        self.graph = graph


def _take_back_capture(error: BaseException, device: torch.device) -> NoReturn:
    """Raises why a capture failed; random numbers wait for no replay any more, so that other runs here go on.

    `ImclError` where neither memory nor the device is at fault.
    """
    numbers = torch.cuda.default_generators[torch.cuda.current_device() if device.index is None else device.index]
    numbers.graphsafe_set_state(numbers.clone_state())
    if not isinstance(error, RuntimeError) or isinstance(error, torch.OutOfMemoryError):
        raise error
    torch.cuda.synchronize(device)  # raises where the GPU itself has failed
    why = " ".join(str(error).split())[:200]
    raise ImclError(f"A CUDA graph cannot hold this step ({why}): set captured to False.") from error


@contextlib.contextmanager
def _deterministic(wanted: bool) -> Iterator[None]:
    """With `wanted`, cuDNN takes no algorithm that may sum in another order the next time."""
    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = before or wanted
    try:
        yield
    finally:
        torch.backends.cudnn.deterministic = before


@functools.cache
def _capture_stream(device: torch.device) -> torch.cuda.Stream:
    """One for all runs of a process: cuBLAS keeps a workspace for every stream it has ever seen."""
    return torch.cuda.Stream(device)


def compute_type(config: RunConfig, device: torch.device) -> torch.dtype:
    """What the convolutions and matrix products of a run compute in; see the setting `precision`.

    `auto` on a GPU without bfloat16 (before Ampere) is float16. `ImclError` where bfloat16 is asked for and the device
    would have to emulate it, which is slower than float32.
    """
    if config.precision == "bfloat16" and not has_bfloat16(device):
        raise ImclError("This device does not compute in bfloat16 itself: leave out precision, or use float32.")
    if device.type == "cuda":
        return torch.float32 if config.precision == "float32" else half_type(device)
    return torch.bfloat16 if config.cpu_precision == "bfloat16" and has_bfloat16(device) else torch.float32


def half_type(device: torch.device) -> torch.dtype:
    """What half precision is there: float16 on a GPU before Ampere, bfloat16 elsewhere."""
    return torch.float16 if device.type == "cuda" and not has_bfloat16(device) else torch.bfloat16


def has_bfloat16(device: torch.device) -> bool:
    """Whether the GPU or the processor computes in bfloat16 itself."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return not _processor_flags().isdisjoint(("avx512_bf16", "amx_bf16"))


@functools.cache
def _processor_flags() -> frozenset[str]:
    """What an x86 processor can do, by Linux's names; nothing where that is not known."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.split(":", 1)[1].split() for line in lines if line.startswith("flags")), ()))


def make_step(
    collaboration: Collaboration,
    batches: TrainBatches,
    config: RunConfig,
    device: torch.device,
    graphed: bool | None = None,
) -> Step:
    """The fastest step there is for the device, or, with `graphed` false, one that is not captured."""
    if graphed is None:
        graphed = config.captured and device.type == "cuda" and has_bfloat16(device) and _can_be_captured()
    return (GraphedStep if graphed else Step)(collaboration, batches, config, device)


def _can_be_captured() -> bool:
    """Whether this process is alone, or PyTorch lets a graph hold what it exchanges with others.

    That needs NCCL, with its watch over failed processes switched off by whoever started them: then they wait for ever.
    """
    if not distributed.is_initialized():
        return True
    return distributed.get_backend() == "nccl" and os.environ.get("TORCH_NCCL_ASYNC_ERROR_HANDLING") == "0"
