"""`imcl …`: the command line, thin over the package. The commands about many runs are those of `imcl_core.study`."""

import argparse
import os
import signal
import sys
from typing import TYPE_CHECKING, Annotated, Any

from imcl_core.arguments import DataFolder, Device, Later, add_command
from imcl_core.errors import ImclError, nearest

if TYPE_CHECKING:
    from imcl_core.training.config import RunConfig

OF_STUDY = ("pandas", "scipy", "matplotlib")  # what the extra `study` installs


def main(arguments: list[str] | None = None) -> int:
    """Runs a command; an `ImclError` becomes one line on standard error and exit status 2."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    arguments = sys.argv[1:] if arguments is None else arguments
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # an encoding without our signs: a table shall come all the same
    try:
        parsed, unknown = _parser(arguments[:1]).parse_known_args(arguments)
        if unknown:
            known = getattr(parsed, "known", ())  # of none where a mistake comes before the command
            raise ImclError(f"Unknown argument {unknown[0]!r}.{nearest(unknown[0], known)} See --help.")
        return parsed.run(parsed) or 0
    except ImclError as error:
        print(f"imcl: {error}", file=sys.stderr)
        return 130 if isinstance(error.__cause__, KeyboardInterrupt) else 2
    except BrokenPipeError:  # the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        print(f"imcl: {error.strerror or error}: {error.filename or ''}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        if error.name not in OF_STUDY:
            raise
        print(f"imcl: imcl {arguments[0]} needs {error.name}: pip install 'imcl-core[study]'.", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("imcl: Interrupted.", file=sys.stderr)
        return 130


def _parser(chosen: list[str]) -> argparse.ArgumentParser:
    """All commands; the arguments of those `chosen` alone, since some of them take PyTorch to list."""
    from imcl_core.study import commands as of_study  # which imports what it needs when one of them runs

    parser = argparse.ArgumentParser(
        prog="imcl", description="Intra-model collaborative learning: data, training, tables."
    )
    commands = parser.add_subparsers(metavar="command", required=True)
    for function in (data, train, memory, *of_study.COMMANDS):
        add_command(commands, function, whole=function.__name__ in chosen)
    return parser


def data(dataset: Annotated[str, "a data set, as imcl train --help lists them"], *, folder: DataFolder = None) -> None:
    """Fetch a data set and describe it.

    examples:
      imcl data cifar100                                    download (or convert what lies in the folder) and describe
      imcl data stl10 --folder /data/images
    """
    from imcl_core.data.sets import load

    found = load(dataset, folder=folder)
    size = "×".join(str(s) for s in found.train.images.shape[2:])
    print(f"{found.name}: {len(found.train.labels)} training and {len(found.test.labels)} test images of {size},")
    print(f"{found.num_classes} classes: {', '.join(found.classes[:8])}{', …' if found.num_classes > 8 else ''}")
    print(f"mean {found.mean.numpy().round(4)}, deviation {found.std.numpy().round(4)}")


def train(
    data_set: Annotated[str | None, "the data set, in the place of --dataset"] = None,
    *,
    out: Annotated[str, "folder for record, network and checkpoint"] = "runs",
    data_folder: DataFolder = None,
    device: Device = None,
    quiet: Annotated[bool, "no progress bar"] = False,
    save_every: Annotated[float, "seconds from one checkpoint to the next; 0: after every epoch"] = 30.0,
    **settings: Annotated[Any, Later("imcl_core.training.config", "RunConfig")],
) -> None:
    """Train one network and write its record.

    examples:
      imcl train                                            handwritten digits, ResNet-18, under 20 s on a CPU
      imcl train --methods mid+pull-push+kernel             the same with three of the four losses
      imcl train stl10 --profile narrow                     a narrow network to its end, a quarter of an hour
      imcl train cifar100 --profile paper --out runs        the paper's recipe, for a GPU; it resumes
    """
    from pathlib import Path

    from imcl_core.training.config import RunConfig
    from imcl_core.training.files import Files
    from imcl_core.training.run import train as train_one

    if data_set is not None and settings.setdefault("dataset", data_set) != data_set:
        raise ImclError(f"{data_set} and --dataset {settings['dataset']}: name one data set.")
    config = RunConfig(**settings)
    options = {"data_folder": data_folder, "device": device, "progress": not quiet, "save_every": save_every}
    record = train_one(config, out=out, **options)
    on = "held-out" if config.validation else "test"
    print(
        f"{config.model} {config.methods} on {config.dataset}: {on} error {record.last_error:.2f} % after "
        f"{config.epochs} epochs (best epoch {record.best_error:.2f} %), {record.images_per_s:.0f} images/s"
    )
    print(Files(Path(out).expanduser(), config.name).record)


def memory(
    *,
    methods: Annotated[tuple[str, ...], "what to train with"] = ("baseline", "out", "tree", "multi-instance"),
    model: Annotated[str, "vgg16, resnet18 or resnet101"] = "resnet101",
    dataset: Annotated[str, "decides the number of classes"] = "stl10",
    batch_size: Annotated[int, "images a step"] = 64,
    side: Annotated[int, "pixels of the square images"] = 64,
    heads: Annotated[int, "of tree and multi-instance"] = 4,
    splits: Annotated[tuple[str, ...], "pieces in front of which a tree splits"] = (),
    half: Annotated[bool, "in bfloat16, as training on a GPU computes"] = False,
    measure: Annotated[bool, "run the steps on the GPU too, and show its peak"] = False,
) -> None:
    """Count what a training step holds in memory.

    examples:
      imcl memory                                           the paper's case: ResNet-101, 64 images of 64×64
      imcl memory --methods baseline mid pull-push --model resnet18 --dataset cifar100 --batch-size 128
      imcl memory --methods baseline tree --heads 8 --half
    """
    from imcl_core.training.config import RunConfig
    from imcl_core.training.machine import choose_device

    case = {"dataset": dataset, "model": model, "batch_size": batch_size, "profile": "paper"}
    heads_and_splits = {"pop_heads": heads, "pop_splits": splits}
    configs = [RunConfig(methods=names, **case, **heads_and_splits) for names in methods]
    if measure:
        choose_device("cuda")
    _print_memory(configs, side=side, half=half, measured=measure)


def _print_memory(configs: list["RunConfig"], side: int, half: bool, measured: bool) -> None:
    """A row a configuration, in GB; `ratio` is that of its total to the first one's."""
    from imcl_core.measure.memory import count, measure, splits

    parts = ("weights", "gradients", "optimizer", "activations", "temporary", "total")
    print(f"GB{'':22}" + "".join(f"{part:>13}" for part in parts) + f"{'ratio':>9}" + "     measured" * measured)
    first = None
    for config in configs:
        found = count(config, side=side, half=half)
        first = first or found.total
        row = "".join(f"{getattr(found, part) / 1e9:13.3f}" for part in parts) + f"{found.total / first:9.3f}"
        if measured:
            row += f"{measure(config, side=side, half=half) / 1e9:13.3f}"
        print(f"{config.methods:24}{row}", flush=True)
        if names := splits(config):
            print(f"  splits in front of {', '.join(names)}")


if __name__ == "__main__":
    sys.exit(main())
