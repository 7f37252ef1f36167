"""A term of one's own: of another package, by an entry point, and of a notebook, by `register`."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from imcl_core import Collaboration, ImclError, MethodSettings, RunConfig
from imcl_core.methods import TERMS, register
from imcl_core.methods.term import Term
from imcl_core.networks import build
from imcl_core.settings import Settings, setting

ROOT = Path(__file__).parents[2]
PACKAGE = """
from dataclasses import dataclass

from imcl_core.methods.term import OnLayers, Term
from imcl_core.settings import setting


@dataclass(frozen=True, kw_only=True)
class QuietSettings(OnLayers):
    quiet_weight: float = setting(0.5, "weight of the mean square of a layer's maps", least=0, most=10)


class Quiet(Term):
    name, Settings = "quiet", QuietSettings
    needs, inside, local = ("layers",), True, True

    def attach(self, sites, task):
        self.reads = sites.layers()

    def read(self, place, maps):
        return maps.square().mean()

    def losses(self, seen, step):
        return {self.named(p): self.settings.quiet_weight * seen[p.name] for p in self.reads}
"""
SCRIPT = """
import json, torch
from imcl_core import Collaboration, ImclError, RunConfig, train
from imcl_core.networks import build

short = {"width": 1 / 16, "epochs": 1, "train_size": 64, "hidden": 16}
record = train(RunConfig(methods="quiet+mid", quiet_weight=0.25, **short), progress=False, device="cpu")
collaboration = Collaboration(build("resnet18", 4, width=1 / 16), "quiet")
rows = list(collaboration.cost(4).index)
collaboration(torch.randn(4, 3, 32, 32), torch.arange(4))
before = list(collaboration.terms)
collaboration.weigh("quiet", 0)
collaboration(torch.randn(4, 3, 32, 32), torch.arange(4))
try:
    RunConfig(quiet_weight=11)
except ImclError as error:
    refused = str(error)
print(json.dumps({
    "methods": record.config.methods, "terms": list(record.curve[-1]["terms"]), "cost": rows, "before": before,
    "weighed": list(collaboration.terms), "refused": refused,
    "names": [RunConfig(methods=m).name for m in ("baseline", "mid", "out+kd", "tree")],
    "own": [RunConfig(methods="quiet", quiet_weight=w).key for w in (0.5, 0.25)],
}))
"""


def run(folder: Path, *arguments: str) -> str:
    environment = os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A folder with an installed package of one module, whose entry point names its class."""
    (tmp_path / "quiet_term.py").write_text(PACKAGE, encoding="utf-8")
    info = tmp_path / "quiet_term-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: quiet-term\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text("[imcl_core.methods]\nquiet = quiet_term:Quiet\n", encoding="utf-8")
    return tmp_path


def test_a_term_of_another_package_is_one_of_the_house(package):
    found = json.loads(run(package, "-c", SCRIPT))
    layers = [name for name in found["before"] if name.startswith("quiet/trunk.")]
    assert len(layers) == 17 and found["cost"] == ["network", *layers]
    assert found["weighed"] == ["hard"]
    assert found["methods"] == "mid+quiet" and {"hard", *layers} <= set(found["terms"])
    assert found["refused"] == "Setting quiet_weight must lie between 0 and 10, not 11.0."
    assert found["names"] == [RunConfig(methods=m).name for m in ("baseline", "mid", "out+kd", "tree")]
    assert len(set(found["own"])) == 2
    shown = run(package, "-m", "imcl_core.cli", "train", "--help")
    assert "--quiet-weight" in shown and "mean square of a layer's maps" in shown


def test_a_package_that_fails_is_left_out_with_a_warning(package):
    (package / "quiet_term.py").write_text("raise RuntimeError('broken')\n", encoding="utf-8")
    code = "import warnings; warnings.simplefilter('error'); import imcl_core.methods"
    with pytest.raises(AssertionError, match="The method quiet of quiet_term:Quiet cannot be used: broken"):
        run(package, "-c", code)
    code = "from imcl_core.methods import TERMS; print('mid' in TERMS)"
    assert "True" in run(package, "-W", "ignore", "-c", code)


@dataclass(frozen=True, kw_only=True)
class OwnSettings(Settings):
    own_weight: float = setting(2.0, "weight of nothing", least=0, most=10)


def own(name="own", kind=OwnSettings):
    class Own(Term):
        Settings = kind

        def losses(self, seen, step):
            return {self.name: self.settings.own_weight * step.predictions.square().mean()}

    Own.name = name
    return Own


@pytest.fixture
def registered(monkeypatch):
    for name, term in TERMS.items():
        monkeypatch.setitem(TERMS, name, term)
    yield register(own())
    TERMS.pop("own")


def step(**options):
    torch.manual_seed(0)
    collaboration = Collaboration(build("resnet18", 4, width=1 / 16, dropout=0.0), "own+mid", **options)
    collaboration(torch.randn(4, 3, 32, 32), torch.arange(4))
    return collaboration.terms["own"].item()


def test_a_term_of_a_notebook_works_at_once(registered):
    @dataclass(frozen=True, kw_only=True)
    class Both(MethodSettings, OwnSettings):
        """Those of all methods, and mine."""

    default = step()
    assert step(settings=Both(own_weight=1.0)) == pytest.approx(default / 2)
    assert step(settings=OwnSettings(own_weight=4.0)) == pytest.approx(2 * default)
    assert step(settings=MethodSettings()) == default
    register(own())  # the cell again


def test_a_run_refuses_a_term_whose_settings_it_lacks(registered):
    with pytest.raises(ImclError, match="own was registered after the settings of a run were made: install") as caught:
        RunConfig(methods="own")
    assert "\n" not in str(caught.value)


def test_names_and_settings_are_one_of_a_kind():
    @dataclass(frozen=True, kw_only=True)
    class Taken(Settings):
        mid_alpha: float = setting(1.0, "taken")

    with pytest.raises(ImclError, match="There is a term 'mid' already: choose another name"):
        register(own("mid"))
    with pytest.raises(ImclError, match="settings mid_alpha: name those of 'other' otherwise"):
        register(own("other", Taken))


@pytest.mark.parametrize("name", ["baseline", "tree", "a+b", "", " mine", "a/b", None])
def test_a_name_that_could_not_be_asked_for_is_refused(name):
    term = own(name)
    if name is None:
        del term.name
    with pytest.raises(ImclError, match="needs a name of its own, of letters, digits and hyphens"):
        register(term)
    assert name not in TERMS
