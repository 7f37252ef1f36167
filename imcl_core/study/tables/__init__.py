"""The paper's tables with our figures beside them: records and `paper.csv` in; HTML, CSV, LaTeX and text out."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from imcl_core.errors import ImclError, check_choice
from imcl_core.study.ledger import Ledger
from imcl_core.study.tables.decisions import decisions_table
from imcl_core.study.tables.figure_2 import figure_2_table
from imcl_core.study.tables.narrow import narrow_table
from imcl_core.study.tables.neighbours import neighbours_table
from imcl_core.study.tables.paper import printed_table
from imcl_core.study.tables.search import search_table
from imcl_core.study.tables.write import Table

TABLES: dict[str, Callable[[Ledger], Table]] = {
    "table-1": printed_table("table-1", "table1"),
    "table-2": printed_table("table-2", "table2"),
    "table-3": printed_table("table-3", "table3"),
    "figure-2": figure_2_table,
    "narrow": narrow_table,
    "decisions": decisions_table,
    "neighbours": neighbours_table,
    "search": search_table,
}
PRINTED = ("table-1", "table-2", "table-3", "figure-2")  # with numbers of the paper


def table(name: str, ledger: Ledger) -> Table:
    """A table of `TABLES` from the records of a ledger."""
    check_choice("table", name, TABLES)
    return TABLES[name](ledger)


def coverage(ledger: Ledger) -> tuple[int, int]:
    """Cells of the paper's tables that have a run at its scale, and all of them, each counted once.

    A cell that has a line with and one without augmentation is one: the paper prints one number.
    """
    cells = pd.concat([table(name, ledger).data for name in PRINTED])
    runs = cells.groupby(["dataset", "model", "method", "noise"])["n"].max()
    return int((runs > 0).sum()), len(runs)


def open_ledger(folder: str | Path) -> Ledger:
    """The ledger of a folder with records; `ImclError` where there is no such folder."""
    if not Path(folder).is_dir():
        raise ImclError(f"There is no folder {folder} with records: name the one that your runs were merged into.")
    return Ledger(folder)
