"""Colab: the first cell does what it says and no more, and every notebook runs with what Colab has.

The second half builds an environment with PyTorch in it and runs the whole book: `make colab` asks for it by
`IMCL_COLAB`, the Python to use, or `newest` for the newest of 3.13 and 3.12 that can be found.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from imcl_book import checks, cli, colab, execute, stamps
from imcl_book.first_cell import for_colab
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from imcl_core import RunConfig
from imcl_core.files import locked
from imcl_core.measure import memory
from imcl_core.study import plan
from imcl_core.study.notebook import dumps, normalise, read

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted(ROOT.glob("notebooks/*.ipynb"))
LIST = ROOT / "book" / "colab-preinstalled.txt"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DEPENDENCIES = [*PROJECT["dependencies"], *(d for name in colab.EXTRAS for d in PROJECT["optional-dependencies"][name])]
BOUNDS = dict(requirement.split(">=") for requirement in DEPENDENCIES)
COLAB = {name: f"{low}.0" for name, low in BOUNDS.items()} | {"torch": f"{BOUNDS['torch']}.0+cu128"}
PIP = """import pathlib, sys
constraints = pathlib.Path(sys.argv[sys.argv.index("--constraint") + 1]).read_text().split()
print("pip", *[a for a in sys.argv[1:] if not a.endswith(".txt")], "|", *constraints, flush=True)
"""
TORCH = """class cuda:
    is_available = staticmethod(lambda: {gpu!r} is not None)
    get_device_name = staticmethod(lambda: {gpu!r})
