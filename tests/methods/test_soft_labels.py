"""Labels that are probabilities, smoothed ones, and images without one, in every term."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.transforms import v2

from imcl_core import Collaboration, DenseCollaboration, DenseSettings, ImclError, losses
from imcl_core.methods import TERMS
from imcl_core.networks import UNet, build

CLASSES, BATCH = 4, 6
each_term = pytest.mark.parametrize("name", ["baseline", *TERMS])
each_of_pixels = pytest.mark.parametrize("name", ["baseline", *(n for n, term in TERMS.items() if term.pixels)])


def make(name, **options):
    torch.manual_seed(0)
    network, teacher = (build("vgg16", CLASSES, 1 / 16, hidden=8, dropout=0.3).double() for _ in "ab")
    teacher = teacher if any(TERMS[n].taught_by for n in name.split("+") if n in TERMS) else None
    collaboration = Collaboration(network, name, teacher=teacher, **options).double()
    collaboration.progress = 0.5
    return collaboration


def batch(size=BATCH):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(size, 3, 32, 32, generator=generator, dtype=torch.float64), torch.arange(size) % CLASSES


def soft_labels(size=BATCH):
    return torch.rand(size, CLASSES, generator=torch.Generator().manual_seed(2), dtype=torch.float64).softmax(dim=1)


def step(collaboration, images, labels):
    """Every term of a step, and the gradients of all parameters; the same draws each time."""
    torch.manual_seed(3)
    terms = collaboration.objective(images, labels)
    torch.stack(list(terms.values())).sum().backward()
    return terms, {n: p.grad for n, p in collaboration.named_parameters() if p.grad is not None}


def assert_same(found, expected):
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.keys() == theirs.keys()
        for key, value in ours.items():
            torch.testing.assert_close(value, theirs[key], rtol=1e-7, atol=1e-9, msg=lambda m, k=key: f"{k}: {m}")


@each_term
def test_certain_soft_labels_are_the_labels(name):
    images, labels = batch()
    assert_same(step(make(name), images, F.one_hot(labels, CLASSES).float()), step(make(name), images, labels))


@each_term
def test_smoothing_is_that_of_the_soft_labels(name):
    images, labels = batch()
    smooth = 0.8 * F.one_hot(labels, CLASSES).double() + 0.2 / CLASSES
    found = step(make(name, label_smoothing=0.2), images, labels)
    assert_same(found, step(make(name), images, smooth))


def test_the_labels_loss_is_that_of_pytorch():
    images, labels = batch()
    collaboration = make("baseline", label_smoothing=0.2)
    (value,) = step(collaboration, images, labels)[0].values()
    torch.manual_seed(3)
    torch.testing.assert_close(value, F.cross_entropy(collaboration.network(images), labels, label_smoothing=0.2))
    for mix in (v2.MixUp(num_classes=CLASSES), v2.CutMix(num_classes=CLASSES)):
        mixed, soft = mix(images, labels)
        (value,) = step(collaboration, mixed, soft)[0].values()
        torch.manual_seed(3)
        assert value.item() == pytest.approx(
            F.cross_entropy(collaboration.network(mixed), soft, label_smoothing=0.2).item()
        )


def test_losses_of_soft_labels_are_the_mean_of_those_of_the_classes():
    soft, z = soft_labels(), torch.randn(3, BATCH, CLASSES, dtype=torch.float64)
    certain = [torch.full((BATCH,), label) for label in range(CLASSES)]

    def mean(loss):  # the labels' loss is linear in the labels, image by image
        return sum((soft[:, c, None] * torch.stack([loss(i, label) for i in range(BATCH)])).mean(dim=0)
                   for c, label in enumerate(certain))  # fmt: skip

    one = [slice(i, i + 1) for i in range(BATCH)]
    expected = mean(lambda i, y: losses.hard_loss(z[0][one[i]], y[one[i]], 2.0)[None])
    torch.testing.assert_close(losses.hard_loss(z[0], soft, 2.0)[None], expected)
    expected = mean(lambda i, y: losses.output_loss(z[:, one[i]], y[one[i]])[None])
    torch.testing.assert_close(losses.output_loss(z, soft)[None], expected)
    expected = mean(lambda i, y: losses.intermediate_losses([z[0][one[i]], z[1][one[i]]], z[2][one[i]], y[one[i]]))
    torch.testing.assert_close(losses.intermediate_losses([z[0], z[1]], z[2], soft), expected)


def test_the_labels_similarity_is_eq_8_of_the_soft_labels():
    images, soft = batch()[0], soft_labels()
    collaboration = make("pull-push")
    target = collaboration.task.label_similarity(images, soft, "sample")
    torch.testing.assert_close(target, losses.similarity_matrix(soft))
    assert step(collaboration, images, soft)[0].keys() == step(collaboration, *batch())[0].keys()


@pytest.mark.parametrize("name", ["baseline", *(name for name in TERMS if name != "decov")])  # which has no labels
def test_an_image_without_a_label_counts_in_no_term(name):
    """Evaluated, so that images do not meet in normalisation, nor draw another's dropout masks."""
    images, labels = batch()
    labels[[1, 4]] = -100
    kept = labels != -100
    found = step(make(name, ignore_label=-100).eval(), images, labels)
    assert_same(found, step(make(name).eval(), images[kept], labels[kept]))
    with pytest.raises(ImclError, match="skip it"):
        make(name, ignore_label=-100)(images, labels.fill_(-100))


