"""Exercises: in every chapter three kinds of them, whose blanks fail and whose hidden solutions pass one test.

Executing whole notebooks is nbval's part in `make test`: both cells of an exercise carry `nbval-check-output`. Here the
cells' form and stored outputs are read, and what an exercise needs of its chapter is run where that takes a few cells
that train no network.
"""

import ast
import contextlib
import io
import itertools
import re
import symtable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from imcl_book.exercises import check
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from imcl_core.study.notebook import read

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
CHAPTERS = [
    *sorted(NOTEBOOKS.glob("[1-9]*.ipynb")),
    *(NOTEBOOKS / f"{name}.ipynb" for name in ("results", "errata", "plan")),
]
KINDS = {"predict, then run", "find the bug", "extend"}
HEADING = re.compile(rf"### Exercise (\d+): ({'|'.join(KINDS)})\b.*")
BLANK = {"tags": ["exercise", "nbval-check-output"]}
SOLUTION = {  # folded in the book, in Jupyter Lab and on Colab
    "cellView": "form",
    "jupyter": {"source_hidden": True},
    "mystnb": {"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"},
    "tags": ["hide-cell", "nbval-check-output", "solution"],
}
CHOICES = re.compile(r"^(?:(?:# .*\n)+\w+ = \.\.\.$|\w+ = \.\.\.  # .*)", re.MULTILINE)  # the comment beside or above
MOST_CELLS = 12  # of a chapter to be run for one exercise, so that trying all takes seconds
WORTHLESS = (None, "", object(), lambda *args, **_: args[0], lambda *_args, **_: 0.0)


def tags(cell: NotebookNode) -> list[str]:
    return sorted(cell.metadata.get("tags", []))


def output(cell: NotebookNode) -> str:
    return "".join(part.get("text", "<no text>") for part in cell.outputs)


def names(source: str) -> tuple[set[str], set[str], set[str]]:
    """The names that a cell assigns, those it uses when it runs, and those its functions use when they are called."""
    cell = symtable.symtable(source, "cell", "exec")
    inner = cell.get_children()
    for table in inner:
        inner += table.get_children()
    now, later = (
        {s.get_name() for table in tables for s in table.get_symbols() if s.is_referenced() and s.is_global()}
        for tables in ([cell], inner)
    )
    return {s.get_name() for s in cell.get_symbols() if s.is_assigned() or s.is_imported()}, now, later


def answers(cell: NotebookNode, number: int) -> list[str] | None:
    """What a cell hands to `check`, in its last line; none if that is not `check(number, test_<number>, ...)`."""
    try:
        call = ast.parse(cell.source).body[-1].value
        name, first, test, *given = (ast.unparse(part) for part in (call.func, *call.args))
    except (AttributeError, IndexError, SyntaxError, ValueError):
        return None
    return given if [name, first, test] == ["check", str(number), f"test_{number}"] else None


def exercises(notebook: NotebookNode) -> list[list[NotebookNode]]:
    """The cells behind the heading, three by three; empty where there is no such heading."""
    starts = [i for i, cell in enumerate(notebook.cells) if cell.source.startswith("## Exercises")]
    cells = notebook.cells[starts[0] + 1 :] if starts else []
    return [cells[i : i + 3] for i in range(0, len(cells), 3)]


def findings(notebook: NotebookNode) -> list[str]:
    """What is wrong with a notebook's exercises: a sentence each, or nothing."""
    found, kinds = [], set()
    for number, cells in enumerate(exercises(notebook), start=1):
        heading = HEADING.match(cells[0].source)
        if len(cells) < 3 or [cell.cell_type for cell in cells] != ["markdown", "code", "code"]:
            return [*found, f"Exercise {number} is not a text, a blank and a solution."]
        if not heading or heading[1] != str(number):
            return [*found, f"Exercise {number} is headed {cells[0].source.splitlines()[0]!r}."]
        kinds.add(heading[2])
        found += [f"Exercise {number}: {sentence}" for sentence in faults(number, heading[2], *cells[1:])]
    if kinds != KINDS:
        found.append(f"There is no exercise to {', '.join(sorted(KINDS - kinds))}.")
    return found


def faults(number: int, kind: str, blank: NotebookNode, solution: NotebookNode) -> list[str]:
    asked, given = answers(blank, number), answers(solution, number)
    rules = {
        f"the blank's metadata must be {BLANK}.": blank.metadata | {"tags": tags(blank)} == BLANK,
        f"the solution's metadata must be {SOLUTION}.": solution.metadata | {"tags": tags(solution)} == SOLUTION,
        "the blank leaves nothing blank.": "..." in blank.source or kind == "find the bug",
        f"both cells must end in check({number}, test_{number}, ...), with as many answers.": (
            asked and given and len(asked) == len(given)
        ),
        "the solution must use names of its own.": not names(blank.source)[0] & names(solution.source)[0],
        "the solution must begin with comments that say why.": solution.source.startswith("# "),
        f"the blank says {output(blank)!r}.": re.match(rf"Exercise {number}: (open|not yet)\b", output(blank)),
        f"the solution says {output(solution)!r}.": output(solution) == f"Exercise {number}: right.\n",
    }
    return [sentence for sentence, kept in rules.items() if not kept]


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_a_chapter_has_exercises_of_every_kind_with_hidden_solutions_that_passed(path):
    assert findings(read(path)) == []


