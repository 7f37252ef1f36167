"""CONTRIBUTING.md to the letter: its changes, files and commands, applied to a copy of the package."""

import ast
import json
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from imcl_core import RunConfig
from imcl_core.methods import Term

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
COMMANDS = {".venv/bin/imcl": (sys.executable, "-m", "imcl_core.cli"), ".venv/bin/python": (sys.executable,)}


def section(title: str) -> str:
    return re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL).group(1)


def blocks(text: str) -> list[tuple[str, str]]:
    """Language and content of each fenced block."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def targets() -> set[str]:
    return set(re.findall(r"^(\w+):.*## ", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for folder in ("imcl_core", "book", "tests"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def apply(diff: str, folder: Path) -> None:
    """Replaces the one place that a hunk's lines without `+` name by its lines without `-`, where that is not done."""
    path = folder / re.search(r"^\+\+\+ b/(\S+)$", diff, re.MULTILINE).group(1)
    for hunk in re.split(r"^@@\n", diff, flags=re.MULTILINE)[1:]:
        lines = [line or " " for line in hunk.splitlines()]
        before, after = ("".join(f"{x[1:]}\n" for x in lines if x[0] in kept) for kept in (" -", " +"))
        text = path.read_text(encoding="utf-8")
        if after in text:  # by a reader who follows the page in the clone itself
            continue
        assert text.count(before) == 1, f"{path.name} has {text.count(before)} times:\n{before}"
        path.write_text(text.replace(before, after), encoding="utf-8")


def run(command: str, folder: Path) -> str:
    """A command of the page in the copy; `make` is left to those who read it."""
    words = shlex.split(command, comments=True)
    if not words or words[0] == "make":
        assert set(words[1:]) <= targets()
        return ""
    settings = dict(word.split("=", 1) for word in words if re.match(r"[A-Z_]+=", word))
    program, *arguments = words[len(settings) :]
    done = subprocess.run(
        [*COMMANDS[program], *arguments],
        cwd=folder,
        env=os.environ | settings | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def follow(title: str, folder: Path) -> str:
    """Does what a section says, block by block; what its commands printed."""
    printed = ""
    for language, content in blocks(section(title)):
        if language == "diff":
            apply(content, folder)
        elif language == "python":
            (folder / re.match(r"# (\S+)\n", content).group(1)).write_text(content, encoding="utf-8")
        else:
            printed += "".join(run(line, folder) for line in content.splitlines())
    return printed


def outcome(folder: Path) -> tuple[str, dict]:
    """Name and last epoch of the one record in `runs`, which this package may not know how to read."""
    (path,) = (folder / "runs").glob("*.json")
    content = json.loads(path.read_text(encoding="utf-8"))
    return content["name"], content["curve"][-1]


def test_a_method_is_added_as_the_page_says(copy):
    assert "2 passed" in follow("Add a method", copy)
    name, epoch = outcome(copy)
    assert name.startswith("digits-resnet18-mid+confidence-smoke-")
    assert -0.1 * math.log(10) <= epoch["terms"]["confidence"] < 0  # the weight times a negative entropy
    assert "confidence" in run(".venv/bin/imcl tables neighbours --results runs", copy)
    decisions = (copy / "book/decisions.md").read_text(encoding="utf-8")
    assert "{setting}`confidence_weight`" in decisions  # tests/test_house.py asks for it
    code = "from imcl_core import RunConfig; print(RunConfig(methods='mid', seed=3).name)"
    unchanged = RunConfig(methods="mid", seed=3).name  # records made before are found after: step 3 sees to it
    assert run(f'.venv/bin/python -c "{code}"', copy).strip() == unchanged


def test_a_data_set_is_added_as_the_page_says(copy):
    printed = follow("Add a data set", copy)
    assert "400 training and 100 test images of 32×32" in printed
    name, epoch = outcome(copy)
    assert name.startswith("stripes-")
    assert epoch["epoch"] == 2


@pytest.mark.parametrize("title", ["Add a method", "Add a data set"])
def test_the_tests_pass_where_the_page_was_followed_in_the_clone(title, copy):
    hunks = [content for language, content in blocks(section(title)) if language == "diff"]
    for content in hunks:
        apply(content, copy)
    followed = {path: path.read_bytes() for path in copy.rglob("*.*") if path.is_file()}
    for content in hunks:
        apply(content, copy)
    assert {path: path.read_bytes() for path in followed} == followed


def test_the_functions_and_files_the_page_sends_you_to_exist():
    text = re.sub(r"^```.*?^```$", "", section("Add a method"), flags=re.MULTILINE | re.DOTALL)
    functions, files = re.findall(r"`([a-z]+)`", text), re.findall(r"`(methods/\w+\.py)`", text)
    assert {"attach", "head", "read", "change", "images"} == set(functions) and len(files) >= 4
    assert all(callable(vars(Term)[name]) for name in functions)
    assert all((ROOT / "imcl_core" / name).exists() for name in files)


def test_the_strangers_walk_leads_through_five_files_and_what_they_hold():
    steps = re.findall(r"^\d+\. `([\w/]+\.py)`, `(\w+)`: .*$", section("A stranger's walk"), re.MULTILINE)
    lines = section("A stranger's walk").strip().splitlines()
    assert len(steps) == len(lines) - 2 <= 10 and len({file for file, _ in steps}) == 5
    for file, name in steps:
        tree = ast.parse((ROOT / "imcl_core" / file).read_text(encoding="utf-8"))
        held = {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.ClassDef)}
        assert name in held, f"{file} has no {name}"


def test_set_up_takes_three_lines_whose_targets_exist():
    (language, content), *_ = blocks(section("Set up"))
    commands = content.splitlines()
    assert (language, len(commands)) == ("bash", 3)
    named = {name for line in commands for name in re.findall(r"^make (\w+)", line)}
    assert {"setup", "test"} == named <= targets()


def room(name: str) -> list[Path]:
    """The files of a package or of a module, by the last part of its name."""
    places = [p for house in ("imcl_core", "book") for p in (ROOT / house).rglob("*")]
    found = min((p for p in places if p.stem == name and _holds(p)), key=lambda p: len(p.parts))
    return list(found.rglob("*.py")) if found.is_dir() else [found]


def _holds(path: Path) -> bool:
    return path.suffix == ".py" or (path / "__init__.py").exists()


def uses(name: str) -> set[str]:
    """The parts of all names that a room imports of the package, anywhere in it."""
    found = set()
    for path in room(name):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "imcl_core":
                found |= {*node.module.split("."), *(alias.name for alias in node.names)}
    return found


def test_each_arrow_of_the_picture_is_an_import_and_none_goes_back():
    ((_, picture),) = [block for block in blocks(section("The house in one picture")) if block[0] == "mermaid"]
    arrows = re.findall(r"^  (\w+)(?:\[.*?\])? --> (\w+)", picture, re.MULTILINE)
    assert len(arrows) == len([line for line in picture.splitlines() if "-->" in line]) > 10
    for user, used in arrows:
        assert used in uses(user), f"{user} --> {used}"
        assert user not in uses(used), f"{used} uses {user}"
