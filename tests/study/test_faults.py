"""What can go wrong in a batch, done to it for real: afterwards its records are those of an undisturbed one."""

import errno
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from imcl_book import checks
from pandas.testing import assert_frame_equal

from imcl_core import ImclError, RunConfig, files
from imcl_core.study import batch, executed, ledger, records
from imcl_core.study.pools import Died, Slots
from imcl_core.study.ray import RayPool

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="signals and mounts as on Linux")
HOST_AND_TIME = ["device", "seconds", "images_per_s", "peak_memory_gb"]
SHORT = {"width": 1 / 16, "train_size": 64, "hidden": 16}
CONFIGS = [RunConfig(**SHORT, seed=seed, epochs=8, methods="out") for seed in range(2)]
NAMES = {config.name for config in CONFIGS}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The folder of a batch to which nothing happened."""
    folder = tmp_path_factory.mktemp("undisturbed")
    batch.run_batch(CONFIGS, folder, progress=False)
    return folder


def assert_equal(folder: Path, undisturbed: Path, configs=CONFIGS) -> None:
    """No record is lost, doubled, half-written or other than it should be, and no run counts as failed."""
    one, other = ({r.config: r.curve for r in ledger.records(f)} for f in (folder, undisturbed))
    assert one == {config: other[config] for config in configs}
    assert len(list(folder.rglob("*.json"))) == len(configs)
    tables = [ledger.read(f).drop(columns=HOST_AND_TIME).sort_values("name") for f in (folder, undisturbed)]
    tables[1] = tables[1][tables[1].name.isin([c.name for c in configs])]
    assert_frame_equal(*(t.reset_index(drop=True) for t in tables), check_exact=True)
    assert not records.Standing(folder).of(config.name for config in configs)["failed"]
    assert not list(folder.glob("*.checkpoint.pt"))


@contextmanager
def started(*arguments, **options):
    """A batch in a thread of its own; gives its future."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(batch.run_batch, *arguments, progress=False, **options)


def wait_for(condition, what: str, seconds: float = 60):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"no {what} in {seconds} s"
        time.sleep(0.01)
    return found


def checkpoint(folder: Path, config: RunConfig) -> Path | None:
    path = folder / f"{config.name}.checkpoint.pt"
    return path if path.exists() else None


def descendants(text: str, process: psutil.Process | None = None) -> list[psutil.Process]:
    """Our own processes with `text` in their command line, oldest first."""
    found = []
    for child in (process or psutil.Process()).children(recursive=True):
        try:
            found += [child] * (text in " ".join(child.cmdline()))
        except psutil.NoSuchProcess:
            continue
    return sorted(found, key=lambda child: (child.create_time(), child.pid))


def kernels(process: psutil.Process | None = None) -> list[psutil.Process]:
    return descendants("ipykernel_launcher", process)


def test_a_killed_kernel_is_started_anew_and_the_run_resumes(undisturbed, tmp_path):
    with started(CONFIGS, tmp_path, notebook=True) as outcome:
        wait_for(lambda: checkpoint(tmp_path, CONFIGS[0]), "checkpoint")
        (kernel,) = kernels()
        kernel.kill()
        assert not list(tmp_path.glob("*.json")), "the run had ended before it was disturbed"
    assert outcome.result().done == [config.name for config in CONFIGS]
    assert_equal(tmp_path, undisturbed)
    for config in CONFIGS:
        assert checks.check([tmp_path / f"{config.name}.ipynb"]) == []


def test_a_killed_slot_is_replaced_and_the_run_resumes(undisturbed, tmp_path):
    with started(CONFIGS, tmp_path, pool=Slots.on_cores(1)) as outcome:
        wait_for(lambda: checkpoint(tmp_path, CONFIGS[0]), "checkpoint")
        (slot,) = descendants("spawn_main")
        slot.kill()
        assert not list(tmp_path.glob("*.json")), "the run had ended before it was disturbed"
    assert outcome.result().done == [config.name for config in CONFIGS]
    assert_equal(tmp_path, undisturbed)


PROGRAM = """
import json, sys, torch
from imcl_core import RunConfig
from imcl_core.study import batch
from imcl_core.study.pools import Slots
if __name__ == "__main__":
    torch.set_num_threads(1)
    configs = [RunConfig(**settings) for settings in json.loads(sys.argv[1])]
    batch.run_batch(configs, sys.argv[2], pool=Slots.on_cores(2), notebook=True, progress=False)
"""


def test_a_killed_batch_takes_its_processes_along_and_the_next_goes_on(undisturbed, tmp_path):
    out, program = tmp_path / "runs", tmp_path / "program.py"
    program.write_text(PROGRAM)
    settings = json.dumps([executed.parameters(c)["settings"] | {"seed": c.seed, "methods": "out"} for c in CONFIGS])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([sys.executable, program, settings, str(out)], env=environment)
    wait_for(lambda: any(checkpoint(out, config) for config in CONFIGS), "checkpoint")
    children = psutil.Process(process.pid).children(recursive=True)  # with two slots, as far as they have come
    assert kernels(psutil.Process(process.pid))
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert psutil.wait_procs(children, timeout=20)[1] == []
    assert not list(out.glob("*.json")), "the runs had ended before they were disturbed"
    batch.run_batch(CONFIGS, out, progress=False)
    assert_equal(out, undisturbed)


