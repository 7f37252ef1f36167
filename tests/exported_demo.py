"""What `imcl-book export-demo` wrote for the page, read back."""

import json
from pathlib import Path
from typing import Any

from imcl_book.demo.runs import config_of
from imcl_book.demo.weights import unpack

from imcl_core.collaboration import Collaboration
from imcl_core.training.run import assemble


def read(path: Path) -> dict[str, Any]:
    """What lies in a script."""
    text = path.read_text(encoding="utf-8")
    return json.loads(text[text.index(" = ") + 3 : text.rindex(";")])


def rebuilt(content: dict[str, Any], name: str, kind: str) -> Collaboration:
    """The network of a script, in PyTorch."""
    side = content["side"]
    collaboration = assemble(config_of(name, kind), len(content["classes"]), (3, side, side))
    unpack(content["networks"][kind], collaboration)
    return collaboration.eval()
