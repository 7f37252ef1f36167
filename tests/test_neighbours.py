"""The paper's neighbours: each formula against another way to compute it, each term where it belongs, runs resumed."""

import copy
import itertools
import json
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from imcl_core import Collaboration, ImclError, MethodSettings, RunConfig, losses, train
from imcl_core.collaboration import METHODS
from imcl_core.methods import NEIGHBOURS, TERMS, parse_methods
from imcl_core.methods.cutout import cutout
from imcl_core.methods.decov import decov_loss
from imcl_core.methods.dropblock import drop_blocks
from imcl_core.methods.hsic import hsic_loss, normalised_kernel
from imcl_core.methods.kd import distillation_loss
from imcl_core.methods.predsim import predsim_loss
from imcl_core.networks import build
from imcl_core.networks.classifier import make_classifier
from imcl_core.training import checkpoints
from imcl_core.training.run import Run

ROOT = Path(__file__).parents[1]
CLASSES, BATCH = 5, 6
NAMES = tuple(term.name for term in NEIGHBOURS)
METHOD_OF = {field.name: term.name for term in NEIGHBOURS for field in fields(term.Settings) if field.name != "attach"}
RIVALS = {term.name for term in TERMS.values() if term.replaces}  # one of them at a time
EVERY = "+".join(name for name in (*METHODS, *NAMES) if name not in RIVALS - {"out"})


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make_batch():
    return random(BATCH, 3, 32, 32, seed=1), torch.arange(BATCH) % CLASSES


def make(methods, model="resnet18", dropout=0.5, teacher=None, **settings):
    torch.manual_seed(0)
    network = build(model, CLASSES, width=1 / 16, hidden=16, dropout=dropout).double()
    if "kd" in methods and teacher is None:
        teacher = build(model, CLASSES, width=1 / 16, hidden=16).double()
    return Collaboration(network, methods, settings=MethodSettings(**settings), teacher=teacher).double()


def gradients(module):
    return {name: p.grad for name, p in module.named_parameters() if p.grad is not None}


def loss_of(collaboration, seed=3):
    torch.manual_seed(seed)
    return collaboration(*make_batch()).item()


# --- names and records ------------------------------------------------------------------------------------------------


def test_names_join_in_any_order_and_are_written_in_one():
    for first, second in itertools.permutations((*METHODS, *NAMES), 2):
        if {first, second} <= RIVALS:
            continue
        assert RunConfig(methods=f"{first}+{second}").methods == RunConfig(methods=f"{second} + {first}").methods
    assert RunConfig(methods="kd+cutout+mid").methods == "mid+cutout+kd"
    assert parse_methods("+".join(reversed(EVERY.split("+")))) == tuple(EVERY.split("+"))


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ("cutot", "Did you mean 'cutout'"),
        ("mid+predsin", "Did you mean 'predsim'"),
        ("tree+kd", r"tree cannot be joined with other methods \('tree\+kd'\), being a network"),
        ("kd+kd", "twice"),
    ],
)
def test_wrong_names_are_one_sentence(methods, message):
    with pytest.raises(ImclError, match=message) as caught:
        RunConfig(methods=methods)
    assert "\n" not in str(caught.value)


def test_records_keep_their_names():
    records = sorted((ROOT / "results").rglob("*.json"))
    configs = {path.stem: json.loads(path.read_text(encoding="utf-8")).get("config") for path in records}
    named = {stem: RunConfig(**config).name for stem, config in configs.items() if config}
    assert len(named) >= 20
    assert all(stem == name for stem, name in named.items())


@pytest.mark.parametrize("field", [f for f in fields(RunConfig) if f.name in METHOD_OF], ids=lambda field: field.name)
def test_a_setting_names_a_run_only_where_its_method_is_on(field):
    method = METHOD_OF[field.name]
    changes = {bool: lambda x: not x, int: lambda x: x + 3, float: lambda x: x / 2}
    value = changes[type(field.default)](field.default)
    for methods, same in (("mid", True), (method, False), (f"mid+{method}", False)):
        assert (RunConfig(methods=methods).key == RunConfig(methods=methods, **{field.name: value}).key) == same


@pytest.mark.parametrize(("method", "named"), [("hsic", True), ("dropblock", True), ("cutout", False), ("kd", False)])
def test_the_place_names_a_run_where_it_matters(method, named):
    assert (RunConfig(methods=method).key != RunConfig(methods=method, attach="blocks").key) == named


