"""What the search for weights has found: every trial on held-out images, and the strength that it chooses."""

import contextlib

import pandas as pd

from imcl_core.study.grids import SEARCH, TUNING, grid
from imcl_core.study.ledger import Ledger
from imcl_core.study.search import Candidate, NoRecord, Rung, apart, candidates_of, halve, shortened
from imcl_core.study.tables.write import NAMES, Cell, Table, method_name
from imcl_core.training.config import RunConfig


def searched(ledger: Ledger) -> dict[str, list[Rung]]:
    """The rungs by method, as far as they have all their records: of none of them a method is left out."""
    return _searched(candidates_of(grid("search", "narrow")), ledger)


def _searched(cases: dict[str, list[Candidate]], ledger: Ledger) -> dict[str, list[Rung]]:
    found: dict[str, list[Rung]] = {}

    def errors(runs: list[RunConfig]) -> dict[str, float]:
        known = {run.name: [r.errors["top1_error"][0] for r in ledger.runs(run) if r.seed == run.seed] for run in runs}
        return {name: values[0] for name, values in known.items() if values}

    for candidates in cases.values():
        rungs: list[Rung] = []
        with contextlib.suppress(NoRecord):
            halve(candidates, errors, seen=rungs.append)
        if rungs:
            found[candidates[0][0].methods] = rungs
    return found


def chosen(ledger: Ledger) -> dict[str, Candidate]:
    """The winner by method, where the search has come to its end."""
    return _winners(searched(ledger))


def _winners(found: dict[str, list[Rung]]) -> dict[str, Candidate]:
    ends = {methods: rungs[-1] for methods, rungs in found.items()}
    return {m: rung.candidates[0] for m, rung in ends.items() if rung.epochs == rung.candidates[0][0].epochs}


def search_table(ledger: Ledger) -> Table:
    """A row a method: its trials, a rung after the other, and what they choose."""
    cases = candidates_of(grid("search", "narrow"))
    found = _searched(cases, ledger)
    winners, rows, data = _winners(found), [], []
    for candidates in cases.values():
        methods, told = candidates[0][0].methods, apart(candidates)
        if methods not in found:
            continue
        winner = told[winners[methods]] if methods in winners else "not at its end yet"
        lines = [_lines(rung, told) for rung in found[methods]]
        parts = [Cell(lines[i] if i < len(lines) else ("none yet",)) for i in range(2)]
        rows.append(
            (Cell((method_name(methods),)), *parts, Cell((_values(winner),)), _records(found[methods], told, ledger))
        )
        for rung in found[methods]:
            for candidate, error in zip(rung.candidates, rung.errors, strict=True):
                line = {"method": methods, "epochs": rung.epochs, "strength": told[candidate], "error": error}
                data.append({"table": "search"} | line | {"chosen": winner == told[candidate]})
    shown = ("method", "epochs", "strength", "error", "chosen")
    note = (
        f"The search has begun for {len(rows)} of {len(cases)} methods and come to its end for {len(winners)}. Errors "
        f"in percent on {SEARCH['held_out']:,} of CIFAR-10's training images, of networks of a quarter of the width "
        f"trained on {SEARCH['train_size']:,} others: the mean of VGG-16 and ResNet-18. {len(TUNING)} strengths are "
        "tried in short runs, the best third in runs of full length, with a schedule in proportion; the lowest "
        "error there is chosen and is the default. Test images have no part in it."
    )
    columns = ("method", "all, in short runs", "the best, longer", "chosen", "records")
    frame = pd.DataFrame(data, columns=("table", *shown))
    return Table("search", "The search for weights", note, columns, tuple(rows), frame, shown)


def _records(rungs: list[Rung], told: dict[Candidate, str], ledger: Ledger) -> Cell:
    """A link to the record of every trial."""
    trials = [(candidate, shortened(run, r.epochs)) for r in rungs for candidate in r.candidates for run in candidate]
    found = [
        (f"{NAMES[run.model]}, {_values(told[candidate])}, {run.epochs} epochs", record)
        for candidate, run in trials
        for record in ledger.runs(run)
    ]
    names, records = zip(*found, strict=True)
    return Cell((), None, records, "narrow", names)


def _lines(rung: Rung, told: dict[Candidate, str]) -> tuple[str, ...]:
    """A line a setting that was tried, then a line a candidate, the best first: its values, and the error."""
    tried = [told[candidate] for candidate in rung.candidates]
    names = [part.split("=")[0] for part in tried[0].split(", ")]
    return (*names, *(f"{_values(each)}: {error:.2f}" for each, error in zip(tried, rung.errors, strict=True)))


def _values(told: str) -> str:
    """The values of `name=value, …`; what names none as it is."""
    return ", ".join(part.split("=")[-1] for part in told.split(", "))
