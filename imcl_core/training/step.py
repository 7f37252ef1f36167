"""The training step: run as it reads, or captured once as a CUDA graph and replayed."""

import contextlib
from typing import Any

import torch
import torch.distributed as distributed
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from imcl_core.collaboration import Collaboration
from imcl_core.data.sets import TrainBatches
from imcl_core.training.config import RunConfig


class Step:
    """A batch, the losses, the gradients, SGD. Half precision on a GPU, with float32 weights and losses.

    On a GPU without bfloat16 (before Ampere) the half precision is float16 with a scaled loss.
    """

    def __init__(self, collaboration: Collaboration, batches: TrainBatches, config: RunConfig, device: torch.device):
        self.collaboration, self.batches, self.device = collaboration, batches, device
        self.half = device.type == "cuda"
        self.dtype = torch.bfloat16 if not self.half or has_bfloat16(device) else torch.float16
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.half and self.dtype == torch.float16)
        self.optimizer = torch.optim.SGD(
            collaboration.parameters(),
            lr=torch.tensor(config.lr, device=device) if self.half else config.lr,
            momentum=config.momentum,
            nesterov=config.nesterov,
            weight_decay=config.weight_decay,
            fused=self.half,
        )
        self.objective: nn.Module = collaboration
        if distributed.is_initialized():
            # Batch normalisation and similarity matrices see the images of their own process alone.
            self.objective = DistributedDataParallel(collaboration, broadcast_buffers=False)

    def precision(self) -> contextlib.AbstractContextManager:
        """Autocast on a GPU; its cache of cast weights is off, since a captured step may not keep one."""
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.half, cache_enabled=False)

    def __call__(self, start: int | Tensor) -> Tensor:
        """Trains on the batch at `start` of the epoch's order: the value of every term, and the error, a fraction."""
        images, labels = self.batches.batch(start)
        images = images.contiguous(memory_format=torch.channels_last)
        with self.precision():
            loss = self.objective(images, labels)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        wrong = (self.collaboration.logits.argmax(dim=1) != labels).float().mean()
        return torch.stack([*self.collaboration.terms.values(), wrong])

    def set_lr(self, lr: float) -> None:
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(lr)  # in place: a captured step reads this very tensor
            else:
                group["lr"] = lr

    def state_dict(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])


class GraphedStep(Step):
    """The same step without launch overhead: batch, augmentation, losses, gradients and SGD in one CUDA graph.

    The first steps run eagerly, and count; they let cuDNN choose and SGD make its buffers. Replays read the position
    in the epoch and the learning rate from tensors, and draw fresh dropout masks from the generator's current state.
    """

    WARM_UP = 3

    def __init__(self, collaboration: Collaboration, batches: TrainBatches, config: RunConfig, device: torch.device):
        super().__init__(collaboration, batches, config, device)
        self.start = torch.zeros((), dtype=torch.int64, device=device)
        self.stream = torch.cuda.Stream(device)
        self.graph: torch.cuda.CUDAGraph | None = None
        self.metrics: Tensor | None = None
        self.eager_steps = 0

    def __call__(self, start: int | Tensor) -> Tensor:
        self.start.fill_(start)
        if self.eager_steps < self.WARM_UP:
            self.eager_steps += 1
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                metrics = super().__call__(self.start)
            torch.cuda.current_stream().wait_stream(self.stream)
            return metrics
        if self.graph is None:
            self._capture()
        self.graph.replay()
        return self.metrics.clone()

    def _capture(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)  # the graph makes its own gradients
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, stream=self.stream):
            self.metrics = super().__call__(self.start)


def has_bfloat16(device: torch.device) -> bool:
    """Whether the GPU computes in bfloat16 itself."""
    return torch.cuda.get_device_capability(device) >= (8, 0)


def make_step(
    collaboration: Collaboration,
    batches: TrainBatches,
    config: RunConfig,
    device: torch.device,
    graphed: bool | None = None,
) -> Step:
    """The fastest step there is for the device, or, with `graphed` false, the one that runs as it reads."""
    if graphed is None:
        graphed = device.type == "cuda" and has_bfloat16(device) and not distributed.is_initialized()
    return (GraphedStep if graphed else Step)(collaboration, batches, config, device)