@pytest.mark.parametrize("settings", [{"dropblock_rate": 1.5}, {"cutout_size": 0}, {"kd_temperature": 0.0}])
def test_settings_have_their_ranges(settings):
    with pytest.raises(ImclError, match=next(iter(settings))):
        RunConfig(**settings)


# --- formulas ---------------------------------------------------------------------------------------------------------


def test_decov_is_the_sum_over_pairs_of_units():
    h = random(7, 4).numpy()
    total = 0.0
    for i, j in itertools.permutations(range(4), 2):
        total += np.mean([(row[i] - h[:, i].mean()) * (row[j] - h[:, j].mean()) for row in h]) ** 2
    assert decov_loss(torch.from_numpy(h)).item() == pytest.approx(total / 2, rel=1e-12)


def similarity(rows):
    centred = rows - rows.mean(axis=1, keepdims=True)
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    return unit @ unit.T


def test_predsim_is_its_two_parts():
    logits, target = random(BATCH, CLASSES), torch.arange(BATCH) % CLASSES
    features = random(BATCH, 4, 3, 3, seed=2)
    z = logits.numpy()
    predicted = -np.mean([row[k] - np.log(np.exp(row).sum()) for row, k in zip(z, target.tolist(), strict=True)])
    difference = similarity(features.numpy().std(axis=(2, 3))) - similarity(np.eye(CLASSES)[target.numpy()])
    expected = 0.2 * predicted + 0.8 * np.mean(difference**2)
    one_hot = F.one_hot(target, CLASSES).double()
    found = predsim_loss(
        logits, losses.similarity_matrix(features), target, losses.similarity_matrix(one_hot), beta=0.8
    )
    assert found.item() == pytest.approx(expected, rel=1e-12)


def numpy_kernel(x, sigma, epsilon=1e-5):
    n, d = x.shape
    kernel = np.array([[np.exp(-((a - b) ** 2).sum() / (2 * (sigma * np.sqrt(d)) ** 2)) for b in x] for a in x])
    centring = np.eye(n) - np.ones((n, n)) / n
    centred = centring @ kernel @ centring
    return centred @ np.linalg.inv(centred + epsilon * n * np.eye(n))


@pytest.mark.parametrize("sigma", [5.0, 0.7])
def test_the_hsic_bottleneck_is_that_of_numpy(sigma):
    z, x, y = random(8, 3, 2, 2), random(8, 5, seed=1), F.one_hot(torch.arange(8) % 3, 3).double()
    kernels = [numpy_kernel(v.flatten(1).numpy(), sigma) for v in (z, x, y)]
    expected = np.trace(kernels[0] @ kernels[1]) - 50 * np.trace(kernels[0] @ kernels[2])
    found = hsic_loss(*(normalised_kernel(v, sigma) for v in (z, x, y)), beta=50.0)
    assert found.item() == pytest.approx(expected, rel=1e-9)


def test_normalised_kernels_are_exact_enough_in_single_precision():
    x = random(64, 300)
    exact, single = normalised_kernel(x), normalised_kernel(x.float())
    assert single.dtype == torch.float32
    assert (single - exact).abs().max() < 1e-3


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_distillation_is_the_divergence_from_the_teacher(temperature):
    teacher, logits = random(BATCH, CLASSES), random(2, BATCH, CLASSES, seed=1)
    total = 0.0
    for z in logits.numpy():
        for t, s in zip(teacher.numpy(), z, strict=True):
            p, q = (np.exp(v / temperature) / np.exp(v / temperature).sum() for v in (t, s))
            total += (p * np.log(p / q)).sum()
    found = distillation_loss(teacher, logits, temperature).item()
    assert found == pytest.approx(temperature**2 * total / (2 * BATCH), rel=1e-12)
    assert distillation_loss(teacher, teacher[None], temperature).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("size", "before", "after"), [(3, 1, 2), (4, 2, 2), (9, 4, 5)])
