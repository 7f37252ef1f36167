"""What every term promises, those of other packages too: by the table of all terms, none is named."""

import copy
import dataclasses

import pytest
import torch

from imcl_core import Collaboration, DenseCollaboration, ImclError, MethodSettings, RunConfig, train
from imcl_core.methods import TERMS, Term
from imcl_core.networks import UNet, build
from imcl_core.training import checkpoints

CLASSES, BATCH = 4, 4
each_term = pytest.mark.parametrize("name", TERMS)


def make(name, width=1 / 64):
    torch.manual_seed(0)
    network = build("vgg16", CLASSES, width, hidden=8)
    teacher = build("vgg16", CLASSES, width, hidden=8) if TERMS[name].taught_by else None
    collaboration = Collaboration(network, name, teacher=teacher)
    collaboration.progress = 0.5
    return collaboration


def batch():
    return torch.randn(BATCH, 3, 32, 32, generator=torch.Generator().manual_seed(1)), torch.arange(BATCH) % CLASSES


def step(collaboration, seed=2):
    torch.manual_seed(seed)
    loss = collaboration(*batch())
    loss.backward()
    return loss


@each_term
def test_its_terms_are_named_after_it_and_add_up(name):
    collaboration = make(name)
    loss = step(collaboration)
    assert loss.item() == pytest.approx(sum(value.item() for value in collaboration.terms.values()), rel=1e-5)
    named = [term for term in collaboration.terms if term.partition("/")[0] == name]
    assert bool(TERMS[name].replaces) == ("hard" not in collaboration.terms)
    term = TERMS[name]
    assert named or term.change is not Term.change or term.images is not Term.images


