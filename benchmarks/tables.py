"""How long every table and the ledger of claims take with many records, and how fast they are opened.

    python benchmarks/tables.py                   (10,000 records: half a minute)
    python benchmarks/tables.py --records 1000

The records are made up, an equal number of seeds for every cell of the tables, in a temporary folder. Each figure is
the median of five turns: seconds of the clock, and of the processor, which a busy machine disturbs less.
"""

import argparse
import dataclasses
import json
import os
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from imcl_core.study import grids, tables
from imcl_core.study.tables import claims
from imcl_core.training.machine import choose_device, environment

NAMES = ("table-1", "table-2", "table-3", "figure-2")
RUN = {"device": "none", "seconds": 1.0, "evaluation_seconds": 0.1, "images_per_s": 1.0, "peak_memory_gb": 1.0}


def write_records(folder: Path, count: int) -> None:
    """So many records, at the paper's scale and at that of the study."""
    cells = [config for profile in ("paper", "cpu") for name in NAMES for config in grids.grid(name, profile)]
    cells = list({config.key: config for config in cells}.values())
    for i in range(count):
        config = dataclasses.replace(cells[i % len(cells)], seed=i // len(cells))
        curve = [
            {"epoch": e + 1, "test_error": 25.0 + (7 * i + e) % 13, "test_error_top5": 5.0 + (7 * i + e) % 13}
            for e in range(config.epochs)
        ]
        content = {"name": config.name, "config": dataclasses.asdict(config), "curve": curve, "run": RUN}
        (folder / f"{config.name}.json").write_text(json.dumps(content))


def every_table(folder: Path) -> None:
    """Opens the records, makes every table and the ledger of claims, and writes each in its three forms."""
    ledger = tables.open_ledger(folder)
    memory = {"baseline": 100, "out": 100, "tree": 150}
    for table in (*(tables.table(name, ledger) for name in tables.TABLES), claims.claims_table(ledger, memory)):
        table.html(), table.csv(), table.latex()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=10_000)
    parser.add_argument("--out", type=Path, help="write the figures to this JSON file")
    arguments = parser.parse_args()
    clock, processor = [], []
    with TemporaryDirectory() as folder:
        write_records(Path(folder), arguments.records)
        for _ in range(5):
            began, used = time.perf_counter(), time.process_time()
            every_table(Path(folder))
            clock.append(time.perf_counter() - began)
            processor.append(time.process_time() - used)
    figures = {"clock": statistics.median(clock), "processor": statistics.median(processor)}
    print(
        f"{arguments.records} records, every table: {figures['clock']:.2f} s, {figures['processor']:.2f} s of processor"
    )
    load = [round(value, 2) for value in os.getloadavg()]
    print(f"load {load}")
    if arguments.out:
        content = {**environment(choose_device("cpu")), "records": arguments.records, "load": load, "seconds": figures}
        arguments.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
