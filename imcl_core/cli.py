"""`imcl …`: the command line, thin over the package."""

import argparse
import dataclasses
import fnmatch
import os
import signal
import sys
import types
import typing
from collections.abc import Callable

from imcl_core.errors import ImclError, nearest

_TRAIN_EXAMPLES = """examples:
  imcl train                                            handwritten digits, ResNet-18, under 20 s on a CPU
  imcl train --methods mid+pull-push+kernel             the same with three of the four losses
  imcl train --dataset cifar100 --profile cpu           a narrow network on a part of CIFAR-100, about 4 minutes
  imcl train --dataset cifar100 --profile paper --out runs     the paper's recipe, for a GPU; resumes where it stopped
"""
_DATA_EXAMPLES = """examples:
  imcl data cifar100                                    download (or convert what lies in the folder) and describe
  imcl data stl10 --folder /data/images
"""
_BATCH_EXAMPLES = """examples:
  imcl batch queue --seeds 3 --budget 9m --out runs     the paper's tables on a GPU, as far as 9 minutes go
  imcl batch table-3 --seeds 3 --per-gpu 2              Table III on every GPU of this machine, two runs at once on each
  imcl batch table-3 --seeds 3 --ray 10.0.0.5:6379      the same on a Ray cluster whose nodes share the folder
  imcl batch study --profile cpu --seeds 3 --jobs 2     a real study on two CPU cores, a few hours
  imcl batch narrow --profile narrow --seeds 3 --jobs 2 narrow networks trained to the end on two CPU cores, days
  imcl batch weights --halving --only '*vgg16-mid-*'    search for weights on held-out images, the best ones longer
  imcl batch table-3 --profile smoke --dataset digits   the whole of Table III as a trial, in minutes
"""
_MERGE_EXAMPLES = """examples:
  imcl merge runs                                       take the records of runs/ into results/
  imcl merge /media/stick/runs --into results
"""
_STATUS_EXAMPLES = """examples:
  imcl status                                           every table at paper scale: done, begun, missing, time left
  imcl status --profile cpu --seeds 3
"""
_PLAN_EXAMPLES = """examples:
  imcl plan                                             every table at the paper's scale, three seeds
  imcl plan table-3 figure-2 --seeds 5 --price 2.50     two of them; with what the hours cost at 2.50 an hour
  imcl plan narrow --profile narrow                     what two cores can train to the end; with their hours
"""
_MEMORY_EXAMPLES = """examples:
  imcl memory                                           the paper's case: ResNet-101, 64 images of 64×64
  imcl memory --methods baseline mid pull-push --model resnet18 --dataset cifar100 --batch-size 128
  imcl memory --methods baseline tree --heads 8 --half
"""
_TABLES_EXAMPLES = """examples:
  imcl tables                                           every table and the ledger of claims, as text
  imcl tables table-1 --out tables                      and as tables/table-1.html, .csv and .tex
  imcl tables claims --results /media/stick/results
"""


