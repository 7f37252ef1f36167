"""The commands about many runs: `imcl batch`, `merge`, `status`, `plan`, `tables`, `gpu`.

What they need is imported as they run, so that every help is there on a machine without pandas.
"""

import fnmatch
import math
import os
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from imcl_core.arguments import DataFolder, Device, Option
from imcl_core.errors import ImclError

if TYPE_CHECKING:
    from imcl_core.study.pools import Here, Slots
    from imcl_core.study.ray import RayPool
    from imcl_core.training.config import RunConfig

Profile = Annotated[str, "smoke, cpu, narrow, t4 or paper"]
Seeds = Annotated[int, "seeds 0, 1, … up to so many"]
Dataset = Annotated[str | None, "only the runs on this data set; one that the table lacks takes its place"]
Only = Annotated[str | None, Option("only runs whose names match: 'cifar100-vgg16-*-seed0-*'", metavar="PATTERN")]
_HALVING = "for a search for weights: short runs first, and longer ones for the best third (1/N) of the candidates"
Halving = Annotated[int | None, Option(_HALVING, metavar="N", alone=3)]
Budget = Annotated[str | None, "start no run that would end later than this: 90s, 9m, 1.5h"]
_NOTEBOOK = "leave each run as an executed notebook too (default: where papermill is installed, without --budget)"
Jobs = Annotated[int | None, "so many runs at once (default: 1; on Ray: all that fit)"]
PerGpu = Annotated[int | None, Option("N runs at once on every GPU, each sees only its own", metavar="N")]
_RAY = "work on a Ray cluster: host:port; without an address on the one that runs here, or one started for this"
Ray = Annotated[str | None, Option(_RAY, metavar="ADDRESS", alone="")]


def batch(
    table: Annotated[str, "table-1 … queue, as imcl status lists them; queue: all in order of worth"],
    *,
    profile: Profile = "paper",
    seeds: Seeds = 1,
    dataset: Dataset = None,
    only: Only = None,
    halving: Halving = None,
    out: Annotated[str, "folder for records and checkpoints"] = "runs",
    results: Annotated[str, "runs with a record below it are done"] = "results",
    budget: Budget = None,
    notebook: Annotated[bool | None, _NOTEBOOK] = None,
    retry_failed: Annotated[bool, "try runs again that failed in an earlier batch"] = False,
    jobs: Jobs = None,
    per_gpu: PerGpu = None,
    ray: Ray = None,
    data_folder: DataFolder = None,
    device: Device = None,
    quiet: Annotated[bool, "no progress bars"] = False,
) -> int:
    """Work through the runs of a table.

    examples:
      imcl batch queue --seeds 3 --budget 9m --out runs     the paper's tables on a GPU, as far as 9 minutes go
      imcl batch table-3 --seeds 3 --per-gpu 2              Table III on every GPU of this machine, two at once on each
      imcl batch table-3 --seeds 3 --ray 10.0.0.5:6379      the same on a Ray cluster whose nodes share the folder
      imcl batch narrow --profile narrow --seeds 3 --jobs 2 narrow networks trained to the end on two CPU cores, days
      imcl batch search --profile narrow --halving          search for weights on held-out images, the best ones longer
      imcl batch table-3 --profile smoke --dataset digits   the whole of Table III as a trial, in minutes
    """
    from imcl_core.study.records import folders_given

    configs, left = _wanted([table], profile, seeds, dataset, only)[table], _seconds(budget)
    folders_given([results], usual=["results"])
    how = {"budget": left, "data_folder": data_folder, "device": device, "retry_failed": retry_failed}
    how |= {"progress": not quiet, "notebook": _wants_notebooks(notebook, left), "done": [results]}
    how["pool"] = _pool(ray, per_gpu, jobs, device, how["notebook"])
    return _run(configs, out, how) if halving is None else _halve(configs, halving, out, how)


