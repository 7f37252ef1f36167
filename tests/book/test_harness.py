"""What chapters call and do not show: where gradients go, what a figure could come from, what is found."""

from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from imcl_book.architectures import small_vit, survey
from imcl_book.reach import gradient_norm, reach, without_locality
from imcl_book.reckoning import combined, nearness, outputs, stride_first
from imcl_book.wrapped import COLUMNS, Sentences, say, written
from torch import nn

from imcl_core import Collaboration
from imcl_core.networks import build

ROOT = Path(__file__).parents[2]
IMAGES, LABELS = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.arange(4)


def attached():
    torch.manual_seed(0)
    return Collaboration(build("vgg16", 4, width=1 / 16, hidden=8), "mid")


def test_a_norm_is_of_all_gradients_there_are():
    one, other, none = (nn.Parameter(torch.zeros(2)) for _ in range(3))
    one.grad, other.grad = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0])
    assert (gradient_norm([one, none, other]), gradient_norm([none])) == (5.0, 0.0)


def test_local_terms_reach_a_diagonal_and_the_same_losses_without_locality_a_triangle():
    collaboration = attached()
    objectives = collaboration.objective, without_locality(collaboration)
    local, ordinary = (reach(collaboration, objective, IMAGES, LABELS, 0) for objective in objectives)
    layers = len(collaboration.layers)
    assert local.shape == ordinary.shape == (1 + layers, layers + 3)
    assert ((local[1:, :layers] > 0) == np.eye(layers, dtype=bool)).all()
    assert ((ordinary[1:, :layers] > 0) == np.tri(layers, dtype=bool)).all()
    for norms in (local, ordinary):
        assert (norms[0, :-2] > 0).all() and not norms[0, -2:].any()  # the labels' loss: nothing attached
        assert (norms[1:, -2] > 0).all() and not norms[1:, -3].any()
    assert not local[1:, -1].any()
    np.testing.assert_allclose(local[1:, :layers].diagonal(), ordinary[1:, :layers].diagonal(), rtol=1e-4)


def test_outputs_are_counted_by_kind_and_the_stride_makes_fewer():
    network, images = build("resnet101", 4, width=1 / 64), torch.zeros(2, 3, 32, 32)
    found, fewer = outputs(network, images), outputs(stride_first(network), images)
    stem = network.get_submodule("trunk.stem.conv1.conv")
    assert found["stem"] == pytest.approx(stem.out_channels * 32 * 32 / 1e6)
    assert fewer["blocks"] < found["blocks"]
    assert (fewer["stem"], fewer["shortcuts"]) == (found["stem"], found["shortcuts"])
    assert not any(m._forward_hooks for m in network.modules())  # it is left as it was


def test_knobs_are_turned_together_and_the_last_one_is_a_factor():
    every = combined({"a": {"x": 1.0, "y": 2.0}, "b": {"z": 3.0}, "unit": {"1": 1, "10": 10}}, figure=40.0)
    assert every.to_numpy().tolist() == [
        ["x", "z", "1", 4.0, -90.0], ["x", "z", "10", 40.0, 0.0],
        ["y", "z", "1", 5.0, -87.5], ["y", "z", "10", 50.0, 25.0],
    ]  # fmt: skip
    said = nearness(every, 40.0)
    assert said.startswith("4 combinations: 1 come within 1 %, 1 within 0.1 %;")
    assert f"{4 * 0.02 * 40 / 46:.1f} would come" in said and max(map(len, said.split("\n"))) <= 80


def test_a_survey_says_what_is_found_and_what_out_asks_for():
    with torch.device("meta"):
        resnet, vit = torchvision.models.resnet18(num_classes=10), small_vit(10)
    found = pd.DataFrame({name: survey(n, (3, 64, 64)) for name, n in (("resnet", resnet), ("vit", vit))})
    assert found.loc[["layers", "blocks", "kernels"], "resnet"].tolist() == [17, 9, 8]
    assert found.loc[["first map", "last map", "of kind", "out"], "resnet"].tolist() == [
        "64×32×32", "512×2×2", "3×3", "not yet"
    ]  # fmt: skip
    assert found.at["remedy", "resnet"].startswith("network.fc = ") and found.at["of kind", "vit"] == "linear"
    resnet.fc = nn.Sequential(nn.Dropout(), nn.Linear(512, 10, device="meta"))
    again = survey(resnet, (3, 64, 64))
    assert (again["out"], again["remedy"]) == ("at fc", None)


def test_what_is_said_has_lines_of_at_most_80_columns(capsys):
    say("short:", 3)
    say("  " + "word " * 30)
    first, *rest = capsys.readouterr().out.splitlines()
    assert first == "short: 3" and len(rest) == 2
    assert all(len(line) <= 80 for line in rest) and rest[1].startswith("      word")


def test_sentences_are_a_list_on_a_page_and_lines_of_80_columns_elsewhere():
    sentences = Sentences(["a < b", "word " * 30])
    first, *rest = repr(sentences).splitlines()
    assert first == "a < b" and len(rest) == 2 and max(map(len, rest)) <= 80 and rest[1].startswith("    word")
    assert sentences._repr_html_().count("<li>") == 2 and "<li>a &lt; b</li>" in sentences._repr_html_()


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_what_a_chapter_prints_fits_the_page(path):
    """As `say` does; a picture or a table of pandas has its own form."""
    for cell in nbformat.read(path, as_version=4).cells:
        for output in cell.get("outputs", ()):
            wide = [line for line in output.get("text", "").splitlines() if len(line) > COLUMNS]
            assert not wide, wide


def test_a_table_is_written_with_digits_and_without_nan():
    table = pd.DataFrame({"name": ["a", "b"], "runs": [1, 2], "gain": [2.514, float("nan")]})
    assert written(table).to_dict("list") == {"name": ["a", "b"], "runs": [1, 2], "gain": ["2.51", ""]}
    assert list(written(table, 1).gain) == ["2.5", ""]


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_no_table_of_pandas_shows_what_is_missing_as_nan(path):
    for cell in nbformat.read(path, as_version=4).cells:
        for output in cell.get("outputs", ()):
            assert "<td>NaN" not in output.get("data", {}).get("text/html", ""), cell.source
