"""Collaboration of networks that label pixels: every term against a loop over pixels, gradients local, misuse told."""

import copy
import itertools

import numpy as np
import pytest
import reference
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from imcl_core import ImclError, losses
from imcl_core.collaboration import DenseCollaboration, DenseSettings
from imcl_core.networks import UNet
from imcl_core.networks.classifier import hierarchical_dropout

FOUR = "out+mid+pull-push+kernel"
CLASSES, BATCH, SIDE, IGNORED = 4, 3, 8, 255


def make(methods=FOUR, dropout=0.5, **settings):
    torch.manual_seed(0)
    network = UNet(CLASSES, width=4, dropout=dropout).double()
    return DenseCollaboration(network, methods, settings=DenseSettings(**settings), image_shape=(3, SIDE, SIDE))


def make_batch(batch=BATCH, height=SIDE, width=SIDE, ignored=True):
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(batch, 3, height, width, generator=generator, dtype=torch.float64)
    labels = torch.randint(CLASSES, (batch, height, width), generator=generator)
    if ignored:
        labels[:, 0, 1::2] = IGNORED
    return images, labels


def run(collaboration, images, labels, seed=2):
    torch.manual_seed(seed)
    return collaboration.objective(images, labels)


def rows_of(logits, labels):
    """A row of logits and its label for each pixel that counts, by a loop."""
    places = [tuple(p) for p in np.argwhere(labels.numpy() != IGNORED)]
    rows = np.stack([logits[b, :, y, x].detach().numpy() for b, y, x in places])
    return rows, np.array([int(labels[p]) for p in places])


# --- the terms --------------------------------------------------------------------------------------------------------


def test_the_labels_loss_is_the_mean_over_the_pixels_that_count():
    collaboration, (images, labels) = make("baseline"), make_batch()
    loss = run(collaboration, images, labels)["hard"]
    torch.manual_seed(2)
    expected = F.cross_entropy(collaboration.network(images), labels, ignore_index=IGNORED)
    torch.testing.assert_close(loss, expected)


def test_out_is_that_of_every_pixel():
    collaboration, (images, labels), seen = make("out"), make_batch(), []
    collaboration.network.register_forward_hook(lambda module, inputs, output: seen.append(output))
    loss = run(collaboration, images, labels)["out"]
    branches = seen[0].unflatten(0, (4, BATCH))
    rows, targets = zip(*(rows_of(z, labels) for z in branches), strict=True)
    assert loss.item() == pytest.approx(reference.output_loss(np.stack(rows), targets[0]), rel=1e-9)
    torch.testing.assert_close(collaboration.logits, branches.mean(dim=0).detach())


def test_mid_teaches_every_pixel_from_the_deeper_layers():
    collaboration, (images, labels), maps = make("mid"), make_batch(), {}
    for name in collaboration.layers:
        module = collaboration.network.get_submodule(name)
        module.register_forward_hook(lambda m, x, y, name=name: maps.update({name: y.detach()}))
    terms = run(collaboration, images, labels)
    local = []
    for name in collaboration.layers:
        logits = collaboration.heads[f"mid/{name}".replace(".", "/")](maps[name])
        local.append(rows_of(F.interpolate(logits, size=(SIDE, SIDE), mode="bilinear"), labels)[0])
    final, targets = rows_of(collaboration.logits, labels)
    expected = reference.intermediate_losses(local, final, targets)
    for name, value in zip(collaboration.layers, expected, strict=True):
        assert terms[f"mid/{name}"].item() == pytest.approx(value, rel=1e-9)


