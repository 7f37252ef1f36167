"""What a training step holds in memory: counted on any machine without running it, or measured on a GPU."""

import dataclasses
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from imcl_core import losses
from imcl_core.errors import ImclError
from imcl_core.methods.population import Population
from imcl_core.training.config import RunConfig
from imcl_core.training.run import assemble

PAPER = {"dataset": "stl10", "model": "resnet101", "batch_size": 64, "profile": "paper"}  # with images of side 64
PAPER_SIDE = 64


@dataclass(frozen=True)
class Memory:
    """Bytes of one training step at its peak, by what they hold."""

    weights: int
    gradients: int
    optimizer: int  # SGD's momentum
    activations: int  # what the forward pass keeps for the backward pass
    temporary: int  # what else lives at the peak: gradients of activations, copies in half precision

    @property
    def total(self) -> int:
        return sum(dataclasses.astuple(self))


def count(config: RunConfig, *, side: int | None = None, half: bool = False) -> Memory:
    """Counts the memory of a training step of `config` without computing, or allocating, any of it.

    The step runs on fake tensors, which have shapes and lifetimes but no data: each storage counts from its birth to
    its death. `side`: of the square images in pixels, the data set's own if None; `half`: convolutions and matrix
    products in bfloat16 and losses in few calls, as training on a GPU does them, else all in float32. Takes seconds.
    """
    ways = losses.as_on_a_gpu() if half else nullcontext()
    with ways, on_fake_tensors(config, side) as (images, labels, collaboration):
        step = _Step(collaboration, config, half)
        parameters = list(collaboration.parameters())
        activations = _saved_bytes(step, images, labels, parameters)  # makes gradients and momentum
        weights, gradients = _bytes(parameters), _bytes(_gradients(parameters))
        momentum = [state["momentum_buffer"] for state in step.optimizer.state.values()]
        with _LiveBytes([images, *parameters, *_gradients(parameters), *momentum]) as live:  # the step lets go of them
            step(images, labels)
    kept = weights + gradients + _bytes(momentum) + activations
    return Memory(weights, gradients, _bytes(momentum), activations, live.peak - kept)


def splits(config: RunConfig) -> list[str]:
    """The pieces in front of which the tree of `config` splits; none for any other method."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        side = config.side
        attached = assemble(config, config.recipe.classes, (3, side, side))
    return [name for name, _ in attached.levels[1:]] if isinstance(attached, Population) else []


def measure(config: RunConfig, *, side: int | None = None, half: bool = False, device: Any = "cuda") -> int:
    """The bytes that PyTorch's allocator held on a GPU at the peak of a training step of `config`.

    `ImclError` where there is no GPU, or not enough memory on it.
    """
    if not torch.cuda.is_available():
        raise ImclError("Memory is measured on a GPU, and there is none here: count it instead, which needs none.")
    images, labels, collaboration = _case(config, side, device)
    step = _Step(collaboration, config, half)
    try:
        step(images, labels)
        torch.cuda.reset_peak_memory_stats(device)
        step(images, labels)
        torch.cuda.synchronize(device)
    except torch.OutOfMemoryError as error:
        raise ImclError(f"Out of memory at batch_size {config.batch_size}: lower it, or count instead.") from error
    return torch.cuda.max_memory_allocated(device)


@contextmanager
def on_fake_tensors(config: RunConfig, side: int | None = None) -> Iterator[tuple[Tensor, Tensor, nn.Module]]:
    """A batch of images and labels, and what trains on it: all of them shapes without data, as is what they make."""
    images, labels, collaboration = _case(config, side, "meta")
    with FakeTensorMode():
        _replace_tensors(collaboration)
        yield torch.empty(images.shape), torch.empty(labels.shape, dtype=labels.dtype), collaboration


class _Step:
    """A training step in the order of `imcl_core.training.step`: the old gradients live until the new ones are due."""

    def __init__(self, collaboration: nn.Module, config: RunConfig, half: bool):
        self.collaboration, self.half = collaboration, half
        settings = {"lr": config.lr, "momentum": config.momentum, "weight_decay": config.weight_decay}
        self.optimizer = torch.optim.SGD(collaboration.parameters(), foreach=False, **settings)

    def objective(self, images: Tensor, labels: Tensor) -> Tensor:
        with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=self.half, cache_enabled=False):
            return self.collaboration(images, labels)

    def __call__(self, images: Tensor, labels: Tensor) -> None:
        self.learn(self.objective(images, labels))

    def learn(self, loss: Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()


class _LiveBytes(TorchDispatchMode):
    """Adds up the given tensors' storages and those that operations make, less those that died: `peak` is the most."""

    def __init__(self, tensors: Iterable[Tensor]):
        super().__init__()
        self.now = self.peak = 0
        self.alive: dict[int, weakref.ref] = {}
        for tensor in tensors:
            self._add(tensor)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._add(tensor)
        return result

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self.alive:
            self.alive[key] = weakref.ref(storage, lambda _: self._remove(key, size))
            self.now += size
            self.peak = max(self.peak, self.now)

    def _remove(self, key: int, size: int) -> None:
        del self.alive[key]
        self.now -= size


def _case(config: RunConfig, side: int | None, device: Any) -> tuple[Tensor, Tensor, nn.Module]:
    """A batch and what trains on it."""
    side = config.side if side is None else side
    if side < 32:
        raise ImclError(f"The networks halve their maps four or five times: side must be 32 or more, not {side}.")
    with torch.random.fork_rng(devices=[]), torch.device(device):
        collaboration = assemble(config, config.recipe.classes, (3, side, side))
        images = torch.zeros(config.batch_size, 3, side, side)
        return images, torch.zeros(config.batch_size, dtype=torch.int64), collaboration


def _replace_tensors(module: nn.Module) -> None:
    """Gives a module on the meta device tensors of the mode that is on."""
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            setattr(part, name, nn.Parameter(torch.empty(parameter.shape)))
        for name, buffer in part.named_buffers(recurse=False):
            setattr(part, name, torch.empty(buffer.shape, dtype=buffer.dtype))


def _saved_bytes(step: _Step, images: Tensor, labels: Tensor, parameters: list[Tensor]) -> int:
    """Bytes that autograd saves in the forward pass of a step, each storage once, the weights not counted."""
    saved = {p.untyped_storage()._cdata: p for p in parameters}

    def pack(tensor: Tensor) -> Tensor:
        saved.setdefault(tensor.untyped_storage()._cdata, tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = step.objective(images, labels)
    step.learn(loss)
    return _bytes(saved.values()) - _bytes(parameters)


def _gradients(parameters: Iterable[Tensor]) -> list[Tensor]:
    return [p.grad for p in parameters if p.grad is not None]  # a teacher has none


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors)
