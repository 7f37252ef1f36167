"""Pages for reference and files for those who carry on: what they say of the book and the code is so."""

import importlib.util
import math
import re
import shutil
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import nbformat
import pytest
import torch
import yaml
from formulas import symbols
from imcl_book import cli as book

from imcl_core import Collaboration, DenseSettings, RunConfig, Tree, cli, losses
from imcl_core.networks import ConvUnit, build
from imcl_core.networks.classifier import LocalClassifier, hierarchical_dropout, make_classifier

ROOT = Path(__file__).parents[2]
BOOK = ROOT / "book"
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))


@cache
def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@cache
def cells(name: str) -> list[nbformat.NotebookNode]:
    return nbformat.reads(text(name), as_version=4).cells


def prose(name: str) -> str:
    """A page, or the Markdown cells of a notebook."""
    if not name.endswith(".ipynb"):
        return text(name)
    return "\n\n".join(cell.source for cell in cells(name) if cell.cell_type == "markdown")


def plain(words: str) -> str:
    """Words as they compare: in lower case, neither joined nor set off."""
    return re.sub(r"[-_]", " ", words.lower()).replace("*", "")


def links(page: str) -> list[tuple[str, str]]:
    """File, from the root, and anchor of every link of a page to another page of the book."""
    found = re.findall(r"\]\(([^)\s#:]+)(?:#([\w-]+))?\)", text(page))
    base = (ROOT / page).parent
    return [((base / file).resolve().relative_to(ROOT).as_posix(), anchor) for file, anchor in found]