def merge(
    source: Annotated[str, "folder with records"], *, into: Annotated[str, "folder that takes them"] = "results"
) -> None:
    """Take records into the results.

    examples:
      imcl merge runs                                       take the records of runs/ into results/
      imcl merge /media/stick/runs --into results           a run of another device goes to results/on-…/
    """
    from imcl_core.study.records import merge as merged

    print(f"{len(merged(source, into))} new records in {into}.")


def status(
    *,
    profile: Profile = "paper",
    seeds: Seeds = 1,
    folders: Annotated[tuple[str, ...], "where records lie"] = ("results", "runs"),
    device: Annotated[str | None, "estimate times for this device (default: a GPU where there is one)"] = None,
) -> None:
    """What is done and what is missing.

    examples:
      imcl status                                           every table at paper scale: done, begun, missing, time left
      imcl status --profile narrow --seeds 3                the same of the narrow reproduction
    """
    from imcl_core.study.grids import GRIDS, grid, with_teachers
    from imcl_core.study.records import Standing, folders_given
    from imcl_core.study.speeds import Speeds
    from imcl_core.training.machine import choose_device, device_name

    standing = Standing(*folders_given(folders, usual=("results", "runs")))
    speeds = Speeds(choose_device(device), standing.sheets)
    states, failed = ("done", "failed", "begun", "missing"), {}
    print(f"{'table':18}{'done':>6}{'failed':>8}{'begun':>7}{'missing':>9}   time left on {device_name(speeds.device)}")
    for table in GRIDS:
        configs = {config.name: config for config in grid(table, profile, seeds)}
        cells = standing.of(configs)
        taught = with_teachers(configs[name] for state in states[1:] for name in cells[state])
        left = speeds.time_left([config for config in taught if config.name not in standing.done])
        counts = (len(cells[state]) for state in states)
        print("{:18}{:6}{:8}{:7}{:9}   {}".format(table, *counts, left))
        failed |= dict.fromkeys(cells["failed"])
    for name in failed:
        print(f"failed: {name}: {standing.why(name)}")


def plan(
    *tables: Annotated[str, "as imcl status lists them (default: all but search, neighbours and narrow)"],
    profile: Profile = "paper",
    seeds: Seeds = 3,
    dataset: Dataset = None,
    only: Only = None,
    results: Annotated[str, "folder with records: speeds, and what is done"] = "results",
    price: Annotated[float | None, "of an hour of a GPU, in your currency: what the hours cost"] = None,
) -> None:
    """What a reproduction takes before it is run.

    examples:
      imcl plan                                             every table at the paper's scale, three seeds
      imcl plan table-3 figure-2 --seeds 5 --price 2.50     two of them; with what the hours cost at 2.50 an hour
      imcl plan narrow --profile narrow                     what two cores can train to the end; with their hours
      imcl plan narrow --profile narrow --only '*-tree-*'   only the runs of that name
    """
    from imcl_core.study import ledger
    from imcl_core.study.grids import BEYOND, GRIDS, with_teachers
    from imcl_core.study.plan import core_hours
    from imcl_core.study.plan import plan as planned
    from imcl_core.study.records import folders_given
    from imcl_core.study.speeds import told_hours
    from imcl_core.training.recipes import SIZES

    names = tables or [name for name in GRIDS if name not in BEYOND]
    grids = {n: with_teachers(runs) for n, runs in _wanted(names, profile, seeds, dataset, only).items()}
    records = ledger.every_sheet(*folders_given([results], usual=["results"]))
    table = planned(grids, records)
    print(table.to_string(float_format=lambda x: f"{x:.1f}" if x >= 1 else f"{x:.2g}"))
    if SIZES[profile].width < 1:  # narrow enough for a CPU
        done = {record.config.name for record in records}
        print("\non two cores, a run on each, as measured by the records")
        for name, configs in grids.items():
            left = [config for config in configs if config.name not in done]
            (all_of_it, unknown), (rest, unmeasured) = (core_hours(runs, records) for runs in (configs, left))
            print(f"{name:18}{told_hours(all_of_it / 2, unknown):>8}; of it left: {told_hours(rest / 2, unmeasured)}")
    if price is not None:
        cost = table.filter(like=", h") * price
        print(f"\nat {price:g} an hour\n{cost.to_string(float_format='{:.0f}'.format)}")