@each_term
def test_its_gradients_are_local_as_it_says(name):
    collaboration = make(name, width=1 / 16)  # one channel has no similarity to learn
    places = [p for p in collaboration._terms[name].reads if TERMS[name].local]
    assert collaboration.layers == [place.name for place in places]
    for place in places[::4]:
        collaboration.zero_grad(set_to_none=True)
        torch.manual_seed(2)
        collaboration.objective(*batch())[f"{name}/{place.name}"].backward()
        own = tuple(f"network.{module}." for module in place.modules)
        head = f"heads.{name}/{place.name}".replace(".", "/").replace("heads/", "heads.", 1) + "."
        reached = {n for n, p in collaboration.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
        assert reached and all(n.startswith((*own, head)) for n in reached)


@each_term
def test_switched_off_it_is_the_baseline_bit_for_bit(name):
    collaboration = make(name)
    torch.manual_seed(0)
    baseline = Collaboration(build("vgg16", CLASSES, width=1 / 64, hidden=8), "baseline")
    collaboration.weigh(name, 0)
    assert torch.equal(step(collaboration), step(baseline))
    ours, plain = (dict(c.network.named_parameters()) for c in (collaboration, baseline))
    assert all(torch.equal(ours[n].grad, plain[n].grad) for n in plain)
    assert all(p.grad is None for p in collaboration.heads.parameters())


@each_term
def test_the_network_is_left_as_it_was(name):
    collaboration = make(name)
    before = copy.deepcopy(collaboration.network)
    step(collaboration)
    assert not any("forward" in vars(m) or m._forward_hooks for m in collaboration.network.modules())
    collaboration.network.load_state_dict(before.state_dict())
    images, _ = batch()
    assert torch.equal(collaboration.eval()(images), before.eval()(images))


@each_term
def test_cost_counts_the_very_read_of_a_step(name, monkeypatch):
    collaboration = make(name)
    term, read = collaboration._terms[name], []
    monkeypatch.setattr(term, "read", lambda place, maps, do=term.read: (read.append(place.name), do(place, maps))[1])
    step(collaboration)
    in_step = sorted(read)
    read.clear()
    rows = collaboration.cost(BATCH)
    assert in_step == sorted(read)
    assert {row.partition("/")[0] for row in rows.index} <= {"network", name}
    heads = sum(p.numel() for p in collaboration.heads.parameters())
    kept = sum(p.numel() for module in term.keeps().values() for p in module.parameters())
    assert rows["parameters"].drop("network").sum() == heads + kept


@each_term
def test_its_settings_name_a_run_only_where_it_is_on(name):
    change = {bool: lambda x: not x, int: lambda x: x + 2, float: lambda x: x / 2 + 0.01, tuple: lambda x: (0.5, 0.5)}
    other = next(n for n in TERMS if n != name and not TERMS[n].replaces)
    for field in dataclasses.fields(TERMS[name].Settings):
        one_of = field.metadata["range"].one_of
        value = one_of[-1] if one_of else change[type(field.default)](field.default)
        assert value != field.default
        changed = {field.name: value}
        assert RunConfig(methods=name).key != RunConfig(methods=name, **changed).key, field.name
        if field.name not in {f.name for f in dataclasses.fields(TERMS[other].Settings)}:
            assert RunConfig(methods=other).key == RunConfig(methods=other, **changed).key, field.name


@each_term
def test_its_settings_have_ranges_and_explain_themselves(name):
    for field in dataclasses.fields(TERMS[name].Settings):
        assert field.metadata["help"]
        allowed = field.metadata["range"]
        if allowed.one_of:
            wrong = "no such word"
        elif type(field.default) is bool:
            wrong = 3
        else:
            wrong = allowed.most * 2 + 1
            wrong = (wrong, wrong) if type(field.default) is tuple else wrong
        for kind in (TERMS[name].Settings, MethodSettings, RunConfig):
            with pytest.raises(ImclError, match=field.name):
                kind(**{field.name: wrong})


@each_term
def test_a_factor_scales_or_is_refused_in_a_sentence(name):
    collaboration = make(name)
    for factor in (-1, float("nan"), float("inf")):
        with pytest.raises(ImclError, match="A factor is a number from 0 up"):
            collaboration.weigh(name, factor)
    collaboration.weigh(name, 1)
    assert collaboration.active == (name,)


@each_term
def test_pixels_as_it_says(name):
    network = UNet(CLASSES, width=4)
    if not TERMS[name].pixels:
        with pytest.raises(ImclError, match=f"{name} is made for one label an image: a DenseCollaboration takes out"):
            DenseCollaboration(network, name)
        return
    collaboration = DenseCollaboration(network, name, image_shape=(3, 8, 8))
    collaboration(torch.randn(2, 3, 8, 8), torch.randint(CLASSES, (2, 8, 8))).backward()
    assert collaboration.logits.shape == (2, CLASSES, 8, 8)
    assert all(value.isfinite() for value in collaboration.terms.values())


@each_term
def test_capturable_as_it_says(name, monkeypatch):
    """A captured step may not ask for a value of a tensor on the device, `progress` among them."""
    if not TERMS[name].capturable:
        return
    collaboration, asked = make(name), []
    collaboration.progress = torch.tensor(0.5)
    images, labels = batch()

    class Watched(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            if getattr(function, "__name__", "") in ("item", "tolist", "__bool__", "__int__", "__float__", "nonzero"):
                asked.append(function.__name__)
            return function(*args, **kwargs or {})

    monkeypatch.setattr("imcl_core.collaboration.check_targets", lambda labels, count: None)  # looks on the CPU alone
    with Watched():
        collaboration(images, labels).backward()
    assert asked == []


@each_term
def test_a_resumed_run_gives_the_same_record(name, tmp_path, monkeypatch):
    config = RunConfig(methods=name, width=1 / 64, epochs=2, train_size=32, hidden=8, batch_size=16, validation=True)
    if config.teacher:
        train(config.teacher, out=tmp_path, progress=False, device="cpu")
    expected = train(config, progress=False, device="cpu")

    def save_then_stop(path, state, save=checkpoints.save):
        save(path, state)
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints, "save", save_then_stop)
    with pytest.raises(ImclError, match="Interrupted"):
        train(config, out=tmp_path, progress=False, device="cpu", save_every=0)
    monkeypatch.undo()
    assert train(config, out=tmp_path, progress=False, device="cpu").curve == expected.curve