def anchors(name: str) -> set[str]:
    titles = re.findall(r"^#{1,3} (.+)$", prose(name), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", ["prerequisites", "reading-map", "glossary", "notation", "bibliography"])
def test_each_link_leads_somewhere(page):
    found = links(f"book/{page}.md")
    assert found
    for file, anchor in found:
        assert (ROOT / file).exists(), file
        assert not anchor or anchor in anchors(file), f"{file}#{anchor}"


def test_the_weekend_has_every_chapter_or_spans_it():
    weekend = text("book/reading-map.md").split("## In a weekend")[1]
    named = set(map(int, re.findall(r"notebooks/(\d+)-", weekend)))
    chapters = {int(file.name.partition("-")[0]) for file in (ROOT / "notebooks").glob("[0-9]*-*.ipynb")}
    spans = re.findall(r"\[(\d+)\]\([^)]*\) to \[(\d+)\]", weekend)
    assert {n for first, last in spans for n in range(int(first), int(last) + 1)} == chapters >= named


def test_the_answers_of_the_self_check():
    page = text("book/prerequisites.md")
    x = torch.randn(4, 10)
    assert (x - x.mean(dim=1, keepdim=True)).shape == x.shape
    with pytest.raises(RuntimeError):
        x - x.mean(dim=1)
    sure, wrong = losses.F.softmax(torch.tensor([2.0, 0.0]), dim=0).tolist()
    assert f"\n{sure:.2f}, since" in page
    assert f"\\log {wrong:.2f} \\approx {-math.log(wrong):.1f}$" in page
    layer = ConvUnit(16, 32)
    assert f"= {layer.conv.weight.numel()}$ weights" in page
    assert sum(p.numel() for p in layer.bn.parameters()) == 2 * 32
    assert page.count("{dropdown}") == page.count("If not:") == 4


# --- the glossary -----------------------------------------------------------------------------------------------------


def glossary() -> dict[str, str]:
    (body,) = re.findall(r"```\{glossary\}\n(.*?)```", text("book/glossary.md"), re.DOTALL)
    entries = [entry.split("\n", 1) for entry in body.strip().split("\n\n")]
    assert len({name for name, _ in entries}) == len(entries)
    return dict(entries)


def test_the_glossary_is_in_order_short_and_names_a_chapter():
    entries = glossary()
    assert list(entries) == sorted(entries, key=str.lower)
    for name, meaning in entries.items():
        words = re.sub(r"\{cite:p\}`[^`]*`|\]\([^)]*\)|\{term\}", "", meaning).split()
        assert len(words) <= 60, name
        assert "../notebooks/" in meaning or "{term}" in meaning, name


@pytest.mark.parametrize("name", [name for name, meaning in glossary().items() if "../notebooks/" in meaning])
def test_each_word_of_the_glossary_is_at_work_where_it_says(name):
    stem = plain(re.sub(r"(ed|s)$", "", name))
    pages = re.findall(r"\]\(\.\./(notebooks/[^)]*)\)", glossary()[name])
    assert any(stem in plain(cell.source) for page in pages for cell in cells(page)), pages


def test_each_reference_to_a_word_has_its_entry():
    for page in BOOK.glob("*.md"):
        for shown, target in re.findall(r"\{term\}`([^`<]*?)(?: <([^>]*)>)?`", page.read_text(encoding="utf-8")):
            assert (target or shown) in glossary(), page.name


# --- notation ---------------------------------------------------------------------------------------------------------


def equations() -> dict[str, list[str]]:
    """The tagged equations of the chapters, by the paper's number."""
    found: dict[str, list[str]] = {}
    for file in sorted((ROOT / "notebooks").glob("*.ipynb")):
        for formula in re.findall(r"\$\$(.*?)\$\$", prose(file.relative_to(ROOT).as_posix()), re.DOTALL):
            if number := re.search(r"\\tag\{(\d+)\}", formula):
                found.setdefault(number.group(1), []).append(formula)
    return found


def rows() -> list[list[str]]:
    return [
        re.split(r" *\| *", line.strip("| "))
        for line in text("book/notation.md").splitlines()
        if line.startswith("| $")
    ]


def test_symbols_are_told_from_layout_and_indices():
    formula = r"J_{hard}^{mid}(y, z^{(i)}) = -\sum_{k=1}^{m} y_k \log \psi_k(z^{(i)}; T) \lVert \tilde W_{ik} \rVert_F"
    assert symbols(formula) == {"J_{hard}^{mid}", "y", "z", "i", "k", "m", r"\psi", "T", r"\tilde W"}


def test_all_ten_equations_stand_in_the_chapters():
    assert sorted(map(int, equations())) == list(range(1, 11))


@pytest.mark.parametrize("number", sorted(equations(), key=int))
def test_each_symbol_of_an_equation_is_on_the_page(number):
    page = set().union(*(symbols(formula) for formula in re.findall(r"\$([^$]+)\$", text("book/notation.md"))))
    first = set().union(*(symbols(formula) for row in rows() for formula in re.findall(r"\$([^$]+)\$", row[0])))
    indices = {"i", "j", "k", "h"}
    for formula in equations()[number]:
        assert symbols(formula) - indices <= first
        assert symbols(formula) <= page


H, W, B, M, C, F, K = 4, 4, 5, 3, 6, 7, 3  # H: predictions, and height: the paper has one letter for both
SIZES = {"B": B, "n": B, "m": M, "H": H, "W": W, "C": C, "F": F, "k_h": K, "k_w": K, "G": C * K * K}


def toys() -> dict[str, torch.Tensor]:
    """What the code column names, computed: by symbol and name."""
    torch.manual_seed(0)
    logits, maps, weight = torch.randn(H, B, M), torch.randn(B, C, H, W), torch.randn(F, C, K, K)
    network = build("resnet18", M, width=1 / 64, hidden=8)
    collaboration, tree = Collaboration(network, "out"), Tree(build("resnet18", M, width=1 / 64, hidden=8))
    images, labels = torch.randn(B, 3, 32, 32), torch.zeros(B, dtype=torch.int64)
    collaboration(images, labels)
    one_hot = torch.eye(M)[labels]
    return {
        "y labels": labels,
        "z^{(h)} hierarchical_dropout": hierarchical_dropout(make_classifier(9, 8, M), torch.randn(B, 9)),
        "z^{(i)} LocalClassifier": LocalClassifier(C, (H, W), M)(maps),
        "z^{(N)} logits": collaboration.logits,
        "h^{(i)} ConvUnit": ConvUnit(2, C)(torch.randn(B, 2, H, W)),
        "q^{(h)} peer_targets": losses.peer_targets(logits, 2.0),
        r"\sigma(d) similarity_matrix": losses._MapDeviations.apply(maps),
        "S(d) similarity_matrix": losses.similarity_matrix(maps),
        "S(y) target_similarity": losses.similarity_matrix(one_hot),
        "S(x) input_similarity": losses.similarity_matrix(images),
        "W weight": weight,
        "C kernel_covariance": losses.kernel_covariance(weight),
        "z^{(h)} predictions": tree.predictions(images),
    }


def test_shapes_on_the_page_are_those_that_the_code_returns():
    seen = set()
    for row in rows():
        for key, value in toys().items() if len(row) == 5 else ():
            symbol, name = key.split(" ")
            if row[0] == f"${symbol}$" and re.search(rf"\b{name}`", row[4]):
                shape = [SIZES.get(size.strip(), size) for size in row[2].strip("$()").split(",") if size.strip()]
                assert list(value.shape) == shape, row
                seen.add(key)
    assert seen == toys().keys()


def test_labels_of_one_class_and_of_others_are_as_similar_as_the_page_says():
    similarity = losses.similarity_matrix(torch.eye(M)[torch.tensor([0, 0, 1])])
    torch.testing.assert_close(similarity[0], torch.tensor([1.0, 1.0, -1 / (M - 1)]))


# --- the bibliography -------------------------------------------------------------------------------------------------


def works() -> dict[str, dict[str, str]]:
    entries = re.findall(r"^@(\w+)\{(\w+),\n(.*?)^\}", text("book/references.bib"), re.MULTILINE | re.DOTALL)
    found = {key: dict(re.findall(r"^  (\w+) *= \{(.*)\},?$", body, re.MULTILINE)) for _, key, body in entries}
    assert len(found) == len(entries) == text("book/references.bib").count("\n@") + 1
    return found


def test_each_of_the_papers_nineteen_references_is_listed_and_complete():
    listed = re.findall(r"^\| (\d+) \| \{cite:t\}`(\w+)` \| (.+?) \|", text("book/bibliography.md"), re.MULTILINE)
    assert [int(number) for number, *_ in listed] == list(range(1, 20))
    assert len({key for _, key, _ in listed}) == 19
    assert {key for _, key, _ in listed} <= works().keys()


@pytest.mark.parametrize("key", list(works()))
def test_each_work_is_complete_and_cited(key):
    work = works()[key]
    assert {"author", "title", "year"} <= work.keys()
    assert {"journal", "booktitle", "institution"} & work.keys()
    assert " and " in work["author"] or work["author"].count(",") == 1
    assert re.fullmatch(r"(19|20)\d\d", work["year"]) and work["year"] in key
    cited = "".join(page.read_text(encoding="utf-8") for page in BOOK.glob("*.md")) + text("index.md")
    assert re.search(rf"\{{cite:[pt]\}}`[\w,]*\b{key}\b", cited)


# --- for those who carry on -------------------------------------------------------------------------------------------


def test_the_changelog_keeps_its_form():
    page = text("CHANGELOG.md")
    versions = re.findall(r"^## \[(.+?)\](?: - (\d{4}-\d\d-\d\d))?$", page, re.MULTILINE)
    assert versions[0] == ("Unreleased", "")
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", version) and day for version, day in versions[1:])
    kinds = re.findall(r"^### (.+)$", page, re.MULTILINE)
    assert set(kinds) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    (commands,) = re.findall(r"command line: (.+)\.", page)
    for command in re.findall(r"`(?:imcl )?(\w+)`", commands):
        with pytest.raises(SystemExit, match="0"):
            cli.main([command, "--help"])


def commands_of_the_book(name: str) -> bool:
    """Whether `imcl-book` has this command."""
    with pytest.raises(SystemExit) as end:
        book.main([name, "--help"])
    return end.value.code == 0


def hooks() -> dict[str, dict]:
    repositories = yaml.safe_load(text(".pre-commit-config.yaml"))["repos"]
    assert [repository["repo"] for repository in repositories] == ["local"]
    return {hook["id"]: hook for hook in repositories[0]["hooks"]}


def test_hooks_use_the_tested_versions_or_pin_their_own():
    assert {"ruff-check", "ruff-format", "notebooks", "end-of-file", "big-files"} <= hooks().keys()
    for hook in hooks().values():
        if hook["language"] == "system":
            module, command = re.match(r"\.venv/bin/(?:python -m (\w+)|imcl-book (\w+))", hook["entry"]).groups()
            assert importlib.util.find_spec(module) if module else commands_of_the_book(command), hook["entry"]
        else:
            assert all("==" in pinned for pinned in hook["additional_dependencies"])


def test_the_hook_for_notebooks_sees_them():
    pattern = hooks()["notebooks"]["files"]
    files = [file.relative_to(ROOT).as_posix() for file in (ROOT / "notebooks").glob("*.ipynb")]
    assert files and all(re.search(pattern, name) for name in files)


def workflow(file: Path) -> dict:
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    return content | {"on": content.get(True)}  # YAML 1.1 reads the key `on` as true


def commands(file: Path) -> list[str]:
    steps = [step for job in workflow(file)["jobs"].values() for step in job["steps"]]
    return [line for step in steps for line in step.get("run", "").splitlines()]


def test_there_is_a_workflow_for_each_purpose():
    assert [file.stem for file in WORKFLOWS] == ["book", "colab", "links", "tests"]
    assert {file.stem for file in WORKFLOWS if "schedule" in workflow(file)["on"]} == {"colab", "links"}
    assert any("make test" in line for line in commands(ROOT / ".github/workflows/tests.yml"))


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)
def test_workflows_call_make_targets_that_exist_and_no_more_rights_than_they_need(file):
    targets = re.findall(r"^(\w+):.*## ", text("Makefile"), re.MULTILINE)
    for line in commands(file):
        assert set(re.findall(r"\bmake (\w+)", line)) <= set(targets), line
        for module in re.findall(r"python -m ([\w.]+)", line):
            assert importlib.util.find_spec(module), line
        assert all(map(commands_of_the_book, re.findall(r"\bimcl-book (\w+)", line))), line
    assert workflow(file)["permissions"] == {"contents": "read"}
    assert all(job["timeout-minutes"] <= 60 for job in workflow(file)["jobs"].values())
    actions = [step["uses"] for job in workflow(file)["jobs"].values() for step in job["steps"] if "uses" in step]
    assert all(re.fullmatch(r"actions/[\w-]+@v\d+", action) for action in actions)


