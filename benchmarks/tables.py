"""How long every table and the ledger of claims take with many records, and the commands that read them all.

    python benchmarks/tables.py                   (10,000 records: two minutes)
    python benchmarks/tables.py --records 1000

The records are made up, an equal number of seeds for every cell of the tables, in a temporary folder. Each figure is
the median of five turns, or three for a command, but `merge` has one: seconds of the clock, and of the processor, which
a busy machine disturbs less.
"""

import argparse
import contextlib
import dataclasses
import io
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from imcl_core import Record, cli
from imcl_core.study import grids, tables
from imcl_core.study.tables import claims
from imcl_core.training.machine import choose_device, environment

NAMES = ("table-1", "table-2", "table-3", "figure-2")
RUN = {"device": "none", "seconds": 1.0, "evaluation_seconds": 0.1, "images_per_s": 1.0, "peak_memory_gb": 1.0}


def write_records(folder: Path, count: int) -> None:
    """So many records, at the paper's scale and in the narrow reproduction."""
    cells = [config for profile in ("paper", "narrow") for name in NAMES for config in grids.grid(name, profile)]
    cells = list({config.key: config for config in cells}.values())
    for i in range(count):
        config = dataclasses.replace(cells[i % len(cells)], seed=i // len(cells))
        curve = [
            {"epoch": e + 1, "test_error": 25.0 + (7 * i + e) % 13, "test_error_top5": 5.0 + (7 * i + e) % 13}
            for e in range(config.epochs)
        ]
        (folder / f"{config.name}.json").write_text(Record(config, curve, RUN).to_json())


def every_table(folder: Path) -> None:
    """Opens the records, makes every table and the ledger of claims, and writes each in its three forms."""
    ledger = tables.open_ledger(folder)
    memory = {"baseline": 100, "out": 100, "tree": 150}
    for table in (*(tables.table(name, ledger) for name in tables.TABLES), claims.claims_table(ledger, memory)):
        table.html(), table.csv(), table.latex()


def command(*arguments: str) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        if cli.main([*arguments]):
            raise SystemExit(f"imcl {arguments[0]} failed")


def timed(work: Callable[[], None], turns: int) -> dict[str, float]:
    clock, processor = [], []
    for _ in range(turns):
        began, used = time.perf_counter(), time.process_time()
        work()
        clock.append(time.perf_counter() - began)
        processor.append(time.process_time() - used)
    return {"clock": statistics.median(clock), "processor": statistics.median(processor)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=10_000)
    parser.add_argument("--out", type=Path, help="write the figures to this JSON file")
    arguments = parser.parse_args()
    with TemporaryDirectory() as folder:
        made, into = Path(folder) / "made", str(Path(folder) / "into")
        made.mkdir()
        write_records(made, arguments.records)
        figures = {
            "every table": timed(lambda: every_table(made), 5),
            "status": timed(lambda: command("status", "--folders", str(made)), 3),
            "tables narrow": timed(lambda: command("tables", "narrow", "--results", str(made)), 3),
            "merge": timed(lambda: command("merge", str(made), "--into", into), 1),
        }
    for name, seconds in figures.items():
        print(f"{name:14} {seconds['clock']:6.2f} s, {seconds['processor']:6.2f} s of processor")
    load = [round(value, 2) for value in os.getloadavg()]
    print(f"{arguments.records} records; load {load}")
    if arguments.out:
        content = {**environment(choose_device("cpu")), "records": arguments.records, "load": load, "seconds": figures}
        arguments.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
