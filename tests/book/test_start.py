"""The page that says how to start: sizes are the code's, times the records', messages and commands those there are."""

import json
import re
from fractions import Fraction
from pathlib import Path

import pytest
from imcl_book.sphinx import sizes
from made_records import record, write

from imcl_core import cli
from imcl_core.errors import ImclError
from imcl_core.study.tables import coverage, open_ledger
from imcl_core.training.config import RunConfig
from imcl_core.training.recipes import PROFILES

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "book" / "start.md").read_text(encoding="utf-8")


def test_each_profile_has_its_row_with_the_numbers_of_a_run():
    rows = [[cell.strip(" `") for cell in row.strip("|").split("|")] for row in sizes.profiles_table().splitlines()[2:]]
    assert list(dict.fromkeys(row[0] for row in rows)) == list(PROFILES)
    for profile, dataset, width, images, side, epochs, evaluations, _ in rows:
        config = RunConfig(profile=profile, dataset=dataset)
        assert float(Fraction(width)) == config.width
        assert [int(n.replace(",", "")) for n in (images, side, epochs, evaluations)] == [
            config.images, config.side, config.epochs, config.evaluations,
        ]  # fmt: skip
    assert all(f"`{profile}`" in PAGE for profile in PROFILES)


def test_times_come_from_records_or_are_not_given():
    shown = {tuple(row.strip("| `").split("` | ")): row for row in sizes.profiles_table().splitlines()[2:]}
    rows = {(profile, rest.split(" | ")[0]): row for (profile, rest), row in shown.items()}
    assert re.search(r"\d+ min \(", rows["cpu", "cifar100"])  # its study is in results/
    assert "not yet run" in rows["paper", "cifar100"] and sizes.took("longest") in rows["smoke", "digits"]
    assert "shared" in rows["paper", "stl10"] and "NVIDIA" not in rows["narrow", "stl10"]
    assert [sizes.duration(s) for s in (62, 313, 9000)] == ["62 s", "5 min", "2.5 h"]


def test_a_notebook_without_a_recorded_run_is_named():
    with pytest.raises(ImclError, match=r"No run of 'notebooks/plam.ipynb' is recorded. Did you mean"):
        sizes.took("notebooks/plam.ipynb")


def test_the_readme_says_how_much_of_the_paper_has_been_run():
    run, cells = coverage(open_ledger(sizes.RESULTS))
    readme = " ".join((ROOT / "README.md").read_text().split())
    assert f"Of the {cells} cells of the paper's tables, {run} have been run" in readme
    assert all(said() and said() in readme for said in sizes.SENTENCES.values())


def test_what_was_reproduced_is_looked_up_by_a_name_that_there_is():
    assert sizes.covered("tuned") == sizes.over_tuned() and int(sizes.covered("run")) < int(sizes.covered("all"))
    with pytest.raises(ImclError, match=r"no coverage 'tunde'. Did you mean 'tuned'"):
        sizes.covered("tunde")


def test_a_cell_that_was_run_with_and_without_augmentation_counts_once(tmp_path, monkeypatch):
    monkeypatch.setattr(sizes, "RESULTS", tmp_path)
    place = {"dataset": "stl10", "model": "vgg16", "methods": "baseline", "profile": "paper"}
    write(tmp_path, record(30, augment=False, **place))
    assert coverage(open_ledger(sizes.RESULTS))[0] == 1
    write(tmp_path, record(30, augment=True, **place))
    assert coverage(open_ledger(sizes.RESULTS))[0] == 1


