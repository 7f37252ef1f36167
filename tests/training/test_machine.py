"""The machine of a run: which device, whose random numbers, how much memory."""

import platform
import subprocess
import sys

import pytest
import torch

from imcl_core import Collaboration, ImclError
from imcl_core.methods.population import PATTERNS
from imcl_core.networks import build
from imcl_core.training import machine
from imcl_core.training.run import part_size

CPU = torch.device("cpu")


@pytest.mark.parametrize(("name", "expected"), [("cuda", "cuda:1"), (None, "cuda:1"), ("cuda:0", "cuda:0")])
def test_each_process_has_a_gpu_of_its_own(monkeypatch, name, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert machine.choose_device(name) == torch.device(expected)


@pytest.mark.parametrize("methods", ["mid+pull-push", *PATTERNS])
def test_heads_leave_the_random_numbers_of_a_gpu_alone(monkeypatch, methods):
    network = build("resnet18", 10, width=1 / 64)
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("seeds the GPU"))
    attach = PATTERNS.get(methods, lambda network: Collaboration(network, methods))
    attach(network)


def test_a_small_peak_after_a_large_one_is_small():
    megabytes = []
    for size in (200, 1):
        machine.forget_peak(CPU)
        before = machine.peak_memory(CPU)
        torch.ones(size << 18)
        megabytes.append((machine.peak_memory(CPU) - before) >> 20)
    if not megabytes[0]:
        pytest.skip("this system does not tell a process's peak")
    assert megabytes[0] > 150
    assert megabytes[1] < 50


STEPS = """
import resource
from pathlib import Path
import torch
from imcl_core.training.machine import kept_memory

def new_pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(3):
        maps = [torch.zeros(6 << 18) for _ in range(40)]
        del maps
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def megabytes():
    return int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) >> 10

new_pages()
taken_away = new_pages()
with kept_memory(torch.device("cpu")):
    new_pages()
    kept, held = new_pages(), megabytes()
left = megabytes()
new_pages()
print(taken_away, kept, held, left, megabytes())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="memory is not given by glibc")
def test_a_step_takes_over_the_memory_of_the_step_before():
    for _ in range(8):  # by chance something small may lie behind the maps, and glibc keeps them by itself
        ran = subprocess.run([sys.executable, "-c", STEPS], capture_output=True, text=True, check=True)
        taken_away, kept, held, left, later = map(int, ran.stdout.split())
        assert kept < 5_000
        assert left < held - 150  # of 240
        if taken_away > 50_000:
            break
    else:
        pytest.skip("this system takes no pages away")
    assert later < held - 150


def test_an_evaluation_on_a_gpu_is_bounded_by_pixels():
    gpu = torch.device("cuda")
    assert [part_size(gpu, side) for side in (32, 64, 96)] == [1000, 1000, 444]
    assert part_size(CPU, 96) == part_size(CPU, 32)


def test_a_record_of_a_gpu_tells_how_many_runs_shared_it(monkeypatch):
    monkeypatch.setattr(machine, "device_name", lambda _: "a GPU")
    monkeypatch.setenv("IMCL_AT_ONCE", "3")
    assert machine.environment(torch.device("cuda"))["at_once"] == 3
    assert "at_once" not in machine.environment(CPU)
    monkeypatch.delenv("IMCL_AT_ONCE")
    assert machine.environment(torch.device("cuda"))["at_once"] == 1


def test_a_copy_without_its_history_is_told_its_commit(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "__file__", str(tmp_path / "imcl_core/training/machine.py"))
    monkeypatch.setenv("IMCL_COMMIT", "0123456789ab")
    assert machine.project_version.__wrapped__() == "0123456789ab"


def test_a_system_that_does_not_tell_its_peak_is_no_error(monkeypatch):
    monkeypatch.setattr(machine.Path, "read_text", lambda path: "VmRSS:\t 100 kB\n")
    assert machine.peak_memory(torch.device("cpu")) == 0


def test_a_gpu_that_is_not_there_is_refused_before_anything_runs(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert machine.choose_device("cuda:0").index == 0
    with pytest.raises(ImclError, match="no GPU 1 here"):
        machine.choose_device("cuda:1")