def test_the_tests_run_on_each_python_that_the_project_supports():
    strategy = workflow(ROOT / ".github/workflows/tests.yml")["jobs"]["test"]["strategy"]
    versions = strategy["matrix"]["python"]
    assert versions == ["3.11", "3.12", "3.13"]
    assert tomllib.loads(text("pyproject.toml"))["project"]["requires-python"] == f">={versions[0]}"


def test_the_pages_are_published_from_where_the_book_is_built():
    steps = workflow(ROOT / ".github/workflows/book.yml")["jobs"]["build"]["steps"]
    (site,) = re.findall(r"^SITE := (\S+)$", text("Makefile"), re.MULTILINE)
    assert [step["with"]["path"] for step in steps if "upload-pages" in step.get("uses", "")] == [site]


def linter() -> list[str]:
    """The command of a linter of workflows that is installed, or nothing."""
    beside = str(Path(sys.executable).parent)
    if found := shutil.which("actionlint") or shutil.which("actionlint", path=beside):
        return [found]
    if found := shutil.which("check-jsonschema") or shutil.which("check-jsonschema", path=beside):
        return [found, "--builtin-schema", "vendor.github-workflows"]
    return []


@pytest.mark.skipif(not linter(), reason="Neither actionlint nor check-jsonschema is installed.")
def test_workflows_pass_a_linter(tmp_path):
    done = subprocess.run([*linter(), *map(str, WORKFLOWS)], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    wrong = tmp_path / "wrong.yml"
    wrong.write_text(text(".github/workflows/tests.yml").replace("runs-on:", "runs-in:"), encoding="utf-8")
    assert subprocess.run([*linter(), str(wrong)], capture_output=True).returncode != 0


def test_settings_named_on_the_pages_are_settings():
    pages = "".join(text(f"book/{page}.md") for page in ("notation", "glossary", "prerequisites", "reading-map"))
    named = set(re.findall(r"\{setting\}`(\w+)`", pages))
    assert {"pop_alpha", "pop_temperature", "pop_splits"} <= named
    assert all(hasattr(RunConfig(), name) or hasattr(DenseSettings(), name) for name in named)
