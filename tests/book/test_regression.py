"""The notebooks are regression tests of the losses: change one, and nbval finds a cell that does not agree."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[2]


def nbval(folder, chapter, cells, change=("", "")):
    """Status and output of nbval on the first cells of a chapter, with a copy of the package and its losses changed."""
    shutil.copytree(ROOT / "imcl_core", folder / "imcl_core", ignore=shutil.ignore_patterns("__pycache__"))
    losses = folder / "imcl_core" / "losses.py"
    text = losses.read_text(encoding="utf-8")
    assert change[0] in text
    losses.write_text(text.replace(*change), encoding="utf-8")
    (path,) = (ROOT / "notebooks").glob(f"{chapter}-*.ipynb")
    notebook = nbformat.read(path, as_version=4)
    notebook.cells = notebook.cells[:cells]
    nbformat.write(notebook, folder / path.name)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--nbval-lax", "--nbval-current-env"]
    done = subprocess.run(
        [*command, path.name], cwd=folder, env=os.environ | {"PYTHONPATH": str(folder)}, capture_output=True, text=True
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("chapter", "cells", "change"),
    [
        (1, 16, ("return F.softmax(others / temperature, dim=2)", "return F.softmax(others, dim=2)")),
        (6, 8, ("torch.linalg.vector_norm(products", "1.01 * torch.linalg.vector_norm(products")),
    ],
)
def test_a_changed_loss_fails_in_its_chapter(tmp_path, chapter, cells, change):
    code, output = nbval(tmp_path / "changed", chapter, cells, change)
    assert code == 1, output
    assert "failed" in output.splitlines()[-1]


def test_an_unchanged_loss_passes(tmp_path):
    code, output = nbval(tmp_path, 1, 16)
    assert code == 0, output
