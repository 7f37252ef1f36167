"""The book's own Sphinx extension: what it looks up where it lives, and what its theme leaves out.

`{paper}` shows a figure of the paper, `source/dataset/model/method` as in `imcl_core/study/paper.csv`, or the
difference of two, `a - b`. `{setting}` shows a setting of a run, or of a `DenseCollaboration`, with its default. The
directive `executions` is a table of what each notebook's last run took, `pdf` a link that appears once `make pdf` has
made the file.
"""

import html
import itertools
import json
import shutil
from collections.abc import Iterator
from dataclasses import fields
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.docutils import SphinxDirective

from imcl_book.sphinx.role import LookedUp
from imcl_book.stamps import code_digest
from imcl_core import DenseSettings
from imcl_core.errors import ImclError, nearest
from imcl_core.study.tables.paper import paper_figures
from imcl_core.training.config import RunConfig
from imcl_core.training.files import RECORD, of_runs

ROOT = Path(__file__).parents[3]
RESULTS = ROOT / "results"
EXECUTIONS = ROOT / "book" / "executions.json"
STATUS = "book/status"
PICTURE = "_static/readme.png"  # what other sites show where someone links to a page
PDF = "intra-model-collaborative-learning.pdf"
PDF_LINK = f'<p class="pdf" hidden><a href="{PDF}">The whole book as one PDF</a></p>'  # imcl_book.site shows it
BUTTONS = {
    "use_repository_button": True,
    "use_edit_page_button": True,
    "launch_buttons": {"colab_url": "https://colab.research.google.com"},
}


def paper_value(expression: str) -> str:
    """`key` or `key - key` to a number as text, with as many decimals as the paper prints.

    `key` as in `imcl_core.study.tables.paper.paper_figures`; raises `ImclError` on one that is not there.
    """
    known = paper_figures()
    keys = [key.strip() for key in expression.split(" - ")]
    for key in keys:
        if key not in known:
            raise ImclError(f"paper.csv has no {key!r}.{nearest(key, known)}")
    first, *rest = (Decimal(known[key].printed) for key in keys)
    return str(first - sum(rest)).replace("-", "\N{MINUS SIGN}")


def setting_text(name: str) -> str:
    """A setting of `RunConfig` or `DenseSettings` with its default, as Python writes it; alone where recipe and profile
    fill it in. `ImclError` if there is none."""
    defaults = {field.name: field.default for kind in (DenseSettings, RunConfig) for field in fields(kind)}
    if name not in defaults:
        raise ImclError(f"There is no setting {name!r}.{nearest(name, defaults)}")
    return name if defaults[name] is None else f"{name} = {defaults[name]!r}"


def setting_node(text: str) -> nodes.Node:
    return nodes.literal(text, text, classes=["setting"])


class TaggedEquations(SphinxPostTransform):
    r"""Leaves tagged equations as written: Sphinx wraps their lines in `split`, where `\tag` is an error."""

    default_priority = 10

    def run(self) -> None:
        for node in self.document.findall(nodes.math_block):
            if r"\tag" in node.astext():
                node["classes"].append("amsmath")
                node["nowrap"] = True


def executions() -> dict[str, dict[str, Any]]:
    """What each notebook's last recorded run took, by its path; `current`: whether its code is the same still."""
    if not EXECUTIONS.exists():
        return {}
    recorded = json.loads(EXECUTIONS.read_text(encoding="utf-8"))
    return {
        path: run | {"current": run["code"] == code_digest(ROOT / path)}
        for path, run in recorded.items()
        if (ROOT / path).exists()
    }


def say_what_the_run_took(app: Sphinx, doctree: nodes.document) -> None:
    """Below a notebook's title: the seconds of its last run and the hardware, linked to those of all."""
    run = executions().get(f"{app.env.docname}.ipynb")
    title = next(doctree.findall(nodes.title), None)
    if not run or not run["current"] or title is None:
        return
    took = html.escape(f"Runs in {run['seconds']} s on {run['hardware']}")
    address = app.builder.get_relative_uri(app.env.docname, STATUS)
    link = f'<a class="reference internal" href="{address}">all executions</a>'
    line = nodes.raw("", f'<p class="execution">{took} ({link})</p>', format="html")  # raw, and so not in the preview
    title.parent.insert(title.parent.index(title) + 1, line)


class Executions(SphinxDirective):
    """A table of all notebooks of the book: what their last recorded runs took, and whether the code is that code."""

    def run(self) -> list[nodes.Node]:
        self.env.note_dependency(str(EXECUTIONS))
        recorded = executions()
        lines = ["| notebook | seconds | hardware | Python | PyTorch | day | state |", "|---|--:|---|---|---|---|---|"]
        for path in sorted(ROOT.glob("notebooks/*.ipynb")):
            name = path.relative_to(ROOT).as_posix()
            run = recorded.get(name, {})
            state = "no run recorded" if not run else "ran to its end" if run["current"] else "code changed since"
            cells = [run.get(key, "") for key in ("seconds", "hardware", "python", "torch", "date")]
            lines.append(f"| [](/{name}) | {' | '.join(map(str, cells))} | {state} |")
        tables = self.parse_text_to_nodes("\n".join(lines))
        for table in tables:
            table["classes"].append("executions")
        return tables


class PdfLink(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        return [nodes.raw("", PDF_LINK, format="html")]


def publish(app: Sphinx, config: Config) -> None:
    """With `repository.url` in `_config.yml` come the buttons, the address of the site on Pages, and its previews."""
    address = config.html_theme_options.get("repository_url", "").rstrip("/")
    if address:
        config.html_theme_options |= BUTTONS
    if not config.html_baseurl and urlsplit(address).netloc == "github.com":
        owner, name = address.split("/")[-2:]
        config.html_baseurl = f"https://{owner}.github.io/{name}/"
    config.ogp_site_name = config.html_title
    if config.html_baseurl:
        config.ogp_site_url, config.ogp_image = config.html_baseurl, PICTURE


def missing_page(app: Sphinx) -> Iterator[tuple[str, dict[str, str], str]]:
    """`404.html`, which hosts show for an address that does not exist, whatever its depth."""
    yield "404", {"site_root": urlsplit(app.config.html_baseurl).path or "/"}, "404.html"


def drop_thebe(app: Sphinx, page: str, template: str, context: dict, doctree: nodes.document | None) -> None:
    """sphinx-thebe puts its scripts on every page, one of them twice, though no page here uses it."""
    scripts = context["script_files"]
    context["script_files"] = [s for s in scripts if "thebe" not in f"{s.filename} {s.attributes}"]


def copy_records(app: Sphinx, exception: Exception | None) -> None:
    """The tables link to the records they rest on."""
    if exception is None and app.builder.format == "html":
        for record in itertools.chain(*of_runs(RECORD, RESULTS).values()):
            target = Path(app.outdir) / "results" / record.relative_to(RESULTS)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(record, target)


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_role("paper", LookedUp(paper_value))
    app.add_role("setting", LookedUp(setting_text, setting_node))
    app.add_directive("executions", Executions)
    app.add_directive("pdf", PdfLink)
    app.add_post_transform(TaggedEquations)
    app.connect("config-inited", publish)
    app.connect("doctree-read", say_what_the_run_took)
    app.connect("html-collect-pages", missing_page)
    app.connect("html-page-context", drop_thebe, priority=900)
    app.connect("build-finished", copy_records)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