def test_the_preface_counts_the_runs_of_the_narrow_reproduction(tmp_path, monkeypatch):
    config = RunConfig(dataset="stl10", model="vgg16", profile="narrow")
    monkeypatch.setattr(sizes, "RESULTS", tmp_path)
    assert sizes.tested_gains() == "" and sizes.narrow_coverage().endswith(" cells has been run yet.")
    write(
        tmp_path,
        *(record(30, seed=s, dataset="stl10", model="vgg16", methods="baseline", profile="narrow") for s in range(3)),
    )
    write(tmp_path, record(30, dataset="stl10", model="vgg16", methods="kernel", profile="narrow"))
    assert config.name in {path.stem for path in tmp_path.glob("*.json")}
    assert sizes.narrow_coverage().endswith(" cells, 2 have a run and 1 have 3 seeds or more.")
    assert sizes.surest_gain() == ""
    place = {"dataset": "stl10", "model": "vgg16", "profile": "narrow"}
    write(tmp_path, *(record(29.9 - s / 10, seed=s + 3, methods="kernel", **place) for s in range(3)))
    write(tmp_path, *(record(30, seed=s + 3, methods="baseline", **place) for s in range(3)))
    write(tmp_path, *(record(29 - s, seed=s, methods="out", **place) for s in range(3)))
    assert sizes.surest_gain() == (
        "The surest gain of the paper's methods is of out, VGG-16 on STL-10: +2.00 points, from +0.31 to +3.69, n = 3; "
        "the paper prints +3.90."
    )
    assert sizes.tested_gains() == (
        "Of 2 tests of the paper's gains, with augmentation or without, 1 support them, 1 find less than half of what "
        "is printed (in 0 of them still a gain), and 0 are open."
    )
    assert sizes.surest_neighbour() == ""
    write(tmp_path, *(record(28 - s, seed=s, methods="hsic", **place) for s in range(3)))
    write(tmp_path, *(record(10, seed=s, methods="cutout", **place) for s in range(2)))
    assert sizes.surest_neighbour() == (
        "Of 10 methods of other papers 2 have been run beside them; their surest gain is of hsic, VGG-16 on STL-10: "
        "+3.00 points, from +1.31 to +4.69, n = 3."
    )


def test_combinations_are_told_over_a_tuned_baseline_once_both_networks_have_enough(tmp_path, monkeypatch):
    monkeypatch.setattr(sizes, "RESULTS", tmp_path)
    for augment, gain in ((True, 1), (False, 5)):
        for more, (model, best) in enumerate(sizes.BEST_OF.items()):
            place = {"dataset": "stl10", "model": model, "profile": "narrow", "augment": augment}
            assert sizes.over_tuned() == ""
            for methods, less in (
                ({"methods": "baseline"} | sizes.TUNED_BASELINE, 0),
                ({"methods": best}, gain + more),
            ):
                apart = 4 * (augment and not more and less)  # gains so far apart that they settle nothing
                errors = [30 + s - less + (s - 1) * apart for s in range(3)]
                write(tmp_path, *(record(e, seed=s, **methods, **place) for s, e in enumerate(errors)))
    assert sizes.over_tuned() == (
        "Over a baseline whose rate and weight decay were searched too, the combinations that the paper recommends "
        "gain from +1.00 to +2.00 points with augmentation (bounds above zero for 1 of 2 networks) and "
        "from +5.00 to +6.00 points without (for 2 of 2)."
    )


def test_the_commands_of_the_page_exist(capsys):
    targets = re.findall(r"^(\w+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {"setup", "book", "serve", "pdf"} <= set(re.findall(r"`make (\w+)", PAGE)) <= set(targets)
    for name, options in re.findall(r"^(?:\.venv/bin/)?imcl (\w+)(.*?)(?: {2,}#.*)?$", PAGE, re.MULTILINE):
        with pytest.raises(SystemExit, match="0"):
            cli.main([name, "--help"])
        shown = capsys.readouterr().out
        assert all(re.search(rf"{option}\b", shown) for option in re.findall(r"--\w+", options))


def test_messages_of_the_page_are_those_of_the_code():
    (table,) = re.findall(r"^## When it does not work\n(.*)", PAGE, re.MULTILINE | re.DOTALL)
    messages = re.findall(r"^\| `([^`]+)`", table, re.MULTILINE)
    files = [*(ROOT / "imcl_core").rglob("*.py"), *(ROOT / "book" / "imcl_book").rglob("*.py")]
    code = "\n".join(file.read_text(encoding="utf-8") for file in files)
    code = re.sub(r"\{[^{}]*\}", "8000", code) + (ROOT / "Makefile").read_text(encoding="utf-8")
    assert len(messages) > 6
    assert not [message for message in messages if message not in code and not message.startswith("make")]


def test_the_example_of_timm_runs():
    pytest.importorskip("timm", reason="timm is not installed: pip install timm")
    (example,) = re.findall(r"```python\n(import timm.*?)```", PAGE, re.DOTALL)
    names = {}
    exec(example, names)
    assert all(p.grad is not None for p in names["network"].parameters())
    assert any(term.startswith("kernel/") for term in names["collaboration"].terms)


def test_what_a_step_of_timm_takes_is_what_was_measured():
    found = json.loads(sizes.TIMM_STEP.read_text(encoding="utf-8"))
    said = sizes.timm_step()
    assert found["kernel_over_baseline"] > 1 and found["peak_gb"]["kernel"] > found["peak_gb"]["baseline"]
    assert f"{found['baseline_s']:.2f} s" in said and f"{found['peak_gb']['kernel']:.2f} GB" in said
