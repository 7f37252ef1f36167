"""The role of the book's own: its text names something, and what a function finds for it is shown in its place."""

from collections.abc import Callable
from pathlib import Path

from docutils import nodes
from sphinx.util import logging
from sphinx.util.docutils import SphinxRole

from imcl_core.errors import ImclError

logger = logging.getLogger(__name__)


class LookedUp(SphinxRole):
    """Shows `find(text)`, as `made` makes a node of it; where it raises `ImclError`, warns and shows nothing.

    `file`: the page is built again when it changes.
    """

    def __init__(
        self, find: Callable[[str], str], made: Callable[[str], nodes.Node] = nodes.Text, file: Path | None = None
    ):
        super().__init__()
        self.find, self.made, self.file = find, made, file

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        if self.file is not None:
            self.env.note_dependency(str(self.file))
        try:
            return [self.made(self.find(self.text))], []
        except ImclError as error:
            logger.warning(str(error), location=self.get_location())
            return [], []
