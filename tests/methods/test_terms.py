"""All terms together: names and records, one ordinary graph, settings that reach their terms, runs resumed."""

import copy
import itertools
import json
from dataclasses import fields
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from small import CLASSES, EVERY, NAMES, gradients, head_of, loss_of, make, make_batch

from imcl_core import ImclError, RunConfig, losses, train
from imcl_core.collaboration import METHODS
from imcl_core.methods import NEIGHBOURS, TERMS, parse_methods
from imcl_core.methods.decov import decov_loss
from imcl_core.methods.hsic import hsic_loss, normalised_kernel
from imcl_core.methods.predsim import predsim_loss
from imcl_core.training import checkpoints
from imcl_core.training.config import EARLIER

METHOD_OF = {field.name: term.name for term in NEIGHBOURS for field in fields(term.Settings) if field.name != "attach"}
RIVALS = {term.name for term in TERMS.values() if term.replaces}  # one of them at a time
ROOT = Path(__file__).parents[2]


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
    named = {stem: RunConfig(**EARLIER | config).name for stem, config in configs.items() if config}
    assert len(named) >= 20
    assert all(stem == name for stem, name in named.items())


@pytest.mark.parametrize("field", [f for f in fields(RunConfig) if f.name in METHOD_OF], ids=lambda field: field.name)
def test_a_setting_names_a_run_only_where_its_method_is_on(field):
    method = METHOD_OF[field.name]
    choices = field.metadata["range"].one_of
    changes = {bool: lambda x: not x, int: lambda x: x + 3, float: lambda x: x / 2, str: lambda x: choices[-1]}
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


def test_every_gradient_is_that_of_one_ordinary_graph():
    """Local terms on a second, detached run of their layers; all else on the features themselves."""
    names = "decov+deep-supervision+predsim+hsic+kd"
    weights = {"deep_weight": 0.3, "predsim_weight": 1.0, "hsic_weight": 0.1, "decov_weight": 2.0}
    collaboration = make(names, dropout=0.0, kd_temperature=2.0, **weights)
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


def test_settings_reach_the_terms():
    settings = {
        "spatial-dropout": {"spatial_rate": 0.5, "spatial_groups": 2},
        "dropblock": {"dropblock_rate": 0.5, "dropblock_size": 3, "dropblock_groups": 4},
        "cutout": {"cutout_size": 20},
        "decov": {"decov_weight": 3.0},
        "deep-supervision": {"deep_weight": 1.0, "deep_decay": False},
        "predsim": {"predsim_weight": 0.1, "predsim_beta": 0.5, "predsim_features": 64, "predsim_pool": "square"},
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
            elif name == "predsim_pool":  # likewise
                assert all(isinstance(head.pool, torch.nn.AdaptiveAvgPool2d) for head in changed.heads.values())
            else:
                assert loss_at_half_time(changed) != pytest.approx(default, rel=1e-9), name


def loss_at_half_time(collaboration):
    collaboration.progress = 0.5
    return loss_of(collaboration)


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


def test_a_run_with_all_of_them():
    record, collaboration = train(tiny(methods=EVERY), progress=False, return_collaboration=True)
    assert collaboration.progress == 0.75  # at the second of two steps of the second of two epochs
    kinds = {name.split("/")[0] for name in record.curve[-1]["terms"]}
    assert kinds == set(EVERY.split("+")) - {"spatial-dropout", "dropblock", "cutout"}