@pytest.mark.parametrize("pixels", [20, 0])
def test_pull_push_compares_pixels_or_images(pixels):
    collaboration, (images, labels) = make("pull-push", pp_pixels=pixels), make_batch()
    maps, drawn, draw = {}, [], collaboration.task.draw
    collaboration.task.draw = lambda places: drawn.append(draw(places)) or drawn[-1]
    name = collaboration.layers[4]  # the bottleneck's first: maps of 2×2
    collaboration.network.get_submodule(name).register_forward_hook(lambda m, x, y: maps.update({name: y.detach()}))
    value = run(collaboration, images, labels)[f"pull-push/{name}"].item()
    projected = collaboration.heads[f"pull-push/{name}".replace(".", "/")](maps[name]).detach()
    if pixels:
        places = list(zip(*(index.tolist() for index in drawn[0]), strict=True))
        assert len(set(places)) == pixels and all(labels[p] != IGNORED for p in places)
        features = np.stack([projected[b, :, y // 4, x // 4] for b, y, x in places])
        one_hot = np.eye(CLASSES)[[int(labels[p]) for p in places]]
        padded = np.pad(images.numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)))
        around = np.stack(
            [[padded[b, c, y + i, x + j] for i in range(3) for j in range(3) for c in range(3)] for b, y, x in places]
        )
    else:
        features, around, count = projected.numpy(), images.numpy(), SIDE * SIDE
        one_hot = np.array([[(image == c).sum() / count for c in range(CLASSES)] for image in labels.numpy()])
    s, target, source = (reference.similarity_matrix(x) for x in (features, one_hot, around))
    weights = DenseSettings()
    depth = 4 / (len(collaboration.layers) - 1)
    pull, push = (low + depth * (high - low) for low, high in (weights.pp_pull, weights.pp_push))
    n = len(s)
    expected = (pull * np.linalg.norm(s - target) - push * np.linalg.norm(s - source)) / n
    assert value == pytest.approx(expected, rel=1e-9)


def test_a_pixel_that_does_not_count_has_no_influence():
    collaboration, (images, labels) = make(dropout=0.0), make_batch(ignored=False)
    collaboration.eval()  # one image's pixels then leave the others' features alone, but for their surroundings
    some = labels.clone()
    some[1:] = IGNORED
    for name, value in run(collaboration, images, some).items():
        if not name.startswith("kernel"):
            torch.testing.assert_close(value, run(collaboration, images[:1], labels[:1])[name])


# --- gradients --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["mid", "pull-push"])
def test_local_gradients_stay_in_their_layers(method):
    collaboration, (images, labels) = make(method), make_batch()
    for name in collaboration.layers:
        terms = run(collaboration, images, labels)
        terms[f"{method}/{name}"].backward()
        reached = {n for n, p in collaboration.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
        head = f"heads.{method}/{name.replace('.', '/')}"
        assert {n for n in reached if not n.startswith(head)} <= {
            f"network.{name}.{n}" for n, _ in collaboration.network.get_submodule(name).named_parameters()
        }
        assert any(n.startswith(f"network.{name}.0") for n in reached)
        assert any(n.startswith(head) for n in reached)
        collaboration.zero_grad(set_to_none=True)


@pytest.mark.parametrize("way", ["deviations", "pixels"])
def test_gradients_are_those_of_detaching_and_running_again(way):
    collaboration, other = (make("mid+pull-push", dropout=0.0, pp_pixels=0, pp_input=way) for _ in range(2))
    (images, labels), inputs = make_batch(), {}
    sum(run(collaboration, images, labels).values()).backward()
    ours = {name: p.grad for name, p in collaboration.named_parameters() if p.grad is not None}
    units = {name: other.network.get_submodule(name) for name in other.layers}
    hooks = [u.register_forward_pre_hook(lambda m, x, n=n: inputs.update({n: x[0]})) for n, u in units.items()]
    final = other.network(images)
    for hook in hooks:
        hook.remove()
    counts, portions = labels != IGNORED, F.one_hot(labels % IGNORED, CLASSES)
    portions = (portions * (labels != IGNORED)[..., None]).double().mean(dim=(1, 2))
    target, source = (
        losses.similarity_matrix(portions),
        losses.similarity_matrix(images.flatten(1) if way == "pixels" else images),
    )
    pull, push = (np.linspace(*ends, len(units)) for ends in (DenseSettings().pp_pull, DenseSettings().pp_push))
    local, terms = [], [F.cross_entropy(final, labels, ignore_index=IGNORED)]
    for i, (name, unit) in enumerate(units.items()):
        maps = unit(inputs[name].detach())
        key = name.replace(".", "/")
        logits = F.interpolate(other.heads[f"mid/{key}"](maps), size=(SIDE, SIDE), mode="bilinear")
        local.append(logits.movedim(1, -1)[counts])
        similarity = losses.similarity_matrix(other.heads[f"pull-push/{key}"](maps))
        terms.append(losses.pull_push_distance(similarity, target, source, pull[i], push[i], True))
    terms.append(losses.intermediate_losses(local, final.detach().movedim(1, -1)[counts], labels[counts]).sum())
    sum(terms).backward()
    theirs = {name: p.grad for name, p in other.named_parameters() if p.grad is not None}
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-9, atol=1e-12)


def test_with_every_method_off_a_step_is_the_plain_one_bit_for_bit():
    collaboration, (images, labels) = make("baseline"), make_batch()
    plain = copy.deepcopy(collaboration.network)
    sum(run(collaboration, images, labels).values()).backward()
    torch.manual_seed(2)
    F.cross_entropy(plain(images).movedim(1, -1)[labels != IGNORED], labels[labels != IGNORED]).backward()
    for ours, theirs in zip(collaboration.network.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)


def test_it_learns():
    collaboration, (images, labels) = make().float(), make_batch(ignored=False)
    labels = (images[:, 0] > 0).long()
    optimizer = torch.optim.Adam(collaboration.parameters(), lr=0.01)
    for _ in range(150):
        optimizer.zero_grad()
        collaboration(images.float(), labels).backward()
        optimizer.step()
    collaboration.eval()
    assert (collaboration(images.float()).argmax(dim=1) == labels).float().mean() > 0.9


# --- networks ---------------------------------------------------------------------------------------------------------


def test_layers_of_a_unet_are_those_of_its_way_down_and_up():
    names = [f"{way}.{i}.{j}" for way, count in (("down", 3), ("up", 2)) for i in range(count) for j in (0, 1)]
    assert make().layers == names
    assert {name.partition(".")[0] for name in make().kernels} == {"down", "up"}


def test_images_of_another_size_need_nothing_new():
    collaboration = make()
    for height, width in ((8, 8), (16, 12), (9, 7)):
        assert run(collaboration, *make_batch(height=height, width=width))["out"].isfinite()
        assert collaboration.logits.shape == (BATCH, CLASSES, height, width)


class Maps(nn.Module):
    """torchvision's networks for segmentation, without what else they return."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x)["out"]


def test_on_torchvisions_fcn():
    torch.manual_seed(0)
    fcn = torchvision.models.segmentation.fcn_resnet50(weights=None, weights_backbone=None, num_classes=CLASSES)
    network, (images, labels) = Maps(fcn), make_batch(2, 32, 32)
    untouched = copy.deepcopy(fcn)
    collaboration = DenseCollaboration(
        network, FOUR, settings=DenseSettings(mid_width=4), layers="network.backbone.layer[34].*",
        kernels="network.backbone.layer4.*.conv2", classifier="network.classifier", image_shape=(3, 32, 32),
    )  # fmt: skip
    assert len(collaboration.layers) == 9 and len(collaboration.kernels) == 3
    collaboration(images.float(), labels).backward()
    assert collaboration.logits.shape == (2, CLASSES, 32, 32)
    assert all(value.isfinite() for value in collaboration.terms.values())
    for state in (fcn.state_dict(), untouched.state_dict()):
        untouched.load_state_dict(state)
    fcn.load_state_dict(untouched.state_dict())
    assert torch.equal(network.eval()(images.float()), Maps(untouched.eval())(images.float()))


def test_hierarchical_dropout_of_maps_draws_what_it_draws_of_vectors():
    classifier = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Dropout2d(0.5), nn.Conv2d(4, 5, 1))
    assert hierarchical_dropout(classifier, torch.randn(2, 3, 6, 7)).shape == (2, 2, 5, 6, 7)


def test_the_cost_of_pixels_does_not_grow_with_their_number_squared():
    few, many = (make("pull-push", pp_pixels=n).cost(8).loc[lambda t: t.index.str.startswith("pull-push")]
                 for n in (16, 64))  # fmt: skip
    assert (many["multiply-adds"] > few["multiply-adds"]).all()
    assert {"mid/down.0.0", "out"} <= set(make().cost(8).index)


def test_heads_follow_a_schedule_and_are_saved():
    collaboration, (images, labels) = make("mid+kernel"), make_batch()
    collaboration.weigh("mid", 0)
    assert not any(name.startswith("mid") for name in run(collaboration, images, labels))
    other = make("mid+kernel")
    other.load_state_dict(collaboration.state_dict())


# --- misuse -----------------------------------------------------------------------------------------------------------


class Fixed(nn.Module):
    def __init__(self, output):
        super().__init__()
        self.conv, self.output = nn.Conv2d(3, 4, 3, padding=1), output

    def forward(self, x):
        return self.output(self.conv(x))


def step(methods="mid", batch=None, **settings):
    collaboration = make(methods, **settings)
    return collaboration(*(batch or make_batch()))


def batch_with(labels=lambda y: y, images=lambda x: x):
    x, y = make_batch()
    return images(x), labels(y)


MISUSE = {
    "one label an image": (lambda: make("mid+kd"), "kd is made for one label an image"),
    "an unknown method": (lambda: make("mid+pul-push"), "Did you mean 'pull-push'"),
    "a classifier": (
        lambda: DenseCollaboration(Fixed(lambda x: x.mean(dim=(2, 3))), "mid"),
        "Collaboration for classifiers",
    ),
    "a dictionary": (lambda: DenseCollaboration(Fixed(lambda x: {"out": x}), "mid"), "returns a dict"),
    "labels of images": (lambda: step(batch=batch_with(lambda y: y[:, 0, 0])), r"int64 of shape \(3, 8, 8\)"),
    "labels of another size": (lambda: step(batch=batch_with(lambda y: y[:, ::2])), r"of shape \(3, 4, 8\)"),
    "labels of another type": (lambda: step(batch=batch_with(lambda y: y.float())), "got float32"),
    "labels out of range": (lambda: step(batch=batch_with(lambda y: y.clamp(max=4))), r"0 \.\.\. 3 for 4 classes"),
    "nothing labelled": (lambda: step(batch=batch_with(lambda y: y * 0 + IGNORED)), "No pixel of this batch counts"),
    "one image to compare": (lambda: step("pull-push", make_batch(1), pp_pixels=0), "compares images"),
    "one pixel to compare": (lambda: make("pull-push", pp_pixels=1), "pp_pixels must be 2 or more"),
    "a layer of the classifier": (
        lambda: DenseCollaboration(UNet(CLASSES, 4), "out+mid", layers=["down.0.0", "classifier.0"]),
        "'classifier.0' is part of the classifier",
    ),
    "no dropout": (lambda: DenseCollaboration(Fixed(lambda x: x), "out"), "dropout, which out needs"),
}


@pytest.mark.parametrize(("misuse", "message"), MISUSE.values(), ids=MISUSE)
def test_misuse_is_one_clear_sentence(misuse, message):
    with pytest.raises(ImclError, match=message) as caught:
        misuse()
    assert "\n" not in str(caught.value)


def test_one_image_is_enough_where_pixels_are_compared():
    for methods in itertools.chain(("pull-push",), ("mid+pull-push",)):
        assert step(methods, make_batch(1)).isfinite()


def test_the_pixels_compared_are_drawn_afresh_from_all_images():
    task, (_, labels) = make("pull-push", pp_pixels=20).task, make_batch(ignored=False)
    torch.manual_seed(0)
    one, other = (torch.stack(task.draw(torch.ones_like(labels).nonzero()), dim=1) for _ in range(2))
    assert len(one.unique(dim=0)) == 20 and one[:, 0].unique().tolist() == list(range(BATCH))
    assert not torch.equal(one, other)