"""
AFTER = 'import os, sys; print("AFTER", os.getcwd(), os.environ.get("IMCL_PROFILE"), "imcl_core" in sys.modules)'
FOUND = """from importlib.util import find_spec
print(*(find_spec(name).submodule_search_locations[0] for name in ("imcl_core", "imcl_book")), flush=True)"""


def session(folder: Path, installed: dict[str, str], gpu: str | None = None) -> dict[str, str]:
    """The environment of a Python with nothing but its own library and, by name only, these distributions."""
    for name, version in installed.items():
        info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (folder / "pip").mkdir()
    (folder / "pip" / "__init__.py").touch()
    (folder / "pip" / "__main__.py").write_text(PIP)
    (folder / "torch.py").write_text(TORCH.format(gpu=gpu))
    return os.environ | {"PYTHONPATH": str(folder)}


def run(source: str, cwd: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """The cell, then where it left the session, in a Python without site-packages."""
    cwd.mkdir(exist_ok=True)
    command = [sys.executable, "-S", "-c", f"{source}\n{AFTER}"]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)


def copy(folder: Path) -> Path:
    """What a clone of the book has, as far as the cell goes."""
    for name in ("book/imcl_book/colab.py", "pyproject.toml"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    (folder / "notebooks").mkdir()
    return folder


@pytest.fixture
def cell(tmp_path) -> str:
    return colab.cell(tmp_path / "no such file")


def test_where_the_package_is_installed_the_cell_does_nothing(tmp_path, cell):
    package = tmp_path / "site" / "imcl_core"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("print('imported')")
    done = run(cell, tmp_path / "here", os.environ | {"PYTHONPATH": str(tmp_path / "site")})
    assert (done.stdout, done.stderr) == (f"AFTER {tmp_path / 'here'} None False\n", "")
    assert not list((tmp_path / "here").iterdir())


@pytest.mark.parametrize(("gpu", "profile"), [(None, "smoke"), ("Tesla T4", "t4")])
def test_with_all_that_colab_has_nothing_is_installed(tmp_path, cell, gpu, profile):
    book, env = copy(tmp_path / "book"), session(tmp_path / "site", COLAB, gpu)
    done = run(cell, tmp_path / "here", env | {"IMCL_SOURCE": str(book)})
    assert done.returncode == 0, done.stderr
    first, *hint, last = done.stdout.splitlines()
    assert first.endswith(f"torch {COLAB['torch']}, numpy {COLAB['numpy']}, {gpu or 'no GPU'}.")
    assert bool(hint) == (gpu is not None)
    assert last == f"AFTER {book / 'notebooks'} {profile} False"
    assert not list((tmp_path / "here").iterdir())


def test_what_is_missing_is_installed_and_all_else_kept_as_it_is(tmp_path, cell):
    there = {name: version for name, version in COLAB.items() if name not in ("tqdm", "scikit-learn")}
    book, env = copy(tmp_path / "book"), session(tmp_path / "site", there)
    (line, *_) = run(cell, tmp_path / "here", env | {"IMCL_SOURCE": str(book)}).stdout.splitlines()
    asked, kept = line.split(" | ")
    missing = [requirement for requirement in DEPENDENCIES if re.match("tqdm|scikit-learn", requirement)]
    assert asked.split() == ["pip", "install", "--quiet", "--constraint", *missing]
    assert set(kept.split()) == {f"{name}=={version}" for name, version in there.items()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"torch": "2.5.1+cu124"}, "This session has torch 2.5.1+cu124, too old for this book: on Colab choose"),
        ({"torch": None, "tqdm": None}, "This session has no torch: install PyTorch first"),
        ({"numpy": None, "torchvision": None}, "This session has no numpy and no torchvision: install PyTorch first"),
    ],
)
def test_pytorch_and_numpy_are_never_installed(tmp_path, cell, change, message):
    installed = {name: version for name, version in (COLAB | change).items() if version}
    book, env = copy(tmp_path / "book"), session(tmp_path / "site", installed)
    done = run(cell, tmp_path / "here", env | {"IMCL_SOURCE": str(book)})
    assert f"RuntimeError: {message}" in done.stderr
    assert done.stdout == ""


def test_the_address_is_cloned_once(tmp_path):
    address = (copy(tmp_path / "published")).as_uri()
    (tmp_path / "published" / "notebooks" / "1.ipynb").touch()
    author = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    for command in (["init", "--quiet", "-b", "site"], ["add", "."], [*author, "commit", "--quiet", "-m", "1"]):
        subprocess.run(["git", *command], cwd=tmp_path / "published", check=True)
    (tmp_path / "_config.yml").write_text(f'repository:\n  url: "{address}"\n  branch: site\n')
    cell, env = colab.cell(tmp_path / "_config.yml"), session(tmp_path / "fakes", COLAB)
    for _ in range(2):  # the second is a kernel started anew in the same session of Colab
        done = run(cell, tmp_path / "here", env)
        assert done.returncode == 0, done.stderr
        assert f"AFTER {tmp_path / 'here' / 'imcl-book' / 'notebooks'} smoke" in done.stdout
        shutil.rmtree(tmp_path / "published", ignore_errors=True)


def test_in_a_clone_whose_package_is_not_installed_the_clone_is_used(tmp_path, cell):
    book = copy(tmp_path / "book")
    done = run(cell, book / "notebooks", session(tmp_path / "site", COLAB))
    assert f"AFTER {book / 'notebooks'} smoke" in done.stdout


def test_both_packages_can_be_imported_here_and_in_processes_begun_here(tmp_path, cell):
    book = copy(tmp_path / "book")
    for folder in (book / "imcl_core", book / "book" / "imcl_book"):
        folder.mkdir(exist_ok=True)
        (folder / "__init__.py").touch()
    begun = f"import subprocess, sys\nsubprocess.run([sys.executable, '-S', '-c', {FOUND!r}], check=True)"
    env = session(tmp_path / "site", COLAB) | {"IMCL_SOURCE": str(book)}
    done = run(f"{cell}\n{FOUND}\n{begun}", tmp_path / "here", env)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(f"{book / 'imcl_core'} {book / 'book' / 'imcl_book'}\n") == 2


def test_without_an_address_it_says_what_to_do(tmp_path, cell):
    done = run(cell, tmp_path / "here", session(tmp_path / "site", COLAB))
    assert done.stderr.splitlines()[-1] == (
        "RuntimeError: This book has no public address yet: upload imcl-book.zip, made as its page Start says, and run "
        "this cell again."
    )


def test_a_book_that_was_uploaded_is_unpacked_once(tmp_path, cell):
    """As the page that says how to start has it made."""
    (command,) = re.findall(r"`git archive ([^`]*) HEAD`", (ROOT / "book" / "start.md").read_text(encoding="utf-8"))
    book, author = copy(tmp_path / "book"), ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    (book / "notebooks" / "1.ipynb").touch()
    for arguments in (["init", "--quiet"], ["add", "."], [*author, "commit", "--quiet", "-m", "1"]):
        subprocess.run(["git", *arguments], cwd=book, check=True)
    (tmp_path / "here").mkdir()
    archive = command.replace("imcl-book.zip", str(tmp_path / "here" / "imcl-book.zip")).split()
    subprocess.run(["git", "archive", *archive, "HEAD"], cwd=book, check=True)
    env = session(tmp_path / "site", COLAB)
    for _ in range(2):
        assert "imcl-book/notebooks smoke" in run(cell, tmp_path / "here", env).stdout


def test_the_address_is_that_of_the_books_configuration():
    repository = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["repository"]
    source = colab.cell(ROOT / "_config.yml")
    assert f'address = "{repository["url"]}"' in source
    assert f'"--branch={repository["branch"]}"' in source


def chapter(path: Path) -> Path:
    parameters = new_code_cell("seed = 0", metadata={"tags": ["parameters"]})
    body = [new_markdown_cell("text"), parameters, new_code_cell("print(seed)  # imcl_core")]
    path.write_text(dumps(new_notebook(cells=[new_markdown_cell("# Title"), *body])), encoding="utf-8")
    return path


def test_the_command_puts_the_cell_in_once_and_running_it_changes_nothing(tmp_path):
    path, out = chapter(tmp_path / "chapter.ipynb"), tmp_path / "out.ipynb"
    execute.execute(path)
    digest = stamps.code_digest(path)
    assert ["must begin with the cell for Colab" in finding for finding in checks.check([path])] == [True]
    assert cli.main(["colab", str(path)]) == 0
    written = path.read_bytes()
    title, first, *_ = read(path).cells
    assert (title.source, first.source) == ("# Title", colab.cell(ROOT / "_config.yml"))
    assert "remove-cell" in first.metadata.tags
    assert checks.check([path]) == []
    assert stamps.code_digest(path) == digest  # what is on record of its last execution holds
    assert not execute.execute(path)
    cli.main(["colab", str(path)])
    assert path.read_bytes() == written
    execute.execute(path, out, {"seed": 3})  # parameters are injected below the cell
    assert read(out).cells[-1].outputs[0].text == "3\n"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda cells: cells[1].update(source=cells[1].source.replace("--depth=1", "--depth=2")),
        lambda cells: cells.insert(3, cells.pop(1)),
        lambda cells: cells.insert(2, cells[1]),
        lambda cells: cells[1].outputs.append(new_output("stream", text="Python 3.13.0\n")),
    ],
    ids=["another", "too late", "twice", "run on Colab"],
)
def test_the_gate_refuses_any_other_first_cell_and_the_command_mends_it(tmp_path, spoil):
    notebook = for_colab(read(chapter(tmp_path / "chapter.ipynb")))
    for cell in notebook.cells[2:]:
        cell.update({"execution_count": 1} if cell.cell_type == "code" else {})
    path = tmp_path / "chapter.ipynb"
    path.write_text(dumps(normalise(notebook)), encoding="utf-8")
    assert checks.check([path]) == []
    right = path.read_bytes()
    spoil(notebook.cells)
    path.write_text(dumps(normalise(notebook)), encoding="utf-8")
    (finding,) = checks.check([path])
    assert "must begin with the cell for Colab: run `.venv/bin/imcl-book colab" in finding
    cli.main(["colab", str(path)])
    assert path.read_bytes() == right


def test_what_the_list_has_of_the_dependencies_is_new_enough():
    listed = dict(re.findall(r"^([\w-]+)==([\d.]+)\.\*$", LIST.read_text(encoding="utf-8"), re.MULTILINE))
    assert {"torch", "torchvision", "numpy"} <= listed.keys()  # the cell never installs these
    for name in BOUNDS.keys() & listed.keys():
        assert colab._numbers(listed[name]) >= colab._numbers(BOUNDS[name]), name


def test_the_list_follows_what_pip_says_on_colab():
    freeze = "PyYAML==6.0.3\njupyter_client==7.4.9\nx @ git+https://a/b@c0\ntorch @ https://a/cu1/torch-2.11.0%2Bcpu-cp313.whl\n"
    listed = "# comment\ntorch==2.10.*\njupyter-client==7.3.*\ngone==1.0.*\npyyaml==6.0.*\n"
    assert colab.preinstalled(listed, freeze) == "# comment\ntorch==2.11.*\njupyter-client==7.4.*\npyyaml==6.0.*\n"


@pytest.mark.parametrize(
    ("dataset", "methods"),
    [("stl10", "baseline-2x"), ("imagenet32", "baseline-2x"), ("cifar100", "multi-instance"), ("cifar100", "tree")],
)
def test_the_dearest_runs_of_the_profile_t4_are_planned_in_half_of_20_minutes(dataset, methods):
    config = RunConfig(dataset=dataset, methods=methods, profile="t4")
    assert plan.hours([config], "T4")[0] * 60 < 10
    assert config.width == (2 if methods == "baseline-2x" else 1)


def test_the_largest_run_of_the_profile_t4_fits_its_memory():
    config = RunConfig(dataset="stl10", methods="out+mid+pull-push+kernel", profile="t4")
    assert memory.count(config, half=True).total < 12e9  # a T4 has 15 GB to give


# From here on with a real environment.

whole = pytest.mark.skipif(not os.environ.get("IMCL_COLAB"), reason="`make colab` runs the notebooks as Colab would.")


def find_python(wanted: str) -> str:
    """The Python of that name; for `newest` the newest of 3.13 and 3.12 there is, else the one of the tests."""
    if wanted != "newest":
        return wanted
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for version in ("3.13", "3.12"):
        for found in [shutil.which(f"python{version}"), *sorted(versions.glob(f"{version}.*/bin/python"))]:
            if found and f"Python {version}." in subprocess.run([found, "-V"], capture_output=True, text=True).stdout:
                return str(found)
    return sys.executable


def packages(python: Path) -> Path:
    """The folder that a virtual environment's packages lie in."""
    return next(python.parents[1].glob("lib/python*/site-packages"))