_TABLES = "table-1, table-2, table-3, figure-2, narrow, decisions, neighbours, search or claims (default: all)"


def tables(
    table: Annotated[str | None, _TABLES] = None,
    *,
    results: Annotated[str, "folder with the records"] = "results",
    out: Annotated[str | None, "folder for the tables as HTML, CSV and LaTeX, and for Figure 2"] = None,
) -> None:
    """The paper's tables with ours beside.

    examples:
      imcl tables                                           every table and the ledger of claims, as text
      imcl tables table-1 --out tables                      and as tables/table-1.html, .csv and .tex
      imcl tables claims --results /media/stick/results
    """
    from imcl_core.errors import check_choice
    from imcl_core.study.tables import TABLES, claims, figure_2, open_ledger

    if table is not None:
        check_choice("table", table, (*TABLES, "claims"))
    ledger = open_ledger(results)
    for name in [table] if table else (*TABLES, "claims"):
        of_claims = name == "claims"
        made = claims.claims_table(ledger, claims.counted_memory()) if of_claims else TABLES[name](ledger)
        print(made)
        written = made.write(out) if out else []
        if out and name == "figure-2":
            written.append(figure_2.write_figure_2(ledger, out))
        for path in written:
            print(path)


def gpu(
    *,
    table: Annotated[str, "whose runs follow, as imcl status lists them"] = "queue",
    dataset: Dataset = None,
    minutes: Annotated[float, "when it is to be over"] = 28.0,
    out: Annotated[str, "folder for log, figures, records and checkpoints"] = "runs",
    profile: Profile = "paper",
    seeds: Seeds = 3,
    only: Only = None,
    results: Annotated[str, "runs with a record below it are done"] = "results",
    steps: Annotated[int, "timed steps of each method"] = 100,
    data_folder: DataFolder = None,
    device: Device = None,
) -> int:
    """Use half an hour of a GPU: check it, measure it, work through a table to the end of the time.

    examples:
      imcl gpu --minutes 28 --out runs/gpu                  then imcl merge runs/gpu/records; the same again goes on
      imcl gpu --minutes 4 --device cpu --profile smoke --table table-3 --dataset digits --steps 2    a rehearsal
    """
    from imcl_core.study.gpu.session import session
    from imcl_core.study.records import folders_given
    from imcl_core.training.machine import choose_device

    if not 0 < minutes < math.inf:
        raise ImclError(f"The minutes of a session are a number above 0, not {minutes:g}.")
    folders_given([results], usual=["results"])
    configs = _wanted([table], profile, seeds, dataset, only)[table]
    options = {"profile": profile, "results": results, "data_folder": data_folder, "steps": steps}
    found = session(configs, minutes, out, device=choose_device(device), **options)
    return 1 if found["failed"] or found["failed_runs"] else 0


COMMANDS: tuple[Callable[..., int | None], ...] = (batch, merge, status, plan, tables, gpu)


# --- what `imcl batch` is made of -----------------------------------------------------------------------------------


def _wanted(
    tables: Sequence[str], profile: str, seeds: int, dataset: str | None, only: str | None
) -> "dict[str, list[RunConfig]]":
    """The runs by table, without tables that have none of them."""
    from imcl_core.study.grids import grid

    runs = {table: grid(table, profile, seeds, dataset) for table in tables}
    if only is not None:
        runs = {table: [c for c in configs if fnmatch.fnmatchcase(c.name, only)] for table, configs in runs.items()}
    if not any(runs.values()):
        raise ImclError(f"No run of {', '.join(tables)} has a name that matches {only!r}: try '*vgg16*'.")
    return {table: configs for table, configs in runs.items() if configs}


