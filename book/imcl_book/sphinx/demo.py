"""The scripts of the page "In your browser", loaded there alone, and the facts about its networks.

`{demo}` shows a fact that `imcl-book export-demo` wrote: `digits/baseline/error`, or `size` of the page's files. The
directive `demo-records` lists the records of its runs.
"""

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from imcl_book.sphinx.role import LookedUp
from imcl_core.errors import ImclError, nearest

PAGE = "book/in-your-browser"
FILES = Path(__file__).parents[2] / "_static" / "demo"
# In the order in which they run; photographs.js comes when it is asked for.
SCRIPTS = ("network.js", "trainer.js", "charts.js", "images.js", "digits.js", "page.js", "training.js")


def fact(name: str) -> str:
    """`set/network/fact` as exported, or `size`, the kilobytes of scripts and styles; `ImclError` if there is none."""
    if name == "size":
        return f"{sum(file.stat().st_size for file in FILES.iterdir() if file.suffix in ('.js', '.css')) / 1000:,.0f}"
    found: Any = json.loads((FILES / "facts.json").read_text(encoding="utf-8"))
    for part in name.split("/"):
        if not isinstance(found, dict) or part not in found:
            known = found if isinstance(found, dict) else ()
            raise ImclError(f"There is no fact {name!r}.{nearest(part, known)} Known here: {', '.join(known)}.")
        found = found[part]
    return str(found)


class Records(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        listed = nodes.bullet_list()
        for file in sorted((FILES / "records").glob("*.json")):
            address = f"../_static/demo/records/{quote(file.name)}"
            link = nodes.reference("", file.stem, refuri=address, internal=False)
            listed.append(nodes.list_item("", nodes.paragraph("", "", link)))
        return [listed]


def add_scripts(app: Sphinx, page: str, template: str, context: dict, doctree: nodes.document | None) -> None:
    """Sphinx keeps what is added here to this page."""
    if page == PAGE:
        app.add_css_file("demo/demo.css")
        for script in SCRIPTS:
            app.add_js_file(f"demo/{script}", loading_method="defer")


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_role("demo", LookedUp(fact, file=FILES / "facts.json"))
    app.add_directive("demo-records", Records)
    app.connect("html-page-context", add_scripts)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
