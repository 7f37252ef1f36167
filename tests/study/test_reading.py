"""Reading records: only what is named like a run, nothing renamed, all that is damaged told, and the rest taken."""

import json
import os
import shutil
from pathlib import Path

import pytest
from made_records import record, write

from imcl_core import ImclError, RunConfig
from imcl_core.cli import main
from imcl_core.study import batch, ledger, records
from imcl_core.training import files
from imcl_core.training.record import finished_record, read_record, write_record
from imcl_core.training.sheets import DamagedRecord, NewerRecord, read_sheet

RESULTS = Path(__file__).parents[2] / "results"
SMOKE = {"dataset": "digits", "model": "resnet18", "profile": "smoke"}


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def edited(path: Path, change, form=1) -> Path:
    """The record with its content changed; `form` 1: as one of before, without a digest."""
    content = json.loads(path.read_text())
    if form == 1:
        del content["format"], content["digest"]
    change(content)
    path.write_text(json.dumps(content, indent=1))
    return path


# --- records of before and of now -----------------------------------------------------------------------------------


def test_every_record_in_results_is_read_and_is_without_a_digest_what_it_is_with_one(tmp_path):
    found = ledger.sheets(RESULTS)
    assert len(found) == len({path.name for path in RESULTS.rglob("*.json")}) >= 129
    for sheet in found[::10]:
        again = read_record(write_record(read_record(sheet.path), tmp_path))
        assert (again.config, again.curve, again.run) == (sheet.config, sheet.curve, sheet.run)
        assert sheet.column("test_error") == [epoch["test_error"] for epoch in again.evaluated]


def test_a_record_is_sound_in_another_layout_and_of_a_dead_setting_that_is_off(tmp_path):
    (path,) = write(tmp_path, record(**SMOKE))
    edited(path, lambda c: c["config"].update(kernel_weight=5.0), form=2)
    assert read_sheet(path).config.kernel_weight == 5.0
    path.write_text(json.dumps(json.loads(path.read_text())))  # on one line
    assert read_sheet(path).curve == json.loads(path.read_text())["curve"]


# --- what was edited by hand ----------------------------------------------------------------------------------------

EDITS = {
    "a negative error": lambda c: c["curve"][0].update(test_error=-10),
    "an error above 100": lambda c: c["curve"][0].update(test_error_top5=100.5),
    "an error as text": lambda c: c["curve"][0].update(test_error="12.5"),
    "an error that is true": lambda c: c["curve"][0].update(test_error=True),
    "an epoch less": lambda c: c["curve"].pop(),
    "an epoch doubled": lambda c: c["curve"].append(c["curve"][-1]),
    "an epoch twice": lambda c: c["curve"].__setitem__(1, c["curve"][0]),
    "an error missing": lambda c: c["curve"][1].pop("test_error_top5"),
    "not a number": lambda c: c["curve"][0].update(test_error=float("nan")),
    "infinite": lambda c: c["curve"][0].update(loss=float("inf")),
    "a loss without a value": lambda c: c["curve"][0].update(loss=None),
    "no run": lambda c: c.update(run={}),
    "a run of nothing": lambda c: c["run"].update(seconds="long"),
    "no speed": lambda c: c["run"].update(images_per_s=0.0),
    "no device": lambda c: c["run"].pop("device"),
    "no curve": lambda c: c.pop("curve"),
    "a list for settings": lambda c: c.update(config=[1]),
    "another seed": lambda c: c["config"].update(seed=1),
    "another rate": lambda c: c["config"].update(lr=0.5),
    "a rate out of range": lambda c: c["config"].update(lr=-1),
}


@pytest.mark.parametrize("form", [1, 2])
@pytest.mark.parametrize("edit", EDITS)
def test_a_record_edited_by_hand_is_damaged(tmp_path, edit, form):
    (path,) = write(tmp_path, record(**SMOKE))
    edited(path, EDITS[edit], form)
    with pytest.raises(DamagedRecord, match=r"is damaged \(.*\): remove it, or run it again") as caught:
        read_record(path)
    assert "\n" not in str(caught.value)
    assert path.exists()
    with pytest.raises(DamagedRecord, match=r"it is now .*\.corrupt: run it again"):
        finished_record(path)
    assert not path.exists()


