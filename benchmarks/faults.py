"""Kills, damaged files and wild settings at random: what is lost, doubled, wrong, renamed or told as a raw error.

    nice python benchmarks/faults.py                                     (a quarter of an hour; all counts should be 0)
    python benchmarks/faults.py --kills 20 --files 20 --configs 20          (minutes; 0: none of that kind)

A run is killed again and again at a random moment until it ends: trained alone, in a batch, in a notebook's kernel, and
in a worker of Ray where that is installed. It must then have the one record that an undisturbed run has. Damaged and
foreign files lie among sound ones, which alone must be read, nothing being renamed. Settings are drawn from their
ranges and beyond; each must be refused in a sentence or give a record that can be read.
"""

import argparse
import contextlib
import dataclasses
import importlib.util
import io
import json
import multiprocessing
import os
import random
import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import torch

from imcl_core import ImclError, RunConfig, train
from imcl_core.methods import TERMS
from imcl_core.methods.population import PATTERNS
from imcl_core.study import batch, ledger
from imcl_core.study.pools import Slots
from imcl_core.study.ray import RayPool
from imcl_core.training.files import Files
from imcl_core.training.machine import choose_device, environment
from imcl_core.training.record import read_record

TINY = {"width": 1 / 16, "train_size": 64, "hidden": 16}
METHODS = ("baseline", *TERMS, *PATTERNS, "out+mid+pull-push+kernel")
Bad = Counter  # of what must not happen, by its name


# --- kills ----------------------------------------------------------------------------------------------------------


def alone(config: RunConfig, out: Path) -> None:
    train(config, out=out, progress=False, save_every=0)


def in_a_batch(config: RunConfig, out: Path, **options: Any) -> None:
    """Ends as `imcl batch --retry-failed` does: not well, where a run is told to have failed."""
    if batch.run_batch([config], out, progress=False, retry_failed=True, **options).failed:
        raise SystemExit(1)


def in_a_kernel(config: RunConfig, out: Path) -> None:
    in_a_batch(config, out, pool=Slots.on_cores(1), notebook=True)


def on_ray(config: RunConfig, out: Path) -> None:
    in_a_batch(config, out, pool=RayPool(jobs=1))


# Where a run is worked on, the share of all kills, and the seconds within which the first comes; a kernel and a Ray
# worker, which start slowly, are killed themselves, and what runs them goes on.
PLACES: dict[str, tuple[Callable, float, float, str]] = {
    "training": (alone, 0.6, 1.0, ""),
    "batch": (in_a_batch, 0.3, 1.0, ""),
    "kernel": (in_a_kernel, 0.05, 12.0, "ipykernel_launcher"),
    "ray": (on_ray, 0.05, 12.0, "ray::"),
}


def kills(count: int, draw: random.Random) -> tuple[Counter, Bad]:
    """How often what was killed, and what came of it."""
    done, bad, whole = Counter(), Bad(), {}
    for place, (work, share, within, victim) in PLACES.items():
        if place == "ray" and importlib.util.find_spec("ray") is None:
            continue
        wanted = max(1, round(share * count))
        while done[place] < wanted:
            config = RunConfig(**TINY, epochs=4, methods=draw.choice(METHODS), seed=draw.randrange(2))
            if config.name not in whole:
                whole[config.name] = train(config, progress=False).curve
            with TemporaryDirectory() as folder:
                done[place] += killed_until_it_ends(work, config, Path(folder), within, victim, draw)
                bad += verdict(config, Path(folder), whole[config.name])
        print(f"{place}: {done[place]} kills, {dict(bad) or 'nothing bad'}", flush=True)
    return done, bad


def killed_until_it_ends(work, config, out, within, victim, draw) -> int:
    """Starts the work again and again; how often it was killed before it came to its end."""
    count, context = 0, multiprocessing.get_context("spawn" if victim else "fork")
    while True:
        process = context.Process(target=quietly, args=(work, config, out))
        process.start()
        process.join(draw.uniform(0.05, within * (1 + count / 4)))  # later and later, so that it ends some day
        if process.is_alive():
            count += kill(process.pid, victim)
            process.join(120 if victim else None)
            if process.is_alive():
                process.kill()
        if process.exitcode == 0:
            return count


