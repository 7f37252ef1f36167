"""`imcl …`: the command line, thin over the package."""

import argparse
import dataclasses
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
    from imcl_core.data import load

    data = load(parsed.dataset, folder=parsed.folder)
    size = "×".join(str(s) for s in data.train.images.shape[2:])
    print(f"{data.name}: {len(data.train.labels)} training and {len(data.test.labels)} test images of {size},")
    print(f"{data.num_classes} classes: {', '.join(data.classes[:8])}{', …' if data.num_classes > 8 else ''}")
    print(f"mean {data.mean.numpy().round(4)}, deviation {data.std.numpy().round(4)}")


def _train_arguments(parser: argparse.ArgumentParser) -> None:
    from imcl_core.collaboration import MethodSettings
    from imcl_core.recipes import RunConfig

    parser.add_argument("--out", help="folder for record, network and checkpoint (default: runs)", default="runs")
    parser.add_argument("--data-folder", help="where the data lies (default: $IMCL_DATA, else a cache folder)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 … (default: a GPU where there is one)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    hints = typing.get_type_hints(RunConfig)
    settings = parser.add_argument_group("settings of the run")
    of_methods = {field.name for field in dataclasses.fields(MethodSettings)}
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


if __name__ == "__main__":
    sys.exit(main())
