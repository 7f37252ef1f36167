"""Song & Chai's patterns: gradients, rescaling at splits, the path that is kept, the names they go by."""

import math

import pytest
import torch

from imcl_core import ImclError, MultiInstance, PopulationSettings, RunConfig, Tree, losses, train
from imcl_core.collaboration import Collaboration
from imcl_core.methods.population import divide_gradient, equal_splits
from imcl_core.networks import build
from imcl_core.study import ledger
from imcl_core.training.run import assemble

LABELS = torch.tensor([0, 1, 2, 3])


@pytest.fixture
def images():
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def network(model="resnet18", dropout=0.0):
    torch.manual_seed(1)
    return build(model, 5, width=0.125, hidden=16, dropout=dropout).double()


def gradients(module, loss):
    return dict(zip(dict(module.named_parameters()), torch.autograd.grad(loss, list(module.parameters())), strict=True))


def by_hand(population, images, labels, rescale, add_up):
    """Eq. 3's gradient for the kept path, path by path, each head's cotangent sent down alone.

    What `levels` parts share has the gradients of all heads below it; with rescaling, each split on the way divides.
    """
    heads = population.levels[-1][1]
    predictions = population.predictions(images)
    loss = losses.output_loss(predictions, labels, 0.5, 2.0) * (heads if add_up else 1)
    cotangents = torch.autograd.grad(loss, predictions, retain_graph=True)[0]
    pieces = population.network.pieces
    names = list(pieces)
    starts = [names.index(name) for name, _ in population.levels] + [len(names)]
    total = {}
    for level, (_, copies) in enumerate(population.levels):
        mine = {
            f"{piece}.{name}": p
            for piece in names[starts[level] : starts[level + 1]]
            for name, p in pieces[piece].named_parameters()
        }
        children = heads // copies  # heads under the kept path's part of this level
        divisor = children if rescale else 1
        for head in range(children):
            grads = torch.autograd.grad(predictions[head], list(mine.values()), cotangents[head], retain_graph=True)
            for key, g in zip(mine, grads, strict=True):
                total[key] = total.get(key, 0) + g / divisor
    return total


@pytest.mark.parametrize("add_up", [True, False])
@pytest.mark.parametrize("rescale", [True, False])
@pytest.mark.parametrize("heads", [2, 4, 8])
@pytest.mark.parametrize("model", ["resnet18", "vgg16"])
def test_tree_gradients_equal_the_sum_written_by_hand(images, model, heads, rescale, add_up):
    """Rescaling lives in `divide_gradient`; by hand the graph is cut where it acts, so both must be made without it."""
    settings = {"pop_heads": heads, "pop_sum": add_up}
    tree = Tree(network(model), settings=PopulationSettings(pop_rescale=rescale, **settings))
    plain = Tree(network(model), settings=PopulationSettings(pop_rescale=False, **settings))
    expected = by_hand(plain, images, LABELS, rescale, add_up)
    found = gradients(tree.network, tree(images, LABELS))
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("pattern", [Tree, MultiInstance])
def test_the_first_parts_gradient_is_that_of_the_plain_network_where_all_heads_are_alike(images, pattern):
    """With equal copies and labels alone, rescaling and the sum leave every layer the baseline's gradient."""
    population = pattern(network(), settings=PopulationSettings(pop_alpha=1.0))
    for part, copies in zip(population._parts(), population.copies, strict=True):
        for copied in copies:
            copied.load_state_dict(part.state_dict())
    plain = Collaboration(network())
    expected = gradients(plain.network, plain(images, LABELS))
    found = gradients(population.network, population(images, LABELS))
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-9, atol=1e-12)


def test_without_rescaling_the_trunk_learns_faster_by_the_number_of_heads(images):
    def trunk_gradient(rescale):
        tree = Tree(network(), settings=PopulationSettings(pop_rescale=rescale))
        return gradients(tree.network, tree(images, LABELS))["trunk.stem.conv1.conv.weight"]

    torch.testing.assert_close(trunk_gradient(False), 4 * trunk_gradient(True), rtol=1e-9, atol=1e-12)


