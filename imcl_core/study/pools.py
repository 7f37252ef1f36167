"""Where a batch's runs are worked on: in this process, or in one process a slot; `ray` has a third place.

A pool is a context. It takes calls with `submit`, at most `slots` at a time, and tells a call's outcome with `result`.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any, Self

import torch

from imcl_core.errors import ImclError
from imcl_core.training.machine import AT_ONCE


class Died(Exception):
    """The process that worked on a call is no more."""


class DeviceLost(ImclError):
    """A GPU that failed is of no more use to the process that it failed."""


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
        return cls([_threads(jobs) | {AT_ONCE: str(jobs)}] * jobs)  # a GPU, if there is one, is the same for all

    @classmethod
    def on_gpus(cls, per_gpu: int) -> "Slots":
        """So many processes a GPU, each of which sees that GPU alone."""
        if per_gpu < 1:
            raise ImclError(f"At least one run at once on a GPU, not {per_gpu}: use --per-gpu 1 or more.")
        if not torch.cuda.is_available():
            raise ImclError("There is no GPU that PyTorch can use here: use --jobs in place of --per-gpu.")
        visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(torch.cuda.device_count())))
        gpus = [gpu.strip() for gpu in visible.split(",")][: torch.cuda.device_count()]
        shared = _threads(per_gpu * len(gpus)) | {AT_ONCE: str(per_gpu)}
        return cls([shared | {"CUDA_VISIBLE_DEVICES": gpu} for _ in range(per_gpu) for gpu in gpus])

    def __enter__(self) -> Self:
        self._ends, self._alive = multiprocessing.get_context("spawn").Pipe(duplex=False)
        self._idle = [self._start(environment) for environment in self.environments]
        self._busy: dict[Future, tuple[ProcessPoolExecutor, Mapping[str, str]]] = {}
        return self

    def _start(self, environment: Mapping[str, str]) -> tuple[ProcessPoolExecutor, Mapping[str, str]]:
        spawn = multiprocessing.get_context("spawn")
        options = {"initializer": _begin, "initargs": (environment, self._ends)}
        return ProcessPoolExecutor(1, mp_context=spawn, **options), environment  # the first call starts its process

    def __exit__(self, error: type | None, *_: Any) -> None:
        if error:
            self._alive.close()
        for executor, _ in [*self._idle, *self._busy.values()]:
            executor.shutdown(cancel_futures=True)
        self._alive.close()
        self._ends.close()

    def submit(self, function: Callable, *arguments: Any) -> Future:
        executor, environment = self._idle.pop(0)
        with _interrupts_wait():
            try:
                future = executor.submit(function, *arguments)
            except BrokenProcessPool:  # its process died while it had nothing to do
                executor.shutdown()
                executor, environment = self._start(environment)
                future = executor.submit(function, *arguments)
        self._busy[future] = executor, environment
        return future

    def result(self, future: Future) -> Any:
        """What the call returned; raises what it raised, or `Died`: also where its GPU is lost to the process."""
        executor, environment = self._busy.pop(future)
        try:
            result = future.result()
        except BrokenProcessPool:
            executor.shutdown()
            self._idle.append(self._start(environment))
            raise Died("its process was killed, or ran out of memory") from None
        except DeviceLost as error:
            executor.shutdown()
            self._idle.append(self._start(environment))
            raise Died(str(error)) from error
        except BaseException:
            self._idle.append((executor, environment))
            raise
        self._idle.append((executor, environment))
        return result


def _threads(processes: int) -> dict[str, str]:
    return {"OMP_NUM_THREADS": str(max(1, torch.get_num_threads() // processes))}


def set_environment(environment: Mapping[str, str]) -> None:
    """For this process, its number of threads among it."""
    os.environ |= environment
    torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))


@contextmanager
def _interrupts_wait() -> Iterator[None]:
    """A process that is started inside does not see Ctrl-C before `_begin`; this one at the latest at the end."""
    if not hasattr(signal, "pthread_sigmask"):  # on Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(environment: Mapping[str, str], ends: Connection) -> None:
    """In a slot's process: Ctrl-C is the business of its parent, and the parent's end is its own."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # for kernels, which are interrupted by it
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    set_environment(environment)
    threading.Thread(target=_end_with, args=(ends,), daemon=True).start()


def _end_with(ends: Connection) -> None:
    ends.poll(None)  # nothing is ever sent: it returns when the other end is closed
    os._exit(1)
