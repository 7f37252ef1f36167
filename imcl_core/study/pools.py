"""Where a batch's runs are worked on: in this process, in one process a slot, or on a Ray cluster.

A pool is a context. It takes calls with `submit`, at most `slots` at a time, and tells a call's outcome with `result`.
"""

import importlib
import multiprocessing
import os
import signal
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection
from typing import Any, Self

import torch

from imcl_core.errors import ImclError

CONNECT_SECONDS = 10


class Died(Exception):
    """The process that worked on a call is no more."""


class Here:
    """This process, one call after another."""

    slots, remote = 1, False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        pass

    def submit(self, function: Callable, *arguments: Any) -> Future:
        future: Future = Future()
        future.set_result(function(*arguments))
        return future

    def result(self, future: Future) -> Any:
        return future.result()


class Slots:
    """One process for each of `environments`, in which its variables are set before a GPU is touched.

    A process that dies is replaced. All of them end with this one, however it ends.
    """

    remote = False

    def __init__(self, environments: Sequence[Mapping[str, str]]):
        self.environments, self.slots = environments, len(environments)

    @classmethod
    def on_cores(cls, jobs: int) -> "Slots":
        """So many processes, each with its share of the threads."""
        if jobs < 1:
            raise ImclError(f"At least one run at once, not {jobs}: use --jobs 1 or more.")
        return cls([_threads(jobs)] * jobs)

    @classmethod
    def on_gpus(cls, per_gpu: int) -> "Slots":
        """So many processes a GPU, each of which sees that GPU alone."""
        if per_gpu < 1:
            raise ImclError(f"At least one run at once on a GPU, not {per_gpu}: use --per-gpu 1 or more.")
        if not torch.cuda.is_available():
            raise ImclError("There is no GPU that PyTorch can use here: use --jobs in place of --per-gpu.")
        visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(torch.cuda.device_count())))
        gpus = [gpu.strip() for gpu in visible.split(",")][: torch.cuda.device_count()]
        threads = _threads(per_gpu * len(gpus))
        return cls([threads | {"CUDA_VISIBLE_DEVICES": gpu} for _ in range(per_gpu) for gpu in gpus])

    def __enter__(self) -> Self:
        self._ends, self._alive = multiprocessing.get_context("spawn").Pipe(duplex=False)
        self._idle = [self._start(environment) for environment in self.environments]
        self._busy: dict[Future, tuple[ProcessPoolExecutor, Mapping[str, str]]] = {}
        return self

    def _start(self, environment: Mapping[str, str]) -> tuple[ProcessPoolExecutor, Mapping[str, str]]:
        spawn = multiprocessing.get_context("spawn")
        options = {"initializer": _begin, "initargs": (environment, self._ends)}
        return ProcessPoolExecutor(1, mp_context=spawn, **options), environment

    def __exit__(self, error: type | None, *_: Any) -> None:
        if error:
            self._alive.close()
        for executor, _ in [*self._idle, *self._busy.values()]:
            executor.shutdown(cancel_futures=True)
        self._alive.close()
        self._ends.close()

    def submit(self, function: Callable, *arguments: Any) -> Future:
        slot = self._idle.pop(0)
        future = slot[0].submit(function, *arguments)
        self._busy[future] = slot
        return future

    def result(self, future: Future) -> Any:
        """What the call returned; raises what it raised, or `Died`."""
        executor, environment = self._busy.pop(future)
        try:
            result = future.result()
        except BrokenProcessPool:
            executor.shutdown()
            self._idle.append(self._start(environment))
            raise Died("its process was killed, or ran out of memory") from None
        except BaseException:
            self._idle.append((executor, environment))
            raise
        self._idle.append((executor, environment))
        return result