def test_divide_gradient_is_the_identity_forward_and_divides_backward():
    x = torch.randn(3, dtype=torch.float64, requires_grad=True)
    y = divide_gradient(x, 4)
    assert torch.equal(y, x)
    y.backward(torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64))
    assert x.grad.tolist() == [0.25, 0.5, 1.0]


def test_the_loss_is_eq_3_of_the_heads_predictions(images):
    tree = Tree(network(), settings=PopulationSettings(pop_sum=False, pop_alpha=0.3, pop_temperature=3.0))
    predictions = tree.predictions(images)
    expected = losses.output_loss(predictions, LABELS, 0.3, 3.0)
    torch.testing.assert_close(tree(images, LABELS), expected)
    assert list(tree.terms) == ["tree"]
    torch.testing.assert_close(tree.logits, predictions[0])


def test_teachers_detached_or_not_and_t_squared_are_settings(images):
    values = {}
    for detach in (True, False):
        for t_squared in (True, False):
            settings = PopulationSettings(pop_detach=detach, pop_t_squared=t_squared, pop_heads=2)
            tree = Tree(network(), settings=settings)
            loss = tree(images, LABELS)
            gradient = gradients(tree.network, loss)["classifier.6.weight"]
            values[detach, t_squared] = (loss.item(), gradient.norm().item())
    assert values[True, False][0] == pytest.approx(values[False, False][0])
    assert values[True, False][1] != pytest.approx(values[False, False][1])
    assert values[True, True][0] > values[True, False][0]


@pytest.mark.parametrize("pattern", [Tree, MultiInstance])
def test_the_kept_path_is_the_plain_network(images, pattern):
    population = pattern(network()).eval()
    plain = network("resnet18").eval()
    plain.load_state_dict(population.network.state_dict())
    assert torch.equal(population(images), plain(images))
    torch.testing.assert_close(population.predictions(images)[0], plain(images))
    assert not torch.allclose(population.predictions(images)[0], population.predictions(images)[1])


def test_heads_share_what_lies_before_their_split(images):
    tree = Tree(network(), settings=PopulationSettings(pop_splits=("trunk.stage4.block1", "classifier")))
    calls = {"trunk.stage3.block2": 0, "trunk.stage4.block1": 0}
    for name in calls:
        tree.network.get_submodule(name).register_forward_hook(
            lambda *_, name=name: calls.__setitem__(name, calls[name] + 1)
        )
    tree(images, LABELS)
    assert calls == {"trunk.stage3.block2": 1, "trunk.stage4.block1": 1}
    assert [copies for _, copies in tree.levels] == [1, 2, 4]
    assert len(tree.copies[1]) == 1 and len(tree.copies[2]) == 3
    own = {id(p) for p in tree.network.parameters()}
    assert not own & {id(p) for p in tree.copies.parameters()}


def test_adding_heads_leaves_the_networks_weights_and_every_other_draw_as_they_were():
    torch.manual_seed(3)
    plain = build("vgg16", 5, width=0.125)
    after = torch.rand(1)
    torch.manual_seed(3)
    tree = Tree(build("vgg16", 5, width=0.125), seed=7)
    assert torch.equal(torch.rand(1), after)
    for name, value in plain.state_dict().items():
        assert torch.equal(tree.network.state_dict()[name], value)


@pytest.mark.parametrize("model", ["vgg16", "resnet18", "resnet101"])
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_equal_splits_cut_the_layers_into_equal_parts(model, count):
    plain = build(model, 5, width=0.125)
    splits = equal_splits(plain, count)
    layers = list(plain.layers)
    before = [
        sum(list(plain.pieces).index(_piece(plain, n)) < list(plain.pieces).index(s) for n in layers) for s in splits
    ]
    assert before == sorted(set(before))
    for part, number in enumerate(before, start=1):
        assert abs(number - part * len(layers) / (count + 1)) <= 1.5


def _piece(plain, layer):
    return next(name for name in plain.pieces if layer == name or layer.startswith(f"{name}."))


