"""A notebook is run again when anything has changed that its outputs depend on; what its run took is recorded."""

import json
from pathlib import Path

import pytest
from imcl_book import cli, execute, stamps
from small_notebooks import chapter

from imcl_core.study.pools import Here
from imcl_core.training.machine import choose_device, device_name

ROOT = Path(__file__).parents[2]


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A folder that takes the place of the clone."""
    (tmp_path / "clone").mkdir()
    monkeypatch.setattr(stamps, "ROOT", tmp_path / "clone")
    return tmp_path / "clone"


@pytest.mark.parametrize(
    "name",
    ["imcl_core/losses.py", "imcl_core/study/tables/page.css", "imcl_core/study/paper.csv", "book/imcl_book/sliders.py",
     "book/slips.csv"],
)  # fmt: skip
def test_the_stamp_follows_both_packages_and_the_tables(name, clone, tmp_path):
    file, path = clone / name, chapter(tmp_path / "a.ipynb", "1")
    file.parent.mkdir(parents=True)
    stamp = {stamps.stamp(path)}
    for content in ("1", "2"):
        file.write_text(content)
        stamp.add(stamps.stamp(path))
    assert len(stamp) == 3
    (clone / "book" / "start.md").parent.mkdir(exist_ok=True)
    (clone / "book" / "start.md").write_text("a page that no notebook reads")
    assert stamps.stamp(path) in stamp


@pytest.mark.parametrize("folder", ["results", "results/narrow", "benchmarks", "benchmarks/gpu"])
def test_the_stamp_follows_the_records_a_notebook_names(folder, clone, tmp_path):
    plain, reader = chapter(tmp_path / "a.ipynb", "1"), chapter(tmp_path / "b.ipynb", f"read('../{folder}')")
    old = stamps.stamp(plain), stamps.stamp(reader)
    (clone / folder).mkdir(parents=True)
    (clone / folder / "run.json").write_text("{}")
    assert stamps.stamp(plain) == old[0]
    assert stamps.stamp(reader) != old[1]


def test_the_real_stamp_covers_the_packages(tmp_path, monkeypatch):
    """Were `ROOT` another folder, a changed package would change nothing."""
    path, seen = chapter(tmp_path / "a.ipynb", "1"), []
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda file: seen.append(file) or read(file))
    stamps.stamp(path)
    assert {ROOT / "imcl_core/losses.py", ROOT / "book/imcl_book/stamps.py", ROOT / "book/slips.csv"} <= set(seen)


def test_a_run_is_recorded_with_what_the_book_says_of_it(tmp_path, monkeypatch):
    monkeypatch.setattr(execute, "Slots", lambda _: Here())
    monkeypatch.setattr(execute, "_timed", lambda path: (12.4, "broken" if path.stem == "b" else "", ""))
    text = (ROOT / "notebooks" / "1-collaborative-learning.ipynb").read_text(encoding="utf-8")
    for name in "ab":
        (tmp_path / f"{name}.ipynb").write_text(text, encoding="utf-8")
    record = tmp_path / "executions.json"
    assert cli.main(["execute", "--record", str(record), *map(str, sorted(tmp_path.glob("*.ipynb")))]) == 2
    ((path, run),) = json.loads(record.read_text()).items()
    assert path == (tmp_path / "a.ipynb").as_posix()
    assert (run["seconds"], run["hardware"]) == (12, device_name(choose_device()))
    assert run["code"] == stamps.code_digest(tmp_path / "a.ipynb")
    (tmp_path / "a.ipynb").write_text(text.replace("seed = 0", "seed = 1"), encoding="utf-8")
    assert run["code"] != stamps.code_digest(tmp_path / "a.ipynb")


def test_a_note_keeps_what_others_wrote_and_drops_what_is_gone(tmp_path):
    file, (a, b) = tmp_path / "executions.json", [str(chapter(tmp_path / f"{name}.ipynb", "1")) for name in "ab"]
    stamps.write_object(file, {a: 1, str(tmp_path / "gone.ipynb"): 1})
    stamps.note(file, b, 2)
    assert json.loads(file.read_text()) == {a: 1, b: 2}