def _run(configs: "list[RunConfig]", out: str, how: dict[str, Any]) -> int:
    from imcl_core.study.batch import run_batch

    outcome = run_batch(configs, out, **how)
    print(
        f"{len(outcome.done)} runs done, {len(outcome.skipped)} had a record or another process at them, "
        f"{len(outcome.postponed)} did not fit into the budget, {len(outcome.failed)} failed. Records: {out}"
    )
    if outcome.failed_before:
        name, why = next(iter(outcome.failed_before.items()))
        print(f"{len(outcome.failed_before)} failed before (why: {out}/*.failed.txt): --retry-failed tries them again.")
        print(f"The first, {name}: {why}")
    return 1 if outcome.failed or outcome.failed_before else 0


def _halve(configs: "list[RunConfig]", factor: int, out: str, how: dict[str, Any]) -> int:
    from imcl_core.study import ledger, search
    from imcl_core.study.batch import run_batch

    began, budget = time.monotonic(), how["budget"]
    if not (cases := search.candidates_of(configs)):
        raise ImclError("There is nothing to choose among these runs: --halving is for a table such as search.")

    def train(runs: "list[RunConfig]") -> dict[str, float]:
        failed: dict[str, str] = {}
        for wait in (False, True):  # what other processes are at comes last
            left = None if budget is None else max(0.0, budget - (time.monotonic() - began))
            again = how["retry_failed"] and not wait
            outcome = run_batch(runs, out, **how | {"budget": left, "wait": wait, "retry_failed": again})
            failed = outcome.failed_before | outcome.failed
        folders = [folder for folder in (*how["done"], os.path.expanduser(out)) if os.path.isdir(folder)]
        diverged = {name: math.inf for name, why in failed.items() if "is not finite" in why}  # the worst there is
        return diverged | {record.config.name: record.last_error for record in ledger.records(*folders)}

    for case, candidates in cases.items():
        told = search.apart(candidates)

        def seen(rung: search.Rung, case: str = case, told: dict = told) -> None:
            print(f"{case}, {rung.epochs} epochs: error on held-out images, %")
            for candidate, error in zip(rung.candidates, rung.errors, strict=True):
                print(f"{error:8.2f}  {told[candidate]}", flush=True)

        search.halve(candidates, train, factor, seen)
    return 0


def _wants_notebooks(asked: bool | None, budget: float | None) -> bool:
    from imcl_core.study.executed import obstacle

    if asked and (why := obstacle()):
        raise ImclError(why)
    return asked if asked is not None else budget is None and not obstacle()


def _pool(
    ray: str | None, per_gpu: int | None, jobs: int | None, device: str | None, notebook: bool
) -> "Here | Slots | RayPool":
    from imcl_core.study.pools import Here, Slots
    from imcl_core.study.ray import RayPool

    if per_gpu is not None and ray is None and (jobs or device):
        raise ImclError("--per-gpu decides how many runs there are at once, and where: leave out --jobs and --device.")
    if ray is not None:
        return RayPool(ray or None, per_gpu=1 if per_gpu is None else per_gpu, jobs=jobs, device=device)
    if per_gpu is not None:
        return Slots.on_gpus(per_gpu)
    if notebook or jobs not in (None, 1):
        return Slots.on_cores(1 if jobs is None else jobs)
    return Here()


def _seconds(budget: str | None) -> float | None:
    """ "9m" to 540."""
    if budget is None:
        return None
    units = {"s": 1, "m": 60, "h": 3600}
    try:
        seconds = float(budget[:-1]) * units[budget[-1]]
        if not 0 <= seconds < math.inf:
            raise ValueError(budget)
        return seconds
    except (KeyError, ValueError, IndexError):
        raise ImclError(f"A budget is a number with a unit, such as 90s, 9m or 1.5h, not {budget!r}.") from None