def _threads(processes: int) -> dict[str, str]:
    return {"OMP_NUM_THREADS": str(max(1, torch.get_num_threads() // processes))}


def _set(environment: Mapping[str, str]) -> None:
    os.environ |= environment
    torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))


def _begin(environment: Mapping[str, str], ends: Connection) -> None:
    """In a slot's process: Ctrl-C is the business of its parent, and the parent's end is its own."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _set(environment)
    threading.Thread(target=_end_with, args=(ends,), daemon=True).start()


def _end_with(ends: Connection) -> None:
    ends.poll(None)  # nothing is ever sent: it returns when the other end is closed
    os._exit(1)


class RayPool:
    """A Ray cluster: `address` as `ray.init` takes it; None: the one that runs here, else one started for this batch.

    A run takes one core, or `1 / per_gpu` of a GPU where `device` asks for one or where, without `device`, the cluster
    has any. `jobs` runs at once, or as many as there is room for.
    """

    remote = True

    def __init__(
        self, address: str | None = None, *, per_gpu: int = 1, jobs: int | None = None, device: str | None = None
    ):
        if per_gpu < 1 or (jobs is not None and jobs < 1):
            raise ImclError("At least one run at once: use --per-gpu and --jobs with 1 or more.")
        self.address, self.per_gpu, self.jobs, self.device = address, per_gpu, jobs, device

    def __enter__(self) -> Self:
        self._ray = _connect(self.address)
        try:
            kind = (self.device or ("cuda" if self._gpus() else "cpu")).split(":")[0]
            if kind == "cuda" and not self._gpus():
                raise ImclError("The Ray cluster has no GPU: add a node that has one, or use --device cpu.")
        except BaseException:
            self._ray.shutdown()
            raise
        self._on_gpu = kind == "cuda"
        needs = {"num_cpus": 1, "num_gpus": 1 / self.per_gpu if self._on_gpu else 0}
        self._task = self._ray.remote(max_retries=0, **needs)(_on_ray)  # `Died` tells the batch to try again
        return self

    def __exit__(self, *_: Any) -> None:
        self._ray.shutdown()  # and what still runs for this batch is stopped

    def _gpus(self) -> float:
        return self._ray.cluster_resources().get("GPU", 0)

    @property
    def slots(self) -> int:
        """Runs at once: what the cluster, which may grow and shrink, has room for now."""
        room = self._gpus() * self.per_gpu if self._on_gpu else self._ray.cluster_resources().get("CPU", 1)
        return self.jobs or max(1, int(room))

    def submit(self, function: Callable, *arguments: Any) -> Future:
        return self._task.remote(function, *arguments).future()

    def result(self, future: Future) -> Any:
        """What the call returned; raises what it raised, or `Died`."""
        errors = self._ray.exceptions
        try:
            return future.result()
        except errors.RayTaskError as error:
            if isinstance(error.cause, ImclError):
                raise error.cause from None
            raise ImclError(
                f"A node of the Ray cluster could not work on a run ({_line(error.cause)}): install the same version "
                "of this project on every node."
            ) from error
        except errors.RayError as error:
            raise Died(_line(error)) from None


def _on_ray(function: Callable, *arguments: Any) -> Any:
    _set({"OMP_NUM_THREADS": "1"})
    return function(*arguments)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]


def _connect(address: str | None) -> Any:
    """The module `ray`, connected; `ImclError` where it is missing or nobody answers at `address`."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray = importlib.import_module("ray")
    except ImportError:
        raise ImclError("--ray needs Ray: install it with pip install 'imcl-core[cluster]'.") from None
    options = {"logging_level": "ERROR", "log_to_driver": False}
    if address is not None:
        _check_answers(address)
    try:
        try:
            ray.init(address or "auto", **options)
        except ConnectionError:
            if address is not None:
                raise
            ray.init("local", include_dashboard=False, **options)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        raise ImclError(
            f"No Ray cluster could be used at {address or 'this machine'} ({_line(error)}): start one with "
            "`ray start --head` and give the address it prints, or leave out --ray."
        ) from error
    return ray


def _check_answers(address: str) -> None:
    """Ray itself waits for minutes where nobody answers."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if address in ("auto", "local"):
        return
    if not host or not port.isdigit():
        raise ImclError(f"A Ray address is host:port, such as 10.0.0.5:6379, or ray://host:10001, not {address!r}.")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ImclError(
            f"No Ray cluster answers at {address} ({error}): start one with `ray start --head` and give the address "
            "it prints."
        ) from None
