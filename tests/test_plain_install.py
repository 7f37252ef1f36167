"""The package as others install it: a wheel with all that belongs to it, and a core that needs little."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
STEP = """
import imcl_core, torch
from imcl_core import Collaboration, ImclError
from imcl_core.networks import build

collaboration = Collaboration(build("resnet18", 10, width=1 / 64, hidden=8), "out+mid+pull-push+kernel")
collaboration(torch.randn(4, 3, 32, 32), torch.arange(4)).backward()
assert all(p.grad is not None for p in collaboration.parameters())
try:
    collaboration.cost()
except ImclError as error:
    print(error)
print(imcl_core.__file__)
"""
COMMAND = "import sys; from imcl_core.cli import main; sys.exit(main(sys.argv[1:]))"
SMALL = (  # a set of the name cifar10 with 60 and 20 images
    "import dataclasses; from imcl_core.training.recipes import RECIPES; "
    "RECIPES['cifar10'] = dataclasses.replace(RECIPES['cifar10'], images=60, test_images=20); "
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # the build leaves folders behind: not in the clone
    for name in ("imcl_core", "book/imcl_book"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, "-w", folder, source], check=True)
    (built,) = folder.glob("*.whl")
    return built


def needs(names: Iterable[str]) -> dict[str, metadata.Distribution]:
    """The distributions of these names, what they ask for, and so on; extras left out."""
    found, todo = {}, list(names)
    while todo:
        name = re.sub(r"[-_.]+", "-", todo.pop()).lower()
        if name not in found:
            found[name] = metadata.distribution(name)
            todo += required(found[name])
    return found


def required(distribution: metadata.Distribution) -> list[str]:
    requirements = map(Requirement, distribution.requires or [])
    return [r.name for r in requirements if r.marker is None or r.marker.evaluate({"extra": ""})]


@pytest.fixture(scope="module")
def plain(wheel, tmp_path_factory) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs code where nothing but the wheel and its requirements is installed, in a folder outside the clone."""
    site, here = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("elsewhere")
    zipfile.ZipFile(wheel).extractall(site)
    (info,) = site.glob("*.dist-info")
    for distribution in needs(required(metadata.PathDistribution(info))).values():
        for name in {file.parts[0] for file in distribution.files} - {"..", "__pycache__"}:
            if not (site / name).exists():
                (site / name).symlink_to(distribution.locate_file(name))
    assert (site / "torch").exists() and not (site / "pandas").exists()

    def run(code: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(site), **variables}
        return subprocess.run(
            [sys.executable, "-S", "-c", code, *arguments], cwd=here, env=env, capture_output=True, text=True
        )

    return run


def packages(folder: Path, name: str) -> Iterator[str]:
    """Every file of a package that belongs into the wheel."""
    for file in folder.rglob("*"):
        if file.is_file() and "__pycache__" not in file.parts:
            yield f"{name}/{file.relative_to(folder).as_posix()}"


def test_the_wheel_holds_every_module_and_every_data_file_and_nothing_else(wheel):
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    ours = {*packages(ROOT / "imcl_core", "imcl_core"), *packages(ROOT / "book/imcl_book", "imcl_book")}
    assert held == ours
    assert "imcl_core/study/paper.csv" in held


def test_the_core_works_and_says_what_it_lacks(plain):
    done = plain(STEP)
    assert done.returncode == 0, done.stderr
    refused, place = done.stdout.splitlines()
    assert refused == "This needs pandas: pip install 'imcl-core[study]'."
    assert not Path(place).is_relative_to(ROOT)


def test_it_trains_on_arrays_of_ones_own(plain, tmp_path):
    draw = np.random.default_rng(0)
    arrays = {"classes": [str(c) for c in range(10)]}
    for split, count in (("train", 60), ("test", 20)):
        arrays[f"x_{split}"] = draw.integers(256, size=(count, 32, 32, 3), dtype=np.uint8)
        arrays[f"y_{split}"] = np.arange(count) % 10
    np.savez(tmp_path / "cifar10.npz", **arrays)
    line = "train --dataset cifar10 --methods mid --train-size 40 --epochs 1 --batch-size 20 --quiet --device cpu"
    done = plain(SMALL + COMMAND, *line.split(), "--out", str(tmp_path / "runs"), IMCL_DATA=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "runs").glob("*.json"))) == 1


@pytest.mark.parametrize(
    "line", ["--help", "train --help", "tables --help", "memory --methods mid --model resnet18 --side 32"]
)
def test_commands_work(plain, line):
    done = plain(COMMAND, *line.split())
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("line", "extra"),
    [
        ("train --dataset digits --epochs 1", "digits"),
        ("tables table-1", "study"),
        ("status", "study"),
        ("plan", "study"),
        ("batch table-3 --profile smoke", "study"),
    ],
)
def test_what_needs_an_extra_says_so_in_one_sentence(plain, line, extra):
    done = plain(COMMAND, *line.split())
    assert done.returncode == 2
    (sentence,) = done.stderr.splitlines()
    assert f"pip install 'imcl-core[{extra}]'" in sentence


def test_the_command_of_the_book_says_what_it_needs(plain):
    done = plain("import sys; from imcl_book.cli import main; sys.exit(main(sys.argv[1:]))", "check", "a.ipynb")
    assert done.returncode == 2
    assert done.stderr == "imcl-book check needs nbformat: pip install 'imcl-core[study,book]'.\n"