def test_settings_of_a_known_text_are_looked_at_where_the_seed_is_there_twice(tmp_path):
    (path,) = write(tmp_path, record(**SMOKE))
    read_record(path)
    path.write_text(path.read_text().replace('"seed": 0,', '"seed": 0,\n  "seed": 1,'))  # JSON takes the last
    with pytest.raises(DamagedRecord, match="its name and its content differ"):
        read_record(path)


def test_the_digest_tells_a_number_that_was_changed_to_a_likely_one(tmp_path):
    (path,) = write(tmp_path, record(**SMOKE))
    edited(path, lambda c: c["curve"][0].update(test_error=24.1), form=2)
    with pytest.raises(DamagedRecord, match="its curve is not the one that was written"):
        read_record(path)


# --- what is not ours -----------------------------------------------------------------------------------------------


@pytest.fixture
def strange(tmp_path):
    """A folder with one sound record among files that are none, damaged ones, and one of a newer version."""
    tmp_path = tmp_path / "strange"
    write(tmp_path, record(seed=0))
    damaged, newer, later, _ = write(tmp_path / "more", *(record(seed=seed) for seed in (1, 2, 3, 4)))
    damaged.write_text(damaged.read_text()[:-300])
    edited(newer, lambda c: c["config"].update(setting_of_2031=1), form=2)
    edited(later, lambda c: c.update(format=99, curve="packed"), form=2)
    for name in ("settings.json", ".vscode/settings.json", "benchmarks/step.json", ".ipynb_checkpoints/a.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    sound = next(tmp_path.glob("*.json"))
    sound.with_name(f"._{sound.name}").write_bytes(b"\0")
    (tmp_path / f"{record(seed=5).config.name}.json").symlink_to("nowhere")
    (tmp_path / f"{record(seed=6).config.name}.json").mkdir()
    (tmp_path / "round").symlink_to(tmp_path)
    return tmp_path


def assert_told(error: str) -> None:
    lines = error.splitlines()
    assert len(lines) == 3 and all(line.startswith("imcl: The record ") for line in lines), error
    assert [sum(word in line for line in lines) for word in ("is damaged", "newer version")] == [1, 2]
    assert all(f"-seed{seed}-" in error for seed in (1, 2, 3))


COMMANDS = {
    "status": lambda folder: ["status", "--seeds", "5", "--folders", str(folder)],
    "merge": lambda folder: ["merge", str(folder), "--into", str(folder.with_name("into"))],
    "tables": lambda folder: ["tables", "table-1", "--results", str(folder)],
    "plan": lambda folder: ["plan", "table-2", "--seeds", "1", "--results", str(folder)],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_reading_command_renames_nothing_tells_what_is_damaged_and_goes_on(strange, command, capsys):
    before = tree(strange)
    assert main(COMMANDS[command](strange)) == 0
    out, error = capsys.readouterr()
    assert_told(error)
    assert tree(strange) == before
    assert {"merge": "2 new records", "tables": "25.00"}.get(command, "") in out


def test_a_record_of_a_newer_version_is_not_run_again(strange, capsys):
    configs = [record(seed=seed).config for seed in (2, 3)]
    before = tree(strange)
    outcome = batch.run_batch(configs, strange, data_folder=strange, progress=False)
    assert outcome.skipped == [config.name for config in configs]
    assert "newer version" in capsys.readouterr().err
    assert tree(strange) == before
    with pytest.raises(NewerRecord, match="update this one to read it"):
        finished_record(strange / "more" / f"{configs[0].name}.json")


def test_a_linked_folder_counts_and_is_entered_once(tmp_path):
    (path,) = write(tmp_path / "disk", record())
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "here").symlink_to(tmp_path / "disk")
    (tmp_path / "results" / "there").symlink_to(tmp_path / "disk")
    found = files.of_runs(files.RECORD, tmp_path / "results")
    assert found == {path.stem: [tmp_path / "results" / "here" / path.name]}
    config = record().config
    assert batch.run_batch([config], tmp_path / "out", done=[tmp_path / "results"], progress=False).skipped


def test_a_folder_that_cannot_be_listed_is_told(tmp_path, capsys, monkeypatch):
    write(tmp_path, record())
    (tmp_path / "locked").mkdir()
    scan = os.scandir

    def refuse(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(files.os, "scandir", refuse)
    assert len(ledger.records(tmp_path)) == 1
    assert f"{tmp_path / 'locked'} cannot be read (Permission denied)" in capsys.readouterr().err


# --- two files of one name ------------------------------------------------------------------------------------------


def test_two_files_of_one_name_are_one_record_where_they_agree(tmp_path):
    for folder in ("a", "b"):
        write(tmp_path / "source" / folder, record())
    assert len(records.merge(tmp_path / "source", tmp_path / "into")) == 1


def test_two_files_of_one_name_that_differ_are_refused_by_name(tmp_path, capsys):
    source, into = tmp_path / "source", tmp_path / "into"
    one, other = (write(source / folder, record(last=last))[0] for folder, last in (("a", 25.0), ("b", 26.0)))
    write(source, record(seed=1))
    with pytest.raises(ImclError, match="1 runs have two outcomes on one device") as caught:
        records.merge(source, into)
    assert str(one) in str(caught.value) and str(other) in str(caught.value)
    assert not into.exists()
    assert [found.config.seed for found in ledger.records(source)] == [1]
    assert f"{one} and {other} are two outcomes of one run on one device" in capsys.readouterr().err


def test_a_run_with_two_outcomes_on_one_device_is_no_missing_one(tmp_path):
    one, other = (write(tmp_path / folder, record(last=last))[0] for folder, last in (("a", 25.0), ("b", 26.0)))
    name, standing = record().config.name, records.Standing(tmp_path)
    assert standing.of([name])["failed"] == [name]
    assert standing.why(name) == f"it has two outcomes on one device, {one} and {other}"


def test_merge_leaves_arrays_that_are_links(tmp_path):
    paths = write(tmp_path / "source", record(), record(seed=1))
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    paths[0].with_suffix(".npz").symlink_to(secret)
    shutil.copy(secret, paths[1].with_suffix(".npz"))
    records.merge(tmp_path / "source", tmp_path / "into")
    assert sorted(p.suffix for p in (tmp_path / "into").iterdir()) == [".json", ".json", ".npz"]
    assert (tmp_path / "into" / paths[1].with_suffix(".npz").name).exists()


def test_merge_does_not_write_over_a_damaged_record(tmp_path, capsys):
    write(tmp_path / "source", record())
    (there,) = write(tmp_path / "into", record())
    there.write_text("{")
    assert records.merge(tmp_path / "source", tmp_path / "into") == []
    assert there.read_text() == "{"
    assert f"{there} is damaged" in capsys.readouterr().err


# --- folders and data -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["status --folders", "plan table-1 --results", "batch table-1 --results"])
@pytest.mark.parametrize("name", ["a-file", "missing"])
def test_a_folder_that_is_asked_for_must_be_one(tmp_path, command, name, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a-file").touch()
    assert main([*command.split(), name]) == 2
    assert capsys.readouterr().err == f"imcl: {name} is no folder: name one that holds records.\n"


def test_a_table_tells_two_records_of_a_cell_with_other_data(tmp_path, capsys):
    made = [record(seed=seed) for seed in range(3)]
    for one, data in zip(made, ("aaaa", "bbbb", None), strict=True):
        write(tmp_path, type(one)(one.config, one.curve, one.run | ({"data": data} if data else {})))
    assert len(ledger.Ledger(tmp_path).runs(RunConfig(**{**made[0].config.identity()}))) == 3
    told = capsys.readouterr().err
    assert "were trained on other data" in told and told.count("\n") == 1


def test_merge_writes_a_record_after_its_arrays(tmp_path, monkeypatch):
    (path,) = write(tmp_path / "source", record())
    path.with_suffix(".npz").write_bytes(b"arrays")
    written = []
    monkeypatch.setattr(records, "write_whole", lambda to, content: written.append(to.suffix))
    records.merge(tmp_path / "source", tmp_path / "into")
    assert written == [".npz", ".json"]


def test_a_run_that_failed_counts_as_failed_though_it_left_a_checkpoint(tmp_path):
    own = files.Files(tmp_path, record().config.name)
    own.checkpoint.touch()
    own.failure.write_text("There was no room.\n")
    assert records.Standing(tmp_path).of([record().config.name])["failed"] == [record().config.name]


def test_a_record_that_does_not_tell_its_data_is_at_odds_with_none(tmp_path, capsys):
    for seed, data in enumerate(("aaaa", None)):
        one = record(seed=seed)
        write(tmp_path, type(one)(one.config, one.curve, one.run | ({"data": data} if data else {})))
    assert len(ledger.Ledger(tmp_path).runs(record().config)) == 2 and capsys.readouterr().err == ""
