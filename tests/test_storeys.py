"""The house stands: arrows between storeys point downwards, its first one is light to enter, no room is too large."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CORE, STUDY, BOOK = ROOT / "imcl_core", ROOT / "imcl_core" / "study", ROOT / "book" / "imcl_book"
PYTHON = [file for name in ("imcl_core", "book", "tests", "benchmarks") for file in sorted((ROOT / name).rglob("*.py"))]
LONGEST_FILE, LONGEST_FUNCTION = 450, 40  # lines
HEAVY = {"matplotlib", "pandas", "scipy", "sklearn", "nbformat", "papermill", "PIL", "sphinx", "ray"}
LAZILY = {  # the only places of the core that import more, each inside a function that says what is missing
    "imcl_core/cli.py": {"imcl_core.study"},
    "imcl_core/collaboration.py": {"pandas"},
    "imcl_core/data/sets.py": {"sklearn"},
}


def imports(file: Path) -> Iterator[tuple[str, bool]]:
    """Every module that a file imports, with whether it does so inside a function; not those for type checkers."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    inner = {node for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) for node in ast.walk(f)}
    checking = {
        node
        for test in ast.walk(tree)
        if isinstance(test, ast.If) and ast.unparse(test.test) == "TYPE_CHECKING"
        for node in ast.walk(test)
    }
    for node in ast.walk(tree):
        if node in checking:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, node in inner) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}: a relative import"
            yield from ((f"{node.module}.{alias.name}", node in inner) for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "needed":
            yield ast.literal_eval(node.args[0]), node in inner


def upwards(file: Path, forbidden: set[str]) -> set[tuple[str, bool]]:
    """The imports of a file that lie in `forbidden` packages, by the package's name."""
    found = set()
    for module, inside in imports(file):
        found |= {(name, inside) for name in forbidden if f"{module}.".startswith(f"{name}.")}
    return found


def files(folder: Path, but: Path | None = None) -> list[Path]:
    return [file for file in sorted(folder.rglob("*.py")) if but is None or but not in file.parents]


@pytest.mark.parametrize("file", files(CORE, but=STUDY), ids=lambda file: file.relative_to(ROOT).as_posix())
def test_the_core_knows_neither_study_nor_book_and_needs_little(file):
    allowed = {(name, True) for name in LAZILY.get(file.relative_to(ROOT).as_posix(), ())}
    assert upwards(file, {"imcl_core.study", "imcl_book", *HEAVY}) <= allowed


@pytest.mark.parametrize("file", files(STUDY), ids=lambda file: file.relative_to(ROOT).as_posix())
def test_the_study_knows_no_book(file):
    assert not upwards(file, {"imcl_book", "sphinx", "PIL"})


def test_an_arrow_upwards_is_seen(tmp_path):
    file = tmp_path / "a.py"
    file.write_text("import pandas as pd\n\ndef f():\n    from imcl_core import study\n    import matplotlib.pyplot\n")
    assert upwards(file, {"imcl_core.study", "imcl_book", *HEAVY}) == {
        ("pandas", False), ("imcl_core.study", True), ("matplotlib", True)
    }  # fmt: skip


def test_importing_the_core_brings_torch_and_numpy_and_nothing_heavier():
    code = "import sys, torch\nbefore = set(sys.modules)\n"
    code += "from imcl_core import Collaboration, train\nprint(*(set(sys.modules) - before))"
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    brought = {name.partition(".")[0] for name in done.stdout.split()}
    third_party = brought - set(sys.stdlib_module_names)
    assert third_party <= {"imcl_core", "numpy", "torch", "tqdm", "filelock"}
    heavy = {"torch._dynamo", "torch._inductor", "torch.fx.experimental.symbolic_shapes", "imcl_core.study"}
    assert not heavy & set(done.stdout.split())


def test_what_torch_compile_leaves_alone_is_marked_without_importing_the_compiler():
    """`torch.compiler.disable` at import costs a second."""
    for file in files(CORE):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        decorators = [ast.unparse(decorator) for function in functions for decorator in function.decorator_list]
        assert not [name for name in decorators if name.startswith("torch.compiler")], file


@pytest.mark.parametrize("file", PYTHON, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_no_file_is_long_and_no_function(file):
    text = file.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LONGEST_FILE
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert not {f.name: f.end_lineno - f.lineno + 1 for f in functions if f.end_lineno - f.lineno >= LONGEST_FUNCTION}
