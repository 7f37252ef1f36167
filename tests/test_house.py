"""The house in order: documents, commands, versions and code agree with one another."""

import csv
import dataclasses
import importlib
import importlib.util
import inspect
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
import yaml
from imcl_book import cli as book

from imcl_core import Collaboration, DenseSettings, MethodSettings, RunConfig
from imcl_core.errors import ImclError

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "index.md", *sorted((ROOT / "book").glob("*.md"))]
# A phrase for each choice that the paper leaves open, as the page of decisions puts it.
DECIDED = (
    "detached", "factor $T^2$", "Two hidden layers", "average pooling to 1×1", "Max-pool to at most 4×4",
    "each group of VGG-16", "$j = i + 1$", "axis", "Maps of 1×1", "3×3, C to C, no bias", "end values",
    "Divided by $n$", "not the 1×1 shortcuts", "Biased, divided by $G$", "A weight by grid search",
    "Split points", "ImageNet32", "Nesterov", "left over", "mean of their logits", "keep their bias",
    "random stream", "digits are never flipped", "the same for every method",
)  # fmt: skip


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def project() -> dict:
    return tomllib.loads(text("pyproject.toml"))["project"]


def extension():
    spec = importlib.util.spec_from_file_location("pages", ROOT / "book/imcl_book/sphinx/pages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def requirements(file: str = "requirements.txt") -> dict[str, str]:
    lines = [line for line in text(file).splitlines() if line and not line.startswith("#")]
    pins = dict(line.split("==") for line in lines)
    return {name.lower(): version for name, version in pins.items()}


def bounds() -> dict[str, str]:
    """Every dependency in pyproject.toml by name, with its lower bound."""
    listed = [
        *project()["dependencies"],
        *(d for extra in project()["optional-dependencies"].values() for d in extra),
    ]
    return {name: low for name, low in (re.match(r"([\w-]+)>=([\d.]+)", line).groups() for line in listed)}


def numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.split("post")[0]))


def test_each_dependency_is_pinned_once_at_or_above_its_lower_bound():
    pinned = {name: low for name, low in bounds().items() if name != "ray"}  # for clusters; not part of `make setup`
    assert requirements().keys() == pinned.keys()
    for name, low in pinned.items():
        assert numbers(requirements()[name]) >= numbers(low), name


def test_what_is_not_needed_is_pinned_apart():
    group = tomllib.loads(text("pyproject.toml"))["dependency-groups"]["others"]
    low = dict(line.split(">=") for line in [*group, *project()["optional-dependencies"]["cluster"]])
    pinned = requirements("requirements-others.txt")
    assert pinned.keys() == low.keys()
    assert all(numbers(pinned[name]) >= numbers(low[name]) for name in low)


def test_each_third_party_import_of_the_packages_is_declared():
    modules = {"PIL": "pillow", "sklearn": "scikit-learn", "docutils": "sphinx", "jupyter_client": "jupyter-client"}
    imported = set()
    for file in [*(ROOT / "imcl_core").rglob("*.py"), *(ROOT / "book" / "imcl_book").rglob("*.py")]:
        imported |= set(re.findall(r"^\s*(?:import|from) (\w+)", file.read_text(encoding="utf-8"), re.MULTILINE))
    third_party = imported - set(sys.stdlib_module_names) - {"imcl_core", "imcl_book"}
    assert {modules.get(name, name) for name in third_party} <= bounds().keys()


def test_readme_is_short_and_its_commands_exist():
    assert len(text("README.md").splitlines()) < 100
    commands = re.findall(r"^make (\w+)", text("README.md"), re.MULTILINE)
    targets = re.findall(r"^(\w+):.*## ", text("Makefile"), re.MULTILINE)
    assert commands == ["book", "test"]
    assert set(commands) <= set(targets)
    for name in re.findall(r"\$\(BOOK\) (\w+)", text("Makefile")):
        with pytest.raises(SystemExit, match="0"):
            book.main([name, "--help"])
    assert re.search(r"^exec make test$", text(".ci/run"), re.MULTILINE)


def test_readme_python_example_runs():
    (example,) = re.findall(r"```python\n(.*?)```", text("README.md"), re.DOTALL)
    names = {}
    exec(example.replace("torch.save", "_ ="), names)
    assert all(p.grad is not None for p in names["network"].parameters())


def test_the_extras_of_the_readme_exist():
    (named,) = re.findall(r"pip install '\.\[([\w,]+)\]'", text("README.md"))
    assert set(named.split(",")) <= project()["optional-dependencies"].keys()


def test_the_command_line_of_the_readme_exists(capsys):
    module, function = project()["scripts"]["imcl"].split(":")
    main = getattr(importlib.import_module(module), function)
    (line,) = re.findall(r"imcl (train .*)", text("README.md"))
    with pytest.raises(SystemExit, match="0"):
        main(["train", "--help"])
    shown = capsys.readouterr().out
    assert all(re.search(rf"{option}\b", shown) for option in re.findall(r"--\w+", line))


def code_names() -> list[str]:
    """What stands in the last column of the notation page, `module.name` or `Class.name`."""
    rows = [line for line in text("book/notation.md").splitlines() if line.startswith("| $")]
    return sorted({name for row in rows for name in re.findall(r"(?<!\})`([\w.]+)`", row.rsplit("|", 2)[1])})


