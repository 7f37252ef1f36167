"""`imcl-book …`: what the Makefile calls to make the book, check it and show it."""

import argparse
import sys
from pathlib import Path

from imcl_core.errors import ImclError
from imcl_core.files import write_if_changed, write_whole


def main(arguments: list[str] | None = None) -> int:
    """0 if all is well, 1 if `check` finds faults, 2 and a sentence on the error stream if something fails."""
    parsed = _parser().parse_args(arguments)
    try:
        return parsed.run(parsed) or 0
    except ImclError as error:
        print(error, file=sys.stderr)
    except ModuleNotFoundError as error:
        name = parsed.run.__name__.replace("_", "-")
        print(f"imcl-book {name} needs {error.name}: pip install 'imcl-core[study,book]'.", file=sys.stderr)
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="imcl-book", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True, metavar="command")

    def command(run, help: str, *argument: str, **options: object) -> argparse.ArgumentParser:
        made = commands.add_parser(run.__name__.replace("_", "-"), help=help, description=help)
        made.set_defaults(run=run)
        if argument:
            made.add_argument(*argument, type=Path, **options)
        return made

    made = command(execute, "run notebooks in place with their default parameters", "paths", nargs="+")
    made.add_argument("--jobs", type=int, default=1, help="how many at a time (default 1)")
    made.add_argument("--cache", type=Path, help="file of stamps: skip what has not changed since it last ran")
    made.add_argument("--record", type=Path, help="file that gets each run's seconds, hardware, versions and day")
    made = command(check, "refuse what must not go into the book", "paths", nargs="+")
    made.add_argument("--record", type=Path, help="file of executions: code and outputs must be those recorded there")
    command(normalise, "take out what differs from one run to the next", "paths", nargs="+")
    command(colab, "put in, or bring up to date, the first code cell, which readies Colab", "paths", nargs="+")
    command(preinstalled, "bring the list of Colab's packages up to what `pip freeze` prints there", "freeze")
    made = command(serve, "serve the built book on this machine and open it", "folder")
    made.add_argument("--port", type=int, default=8000, help="default 8000")
    command(pdf, "print the built book to one PDF", "folder")
    made = command(export_demo, "write the files of the page in the browser; the first time its networks are trained")
    made.add_argument("--out", type=Path, help="folder of the page's files (default: the book's)")
    made.add_argument("--runs", type=Path, default=Path("runs/demo"), help="trained networks (default: runs/demo)")
    made.add_argument("--data-folder", type=Path, help="where cifar10.npz lies (default: IMCL_DATA)")
    return parser


def execute(parsed: argparse.Namespace) -> None:
    from imcl_book.execute import execute_all

    execute_all(parsed.paths, parsed.jobs, parsed.cache, parsed.record)


def check(parsed: argparse.Namespace) -> int:
    from imcl_book import checks

    findings = checks.check(parsed.paths, parsed.record)
    print(*findings, sep="\n", end="\n" if findings else "", file=sys.stderr)
    return int(bool(findings))


def normalise(parsed: argparse.Namespace) -> None:
    from imcl_core.study import notebook

    for path in parsed.paths:
        write_if_changed(path, notebook.dumps(notebook.normalise(notebook.read(path))))


def colab(parsed: argparse.Namespace) -> None:
    from imcl_book.first_cell import for_colab
    from imcl_core.study.notebook import dumps, read

    for path in parsed.paths:
        write_if_changed(path, dumps(for_colab(read(path))))


def preinstalled(parsed: argparse.Namespace) -> None:
    from imcl_book.colab import LIST, preinstalled

    text = preinstalled(LIST.read_text(encoding="utf-8"), parsed.freeze.read_text(encoding="utf-8"))
    write_whole(LIST, text.encode())


def serve(parsed: argparse.Namespace) -> None:
    from imcl_book import site

    site.serve(parsed.folder, parsed.port)


def pdf(parsed: argparse.Namespace) -> None:
    from imcl_book import site

    print(f"The book on paper: {site.print_book(parsed.folder).resolve().as_uri()}")


def export_demo(parsed: argparse.Namespace) -> None:
    from imcl_book.demo.export import PAGE, export

    print(*export(parsed.out or PAGE, parsed.runs, parsed.data_folder), sep="\n")


if __name__ == "__main__":
    sys.exit(main())