def test_cutout_is_a_square_around_each_pixel_cut_off_at_the_border(size, before, after):
    torch.manual_seed(0)
    height, width, count = 5, 6, 6000
    images = torch.full((count, 2, height, width), 7.0)
    expected = np.ones((height * width, height, width))
    for hole, (row, column) in zip(expected, itertools.product(range(height), range(width)), strict=True):
        rows, columns = (
            np.clip([row - before, row + after], 0, height),
            np.clip([column - before, column + after], 0, width),
        )
        hole[slice(*rows), slice(*columns)] = 0
    cut = cutout(images, size) / 7
    assert torch.equal(cut[:, 0], cut[:, 1]) and torch.equal(images, torch.full_like(images, 7.0))
    found, times = np.unique(cut[:, 0].numpy().reshape(count, -1), axis=0, return_counts=True)
    holes, places = np.unique(expected.reshape(height * width, -1), axis=0, return_counts=True)
    assert np.array_equal(found, holes)
    assert np.abs(times / count - places / (height * width)).max() < 0.02


def test_dropped_units_form_blocks_in_the_portion_asked_for():
    torch.manual_seed(0)
    dropped = (drop_blocks(torch.ones(64, 8, 16, 16), 0.1, 3) == 0).float()
    seeds = -F.max_pool2d(-dropped, 3, stride=1)  # where a whole block is dropped
    assert torch.equal(F.max_pool2d(F.pad(seeds, (2,) * 4), 3, stride=1), dropped)
    assert dropped.mean().item() == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize(("side", "size"), [(8, 7), (4, 7), (2, 7), (8, 4)])
def test_blocks_fit_into_small_maps_and_keep_the_sum(side, size):
    torch.manual_seed(0)
    maps = torch.ones(32, 16, side, side, dtype=torch.float64)
    dropped = drop_blocks(maps, 0.2, size)
    assert 0 < (dropped == 0).double().mean() < 0.4
    assert dropped.sum().item() == pytest.approx(maps.sum().item(), rel=1e-6)
    assert torch.equal(drop_blocks(maps, 0.0, size), maps)


def test_dropblock_counts_more_units_than_half_precision_can():
    maps = torch.ones(64, 32, 8, 8, dtype=torch.float16)
    dropped = drop_blocks(maps, 0.1, 3)
    assert dropped.dtype == torch.float16
    assert dropped.float().mean().item() == pytest.approx(1, abs=0.01)


# --- in a network -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["vgg16", "resnet18"])
@pytest.mark.parametrize("method", [*NAMES, EVERY])
def test_the_network_stays_plain(model, method):
    collaboration = make(method, model)
    collaboration.progress = 0.5
    plain = copy.deepcopy(collaboration.network)
    loss = collaboration(*make_batch())
    loss.backward()
    assert sum(v.item() for v in collaboration.terms.values()) == pytest.approx(loss.item())
    network = collaboration.network
    assert network.state_dict().keys() == plain.state_dict().keys()
    assert not any("forward" in vars(m) or m._forward_hooks for m in network.modules())
    plain.load_state_dict(network.state_dict())
    collaboration.eval(), plain.eval()
    assert torch.equal(collaboration(make_batch()[0]), plain(make_batch()[0]))


@pytest.mark.parametrize("methods", ["spatial-dropout", "dropblock", "cutout"])
def test_noise_is_for_training_alone(methods):
    collaboration, baseline = make(methods, dropout=0.0), make("baseline", dropout=0.0)
    collaboration.progress = 1.0
    assert loss_of(collaboration) != pytest.approx(loss_of(baseline), rel=1e-9)
    assert loss_of(collaboration, seed=3) != pytest.approx(loss_of(collaboration, seed=4), rel=1e-9)
    baseline.load_state_dict(collaboration.state_dict())
    assert loss_of(collaboration.eval()) == loss_of(baseline.eval())


def seen_by(collaboration, names):
    """What the modules of these names are given in a training step."""
    seen, hooks = {}, []
    for name in names:
        module = collaboration.network.get_submodule(name)
        hooks.append(module.register_forward_pre_hook(lambda _, x, name=name: seen.update({name: x[0].detach()})))
    collaboration(*make_batch())
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize(("groups", "dropping"), [(0, 5), (2, 2)])
def test_spatial_dropout_takes_whole_maps_behind_groups(groups, dropping):
    collaboration = make("spatial-dropout", "vgg16", spatial_rate=0.5, spatial_groups=groups)
    pools = [f"trunk.group{g}.pool" for g in range(1, 6)]
    seen, plain = seen_by(collaboration, pools), seen_by(make("baseline", "vgg16"), pools)
    kept = [seen[name].flatten(2).abs().amax(dim=2) > 0 for name in pools]
    gone = [(plain[name].flatten(2).abs().amax(dim=2) > 0) & ~kept for name, kept in zip(pools, kept, strict=True)]
    assert [bool(g.any()) for g in gone] == [False] * (5 - dropping) + [True] * dropping
    first = pools[-dropping]
    scaled = torch.where(kept[-dropping][:, :, None, None], 2 * plain[first], 0)
    torch.testing.assert_close(seen[first], scaled)