def module(name: str):
    """A module of the core by its last name, whatever room it is in."""
    files = [*(ROOT / "imcl_core").rglob(f"{name}.py"), *(ROOT / "imcl_core").rglob(f"{name}/__init__.py")]
    (path,) = (file.relative_to(ROOT).with_suffix("") for file in files)
    return importlib.import_module(".".join(path.parts).removesuffix(".__init__"))


def resolve(name: str):
    """The thing that `module.name` or `Class.name` stands for."""
    first, *rest = name.split(".")
    start = {"Collaboration": Collaboration(torch.nn.Flatten()), "RunConfig": RunConfig}
    thing = start.get(first) or module(first)
    for part in rest:
        inner = f"{getattr(thing, '__name__', '')}.{part}"
        is_module = inspect.ismodule(thing) and not hasattr(thing, part)
        thing = importlib.import_module(inner) if is_module else getattr(thing, part)
    return thing


@pytest.mark.parametrize("name", [name for name in code_names() if "." in name])
def test_each_code_name_of_the_notation_page_exists(name):
    resolve(name)


def test_each_argument_the_notation_page_names_exists():
    rows = re.findall(r"`(\w+)` in `([\w.]+)`", text("book/notation.md"))
    assert len(rows) >= 4
    for argument, name in rows:
        assert argument in inspect.signature(resolve(name)).parameters, name


@pytest.mark.parametrize("phrase", DECIDED)
def test_each_decision_has_its_row(phrase):
    rows = [line for line in text("book/decisions.md").splitlines() if line.startswith("| ")]
    assert any(phrase in row for row in rows)


def shown_settings() -> set[str]:
    return {name for page in PAGES for name in re.findall(r"\{setting\}`(\w+)`", page.read_text(encoding="utf-8"))}


def test_each_setting_of_a_method_is_on_the_pages_with_its_default():
    methods = {field.name for field in dataclasses.fields(MethodSettings)}
    every = [*dataclasses.fields(RunConfig), *dataclasses.fields(DenseSettings)]
    assert methods <= shown_settings() <= {field.name for field in every}
    for field in every:
        shown = field.name if field.default is None else f"{field.name} = {field.default!r}"
        assert extension().setting_text(field.name) == shown


def test_no_sentence_runs_through_a_setting_and_its_default():
    """`with {setting}` reads "with mid_own = False", which is not what was meant."""
    page = text("book/decisions.md")
    assert not re.findall(r"\b(?:with|the|of|twice) \{setting\}`\w+`|\{setting\}`\w+` (?:switches|of)", page)
    assert "`mid_own=True` is as printed" in page and not RunConfig().mid_own


def test_what_the_decisions_say_of_switches_is_what_they_are():
    config = RunConfig()
    assert config.out_detach and config.pp_normalise
    assert not (config.out_t_squared or config.nesterov or config.validation)
    assert (config.attach, config.pp_centre) == ("layers", "sample")
    assert (config.mid_pool, config.mid_width) == (4, 128)


def test_paper_figures_are_looked_up_and_mistakes_named():
    value = extension().paper_value
    assert value("table1/cifar100/resnet18/baseline") == "22.98"
    assert value("table2/stl10/resnet18/baseline - table2/stl10/resnet18/mid+pull-push+kernel") == "9.28"
    with pytest.raises(ImclError, match=r"Did you mean 'table1/cifar10/vgg16/mid'"):
        value("table1/cifar10/vgg16/mit")


def test_the_claims_in_the_preface_are_the_best_of_the_paper():
    with (ROOT / "imcl_core/study/paper.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["source"] in ("table1", "table2")]
    for line in re.findall(r"^\| .*\{paper\}.*$", text("book/preface.md"), re.MULTILINE):
        _, single, best = (key.split("/") for key in re.findall(r"\{paper\}`([^`]+)`", line))
        values = {r["method"]: float(r["value"]) for r in rows if (r["dataset"], r["model"]) == tuple(single[1:3])}
        combinations = {method for method in values if "+" in method}
        singles = values.keys() - combinations - {"baseline", "baseline-2x"}
        assert values[single[3]] == min(values[method] for method in singles), line
        assert values[best[3]] == min(values[method] for method in combinations), line


def test_the_table_of_contents_names_every_page_and_notebook():
    toc = yaml.safe_load(text("_toc.yml"))
    named = [toc["root"], *(chapter["file"] for part in toc["parts"] for chapter in part["chapters"])]
    files = [*PAGES, *(ROOT / "notebooks").glob("*.ipynb")]
    assert sorted(named) == sorted(file.relative_to(ROOT).with_suffix("").as_posix() for file in files)


def test_the_book_is_built_from_executed_notebooks_and_fetches_nothing():
    config = yaml.safe_load(text("_config.yml"))
    assert config["execute"]["execute_notebooks"] == "off"
    assert config["only_build_toc_files"] is True
    assert "sphinx-mathjax-offline" in config["sphinx"]["extra_extensions"]
    assert (ROOT / config["html"]["favicon"]).exists()


def test_no_tracked_file_holds_a_path_of_a_machine():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    paths = re.compile(rf"{re.escape(str(ROOT))}/|(?<![\w.])/(?:home|Users|root|work)/\w")
    for name in filter(None, listed.split("\0")):
        if name != "tests/book/test_checks.py" and (ROOT / name).exists():  # not one that was moved just now
            assert not paths.search((ROOT / name).read_text(encoding="utf-8", errors="ignore")), name
