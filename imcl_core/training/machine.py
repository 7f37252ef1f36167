"""What a run runs on: its device, the processes that share it, its name, its memory."""

import ctypes
import datetime
import functools
import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as distributed

from imcl_core.errors import ImclError, nearest


@contextmanager
def processes(device: torch.device) -> Iterator[int]:
    """This process's rank: 0, or its own where `torchrun` started several, which then train one network together.

    Each process takes its share of every batch and averages the gradients with the others; batch normalisation and
    similarity matrices see the images of their own process alone. All of them evaluate; process 0 reports and writes.
    """
    on_gpu = device.type == "cuda"
    started = int(os.environ.get("WORLD_SIZE", "1")) > 1 and not distributed.is_initialized()
    with torch.cuda.device(device) if on_gpu else nullcontext():  # streams and communication are of the current one
        if started:
            distributed.init_process_group("nccl" if on_gpu else "gloo", device_id=device if on_gpu else None)
        try:
            yield distributed.get_rank() if distributed.is_initialized() else 0
        finally:
            if started:
                distributed.destroy_process_group()


def choose_device(name: str | torch.device | None = None) -> torch.device:
    """The device of that name; without one a GPU where there is one, else the CPU.

    Of several processes that `torchrun` started here, each has a GPU of its own, unless the name has a number.
    """
    local = os.environ.get("LOCAL_RANK", "0")
    if name is None:
        return torch.device(f"cuda:{local}" if torch.cuda.is_available() else "cpu")
    kind = str(name).split(":")[0]
    if kind not in ("cpu", "cuda"):
        raise ImclError(
            f"Unknown device {name!r}.{nearest(kind.replace('gpu', 'cuda'), ('cpu', 'cuda'))} Use cpu or cuda."
        )
    if kind == "cuda" and not torch.cuda.is_available():
        raise ImclError("There is no GPU that PyTorch can use here: leave out the device, or use cpu.")
    try:
        device = torch.device(f"cuda:{local}" if str(name) == "cuda" else name)
    except RuntimeError:
        raise ImclError(f"Unknown device {name!r}: use cpu, cuda, or a GPU by its number, such as cuda:1.") from None
    if kind == "cuda" and device.index is not None and device.index >= (count := torch.cuda.device_count()):
        raise ImclError(f"There is no GPU {device.index} here: they are numbered from 0 to {count - 1}.")
    return device


AT_ONCE = "IMCL_AT_ONCE"  # the variable by which a pool tells its processes how many of them share a GPU


def environment(device: torch.device) -> dict[str, Any]:
    """What the run ran on; `at_once`: how many runs of its batch shared the GPU, and so its time."""
    return {
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        **({"at_once": at_once(device)} if device.type == "cuda" else {}),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "project": project_version(),
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def maker(device: torch.device) -> dict[str, Any]:
    """Of `environment`, what the digits of a run may depend on."""
    names = ("device", "torch", "project") + (("threads",) if device.type == "cpu" else ())
    return {name: value for name, value in environment(device).items() if name in names}


def at_once(device: torch.device) -> int:
    """How many runs of its batch share the GPU with a run in this process; 1 on a processor."""
    return int(os.environ.get(AT_ONCE, 1)) if device.type == "cuda" else 1


def on_gpu(run: Mapping[str, Any]) -> bool:
    """Whether the environment that a record keeps was a GPU's."""
    return "at_once" in run


@functools.cache
def project_version() -> str:
    """The commit of the clone that this package lies in, `-dirty` if it was changed since; else the version.

    A copy without its history is told its commit by the variable IMCL_COMMIT.
    """
    clone = Path(__file__).parents[2]
    if (clone / ".git").exists():
        command = ["git", "-C", str(clone), "describe", "--always", "--dirty", "--exclude=*", "--abbrev=12"]
        with suppress(OSError, subprocess.SubprocessError):
            quiet = {"env": {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}, "capture_output": True, "text": True}
            return subprocess.run(command, **quiet, check=True, timeout=10).stdout.strip()
    if told := os.environ.get("IMCL_COMMIT"):
        return told
    try:
        return importlib.metadata.version("imcl-core")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def own_random_numbers(device: torch.device) -> AbstractContextManager:
    """What is drawn in here, on a processor and on `device`, leaves the caller's random numbers as they are."""
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])


def device_name(device: torch.device) -> str:
    """The model of the GPU or processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


_MAPPED_FROM, _TRIMMED_FROM, _LARGEST = -3, -1, 1 << 25  # as mallopt(3) calls them: M_MMAP_THRESHOLD, M_TRIM_THRESHOLD


@contextmanager
def kept_memory(device: torch.device) -> Iterator[None]:
    """Where glibc gives a CPU its memory, lets it keep what is freed in here, for the next step; given back at the end.

    Else the system takes feature maps back and makes their pages anew in every step: up to 5 % of its time. Maps of
    more than 32 MB are none that it would keep. At the end its thresholds are those that it comes to by itself.
    """
    library = ctypes.CDLL(None) if sys.platform == "linux" and device.type == "cpu" else None
    if not hasattr(library, "mallopt"):
        yield
        return
    library.mallopt(_MAPPED_FROM, _LARGEST)
    library.mallopt(_TRIMMED_FROM, -1)
    try:
        yield
    finally:
        library.mallopt(_TRIMMED_FROM, 2 * _LARGEST)
        library.malloc_trim(0)


def forget_peak(device: torch.device) -> None:
    """Starts `peak_memory` afresh; on a CPU only where the system knows how."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # Linux: VmHWM falls to what the process holds now


def peak_memory(device: torch.device) -> int:
    """Bytes, since `forget_peak`: the allocator's peak on a GPU, elsewhere the whole process's (0 where unknown)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    found = re.search(r"^VmHWM:\s*(\d+)", status, re.MULTILINE)  # not everything that looks like Linux tells
    return 1024 * int(found.group(1)) if found else 0