def main(arguments: list[str] | None = None) -> int:
    """Runs a command; an `ImclError` becomes one line on standard error and exit status 2."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    arguments = sys.argv[1:] if arguments is None else arguments
    parsed, unknown = _parser().parse_known_args(arguments)
    try:
        if unknown:
            raise ImclError(f"Unknown argument {unknown[0]!r}.{nearest(unknown[0], parsed.known)} See --help.")
        return parsed.run(parsed) or 0
    except ImclError as error:
        print(f"imcl: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("imcl: Interrupted.", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="imcl", description="Intra-model collaborative learning: data, training, tables."
    )
    commands = parser.add_subparsers(metavar="command", required=True)
    _add(commands, "data", "fetch a data set and describe it", _data, _data_arguments, _DATA_EXAMPLES)
    _add(commands, "train", "train one network and write its record", _train, _train_arguments, _TRAIN_EXAMPLES)
    _add(commands, "batch", "work through the runs of a table", _batch, _batch_arguments, _BATCH_EXAMPLES)
    _add(commands, "merge", "take records into the results", _merge, _merge_arguments, _MERGE_EXAMPLES)
    _add(commands, "status", "what is done and what is missing", _status, _status_arguments, _STATUS_EXAMPLES)
    _add(commands, "plan", "what a reproduction takes before it is run", _plan, _plan_arguments, _PLAN_EXAMPLES)
    _add(commands, "tables", "the paper's tables with ours beside", _tables, _tables_arguments, _TABLES_EXAMPLES)
    _add(commands, "memory", "count what a training step holds in memory", _memory, _memory_arguments, _MEMORY_EXAMPLES)
    return parser


def _add(commands, name: str, help: str, run: Callable, arguments: Callable, examples: str) -> None:
    parser = commands.add_parser(
        name,
        help=help,
        description=help,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        usage=f"imcl {name} [-h] …",
    )
    arguments(parser)
    parser.set_defaults(run=run, known=[option for action in parser._actions for option in action.option_strings])


def _data_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", help="digits, cifar10, cifar100, stl10 or imagenet32")
    parser.add_argument("--folder", help="where the data lies (default: $IMCL_DATA, else a cache folder)")


def _data(parsed: argparse.Namespace) -> None:
    from imcl_core.data.sets import load

    data = load(parsed.dataset, folder=parsed.folder)
    size = "×".join(str(s) for s in data.train.images.shape[2:])
    print(f"{data.name}: {len(data.train.labels)} training and {len(data.test.labels)} test images of {size},")
    print(f"{data.num_classes} classes: {', '.join(data.classes[:8])}{', …' if data.num_classes > 8 else ''}")
    print(f"mean {data.mean.numpy().round(4)}, deviation {data.std.numpy().round(4)}")


def _train_arguments(parser: argparse.ArgumentParser) -> None:
    from imcl_core.collaboration import MethodSettings
    from imcl_core.methods.population import PopulationSettings
    from imcl_core.training.config import RunConfig

    parser.add_argument("--out", help="folder for record, network and checkpoint (default: runs)", default="runs")
    parser.add_argument("--data-folder", help="where the data lies (default: $IMCL_DATA, else a cache folder)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 … (default: a GPU where there is one)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    hints = typing.get_type_hints(RunConfig)
    settings = parser.add_argument_group("settings of the run")
    of_methods = {field.name for kind in (MethodSettings, PopulationSettings) for field in dataclasses.fields(kind)}
    for field in sorted(dataclasses.fields(RunConfig), key=lambda field: field.name in of_methods):
        default = "" if field.default is None else f" (default: {field.default})"
        settings.add_argument(
            f"--{field.name.replace('_', '-')}",
            help=(field.metadata["help"] + default).replace("%", "%%"),
            default=argparse.SUPPRESS,
            **_argument_type(hints[field.name]),
        )


def _argument_type(hint) -> dict:
    """How argparse reads a setting of type `hint`."""
    kind = (
        next(h for h in typing.get_args(hint) if h is not types.NoneType) if isinstance(hint, types.UnionType) else hint
    )
    if kind is bool:
        return {"action": argparse.BooleanOptionalAction}
    if typing.get_origin(kind) is tuple:
        items = typing.get_args(kind)
        return {"type": items[0], "nargs": "*" if items[-1] is Ellipsis else len(items), "metavar": items[0].__name__}
    return {"type": kind, "metavar": kind.__name__}


def _train(parsed: argparse.Namespace) -> None:
    from imcl_core import RunConfig, train

    names = {field.name for field in dataclasses.fields(RunConfig)}
    config = RunConfig(**{k: v for k, v in vars(parsed).items() if k in names})
    record = train(
        config, out=parsed.out, data_folder=parsed.data_folder, device=parsed.device, progress=not parsed.quiet
    )
    on = "held-out" if config.validation else "test"
    print(
        f"{config.model} {config.methods} on {config.dataset}: {on} error {record.last_error:.2f} % after "
        f"{config.epochs} epochs (best epoch {record.best_error:.2f} %), {record.images_per_s:.0f} images/s"
    )
    print(f"{parsed.out}/{config.name}.json")


def _batch_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("table", help="table-1 … queue, as imcl status lists them; queue: all in order of worth")
    _grid_arguments(parser)
    parser.add_argument("--dataset", help="only the runs on this data set; one that the table lacks takes its place")
    parser.add_argument("--only", metavar="PATTERN", help="only runs whose names match: 'cifar100-vgg16-*-seed0-*'")
    parser.add_argument(
        "--halving", type=int, nargs="?", const=3, metavar="N",
        help="for the table weights: short runs first, and longer ones for the best third (1/N) of the candidates",
    )  # fmt: skip
    parser.add_argument("--out", default="runs", help="folder for records and checkpoints (default: runs)")
    parser.add_argument("--results", default="results", help="runs with a record below it are done (default: results)")
    parser.add_argument("--budget", help="start no run that would end later than this: 90s, 9m, 1.5h")
    parser.add_argument(
        "--notebook",
        action=argparse.BooleanOptionalAction,
        help="leave each run as an executed notebook too (default: where papermill is installed, without --budget)",
    )
    parser.add_argument("--retry-failed", action="store_true", help="try runs again that failed in an earlier batch")
    parser.add_argument("--jobs", type=int, help="so many runs at once (default: 1; on Ray: all that fit)")
    parser.add_argument("--per-gpu", type=int, metavar="N", help="N runs at once on every GPU, each sees only its own")
    parser.add_argument(
        "--ray", nargs="?", const="", metavar="ADDRESS",
        help="work on a Ray cluster: host:port; without an address on the one that runs here, or one started for this",
    )  # fmt: skip
    parser.add_argument("--data-folder", help="where the data lies (default: $IMCL_DATA, else a cache folder)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 … (default: a GPU where there is one)")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")


def _grid_arguments(parser: argparse.ArgumentParser, seeds: int = 1) -> None:
    parser.add_argument("--profile", default="paper", help="smoke, cpu, narrow, t4 or paper (default: paper)")
    parser.add_argument("--seeds", type=int, default=seeds, help=f"seeds 0, 1, … up to so many (default: {seeds})")


def _batch(parsed: argparse.Namespace) -> int:
    from imcl_core.study.grids import grid

    configs = grid(parsed.table, parsed.profile, parsed.seeds, parsed.dataset)
    if parsed.only is not None and not (configs := [c for c in configs if fnmatch.fnmatchcase(c.name, parsed.only)]):
        raise ImclError(f"No run of {parsed.table} has a name that matches {parsed.only!r}: try '*vgg16*'.")
    if parsed.halving is not None:
        return _halving(parsed, configs)
    outcome = _run_batch(parsed, configs)
    print(
        f"{len(outcome.done)} runs done, {len(outcome.skipped)} had a record or another process at them, "
        f"{len(outcome.postponed)} did not fit into the budget, {len(outcome.failed)} failed. Records: {parsed.out}"
    )
    if outcome.failed_before:
        print(f"{len(outcome.failed_before)} failed before: imcl status lists them, --retry-failed tries them again.")
    return 1 if outcome.failed or outcome.failed_before else 0


def _run_batch(parsed: argparse.Namespace, configs):
    from imcl_core.study import batch

    budget = _seconds(parsed.budget)
    notebook = _wants_notebooks(parsed.notebook, budget)
    return batch.run_batch(
        configs,
        parsed.out,
        pool=_pool(parsed, notebook),
        done=[parsed.results],
        budget=budget,
        data_folder=parsed.data_folder,
        device=parsed.device,
        progress=not parsed.quiet,
        notebook=notebook,
        retry_failed=parsed.retry_failed,
    )


def _halving(parsed: argparse.Namespace, configs) -> int:
    from imcl_core.study import ledger, search

    def train(runs):
        _run_batch(parsed, runs)
        folders = [folder for folder in (parsed.results, parsed.out) if os.path.isdir(folder)]
        return {record.config.name: record for record in ledger.records(*folders)}

    for case, candidates in search.candidates_of(configs).items():
        for rung in search.halve(candidates, train, parsed.halving):
            print(f"{case}, {rung.epochs} epochs: error on held-out images, %")
            for (config, *_), error in zip(rung.candidates, rung.errors, strict=True):
                print(f"{error:8.2f}  {search.difference(config)}", flush=True)
    return 0


def _wants_notebooks(asked: bool | None, budget: float | None) -> bool:
    from imcl_core.study.executed import obstacle

    if asked and (why := obstacle()):
        raise ImclError(why)
    return asked if asked is not None else budget is None and not obstacle()


def _pool(parsed: argparse.Namespace, notebook: bool):
    from imcl_core.study import pools

    if parsed.per_gpu is not None and parsed.ray is None and (parsed.jobs or parsed.device):
        raise ImclError("--per-gpu decides how many runs there are at once, and where: leave out --jobs and --device.")
    if parsed.ray is not None:
        per_gpu = 1 if parsed.per_gpu is None else parsed.per_gpu
        return pools.RayPool(parsed.ray or None, per_gpu=per_gpu, jobs=parsed.jobs, device=parsed.device)
    if parsed.per_gpu is not None:
        return pools.Slots.on_gpus(parsed.per_gpu)
    if notebook or parsed.jobs not in (None, 1):
        return pools.Slots.on_cores(1 if parsed.jobs is None else parsed.jobs)
    return pools.Here()


def _seconds(budget: str | None) -> float | None:
    """ "9m" to 540."""
    if budget is None:
        return None
    units = {"s": 1, "m": 60, "h": 3600}
    try:
        return float(budget[:-1]) * units[budget[-1]]
    except (KeyError, ValueError, IndexError):
        raise ImclError(f"A budget is a number with a unit, such as 90s, 9m or 1.5h, not {budget!r}.") from None


def _merge_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", help="folder with records")
    parser.add_argument("--into", default="results", help="folder that takes them (default: results)")


def _merge(parsed: argparse.Namespace) -> None:
    from imcl_core.study.batch import merge

    new = merge(parsed.source, parsed.into)
    print(f"{len(new)} new records in {parsed.into}.")


def _status_arguments(parser: argparse.ArgumentParser) -> None:
    _grid_arguments(parser)
    parser.add_argument("--folders", nargs="*", default=["results", "runs"], help="where records lie")
    parser.add_argument("--device", help="estimate times for this device (default: a GPU where there is one)")


def _status(parsed: argparse.Namespace) -> None:
    from imcl_core.study import batch, ledger
    from imcl_core.study.grids import GRIDS, grid
    from imcl_core.training.run import choose_device

    folders = [folder for folder in parsed.folders if os.path.isdir(folder)]
    speeds = batch.Speeds(choose_device(parsed.device), ledger.records(*folders))
    print(
        f"{'table':18}{'done':>6}{'failed':>8}{'begun':>7}{'missing':>9}   "
        f"time left on {batch.device_name(speeds.device)}"
    )
    failures: dict[str, str] = {}
    for table in GRIDS:
        configs = grid(table, parsed.profile, parsed.seeds)
        cells = batch.status(configs, *folders)
        left = [config for config in configs if config.name not in cells["done"]]
        known = [seconds for config in left if (seconds := speeds.seconds(config)) is not None]
        time_left = f"{sum(known) / 3600:.1f} h" + (
            f" and {len(left) - len(known)} unmeasured" if len(known) < len(left) else ""
        )
        print(
            f"{table:18}{len(cells['done']):6}{len(cells['failed']):8}{len(cells['begun']):7}"
            f"{len(cells['missing']):9}   {time_left}"
        )
        failures |= {n: why for n, why in batch.failures(configs, *folders).items() if n in cells["failed"]}
    for name, why in failures.items():
        print(f"failed: {name}: {why}")


def _plan_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("tables", nargs="*", help="as imcl status lists them (default: the paper's)")
    _grid_arguments(parser, seeds=3)
    parser.add_argument("--results", default="results", help="folder with records: speeds (default: results)")
    parser.add_argument("--price", type=float, help="of an hour of a GPU, in your currency: what the hours cost")


def _plan(parsed: argparse.Namespace) -> None:
    from imcl_core.study import ledger, plan
    from imcl_core.study.grids import BEYOND, GRIDS, grid
    from imcl_core.training.config import SIZES

    tables = parsed.tables or [name for name in GRIDS if name not in BEYOND]
    grids = {name: grid(name, parsed.profile, parsed.seeds) for name in tables}
    records = ledger.records(parsed.results) if os.path.isdir(parsed.results) else []
    table = plan.plan(grids, records)
    print(table.to_string(float_format="{:.1f}".format))
    if SIZES[parsed.profile].width < 1:  # narrow enough for a CPU
        print("\non two cores, a run on each, as measured by the records")
        for name, configs in grids.items():
            hours, unmeasured = plan.core_hours(configs, records)
            print(f"{name:18}{hours / 2:8.1f} h" + (f" and {unmeasured} unmeasured" if unmeasured else ""))
    if parsed.price is not None:
        cost = table.filter(like=", h") * parsed.price
        print(f"\nat {parsed.price:g} an hour\n{cost.to_string(float_format='{:.0f}'.format)}")


def _memory_arguments(parser: argparse.ArgumentParser) -> None:
    default = ["baseline", "out", "tree", "multi-instance"]
    parser.add_argument("--methods", nargs="+", default=default, help=f"(default: {' '.join(default)})")
    parser.add_argument("--model", default="resnet101", help="vgg16, resnet18 or resnet101 (default: resnet101)")
    parser.add_argument("--dataset", default="stl10", help="decides the number of classes (default: stl10)")
    parser.add_argument("--batch-size", type=int, default=64, help="images a step (default: 64)")
    parser.add_argument("--side", type=int, default=64, help="pixels of the square images (default: 64)")
    parser.add_argument("--heads", type=int, default=4, help="of tree and multi-instance (default: 4)")
    parser.add_argument("--splits", nargs="*", default=(), help="pieces in front of which a tree splits")
    parser.add_argument("--half", action="store_true", help="in bfloat16, as training on a GPU computes")
    parser.add_argument("--measure", action="store_true", help="run the steps on the GPU too, and show its peak")


def _memory(parsed: argparse.Namespace) -> None:
    from imcl_core.measure.memory import count, measure, splits
    from imcl_core.training.config import RunConfig
    from imcl_core.training.run import choose_device

    parts = ("weights", "gradients", "optimizer", "activations", "temporary", "total")
    case = {"dataset": parsed.dataset, "model": parsed.model, "batch_size": parsed.batch_size, "profile": "paper"}
    heads = {"pop_heads": parsed.heads, "pop_splits": parsed.splits}
    configs = [RunConfig(methods=methods, **case, **heads) for methods in parsed.methods]
    if parsed.measure:
        choose_device("cuda")
    print(f"GB{'':22}" + "".join(f"{part:>13}" for part in parts) + f"{'ratio':>9}" + "     measured" * parsed.measure)
    first = None
    for config in configs:
        memory = count(config, side=parsed.side, half=parsed.half)
        first = first or memory.total
        row = "".join(f"{getattr(memory, part) / 1e9:13.3f}" for part in parts)
        row += f"{memory.total / first:9.3f}"
        if parsed.measure:
            row += f"{measure(config, side=parsed.side, half=parsed.half) / 1e9:13.3f}"
        print(f"{config.methods:24}{row}", flush=True)
        if names := splits(config):
            print(f"  splits in front of {', '.join(names)}")


def _tables_arguments(parser: argparse.ArgumentParser) -> None:
    names = "table-1, table-2, table-3, figure-2, study, decisions, neighbours or claims (default: all)"
    parser.add_argument("table", nargs="?", help=names)
    parser.add_argument("--results", default="results", help="folder with the records (default: results)")
    parser.add_argument("--out", help="folder for the tables as HTML, CSV and LaTeX, and for Figure 2")


def _tables(parsed: argparse.Namespace) -> None:
    from imcl_core.errors import check_choice
    from imcl_core.study import tables
    from imcl_core.study.tables import claims, figure_2

    if parsed.table is not None:
        check_choice("table", parsed.table, (*tables.TABLES, "claims"))
    ledger = tables.open_ledger(parsed.results)
    for name in [parsed.table] if parsed.table else (*tables.TABLES, "claims"):
        of_claims = name == "claims"
        table = claims.claims_table(ledger, claims.counted_memory()) if of_claims else tables.table(name, ledger)
        print(table)
        written = table.write(parsed.out) if parsed.out else []
        if parsed.out and name == "figure-2":
            written.append(figure_2.write_figure_2(ledger, parsed.out))
        for path in written:
            print(path)


if __name__ == "__main__":
    sys.exit(main())
