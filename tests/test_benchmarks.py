"""The scripts of `benchmarks/` fail where they cannot measure, and do not wait."""

import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def test_processes_end_where_one_of_them_fails():
    command = [sys.executable, "processes.py", "--model", "nosuch", "--jobs", "2", "--rounds", "1", "--device", "cpu"]
    done = subprocess.run(command, cwd=BENCHMARKS, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and done.stderr.strip().endswith("Known: vgg16, resnet18, resnet101.")