def needed(code: list[NotebookNode], last: int) -> set[int]:
    """Indices of the cells that cell `last` needs, itself included: those that assign what it uses, directly or not."""
    known = [names(cell.source) for cell in code[: last + 1]]
    found, more = set(), {last}
    while more:
        found |= more
        later = set().union(*(known[i][2] for i in found))
        more = {j for j in range(last) if known[j][0] & set().union(later, *(known[i][1] for i in found if i > j))}
        more -= found
    return found


def trains(cell: NotebookNode) -> bool:
    calls = [node.func for node in ast.walk(ast.parse(cell.source)) if isinstance(node, ast.Call)]
    return any(isinstance(call, ast.Name) and call.id.startswith("train") for call in calls)


def proof(code: list[NotebookNode], solution: int) -> set[int]:
    """Indices of the cells that try a solution and the blank before it; none where they train, or are too many."""
    cells = needed(code, solution) | needed(code, solution - 1)
    return set() if len(cells) > MOST_CELLS or any(trains(code[i]) for i in cells) else cells


def passes(test, values) -> bool:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        check(1, test, *values)
    return printed.getvalue() == "Exercise 1: right.\n"


def choices(source: str) -> list[list]:
    """Of each answer to choose, as in `answer = ...  # "rises" or "falls"`, what its comment offers."""
    return [[ast.literal_eval(text) for text in re.findall(r'"[^"]*"', line[0])] for line in CHOICES.finditer(source)]


def run(code: list[NotebookNode], cells: set[int]) -> tuple[dict[str, Any], dict[int, str]]:
    """What some cells of a notebook assign, and what each of them prints."""
    space, said = {"__name__": "__main__"}, {}
    for i in sorted(cells):
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(code[i].source, f"code cell {i}", "exec"), space)
        said[i] = printed.getvalue()
    return space, said


def live_findings(notebook: NotebookNode) -> list[str]:
    """What is wrong with exercises as they run, where that takes no training: a sentence each, or nothing."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    proofs = {i: proof(code, i) for i, cell in enumerate(code) if "solution" in tags(cell)}
    space, said = run(code, set().union(*proofs.values()))
    found = [] if said else ["No exercise can be tried in a few cells without training."]
    for i in (i for i, cells in proofs.items() if cells):
        call = ast.parse(code[i].source).body[-1].value
        number, test, count = call.args[0].value, space[call.args[1].id], len(call.args) - 2
        offered = choices(code[i - 1].source)
        right = [chosen for chosen in itertools.product(*offered) if passes(test, chosen)]
        rules = {
            f"the blank says {said[i - 1]!r} now.": said[i - 1] == output(code[i - 1]),
            f"the solution says {said[i]!r} now.": said[i] == output(code[i]),
            "a worthless answer passes.": not any(passes(test, [value] * count) for value in WORTHLESS),
            f"{len(right)} of the choices are right.": not offered or not all(offered) or len(right) == 1,
        }
        found += [f"Exercise {number}: {sentence}" for sentence, kept in rules.items() if not kept]
    return found


@pytest.mark.filterwarnings("ignore")  # a kernel shows them, and the gate of notebooks refuses what it shows
@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_blanks_fail_solutions_pass_and_nothing_worthless_does(path, monkeypatch):
    monkeypatch.chdir(NOTEBOOKS)
    assert live_findings(read(path)) == []


QUESTION = """answer = ...  # "rises" or "falls"


def test_{0}(answer):
    assert answer == "falls", "Think of the sign."


