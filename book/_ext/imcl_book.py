"""The book's own Sphinx extension: numbers looked up where they live, tagged equations, no unused scripts.

`{paper}` shows a figure of the paper, `source/dataset/model/method` as in `book/paper.csv`, or the difference
of two, `a - b`. `{setting}` shows a setting of `imcl_core.RunConfig` with its default.
"""

import csv
import shutil
from dataclasses import fields
from decimal import Decimal
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util import logging
from sphinx.util.docutils import SphinxRole

from imcl_core.errors import ImclError, nearest
from imcl_core.recipes import RunConfig

logger = logging.getLogger(__name__)
PAPER = Path(__file__).parents[1] / "paper.csv"
RESULTS = Path(__file__).parents[2] / "results"


def paper_figures() -> dict[str, Decimal]:
    """The paper's numbers by `source/dataset/model/method`, with as many decimals as it prints."""
    with PAPER.open(encoding="utf-8") as file:
        return {
            "/".join((row["source"], row["dataset"], row["model"], row["method"])): Decimal(row["value"])
            for row in csv.DictReader(file)
        }


def paper_value(expression: str) -> str:
    """`key` or `key - key` to a number as text; raises `ImclError` on a key that `paper.csv` has not."""
    known = paper_figures()
    keys = [key.strip() for key in expression.split(" - ")]
    for key in keys:
        if key not in known:
            raise ImclError(f"paper.csv has no {key!r}.{nearest(key, known)}")
    first, *rest = (known[key] for key in keys)
    return str(first - sum(rest)).replace("-", "\N{MINUS SIGN}")


def setting_default(name: str) -> str:
    """The default of a setting of `RunConfig`, as written in Python; raises `ImclError` if there is none."""
    defaults = {field.name: field.default for field in fields(RunConfig)}
    if name not in defaults:
        raise ImclError(f"RunConfig has no setting {name!r}.{nearest(name, defaults)}")
    return repr(defaults[name])


class PaperRole(SphinxRole):
    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        try:
            return [nodes.Text(paper_value(self.text))], []
        except ImclError as error:
            logger.warning(str(error), location=self.get_location())
            return [], []


class SettingRole(SphinxRole):
    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        try:
            text = f"{self.text} = {setting_default(self.text)}"
        except ImclError as error:
            logger.warning(str(error), location=self.get_location())
            return [], []
        return [nodes.literal(text, text, classes=["setting"])], []


class TaggedEquations(SphinxPostTransform):
    r"""Leaves tagged equations as written: Sphinx wraps their lines in `split`, where `\tag` is an error."""

    default_priority = 10

    def run(self) -> None:
        for node in self.document.findall(nodes.math_block):
            if r"\tag" in node.astext():
                node["classes"].append("amsmath")
                node["nowrap"] = True


def drop_thebe(app: Sphinx, page: str, template: str, context: dict, doctree: nodes.document | None) -> None:
    """sphinx-thebe puts its scripts on every page, one of them twice, though no page here uses it."""
    scripts = context["script_files"]
    context["script_files"] = [s for s in scripts if "thebe" not in f"{s.filename} {s.attributes}"]


def copy_records(app: Sphinx, exception: Exception | None) -> None:
    """The tables link to the records they rest on."""
    if exception is None and app.builder.format == "html":
        for record in sorted(RESULTS.rglob("*.json")):
            target = Path(app.outdir) / "results" / record.relative_to(RESULTS)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(record, target)


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_role("paper", PaperRole())
    app.add_role("setting", SettingRole())
    app.add_post_transform(TaggedEquations)
    app.connect("html-page-context", drop_thebe, priority=900)
    app.connect("build-finished", copy_records)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
