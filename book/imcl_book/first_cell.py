"""The notebooks' first code cell, which readies Colab: put in, brought up to date, and told from others."""

from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell

from imcl_book import colab
from imcl_core.study.notebook import normalise, tags

CONFIG = Path(__file__).parents[2] / "_config.yml"


def for_colab(notebook: NotebookNode) -> NotebookNode:
    """A copy in normal form whose first code cell, below the title, is the one of `colab.cell`.

    Any older one goes. The new one counts as executed, without outputs: that is what executing it here gives.
    """
    rest = [cell for cell in notebook.cells if not is_for_colab(cell)]
    source = colab.cell(CONFIG)
    first = new_code_cell(source, execution_count=1, metadata={"tags": colab.TAGS})
    return normalise(nbformat.from_dict({**notebook, "cells": [*rest[:1], first, *rest[1:]]}))


def is_for_colab(cell: NotebookNode) -> bool:
    """Whether a cell is, or once was, the one that readies Colab."""
    return colab.TAGS[0] in tags(cell)
