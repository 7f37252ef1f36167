"""The page "In your browser": what its scripts compute is what PyTorch computes, for networks, losses and gradients."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from exported_demo import read, rebuilt
from imcl_book import site
from imcl_book.demo.runs import KINDS, SETS
from imcl_book.demo.small import HIDDEN, NAMES, SmallNetwork, gradients
from playwright.sync_api import Page, sync_playwright
from torch import nn

from imcl_core import losses
from imcl_core.data.sets import load

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "book" / "_static" / "demo"
IMAGES = 50
pytestmark = pytest.mark.skipif(site.chromium() is None, reason=f"{site.NO_BROWSER} The page was not tried.")


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Iterator[Page]:
    """The scripts of the page on an empty one, opened from a file."""
    names = ("network", "trainer", "charts", "images", "digits", "photographs", "page", "training")
    tags = "".join(f'<script src="{(SCRIPTS / name).as_uri()}.js"></script>' for name in names)
    file = tmp_path_factory.mktemp("demo") / "bare.html"
    file.write_text(f'<!doctype html><meta charset="utf-8"><title>Bare</title><body>{tags}', encoding="utf-8")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=site.chromium(), args=site.FLAGS)
        opened, complaints = browser.new_page(), []
        opened.on("pageerror", lambda error: complaints.append(str(error)))
        opened.goto(file.as_uri())
        yield opened
        browser.close()
        assert not complaints


def close(found: list, expected: torch.Tensor, tolerance: float) -> None:
    numbers = torch.tensor(np.array(found, dtype=np.float64))
    torch.testing.assert_close(numbers, expected.detach().double(), atol=tolerance, rtol=tolerance)


# --- networks ---------------------------------------------------------------------------------------------------------

ANSWERS = """({name, kind, images, masks}) => {
  const engine = imclNetwork(), {networks, mean, std, side} = imclDemo[name];
  const network = {...networks[kind], layers: engine.unpack(networks[kind]), mean, std, side};
  const plain = rows => rows.map(row => Array.from(row));
  return images.map(pixels => {
    const found = engine.answer(network, pixels);
    return {
      logits: Array.from(found.logits), local: plain(found.local), deviations: plain(found.deviations),
      projected: plain(found.projected), predictions: plain(engine.predictions(network, found.features, masks)),
    };
  });
}"""


def looked_at(name: str) -> torch.Tensor:
    """Images of a set, bytes (N, 3, 32, 32): test digits; noise, every other one smooth, for photographs."""
    if name == "digits":
        return load("digits").test.images[:IMAGES]
    noise = torch.randint(256, (IMAGES, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    noise[::2] = nn.functional.avg_pool2d(noise[::2].float(), 5, 1, 2).to(torch.uint8)
    return noise


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SETS)
@torch.no_grad()
def test_every_head_answers_as_pytorch_does(page, name, kind):
    content, images = read(SCRIPTS / f"{name}.js"), looked_at(name)
    collaboration = rebuilt(content, name, kind)
    network = collaboration.network
    draw = torch.Generator().manual_seed(1)
    units = network.classifier[0].out_features
    masks = [2 * torch.randint(2, (count, units), generator=draw).float() for count in (2, 4)]
    pixels = images.flatten(1).tolist()
    given = {"name": name, "kind": kind, "images": pixels, "masks": [m.tolist() for m in masks]}
    found = page.evaluate(ANSWERS, given)

    mean, std = (torch.tensor(content[key]).view(3, 1, 1) for key in ("mean", "std"))
    x = (images / 255 - mean) / std
    seen: dict[str, torch.Tensor] = {}
    for block, module in network.blocks.items():
        module.register_forward_hook(lambda _m, _i, out, block=block: seen.update({block: out}))
    close([each["logits"] for each in found], network(x), 1e-4)
    fc1, _, _, fc2, _, _, fc3 = network.classifier
    first = fc1(network.pool(network.trunk(x))).relu()
    for h in range(4):
        expected = fc3(masks[1][h] * fc2(masks[0][h // 2] * first).relu())
        close([each["predictions"][h] for each in found], expected, 1e-4)
    for number, (block, maps) in enumerate(seen.items()):
        close([each["deviations"][number] for each in found], losses.similarity_rows(maps), 1e-4)
        if kind == "collaboration":
            key = block.replace(".", "/")
            close([each["local"][number] for each in found], collaboration.heads[f"mid/{key}"](maps), 1e-4)
            projected = losses.similarity_rows(collaboration.heads[f"pull-push/{key}"](maps))
            close([each["projected"][number] for each in found], projected, 1e-4)
    assert len(found) == IMAGES and len(seen) == 9


def test_measures_are_those_of_the_package(page):
    draw = torch.Generator().manual_seed(0)
    z, rows = torch.randn(4, 5, 10, generator=draw), torch.randn(6, 12, generator=draw)
    peers = "z => z[0].map((_, n) => imclNetwork().peers(z.map(rows => rows[n]), 2))"
    close(page.evaluate(peers, z.tolist()), losses.peer_targets(z, 2.0).transpose(0, 1), 1e-6)
    deeper = "z => z[0].map((_, n) => imclNetwork().deeper(z.slice(0, 3).map(rows => rows[n]), z[3][n], 2))"
    expected = torch.stack([(z[i + 1 :].mean(dim=0) / 2).softmax(dim=1) for i in range(3)], dim=1)
    close(page.evaluate(deeper, z.tolist()), expected, 1e-6)
    rows[2] = 0.3  # a constant row
    close(page.evaluate("rows => imclNetwork().cosines(rows)", rows.tolist()), losses.similarity_matrix(rows), 1e-6)
    S, goal = losses.similarity_matrix(rows), torch.eye(6)
    found = page.evaluate("([S, goal]) => imclNetwork().distance(S, goal)", [S.tolist(), goal.tolist()])
    close([found], losses.pull_push_distance(S, goal, goal, 1.0, 0.0)[None], 1e-6)


def test_filters_are_the_networks_own_up_to_rounding(page):
    collaboration = rebuilt(read(SCRIPTS / "digits.js"), "digits", "baseline")
    convolution = list(collaboration.network.blocks.values())[8].last.conv
    script = """() => {
      const engine = imclNetwork(), layers = engine.unpack(imclDemo.digits.networks.baseline);
      return engine.cosines(engine.filters(layers["block8.last"]));
    }"""
    found = torch.tensor(page.evaluate(script)).abs()  # a normalisation may turn a filter's sign
    close(found.tolist(), losses.kernel_covariance(convolution.weight).abs(), 1e-5)


# --- images -----------------------------------------------------------------------------------------------------------


def test_digits_are_enlarged_as_the_data_set_has_them(page):
    data = load("digits")
    enlarged = page.evaluate("""() => {
      const bytes = imclNetwork().bytesOf(imclDemo.digits.handwritten.test.pixels), {enlarge} = imclDemo.images;
      return Array.from({length: 200}, (_, i) => Array.from(enlarge(bytes.subarray(64 * i, 64 * i + 64))));
    }""")
    known = {bytes(image.flatten().tolist()) for image in data.test.images}
    assert all(bytes(image) in known for image in enlarged)
    seen = {bytes(image.flatten().tolist()) for image in data.train.images}
    assert not any(bytes(image) in seen for image in enlarged)


# --- the network that learns on the page ------------------------------------------------------------------------------

TERMS = """({options, parameters, images, labels, masks}) => {
  const trainer = imclTrainer(), network = trainer.create(Math.random, options);
  const typed = A => A.map(row => Float64Array.from(row));
  for (const name in parameters) network.parameters[name] = typed(parameters[name]);
  const found = trainer.terms(network, typed(images), labels, masks.map(typed));
  const plain = A => A.map(row => Array.from(row));
  return Object.fromEntries(Object.entries(found).map(([term, {value, gradients}]) => [term, [value,
    Object.fromEntries(Object.entries(gradients).map(([name, A]) => [name, plain(A)]))]]));
}"""
ALL = {"out": 0.7, "mid": 0.1, "pull": 0.3, "push": 0.05, "kernel": 0.02}


@pytest.mark.parametrize("local", [True, False])
@pytest.mark.parametrize("weights", [{}, *({key: value} for key, value in ALL.items()), ALL], ids=lambda w: "+".join(w))
def test_gradients_are_those_of_autograd(page, weights, local):
    torch.manual_seed(0)
    network, images, labels = SmallNetwork(), torch.randn(12, 64, dtype=torch.float64), torch.randint(10, (12,))
    masks = 2.0 * torch.randint(2, (4, 12, HIDDEN), dtype=torch.float64)
    given = {"options": {"local": local, **weights}, "images": images.tolist(), "labels": labels.tolist()}
    given |= {"masks": masks.tolist(), "parameters": {n: getattr(network, n).tolist() for n in NAMES}}
    found = page.evaluate(TERMS, given)
    expected = gradients(network, images, labels, masks, local=local, **weights)
    assert found.keys() == expected.keys()
    for term, (value, by_name) in expected.items():
        assert found[term][0] == pytest.approx(value, abs=1e-9)
        for name in NAMES:
            if name in found[term][1]:
                close(found[term][1][name], by_name[name], 1e-5)
            else:
                assert not by_name[name].any(), (term, name)


def test_local_gradients_stay_at_their_layer(page):
    torch.manual_seed(0)
    network, images, labels = SmallNetwork(), torch.randn(8, 64, dtype=torch.float64), torch.arange(8)
    given = {"options": ALL, "images": images.tolist(), "labels": labels.tolist()}
    given |= {
        "masks": torch.ones(4, 8, HIDDEN).tolist(),
        "parameters": {n: getattr(network, n).tolist() for n in NAMES},
    }
    found = page.evaluate(TERMS, given)
    assert {term: set(by_name) for term, (_, by_name) in found.items()} == {
        "out": {"W1", "b1", "W2", "b2", "W3", "b3"},
        **{f"mid/{i}": {f"W{i}", f"b{i}", f"L{i}", f"c{i}"} for i in (1, 2)},
        **{f"pull-push/{i}": {f"W{i}", f"b{i}", f"G{i}"} for i in (1, 2)},
        **{f"kernel/{i}": {f"W{i}"} for i in (1, 2)},
    }


def test_a_step_of_training_is_that_of_sgd(page):
    torch.manual_seed(0)
    network, images, labels = SmallNetwork(), torch.randn(12, 64, dtype=torch.float64), torch.randint(10, (12,))
    masks = 2.0 * torch.randint(2, (4, 12, HIDDEN), dtype=torch.float64)
    found = page.evaluate("""({options, parameters, images, labels, masks}) => {
      const trainer = imclTrainer(), network = trainer.create(Math.random, options);
      const typed = A => A.map(row => Float64Array.from(row));
      for (const name in parameters) network.parameters[name] = typed(parameters[name]);
      for (let i = 0; i < 3; i++) trainer.step(network, typed(images), labels, masks.map(typed));
      return Object.fromEntries(Object.entries(network.parameters).map(([n, A]) => [n, A.map(row => Array.from(row))]));
    }""", {"options": ALL, "images": images.tolist(), "labels": labels.tolist(), "masks": masks.tolist(),
           "parameters": {n: getattr(network, n).tolist() for n in NAMES}})  # fmt: skip
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    for _ in range(3):
        terms = gradients(network, images, labels, masks, **ALL)
        for name in NAMES:
            getattr(network, name).grad = sum(by_name[name] for _, by_name in terms.values())
        optimizer.step()
    for name in NAMES:
        close(found[name], getattr(network, name), 1e-8)
