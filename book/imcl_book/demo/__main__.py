"""`python -m imcl_book.demo` writes the files of the page "In your browser"; the first time it trains its networks."""

import argparse
import sys
from pathlib import Path

from imcl_book.demo.export import PAGE, export
from imcl_core.errors import ImclError


def main(arguments: list[str] | None = None) -> int:
    """0 if all is well, 2 with one sentence on the error stream if not."""
    parser = argparse.ArgumentParser(prog="imcl-book export-demo", description=__doc__)
    parser.add_argument("--out", type=Path, default=PAGE, help=f"folder of the page's files (default: {PAGE})")
    parser.add_argument("--runs", type=Path, default=Path("runs/demo"), help="where trained networks are kept")
    parser.add_argument("--data-folder", type=Path, help="where cifar10.npz lies (default: IMCL_DATA)")
    options = parser.parse_args(arguments)
    try:
        for path in export(options.out, options.runs, options.data_folder):
            print(path)
    except ImclError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