def test_dropblock_grows_with_progress_behind_the_last_groups():
    pools = [f"trunk.group{g}.pool" for g in range(1, 6)]
    collaboration = make("dropblock", "vgg16", dropblock_rate=0.5, dropout=0.0)
    assert loss_of(collaboration) == loss_of(make("baseline", "vgg16", dropout=0.0))
    zeros = {}
    for progress in (0.0, 0.5, 1.0):
        collaboration.progress = progress
        zeros[progress] = [(x == 0).double().mean().item() for x in seen_by(collaboration, pools).values()]
    assert zeros[0.0][:3] == zeros[0.5][:3] == zeros[1.0][:3]
    for group in (3, 4):
        assert zeros[0.0][group] < zeros[0.5][group] < zeros[1.0][group]


def test_every_gradient_is_that_of_one_ordinary_graph():
    """Local terms on a second, detached run of their layers; all else on the features themselves."""
    names = "decov+deep-supervision+predsim+hsic+kd"
    collaboration = make(names, dropout=0.0, hsic_weight=0.1, decov_weight=2.0)
    collaboration.progress = 0.25
    images, labels = make_batch()
    expected = copy.deepcopy(collaboration)
    loss = collaboration(images, labels)
    loss.backward()
    total = ordinary_objective(expected, images, labels)
    total.backward()
    assert loss.item() == pytest.approx(total.item(), rel=1e-12)
    found, right = gradients(collaboration), gradients(expected)
    assert found.keys() == right.keys() == {n for n, _ in collaboration.named_parameters() if "teacher" not in n}
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, right[name], rtol=1e-7, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}")


def ordinary_objective(c, images, labels):
    inputs, outputs = {}, {}

    def keep(name):
        def hook(module, given, returned):
            inputs[name], outputs[name] = given, returned

        return hook

    ends = [f"trunk.stage{stage}.block2.last" for stage in (1, 2, 3)]
    modules = {name: c.network.get_submodule(name) for name in (*c.layers, "classifier.1", "classifier.4")}
    hooks = [module.register_forward_hook(keep(name)) for name, module in modules.items()]
    logits = c.network(images)
    for hook in hooks:
        hook.remove()
    taught = c.teacher(images)
    divergence = F.kl_div(F.log_softmax(logits / 2, 1), F.softmax(taught / 2, 1), reduction="batchmean")
    total = 0.5 * F.cross_entropy(logits, labels) + 0.5 * 4 * divergence
    total = total + sum(2.0 * decov_loss(outputs[f"classifier.{i}"]) for i in (1, 4))
    for name in ends:
        total = total + 0.3 * 0.75 * F.cross_entropy(head_of(c, "deep-supervision", name)(outputs[name]), labels)
    one_hot = F.one_hot(labels, CLASSES).double()
    x, y = normalised_kernel(images), normalised_kernel(one_hot)
    for name in c.layers:
        h = modules[name](*[value.detach() for value in inputs[name]])
        local, compared = head_of(c, "predsim", name)(h)
        matrices = losses.similarity_matrix(compared), labels, losses.similarity_matrix(one_hot)
        total = total + predsim_loss(local, *matrices)
        total = total + 0.1 * hsic_loss(normalised_kernel(h), x, y)
    return total


def head_of(collaboration, method, layer):
    return collaboration.heads[f"{method}/{layer}".replace(".", "/")]


@pytest.mark.parametrize("method", ["predsim", "hsic"])
def test_local_terms_reach_their_layer_alone(method):
    collaboration = make(method, "vgg16")
    for name in collaboration.layers:
        collaboration.zero_grad(set_to_none=True)
        collaboration.objective(*make_batch())[f"{method}/{name}"].backward()
        head = f"heads.{method}/{name.replace('.', '/')}."
        reached = {n for n, g in gradients(collaboration).items() if g.abs().max() > 0}
        assert f"network.{name}.conv.weight" in reached
        assert all(n.startswith((f"network.{name}.", head)) for n in reached)