check({0}, test_{0}, answer)"""
ANSWER = """# It falls: the sign is negative.
solution_{0} = "falls"
check({0}, test_{0}, solution_{0})"""


def chapter():
    """A notebook with three exercises as they should be."""
    code = [new_code_cell(source) for source in ("seed = 0", "from imcl_book.exercises import check")]
    cells = [new_markdown_cell("# Title"), *code, new_markdown_cell("## Exercises\n\nWrite your answer.")]
    for number, kind in enumerate(sorted(KINDS), start=1):
        cells.append(new_markdown_cell(f"### Exercise {number}: {kind}\n\nDoes it rise?"))
        for source, metadata, verdict in ((QUESTION, BLANK, "open"), (ANSWER, SOLUTION, "right")):
            said = [new_output("stream", text=f"Exercise {number}: {verdict}.\n")]
            metadata = deepcopy(metadata)
            cells.append(new_code_cell(source.format(number), execution_count=1, metadata=metadata, outputs=said))
    return new_notebook(cells=cells)


def replaced(i, old, new):
    def spoil(notebook):
        assert old in notebook.cells[i].source
        notebook.cells[i].source = notebook.cells[i].source.replace(old, new)

    return spoil


SPOILS = {  # cells 4 to 6 are the first exercise
    "Exercise 3 is not a text, a blank and a solution": lambda nb: nb.cells.pop(),
    "Exercise 1 is not a text, a blank": lambda nb: nb.cells.pop(6),
    "no exercise to extend, find the bug, predict, then run": lambda nb: nb.cells.pop(3),
    "no exercise to predict, then run": lambda nb: nb.cells.__setitem__(slice(10, None), []),
    "is headed '### Exercise 7": replaced(4, "Exercise 1", "Exercise 7"),
    "is headed '### Exercise 1: measure": replaced(4, "extend", "measure"),
    "blank's metadata": lambda nb: nb.cells[5].metadata.tags.remove("nbval-check-output"),
    "solution's metadata": lambda nb: nb.cells[6].metadata.pop("jupyter"),
    "nothing blank": replaced(5, "...", "None"),
    "must end in check(1, test_1, ...)": replaced(6, "check(1", "check(2"),
    "names of its own": replaced(6, "solution_1", "answer"),
    "say why": replaced(6, "# It falls", "0  # It falls"),
    "blank says 'Exercise 1: right": lambda nb: nb.cells[5].update(outputs=nb.cells[6].outputs),
    "solution says 'Exercise 1: not yet": lambda nb: nb.cells[6].outputs[0].update(text="Exercise 1: not yet.\n"),
}
LIVE_SPOILS = {
    "blank says 'Exercise 1: right": replaced(5, "answer = ...", "answer = 'falls'"),
    "solution says 'Exercise 1: not yet. Think of the sign.": replaced(6, '"falls"', '"rises"'),
    "a worthless answer passes": replaced(5, 'answer == "falls"', 'answer != "rises"'),
    "2 of the choices are right": replaced(5, 'answer == "falls"', 'answer in ("falls", "rises")'),
    "No exercise can be tried": replaced(2, "from", "train = print\ntrain()\nfrom"),
}


@pytest.mark.parametrize(
    ("look", "finding"), [*((findings, f) for f in SPOILS), *((live_findings, f) for f in LIVE_SPOILS)]
)
def test_each_fault_is_found(look, finding):
    notebook = chapter()
    assert look(notebook) == []
    (SPOILS if look is findings else LIVE_SPOILS)[finding](notebook)
    assert any(finding in found for found in look(notebook))


def test_a_notebook_without_exercises_or_with_a_list_of_them_is_not_enough():
    notebook = new_notebook(cells=[new_markdown_cell("# Title"), new_markdown_cell("## Exercises\n\n1. Predict.")])
    assert len(findings(notebook)) == 1


def test_the_cells_that_an_exercise_needs_are_found_without_those_that_train():
    sources = ["seed = 0", "import x", "a = seed", "b = train(a)", "def f():\n    return a", "a = 2", "f()", "b + f()"]
    code = [new_code_cell(source) for source in sources]
    assert needed(code, 6) == {0, 2, 4, 5, 6}
    assert needed(code, 7) == {0, 2, 3, 4, 5, 7}
    assert proof(code, 6) == {0, 2, 4, 5, 6}
    assert proof(code, 7) == set()


def no(*_answers):
    raise AssertionError("Look again.")


@pytest.mark.parametrize(
    ("test", "given", "said"),
    [
        (lambda a, b: None, (1, None), "right."),
        (lambda f: f(), (lambda: 1,), "right."),
        (no, (1,), "not yet. Look again."),
        (lambda a: [][a], (1,), "not yet (IndexError: list index out of range)."),
        (lambda a: {}[a], ("",), "not yet (KeyError: '')."),
        (lambda a: a.fail(), (lambda: 1,), "not yet (AttributeError: 'function' object has no attribute 'fail')."),
        (no, (1, ...), "open."),
        (lambda f: no(f()), (lambda: None,), "open."),
        (lambda f: no(f()), (lambda: ...,), "open."),
    ],
)
def test_check_says_what_an_answer_is_and_raises_nothing(capsys, test, given, said):
    check(4, test, *given)
    assert capsys.readouterr().out == f"Exercise 4: {said}\n"


def test_an_error_of_several_lines_is_told_in_one(capsys):
    def test(_answer):
        raise ValueError("first\nsecond")

    check(1, test, 0)
    assert capsys.readouterr().out == "Exercise 1: not yet (ValueError: first).\n"