def test_two_batches_of_the_same_grid_share_it(undisturbed, tmp_path):
    with (
        started(CONFIGS, tmp_path, pool=Slots.on_cores(1)) as one,
        started(CONFIGS, tmp_path, pool=Slots.on_cores(1)) as other,
    ):
        done = [outcome.result().done for outcome in (one, other)]
    assert sorted(done[0] + done[1]) == sorted(NAMES)
    assert_equal(tmp_path, undisturbed)


def test_a_corrupted_record_is_kept_aside_and_its_run_done_again(undisturbed, tmp_path, capsys):
    records.merge(undisturbed, tmp_path)
    damaged = tmp_path / f"{CONFIGS[1].name}.json"
    damaged.write_bytes(damaged.read_bytes()[:-100])
    assert batch.run_batch(CONFIGS, tmp_path, progress=False).done == [CONFIGS[1].name]
    assert damaged.with_name(f"{damaged.name}.corrupt").exists()
    assert "is damaged" in capsys.readouterr().err
    assert_equal(tmp_path, undisturbed)


def test_a_full_disk_fails_its_runs_and_loses_nothing(undisturbed, tmp_path):
    """On a file system of 200 kB, which a checkpoint does not fit into."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("file systems can be mounted by root only")
    try:
        failed = batch.run_batch(CONFIGS, disk, progress=False).failed
        assert failed.keys() == NAMES
        assert all("No space left on device): free some space" in why for why in failed.values())
        assert not list(disk.rglob("*.json"))
        subprocess.run(["mount", "-o", "remount,size=50m", disk], check=True)
        assert batch.run_batch(CONFIGS, disk, progress=False).failed_before.keys() == NAMES
        batch.run_batch(CONFIGS, disk, progress=False, retry_failed=True)
        assert_equal(disk, undisturbed)
    finally:
        subprocess.run(["umount", disk], check=True)


def test_where_not_even_a_failure_can_be_written_the_batch_stops(undisturbed, tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(ImclError, match="free some space"):
        batch.run_batch(CONFIGS, tmp_path, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == [".locks"]
    monkeypatch.undo()
    batch.run_batch(CONFIGS, tmp_path, progress=False)
    assert_equal(tmp_path, undisturbed)


def test_a_slot_outlives_its_process():
    with Slots.on_cores(1) as pool:
        with pytest.raises(Died):
            pool.result(pool.submit(os._exit, 1))
        with pytest.raises(ZeroDivisionError):
            pool.result(pool.submit(divmod, 1, 0))
        assert pool.result(pool.submit(divmod, 7, 2)) == (3, 1)


# Ray: a cluster of two nodes on this machine, the second of which is lost in the last test.


@pytest.fixture(scope="module")
def cluster():
    if importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is not installed: pip install 'imcl-core[cluster]'")
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": 100_000_000}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    cluster.second = cluster.add_node(**node)
    yield cluster
    cluster.shutdown()


on_ray = pytest.mark.filterwarnings("ignore")  # Ray's own, of files and sockets it leaves to the collector


@on_ray
def test_ray_gives_the_records_and_notebooks_that_local_slots_give(cluster, undisturbed, tmp_path):
    failing = RunConfig(**SHORT, lr=1e30, epochs=2)
    pool = RayPool(cluster.address)
    outcome = batch.run_batch([*CONFIGS, failing], tmp_path, pool=pool, notebook=True, progress=False)
    assert set(outcome.done) == NAMES
    assert "not finite" in outcome.failed[failing.name]
    assert_equal(tmp_path, undisturbed)
    executed.execute(CONFIGS[0], undisturbed)  # finished already: it shows the record
    one, other = (f / f"{CONFIGS[0].name}.ipynb" for f in (tmp_path, undisturbed))
    assert one.read_text() == other.read_text()


@on_ray
def test_a_killed_ray_worker_is_replaced_and_the_run_resumes(cluster, undisturbed, tmp_path):
    with started(CONFIGS, tmp_path, pool=RayPool(cluster.address, jobs=1)) as outcome:
        wait_for(lambda: checkpoint(tmp_path, CONFIGS[0]), "checkpoint")
        (worker,) = descendants("ray::_on_ray")
        worker.kill()
        assert not list(tmp_path.glob("*.json")), "the run had ended before it was disturbed"
    assert outcome.result().done == [config.name for config in CONFIGS]
    assert_equal(tmp_path, undisturbed)


@on_ray
def test_runs_of_a_lost_ray_node_go_on_elsewhere(cluster, undisturbed, tmp_path):
    with started(CONFIGS, tmp_path, pool=RayPool(cluster.address)) as outcome:
        wait_for(lambda: all(checkpoint(tmp_path, config) for config in CONFIGS), "checkpoints")
        cluster.remove_node(cluster.second, allow_graceful=False)
        assert not list(tmp_path.glob("*.json")), "the runs had ended before they were disturbed"
    assert set(outcome.result().done) == NAMES
    assert_equal(tmp_path, undisturbed)