@pytest.mark.parametrize("name", ["out+decov", "r-drop+decov"])
def test_an_image_without_a_label_counts_in_no_branch(name):
    images, labels = batch()
    labels[2] = -100
    kept = labels != -100
    found = step(make(name, ignore_label=-100).eval(), images, labels)
    assert_same(found, step(make(name).eval(), images[kept], labels[kept]))


@pytest.mark.parametrize("name", ["baseline", "out", "mid", "label-smoothing"])
def test_a_missing_label_is_refused_where_labels_are_not_looked_at(name, monkeypatch):
    """As on a GPU and in a compiled step; PyTorch's losses would leave out -100 without a word."""
    monkeypatch.setattr("imcl_core.collaboration.check_targets", lambda *_: None)
    with pytest.raises(IndexError, match="-100 is out of bounds"):
        make(name)(batch()[0], torch.tensor([0, 1, 0, 1, 0, -100]))


def test_a_missing_label_names_the_setting():
    with pytest.raises(ImclError, match=r"got -100 \.\.\. 1: .* pass ignore_label=-100"):
        make("mid")(batch()[0], torch.tensor([0, 1, 0, 1, 0, -100]))


def dense(name, **options):
    torch.manual_seed(0)
    settings = DenseSettings(pp_pixels=0)
    return DenseCollaboration(
        UNet(CLASSES, 4).double(), name, settings=settings, image_shape=(3, 8, 8), **options
    ).double()


class Searches(TorchDispatchMode):
    """Lists what a GPU waits for when it looks for places: calls of `nonzero`, and masks that stand for places."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, call, types, args=(), kwargs=None):
        masks = args[1] if call is torch.ops.aten.index.Tensor else ()
        self.found += [mask for mask in masks if mask is not None and mask.dtype == torch.bool]
        self.found += [call] * (call is torch.ops.aten.nonzero.default)
        return call(*args, **(kwargs or {}))


@pytest.mark.parametrize("of_pixels", [False, True])
def test_what_counts_is_looked_for_once_a_step(of_pixels):
    images, labels = batch()
    collaboration = make("out+mid", ignore_label=-100)
    if of_pixels:
        collaboration, images, labels = dense("out+mid"), images[:, :, :8, :8], labels[:, None, None].repeat(1, 8, 8)
    with Searches() as searches:
        collaboration(images, labels)
    assert len(searches.found) == 1


@each_of_pixels
def test_pixels_have_soft_and_smoothed_labels(name):
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(2, 3, 8, 8, generator=generator, dtype=torch.float64)
    labels = torch.randint(CLASSES, (2, 8, 8), generator=generator)
    one_hot = F.one_hot(labels, CLASSES).movedim(-1, 1).double()
    labels[0, :3], one_hot[0, :, :3] = 255, 0  # neither counts
    assert_same(step(dense(name), images, one_hot), step(dense(name), images, labels))
    smooth = torch.where(one_hot.sum(dim=1, keepdim=True) > 0, 0.8 * one_hot + 0.2 / CLASSES, 0.0)
    assert_same(step(dense(name, label_smoothing=0.2), images, labels), step(dense(name), images, smooth))
    with pytest.raises(ImclError, match=r"or probabilities of shape \(2, m, 8, 8\); got float64 of shape \(2, 8, 8\)"):
        dense(name)(images, one_hot[:, 0])


@pytest.mark.parametrize("name", ["out", "mid"])
def test_a_criterion_of_ones_own_takes_the_logits_of_the_same_pass(name):
    images, labels = batch()
    collaboration, reference = make(name).eval(), make(name).eval()  # without dropout all predictions are one
    terms = collaboration.objective(images, labels)
    torch.testing.assert_close(terms.logits.detach(), collaboration.logits)
    own = F.multi_margin_loss(terms.logits, labels)
    (own + sum(value for term, value in terms.items() if term.startswith("mid"))).backward()
    local = [value for term, value in reference.objective(images, labels).items() if term.startswith("mid")]
    (F.multi_margin_loss(reference.network(images), labels) + sum(local)).backward()
    for ours, theirs in zip(collaboration.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


class Output:
    """As of transformers."""

    def __init__(self, logits):
        self.logits = logits


class HuggingFace(nn.Module):
    def __init__(self, classes=CLASSES):
        super().__init__()
        self.plain = build("vgg16", classes, 1 / 64, hidden=8)

    def forward(self, pixel_values):
        return Output(self.plain(pixel_values))


@pytest.mark.parametrize("name", ["baseline", "out", "mid", "kd"])
def test_the_logits_of_a_model_output_are_taken(name):
    torch.manual_seed(0)
    network, images, labels = HuggingFace(), torch.randn(4, 3, 32, 32), torch.arange(4)
    collaboration = Collaboration(network, name, teacher=HuggingFace() if name == "kd" else None)
    collaboration(images, labels).backward()
    assert all(p.grad is not None for p in network.parameters())
    assert torch.equal(collaboration.eval()(images), network.plain(images))


@pytest.mark.parametrize("name", ["baseline", "mid"])
def test_logits_of_one_class_are_refused(name):
    with pytest.raises(ImclError, match="logits of one class"):
        Collaboration(build("vgg16", 1, 1 / 64, hidden=8), name)(torch.randn(4, 3, 32, 32), torch.zeros(4).long())
    with pytest.raises(ImclError, match="such as those of background and foreground"):
        DenseCollaboration(UNet(1, 4), name)(torch.randn(2, 3, 8, 8), torch.zeros(2, 8, 8).long())