def quietly(work, config, out) -> None:
    torch.set_num_threads(1)
    with open(os.devnull, "w") as nothing, contextlib.redirect_stderr(nothing), contextlib.redirect_stdout(nothing):
        work(config, out)


def kill(process: int, victim: str) -> int:
    """Kills a process, or those that it started and that are called so; how many."""
    with contextlib.suppress(psutil.NoSuchProcess):
        found = psutil.Process(process)
        if victim:
            children = found.children(recursive=True)
            chosen = [child for child in children if victim in " ".join(child.cmdline())][:1]
        else:
            chosen = [found]
        for one in chosen:
            one.kill()
        return len(chosen)
    return 0


def verdict(config: RunConfig, out: Path, curve: list) -> Bad:
    """What is wrong with what a run left."""
    bad, records = Bad(), list(out.rglob("*.json"))
    bad["lost"] += not records
    bad["doubled"] += len(records) > 1 + bool(config.teacher)
    bad["renamed"] += bool(list(out.rglob("*.corrupt*")))
    bad["left behind"] += bool(list(out.rglob("*.partial")) or list(out.rglob("*.checkpoint.pt")))
    with contextlib.suppress(StopIteration):
        bad["wrong"] += read_record(next(p for p in records if p.stem == config.name)).curve != curve
    return +bad


# --- files ----------------------------------------------------------------------------------------------------------


def cut(content: bytes, draw: random.Random) -> bytes:
    return content[: draw.randrange(len(content))]


def flipped(content: bytes, draw: random.Random) -> bytes:
    place = draw.randrange(len(content))
    return content[:place] + bytes([content[place] ^ (1 << draw.randrange(8))]) + content[place + 1 :]


def zeroed(content: bytes, draw: random.Random) -> bytes:
    place = draw.randrange(len(content))
    return content[:place] + bytes(min(512, len(content) - place)) + content[place + 512 :]


def foreign(content: bytes, draw: random.Random) -> bytes:
    return draw.choice([b"{}", b"[]", b"null", b"", draw.randbytes(300), b"{" * 100_000])


DAMAGE = (cut, flipped, zeroed, foreign)


def files(count: int, draw: random.Random) -> tuple[Counter, Bad]:
    """Damages records, and checkpoints half as often."""
    done, bad = Counter(), Bad()
    config, other = (RunConfig(**TINY, epochs=3, seed=seed) for seed in (0, 1))
    with TemporaryDirectory() as folder:
        sound = Path(folder) / "sound"
        curve = train(config, out=sound, progress=False).curve
        train(other, out=sound, progress=False)
        checkpoint = checkpoint_of(config, Path(folder) / "begun")
        for i in range(count):
            damage, place = draw.choice(DAMAGE), Path(folder) / str(i)
            kind = "checkpoint" if i % 3 == 0 else "record"
            done[f"{kind}, {damage.__name__}"] += 1
            bad += (
                damaged_checkpoint(place, config, damage(checkpoint, draw), curve)
                if kind == "checkpoint"
                else damaged_record(place, sound, config, damage, draw)
            )
    print(f"files: {done.total()}, {dict(bad) or 'nothing bad'}", flush=True)
    return done, bad


def checkpoint_of(config: RunConfig, out: Path) -> bytes:
    """The bytes of a checkpoint after the second epoch."""
    kept: list[bytes] = []
    path = Files(out, config.name).checkpoint
    look = {"after_epoch": lambda run: kept.extend([path.read_bytes()] if path.exists() else [])}
    train(config, out=out, progress=False, save_every=0, **look)
    return kept[1]


