"""Kernels that start in a tenth of a second: forked from a process that has imported PyTorch and the rest already.

Imported only where a run is executed as a notebook on Linux; elsewhere papermill starts kernels its ordinary way.
"""

import multiprocessing
import os
import threading
import uuid
from multiprocessing.process import BaseProcess
from typing import Any

import pandas
from jupyter_client.manager import AsyncKernelManager
from jupyter_client.provisioning import LocalProvisioner

PRELOADED = ["imcl_core.training.run", "imcl_book.figures", "sklearn.datasets", "ipykernel.kernelapp"]


class ForkedKernelManager(AsyncKernelManager):
    """Starts its kernel as a fork."""

    async def _async_pre_start_kernel(self, **options: Any) -> tuple[list[str], dict[str, Any]]:
        self.kernel_id = self.kernel_id or str(uuid.uuid4())
        if self.provisioner is None:
            self.provisioner = _Fork(kernel_id=self.kernel_id, kernel_spec=self.kernel_spec, parent=self)
        return await super()._async_pre_start_kernel(**options)


class _Fork(LocalProvisioner):
    async def launch_kernel(self, cmd: list[str], **options: Any) -> dict[str, Any]:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        arguments = cmd[cmd.index("-f") :]
        process = context.Process(target=_kernel, args=(arguments, dict(options["env"]), os.getcwd()))
        process.start()
        self.process, self.pid = _AsPopen(process), process.pid
        return self.connection_info


def _kernel(arguments: list[str], environment: dict[str, str], folder: str) -> None:
    """In the fork: a kernel, which ends with the process that asked for it."""
    from ipykernel.kernelapp import IPKernelApp

    threading.Thread(target=_end_with_parent, daemon=True).start()
    pandas.set_option("display.max_columns", 20)  # pandas' own choice where a kernel imports it
    os.environ |= environment
    os.chdir(folder)
    IPKernelApp.launch_instance([*arguments, "--IPKernelApp.parent_handle=1"])  # not 0, which prints a banner


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


class _AsPopen:
    """A process of `multiprocessing` with the methods that Jupyter's client expects."""

    stdin = stdout = stderr = None

    def __init__(self, process: BaseProcess):
        self.process = process
        self.kill, self.terminate = process.kill, process.terminate

    def poll(self) -> int | None:
        return self.process.exitcode

    def wait(self) -> int | None:
        self.process.join()
        return self.process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.process.pid, number)
