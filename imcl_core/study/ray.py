"""The runs of a batch on a Ray cluster: a pool as those of `pools`."""

import os
import socket
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Self

from imcl_core.errors import ImclError, needed
from imcl_core.study.pools import DeviceLost, Died, set_environment
from imcl_core.training.machine import AT_ONCE

CONNECT_SECONDS = 10


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
        return self._task.remote(self.per_gpu, function, *arguments).future()

    def result(self, future: Future) -> Any:
        """What the call returned; raises what it raised, or `Died`."""
        errors = self._ray.exceptions
        try:
            return future.result()
        except errors.RayTaskError as error:
            if isinstance(error.cause, DeviceLost):
                raise Died(str(error.cause)) from None
            if isinstance(error.cause, ImclError):
                raise error.cause from None
            raise ImclError(
                f"A node of the Ray cluster could not work on a run ({_line(error.cause)}): install the same version "
                "of this project on every node."
            ) from error
        except errors.RayError as error:
            raise Died(_line(error)) from None


def _on_ray(at_once: int, function: Callable, *arguments: Any) -> Any:
    set_environment({"OMP_NUM_THREADS": "1", AT_ONCE: str(at_once)})
    return function(*arguments)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]


def _connect(address: str | None) -> Any:
    """The module `ray`, connected; `ImclError` where it is missing, does not answer or does not start."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray = needed("ray", "Ray", "cluster")
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
    except Exception as error:  # no narrower: Ray raises just that where its own node starts too slowly
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