def test_auxiliary_classifiers_reach_all_layers_below():
    collaboration = make("deep-supervision", "vgg16")
    layers = list(collaboration.network.layers)
    for group in (1, 2, 3, 4):
        end = collaboration.network.groups[group - 1][-1]
        collaboration.zero_grad(set_to_none=True)
        collaboration.objective(*make_batch())[f"deep-supervision/{end}"].backward()
        reached = {n for n in layers if any(k.startswith(f"network.{n}.conv") for k in gradients(collaboration))}
        assert reached == set(layers[: layers.index(end) + 1])
    assert len([n for n in collaboration.terms if n.startswith("deep")]) in (0, 4)


@pytest.mark.parametrize(("decay", "factor"), [(True, 0.25), (False, 1.0)])
def test_the_weight_of_auxiliary_classifiers_falls(decay, factor):
    values = []
    for progress in (0.0, 0.75):
        collaboration = make("deep-supervision", deep_decay=decay)
        collaboration.progress = progress
        loss_of(collaboration)
        values.append([v.item() for n, v in collaboration.terms.items() if n.startswith("deep")])
    assert len(values[0]) == 3
    assert values[1] == pytest.approx([factor * v for v in values[0]])


def test_decov_reads_every_hidden_layer_of_the_classifier_and_no_other():
    collaboration = make("decov", dropout=0.0)
    images, labels = make_batch()
    c = collaboration.network.classifier
    features = collaboration.network.pool(collaboration.network.trunk(images))
    first = F.relu(c[0](features))
    second = F.relu(c[3](first))
    collaboration(images, labels)
    expected = {"decov/classifier.0": 0.1 * decov_loss(first), "decov/classifier.3": 0.1 * decov_loss(second)}
    found = {name: value for name, value in collaboration.terms.items() if name != "hard"}
    assert found.keys() == expected.keys()
    assert all(found[name].item() == pytest.approx(expected[name].item()) for name in found)


def test_a_teacher_is_a_frozen_copy():
    teacher = build("resnet18", CLASSES, width=1 / 16, hidden=16).double()
    collaboration = make("kd", teacher=teacher).train()
    before = copy.deepcopy(collaboration.teacher.state_dict())
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.zero_()
    optimizer = torch.optim.SGD(collaboration.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    collaboration(*make_batch()).backward()
    optimizer.step()
    assert collaboration.training and not any(m.training for m in collaboration.teacher.modules())
    assert all(p.grad is None for p in (*collaboration.teacher.parameters(), *teacher.parameters()))
    assert all(torch.equal(value, before[name]) for name, value in collaboration.teacher.state_dict().items())
    assert not any("teacher" in name for name in collaboration.network.state_dict())


@pytest.mark.parametrize("hard", ["hard", "out"])
def test_the_teacher_shares_the_weight_with_the_labels(hard):
    methods = "kd" if hard == "hard" else "out+kd"
    silent, alone = make(methods, kd_alpha=0.0), make(methods, kd_alpha=1.0)
    plain = make("baseline" if hard == "hard" else "out")
    assert loss_of(silent) == pytest.approx(loss_of(plain))
    loss_of(alone)
    assert alone.terms[hard].item() == 0 < alone.terms["kd"].item()


def test_settings_reach_the_terms():
    settings = {
        "spatial-dropout": {"spatial_rate": 0.5, "spatial_groups": 1},
        "dropblock": {"dropblock_rate": 0.5, "dropblock_size": 3, "dropblock_groups": 4},
        "cutout": {"cutout_size": 20},
        "decov": {"decov_weight": 3.0},
        "deep-supervision": {"deep_weight": 1.0, "deep_decay": False},
        "predsim": {"predsim_weight": 0.1, "predsim_beta": 0.5, "predsim_features": 64},
        "hsic": {"hsic_weight": 0.1, "hsic_beta": 3.0, "hsic_sigma": 1.0},
        "kd": {"kd_alpha": 0.9, "kd_temperature": 4.0},
        "label-smoothing": {"smoothing_epsilon": 0.5},
        "r-drop": {"rdrop_alpha": 5.0},
    }
    known = METHOD_OF.keys() - {"kd_seed"}
    assert known == {name for changes in settings.values() for name in changes}
    for method, changes in settings.items():
        default = loss_at_half_time(make(method))
        for name, value in changes.items():
            changed = make(method, **{name: value})
            if name == "predsim_features":  # its classifiers start at 0, so that their loss is the same for any
                assert max(head.predict.in_features for head in changed.heads.values()) == 64
            else:
                assert loss_at_half_time(changed) != pytest.approx(default, rel=1e-9), name


def loss_at_half_time(collaboration):
    collaboration.progress = 0.5
    return loss_of(collaboration)


# --- on other networks ------------------------------------------------------------------------------------------------


class Small(nn.Module):
    """One activation for all layers, which works in place; a classifier with hidden units."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, stride=2, padding=1)
        self.relu, self.head = nn.ReLU(inplace=True), make_classifier(4, 6, 3)

    def forward(self, x):
        return self.head(self.relu(self.conv2(self.relu(self.conv1(x)))).mean(dim=(2, 3)))


class Tokens(nn.Module):
    """Patches as tokens (B, T, C), and nothing hidden in the classifier."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, stride=4)
        self.blocks = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x):
        return self.head(self.blocks(self.patches(x).flatten(2).mT).mean(dim=1))


