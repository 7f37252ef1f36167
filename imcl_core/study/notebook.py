"""A notebook's file: read, brought into normal form, so that a re-run changes no byte, and its parameters checked."""

import ast
import hashlib
import re
from collections.abc import Iterable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from imcl_core.errors import ImclError, nearest

KERNELSPEC = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
LANGUAGE_INFO = {
    "file_extension": ".py",
    "mimetype": "text/x-python",
    "name": "python",
    "pygments_lexer": "ipython3",
}
NOTEBOOK_METADATA = ("accelerator", "colab", "mystnb")  # kept beside the two above
CELL_METADATA = ("cellView", "jupyter", "mystnb", "tags")  # the first two fold a cell on Colab and in Jupyter Lab

_PROGRESS_BAR = re.compile(r"\d+%\|.*\||\[\d+:\d\d(:\d\d)?[<,\]]")


NOT_WHOLE = (ValueError, AttributeError, KeyError)  # what `parse` raises for a file that is no notebook of format 4


def parse(path: Path | str) -> NotebookNode:
    """The notebook in a file of format 4."""
    return nbformat.v4.reads(Path(path).read_text(encoding="utf-8"))


def read(path: Path | str) -> NotebookNode:
    """As `parse`; raises `ImclError` where there is none."""
    try:
        return parse(path)
    except FileNotFoundError:
        raise ImclError(f"There is no notebook {path}: check the path.") from None
    except NOT_WHOLE as error:
        raise ImclError(f"{path} is not a notebook of format 4 ({error}): restore it from git.") from None


def dumps(notebook: NotebookNode) -> str:
    """The text of a notebook's file: sorted keys, one line a source line, ending in a newline."""
    return nbformat.v4.writes(notebook) + "\n"


def normalise(notebook: NotebookNode) -> NotebookNode:
    """A copy without what differs from one run to the next: times, versions, random ids, progress bars.

    Metadata is a white list; a cell's id is a hash of its source; execution counts run from 1; adjacent
    pieces of one stream are joined. Applying it twice changes nothing.
    """
    old = deepcopy(notebook)
    metadata = {key: old.metadata[key] for key in NOTEBOOK_METADATA if key in old.metadata}
    metadata |= {"kernelspec": KERNELSPEC, "language_info": LANGUAGE_INFO}
    cells, used, count = [], set(), 0
    for cell in old.cells:
        new = {
            "cell_type": cell.cell_type,
            "id": _cell_id(cell, used),
            "metadata": {key: cell.metadata[key] for key in CELL_METADATA if cell.metadata.get(key)},
            "source": cell.source,
        }
        if cell.cell_type == "code":
            executed = bool(cell.source.strip()) and cell.get("execution_count") is not None
            count += executed
            new["execution_count"] = count if executed else None
            new["outputs"] = _normal_outputs(cell.get("outputs", []), new["execution_count"])
        elif cell.get("attachments"):
            new["attachments"] = cell.attachments
        cells.append(new)
    return nbformat.from_dict({"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5})


def _cell_id(cell: NotebookNode, used: set[str]) -> str:
    digest = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:8]
    name, copy = digest, 1
    while name in used:
        copy += 1
        name = f"{digest}-{copy}"
    used.add(name)
    return name


def _normal_outputs(outputs: Iterable[NotebookNode], count: int | None) -> list[NotebookNode]:
    normal: list[NotebookNode] = []
    for output in outputs:
        if output.output_type == "stream":
            if output.name == "stderr":
                output.text = _without_progress_bars(output.text)
            if not output.text:
                continue
            if normal and normal[-1].output_type == "stream" and normal[-1].name == output.name:
                normal[-1].text += output.text
                continue
        elif output.output_type == "execute_result":
            output.execution_count = count
        normal.append(output)
    return normal


def _without_progress_bars(text: str) -> str:
    """What is left of a stream when the lines that tqdm wrote and overwrote are taken out; mostly nothing."""
    lines = [line for line in re.split(r"[\r\n]+", text) if line.strip() and not _PROGRESS_BAR.search(line)]
    return "".join(f"{line}\n" for line in lines)


def check_parameters(path: Path, notebook: NotebookNode, parameters: Mapping[str, Any]) -> None:
    """papermill runs a mistyped parameter with the default, without a word: stop before that."""
    known = _defaults(path, notebook)
    for name, value in parameters.items():
        if name not in known:
            raise ImclError(f"{path} has no parameter {name!r}.{nearest(name, known)} Known: {', '.join(known)}.")
        default = known[name]
        kinds = (float, int) if type(default) is float else (type(default),)
        if default is not None and type(value) not in kinds:
            raise ImclError(f"{path}: {name!r} must be of type {kinds[0].__name__}, like {default!r}; got {value!r}.")


def _defaults(path: Path, notebook: NotebookNode) -> dict[str, Any]:
    """The parameters of a notebook with their defaults, which papermill's own reading by lines takes for others."""
    source = next((cell.source for cell in notebook.cells if "parameters" in tags(cell)), "")
    try:
        statements = ast.parse(source).body
    except SyntaxError as error:
        raise ImclError(f"{path}: line {error.lineno} of the cell of parameters is not Python: mend it.") from None
    found = {}
    for statement in statements:
        if isinstance(statement, ast.Assign | ast.AnnAssign) and statement.value is not None:
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            found |= {t.id: _literal(statement.value) for t in targets if isinstance(t, ast.Name)}
    return found


def _literal(value: ast.expr) -> Any:
    """The value that a Python literal stands for; the text of another expression."""
    try:
        return ast.literal_eval(value)
    except ValueError:
        return ast.unparse(value)


def tags(cell: NotebookNode) -> set[str]:
    """What a cell is tagged with."""
    return set(cell.metadata.get("tags", []))


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    """The code cells that hold anything."""
    return [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