def test_pieces_in_order_are_the_network(images):
    for model in ("vgg16", "resnet18", "resnet101"):
        plain = network(model).eval()
        x = images
        for piece in plain.pieces.values():
            x = piece(x)
        assert torch.equal(x, plain(images))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Tree(network(), settings=PopulationSettings(pop_heads=6)), "2, 4, 8 or 16"),
        (lambda: MultiInstance(network(), settings=PopulationSettings(pop_heads=1)), "between 2 and 16"),
        (lambda: Tree(network(), settings=PopulationSettings(pop_splits=("trunk.stage5.block1",) * 2)), "Did you mean"),
        (lambda: Tree(network(), settings=PopulationSettings(pop_splits=("pool",))), "needs 2 different splits"),
        (lambda: Tree(network(), settings=PopulationSettings(pop_splits=("pool", "trunk.stage2.block1"))), "in order"),
        (lambda: Tree(torch.nn.Linear(3, 3)), "imcl_core.networks"),
        (lambda: RunConfig(methods="tree+mid"), "train it alone"),
        (lambda: RunConfig(methods="tre"), "Did you mean 'tree'"),
        (lambda: RunConfig(methods="tree", pop_heads=1), "pop_heads"),
        (lambda: RunConfig(methods="baseline-2x", width=0.125), "leave out width"),
    ],
)
def test_mistakes_are_one_sentence(make, says):
    with pytest.raises(ImclError, match=says):
        make()


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (torch.tensor([0, 1, 2, 99]), r"must be in 0 \.\.\. "),
        (torch.tensor([0, 1, 2, 1], dtype=torch.int32), "int64"),
        (torch.tensor([0, 1, 2]), r"of shape \(4,\)"),
    ],
)
def test_labels_that_are_none_are_one_sentence(labels, says):
    with pytest.raises(ImclError, match=says):
        Tree(network())(torch.randn(4, 3, 32, 32).double(), labels)


def test_baseline_2x_doubles_the_filters_and_halves_the_batch_where_the_paper_did():
    config = RunConfig(methods="baseline-2x", profile="paper", dataset="stl10", model="resnet18")
    assert (config.width, config.batch_size) == (2.0, 64)
    assert RunConfig(methods="baseline-2x", profile="paper", dataset="stl10", model="vgg16").batch_size == 128
    assert RunConfig(methods="baseline-2x", profile="cpu").width == 2 * RunConfig(profile="cpu").width
    wide = assemble(RunConfig(methods="baseline-2x"), 10, (3, 32, 32)).network
    plain = assemble(RunConfig(), 10, (3, 32, 32)).network
    assert [u.conv.out_channels for u in wide.layers.values()] == [
        2 * u.conv.out_channels for u in plain.layers.values()
    ]


def test_settings_of_patterns_do_not_rename_other_runs():
    assert RunConfig(pop_heads=8).key == RunConfig().key
    assert RunConfig(methods="tree", pop_heads=8).key != RunConfig(methods="tree").key
    assert RunConfig(methods="multi-instance", pop_splits=("pool",)).key == RunConfig(methods="multi-instance").key


@pytest.mark.parametrize("methods", ["tree", "multi-instance", "baseline-2x"])
def test_patterns_are_trained_recorded_and_resumed_like_any_method(tmp_path, methods):
    config = RunConfig(methods=methods, noise=0.2, epochs=2, train_size=64, batch_size=32, pop_heads=2, hidden=32)
    stopped = False

    def stop(run):
        nonlocal stopped
        if not stopped:
            stopped = True
            raise KeyboardInterrupt

    with pytest.raises(ImclError, match="Interrupted"):
        train(config, out=tmp_path, progress=False, after_epoch=stop)
    resumed = train(config, out=tmp_path, progress=False)
    undisturbed = train(config, progress=False)
    assert resumed.curve == undisturbed.curve
    assert ledger.read(tmp_path).methods.tolist() == [methods]
    plain = build("resnet18", 10, config.width, 32)
    plain.load_state_dict(torch.load(tmp_path / f"{config.name}.network.pt", weights_only=True))
    assert all(math.isfinite(epoch["loss"]) for epoch in resumed.curve)