@pytest.mark.parametrize("methods", [*NAMES, EVERY])
def test_any_classifier(methods):
    torch.manual_seed(0)
    options = {"layers": ["conv?"]} if methods == "hsic" else {}
    teacher = Small() if "kd" in methods else None
    collaboration = Collaboration(Small(), methods, image_shape=(1, 12, 12), teacher=teacher, **options)
    collaboration.progress = 1.0
    collaboration(torch.randn(4, 1, 12, 12), torch.tensor([0, 1, 2, 0])).backward()
    assert all(p.grad is not None for n, p in collaboration.named_parameters() if "teacher" not in n)
    kinds = {name.split("/")[0] for name in collaboration.terms}
    assert kinds >= set(methods.split("+")) - {"spatial-dropout", "dropblock", "cutout"}


def test_features_that_the_network_changes_in_place_are_read_before():
    collaboration = Collaboration(Small(), "deep-supervision", layers=["conv1", "conv2"], image_shape=(1, 12, 12))
    images = torch.randn(4, 1, 12, 12)
    collaboration(images, torch.tensor([0, 1, 2, 0])).backward()
    expected = F.cross_entropy(
        head_of(collaboration, "deep-supervision", "conv1")(collaboration.network.conv1(images)),
        torch.tensor([0, 1, 2, 0]),
    )
    assert collaboration.terms["deep-supervision/conv1"].item() == pytest.approx(0.3 * expected.item())


@pytest.mark.parametrize("methods", ["predsim", "hsic"])
def test_tokens_have_local_terms(methods):
    collaboration = Collaboration(Tokens(), methods, layers="blocks.*", image_shape=(3, 16, 16))
    collaboration(torch.randn(4, 3, 16, 16), torch.arange(4)).backward()
    assert all(p.grad is not None for p in collaboration.network.blocks.parameters())


def on_tokens(methods):
    return Collaboration(Tokens(), methods, layers="blocks.*", image_shape=(3, 16, 16))


@pytest.mark.parametrize(
    ("build_it", "message"),
    [
        (lambda: on_tokens("dropblock"), "dropblock drops parts of maps .* returns tokens: leave it out"),
        (lambda: on_tokens("spatial-dropout"), "spatial-dropout drops parts of maps"),
        (lambda: on_tokens("deep-supervision"), "all map sizes but the last"),
        (lambda: on_tokens("decov"), "hidden layer: give it one made by imcl_core.networks.classifier.make_classifier"),
        (lambda: Collaboration(torchvision.models.resnet18(num_classes=3), "decov"), "hidden layer"),
        (lambda: Collaboration(nn.Linear(3, 2), "predsim"), "Name the modules"),
        (lambda: Collaboration(Tokens(), "kd", image_shape=(3, 16, 16)), r"teacher=network"),
        (lambda: make("kd", teacher=build("vgg16", 3, width=1 / 16).double())(*make_batch()), "the same classes"),
        (lambda: make("hsic")(*(x[:1] for x in make_batch())), "hsic compares images with one another"),
    ],
)
def test_misuse_is_one_clear_sentence(build_it, message):
    with pytest.raises(ImclError, match=message) as caught:
        build_it()
    assert "\n" not in str(caught.value)