def damaged_record(place: Path, sound: Path, config: RunConfig, damage: Callable, draw: random.Random) -> Bad:
    """The sound record beside it is read, and the damaged one is not, or as what it was.

    Runs are told apart by their names: a flipped bit in a setting of a method that is off changes no run.
    """
    shutil.copytree(sound, place)
    path, bad = Files(place, config.name).record, Bad()
    before = read_record(path)
    path.write_bytes(damage(path.read_bytes(), draw))
    names = sorted(file.name for file in place.iterdir())
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            found = ledger.records(place)
    except Exception:
        return Bad(raw=1)
    bad["lost"] += sum(record.config.name != config.name for record in found) != 1
    bad["wrong"] += any(r.config.name == config.name and r.curve != before.curve for r in found)
    bad["renamed"] += names != sorted(file.name for file in place.iterdir())
    return +bad


def damaged_checkpoint(place: Path, config: RunConfig, content: bytes, curve: list) -> Bad:
    """The run says so in a sentence, or goes on; in the end it is what it should be."""
    path = Files(place, config.name).checkpoint
    place.mkdir()
    path.write_bytes(content)
    with contextlib.suppress(ImclError):
        train(config, out=place, progress=False)
    try:
        return +Bad(wrong=train(config, out=place, progress=False).curve != curve)
    except Exception:
        return Bad(raw=1)


# --- settings -------------------------------------------------------------------------------------------------------

WILD = (float("nan"), float("inf"), -1, 0, 1, 2, 1e-9, 1e9, 1e300, -1e300, 0.5, 10**400)
SIZES = {"width", "epochs", "train_size", "hidden", "held_out", "batch_size", "pop_heads", "mid_width", "out_branches"}


def configurations(count: int, draw: random.Random) -> tuple[Counter, Bad]:
    """Each with one to three wild values, but for sizes, which would only take long."""
    done, bad = Counter(), Bad()
    known = [f for f in dataclasses.fields(RunConfig) if "range" in f.metadata and f.name not in SIZES]
    numbers = [f for f in known if f.metadata["range"].most is not None]
    for _ in range(count):
        values = {f.name: wild(f, draw) for f in draw.sample(numbers, draw.randint(1, 3))}
        try:
            config = RunConfig(**TINY | {"epochs": 1, "methods": draw.choice(METHODS)} | values)
        except ImclError:
            done["refused"] += 1
            continue
        except Exception as error:
            bad["raw"] += 1
            print(f"{values}: {error!r}", flush=True)
            continue
        state, wrong = trained(config)
        done[state] += 1
        bad += wrong
    print(f"configurations: {dict(done)}, {dict(bad) or 'nothing bad'}", flush=True)
    return done, bad


def wild(field: dataclasses.Field, draw: random.Random):
    allowed = field.metadata["range"]
    value = draw.choice([*WILD, allowed.least if allowed.least is not None else 1e-6, allowed.most])
    entries = {"pp_pull": (value, 0.1), "pp_push": (0.1, value), "milestones": (value,)}
    whole = field.type in (int, int | None) and value == value and abs(value) < 1e18
    return entries.get(field.name, int(value) if whole else value)


def trained(config: RunConfig) -> tuple[str, Bad]:
    with TemporaryDirectory() as folder:
        try:
            train(config, out=folder, progress=False)
            return "recorded", +Bad(wrong=read_record(Files(Path(folder), config.name).record).config != config)
        except ImclError:
            return "ended in a sentence", Bad()
        except Exception as error:
            print(f"{config.identity()}: {error!r}", flush=True)
            return "raw", Bad(raw=1)


# --------------------------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--files", type=int, default=100)
    parser.add_argument("--configs", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="put the counts into this JSON file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    draw, out = random.Random(arguments.seed), arguments.out
    content = json.loads(out.read_text()) if out and out.exists() else {}
    for name, work, count in (
        ("configurations", configurations, arguments.configs),
        ("files", files, arguments.files),
        ("kills", kills, arguments.kills),
    ):
        if count:
            began, (done, bad) = time.monotonic(), work(count, draw)
            ran = {**environment(choose_device("cpu")), "seed": arguments.seed}
            content[name] = ran | {
                "seconds": round(time.monotonic() - began),
                "done": dict(done),
                "bad": dict(bad),
            }
            if out:
                out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
