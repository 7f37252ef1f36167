"""What `imcl-book export-demo` writes for the page: networks folded and rounded, facts and records of the runs."""

import base64
import json

import numpy as np
import pytest
import torch
from exported_demo import read, rebuilt
from imcl_book import cli
from imcl_book.demo import export as exporting
from imcl_book.demo.export import TESTING, TRAINING, drop_old, handwritten
from imcl_book.demo.runs import KINDS, SETS, config_of
from imcl_book.demo.weights import fold, packed, unfold, unpack
from imcl_book.sphinx.demo import FILES
from torch import nn

from imcl_core import losses
from imcl_core.data.sets import load
from imcl_core.errors import ImclError
from imcl_core.training.record import read_record
from imcl_core.training.run import assemble


def unusual(norm: nn.BatchNorm2d) -> None:
    """Factors of both signs, and statistics unlike those of the start."""
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)


def test_a_folded_layer_does_what_layer_and_normalisation_did():
    torch.manual_seed(0)
    convolution, norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8).eval()
    unusual(norm)
    x, filters = torch.randn(2, 3, 6, 6), convolution.weight.detach().clone()
    before = norm(convolution(x))
    rounded, scale, bias = fold(convolution, norm)
    assert rounded.dtype == torch.int8 and (scale < 0).any()
    torch.testing.assert_close(losses.kernel_covariance(rounded), losses.kernel_covariance(filters), atol=0.02, rtol=0)
    unfold(convolution, norm, (rounded, scale, bias))
    # Each of 27 weights is off by half a step of its row at most.
    assert (norm(convolution(x)) - before).abs().max() < 27 * 0.5 * scale.abs().max() * x.abs().max()


def test_what_is_packed_is_what_is_unpacked():
    config = config_of("digits", "collaboration")
    torch.manual_seed(0)
    first, second = (assemble(config, 10, (3, 32, 32)).eval() for _ in range(2))
    for module in first.modules():
        if isinstance(module, nn.BatchNorm2d):
            unusual(module)
    written = packed(first)
    unpack(written, first)
    unpack(written, second)
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(first(x), second(x))
    assert all(torch.equal(a, b) for a, b in zip(first.heads.parameters(), second.heads.parameters(), strict=True))


def test_digits_for_training_are_none_of_those_for_testing():
    digits = handwritten()
    pixels = {split: np.frombuffer(base64.b64decode(digits[split]["pixels"]), np.uint8) for split in digits}
    rows = {split: {row.tobytes() for row in each.reshape(-1, 64)} for split, each in pixels.items()}
    assert (len(rows["train"]), len(rows["test"])) == (TRAINING, TESTING) and not rows["train"] & rows["test"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SETS)
def test_the_page_holds_the_networks_that_its_records_tell_of(name, kind):
    config = config_of(name, kind)
    record = read_record(FILES / "records" / f"{config.name}.json")
    content, facts = read(FILES / f"{name}.js"), json.loads((FILES / "facts.json").read_text(encoding="utf-8"))
    assert record.config.name == config.name
    assert facts[name][kind]["error before rounding"] == f"{record.last_error:.1f}"
    assert facts[name][kind]["error"] == f"{content['networks'][kind]['error']:.1f}"
    images = config.train_size or len(load("digits").train)  # of whole batches
    assert facts[name][kind]["images"] == f"{images // config.batch_size * config.batch_size:,}"
    assert abs(content["networks"][kind]["error"] - record.last_error) < 1
    assert record.last_error < (5 if name == "digits" else 80)  # of ten classes: 90 would be chance
    rebuilt(content, name, kind)  # the shapes are those of the configuration


def test_the_digits_errors_are_those_of_the_rounded_network():
    from imcl_core.data.batches import evaluation_batches
    from imcl_core.data.sets import load

    content = read(FILES / "digits.js")
    network = rebuilt(content, "digits", "collaboration").network
    with torch.no_grad():
        wrong = [network(x).argmax(dim=1) != y for x, y in evaluation_batches(load("digits"))]
    assert 100 * torch.cat(wrong).double().mean().item() == pytest.approx(content["networks"]["collaboration"]["error"])


def test_what_is_missing_is_said_in_one_sentence(monkeypatch, capsys):
    def refuse(*_):
        raise ImclError("There is no data.")

    monkeypatch.setattr(exporting, "export", refuse)
    assert cli.main(["export-demo"]) == 2
    assert capsys.readouterr().err == "There is no data.\n"


def test_records_of_earlier_exports_go_and_nothing_else(tmp_path):
    names = ("digits-resnet18-out-cpu-seed0-1.json", "digits-resnet18-out-cpu-seed0-2.json", "notes.json")
    for name in names:
        (tmp_path / name).write_text("{}")
    drop_old(tmp_path, [tmp_path / names[1]])
    assert {path.name for path in tmp_path.iterdir()} == set(names[1:])