def test_cost_counts_what_each_adds():
    collaboration = make(EVERY)
    rows = collaboration.cost(batch_size=8)
    kinds = [name.split("/")[0] for name in rows.index]
    counted = [kinds.count(k) for k in ("decov", "deep-supervision", "predsim", "hsic", "kd", "dropblock")]
    assert counted == [2, 3, 17, 17, 1, 2]
    heads = [name for name in rows.index if name.split("/")[0] in ("deep-supervision", "predsim", "mid", "pull-push")]
    assert rows.loc[heads, "parameters"].sum() == sum(p.numel() for p in collaboration.heads.parameters())
    assert rows.loc["kd", "parameters"] == rows.loc["network", "parameters"]
    assert rows.loc["kd", "multiply-adds"] == rows.loc["network", "multiply-adds"]
    assert rows.loc["kd", "bytes"] == 0


@pytest.mark.filterwarnings("ignore:The .grad attribute")
@pytest.mark.parametrize("methods", ["kd", "decov+deep-supervision+predsim"])
def test_compiled(methods):
    torch.compiler.reset()
    torch.manual_seed(0)
    networks = [Small(), Small()]
    networks[1].load_state_dict(networks[0].state_dict())
    images, labels = torch.randn(4, 1, 12, 12), torch.tensor([0, 1, 2, 0])
    found = []
    for network, wrap in zip(networks, (lambda c: c, lambda c: torch.compile(c, backend="aot_eager")), strict=True):
        collaboration = Collaboration(network, methods, image_shape=(1, 12, 12), teacher=networks[0])
        call = wrap(collaboration.eval())
        for progress in (0.0, 0.5):
            collaboration.progress = progress
            call(images, labels).backward()
        found.append(gradients(collaboration))
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, msg=lambda m, n=name: f"{n}: {m}")


# --- in training ------------------------------------------------------------------------------------------------------


def tiny(**settings):
    return RunConfig(**{"width": 1 / 16, "epochs": 2, "train_size": 64, "hidden": 16, "validation": True} | settings)


@pytest.mark.parametrize("methods", ["spatial-dropout+dropblock+cutout", "deep-supervision+kd"])
def test_a_resumed_run_gives_the_same_record(tmp_path, monkeypatch, methods):
    config = tiny(methods=methods)
    if "kd" in methods:
        train(config.teacher, out=tmp_path, progress=False)
    expected = train(config, progress=False)
    save = checkpoints.save

    def save_then_stop(path, state):
        save(path, state)
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints, "save", save_then_stop)
    with pytest.raises(ImclError, match="Interrupted"):
        train(config, out=tmp_path, progress=False)
    monkeypatch.undo()
    assert train(config, out=tmp_path, progress=False).curve == expected.curve


def test_the_teacher_is_the_baseline_of_another_seed_trained_once(tmp_path, monkeypatch):
    config = tiny(methods="mid+kd", kd_seed=3, kd_alpha=0.9, seed=1, noise=0.1)
    assert config.teacher == tiny(seed=4, noise=0.1)
    finish, trained = Run.finish, []
    monkeypatch.setattr(Run, "finish", lambda run, *rest: (trained.append(run.config.methods), finish(run, *rest)))
    record, collaboration = train(config, out=tmp_path, progress=False, return_collaboration=True)
    assert trained == ["baseline", "mid+kd"]
    teacher = torch.load(tmp_path / f"{config.teacher.name}.network.pt", weights_only=True)
    assert all(torch.equal(value, teacher[name]) for name, value in collaboration.teacher.state_dict().items())
    (tmp_path / f"{config.name}.json").unlink()
    assert train(config, out=tmp_path, progress=False).curve == record.curve
    assert trained == ["baseline", "mid+kd", "mid+kd"]


def test_a_run_with_all_of_them():
    record, collaboration = train(tiny(methods=EVERY), progress=False, return_collaboration=True)
    assert collaboration.progress == 0.75  # at the second of two steps of the second of two epochs
    kinds = {name.split("/")[0] for name in record.curve[-1]["terms"]}
    assert kinds == set(EVERY.split("+")) - {"spatial-dropout", "dropblock", "cutout"}