@pytest.fixture(scope="session")
def preinstalled() -> Path:
    """The Python of an environment with what Colab preinstalls, made once for each content of the list."""
    base = find_python(os.environ["IMCL_COLAB"])
    version = subprocess.run([base, "-V"], capture_output=True, text=True, check=True).stdout
    name = hashlib.sha256(version.encode() + LIST.read_bytes()).hexdigest()[:12]
    folder = ROOT / ".cache" / f"colab-{name}"
    python = folder / "bin" / "python"
    with locked(folder.with_suffix(".lock"), wait=True):
        if not (folder / "complete").exists():
            subprocess.run([base, "-m", "venv", "--clear", folder], check=True)
            subprocess.run([python, "-m", "pip", "install", "--quiet", "-r", LIST], check=True)
            (folder / "complete").touch()
    return python


@pytest.fixture
def kernel(preinstalled, tmp_path, monkeypatch) -> Path:
    """The Python of a fresh environment that finds Colab's packages and nothing else."""
    fresh = tmp_path / "fresh"
    subprocess.run([preinstalled, "-m", "venv", "--without-pip", fresh], check=True)
    python = fresh / "bin" / "python"
    (packages(python) / "colab.pth").write_text(f"{packages(preinstalled)}\n")
    for name in ("PYTHONPATH", "MPLBACKEND", "VIRTUAL_ENV"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("IMCL_SOURCE", str(ROOT))
    return python


@whole
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_notebook_runs_as_on_colab(path, kernel, tmp_path):
    here, out = tmp_path / "content", tmp_path / "out.ipynb"
    here.mkdir()
    execute.execute(path, out, cwd=here, python=kernel)
    first = next(cell for cell in read(out).cells if cell.cell_type == "code")
    version = subprocess.run([kernel, "-V"], capture_output=True, text=True).stdout.strip()
    assert first.outputs[0].text.startswith(f"{version}, torch ")
    assert not {"torch", "torchvision", "numpy"} & {file.name for file in packages(kernel).iterdir()}
    assert not list(here.iterdir())


@whole
def test_pip_installs_what_is_missing_and_nothing_else(kernel, cell, tmp_path):
    book = copy(tmp_path / "book")
    project = book / "pyproject.toml"
    project.write_text(project.read_text().replace('"tqdm>', '"iniconfig>=2.0",\n"tqdm>'))  # not in the list
    command = [kernel, "-c", f"{cell}\nimport iniconfig"]
    done = subprocess.run(
        command, env=os.environ | {"IMCL_SOURCE": str(book)}, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    added = {file.name.split("-")[0] for file in packages(kernel).iterdir()}
    assert added == {"colab.pth", "iniconfig"}
