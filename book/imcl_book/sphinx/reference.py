"""The reference of the code, from the code: settings as a table, commands as they explain themselves.

`{settings}` shows the fields of a settings class of `imcl_core`; `{command}` what `imcl NAME --help` prints.
"""

import contextlib
import dataclasses
import io
import os
from unittest.mock import patch

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import imcl_core
from imcl_core import cli

WIDTH = "76"  # of the help, in characters


def settings_table(name: str) -> str:
    """The fields that a settings class of `imcl_core` adds to those of others of its classes, as a Markdown table."""
    kind = getattr(imcl_core, name)
    inherited = {
        field.name for base in kind.__bases__ if hasattr(imcl_core, base.__name__) for field in dataclasses.fields(base)
    }
    rows = [
        f"| `{field.name}` | {_default(field.default)} | {field.metadata['help']} |"
        for field in dataclasses.fields(kind)
        if field.name not in inherited
    ]
    return "\n".join(["| setting | default | meaning |", "|---|---|---|", *rows])


def _default(value: object) -> str:
    return "by recipe and profile" if value is None else f"`{value!r}`"


def command_help(name: str) -> str:
    """What `imcl NAME --help` prints."""
    printed = io.StringIO()
    with (
        patch.dict(os.environ, {"COLUMNS": WIDTH}),
        contextlib.redirect_stdout(printed),
        contextlib.suppress(SystemExit),
    ):
        cli.main([name, "--help"])
    return printed.getvalue()


class Settings(SphinxDirective):
    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        return self.parse_text_to_nodes(settings_table(self.arguments[0]))


class Command(SphinxDirective):
    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        text = command_help(self.arguments[0])
        return [nodes.literal_block(text, text, language="text")]


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("settings", Settings)
    app.add_directive("command", Command)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
