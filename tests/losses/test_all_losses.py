"""What holds for every loss: defaults, half precision, mistakes."""

import pytest
import reference as ref
import torch
from loss_inputs import MISTAKE, gradients, labels, near, normal, one_hot, plain

from imcl_core import losses


def test_defaults_are_those_of_the_paper():
    logits, target = normal(4, 5, 3), labels(5, 3)
    z, y, local = plain(logits), target.tolist(), list(logits[:-1])
    near(losses.hard_loss(logits[0], target), ref.hard_loss(z[0], y, 1.0))
    near(losses.output_loss(logits, target), ref.output_loss(z, y, 0.5, 2.0, t_squared=False))
    near(
        losses.intermediate_losses(local, logits[-1], target),
        ref.intermediate_losses(z[:-1], z[-1], y, 0.05, 0.05, 2.0),
    )
    x, a, b = normal(5, 3, 2, 2), *normal(2, 5, 5)
    near(losses.similarity_matrix(x), ref.similarity_matrix(plain(x), "sample"))
    near(
        losses.pull_push_loss(x, a, b, 0.7, 0.3),
        ref.pull_push_loss(plain(x), plain(a), plain(b), 0.7, 0.3, True),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_gradients_keep_type_and_layout(dtype):
    x = normal(4, 3, 5, 5).to(dtype).contiguous(memory_format=torch.channels_last).requires_grad_()
    for loss in (losses.similarity_matrix(x).square().sum(), losses.kernel_loss(x)):
        (gradient,) = torch.autograd.grad(loss, x)
        assert gradient.dtype == dtype
        assert gradient.is_contiguous(memory_format=torch.channels_last), "a copy of whole maps otherwise"


def test_detach_changes_the_gradient_and_not_the_value():
    z, y = normal(3, 2, 4).requires_grad_(), labels(2, 4)
    constant, flowing = (losses.output_loss(z, y, detach=detach) for detach in (True, False))
    assert constant == flowing
    assert not torch.allclose(*gradients(constant, z), *gradients(flowing, z))


def test_order_of_the_batch_does_not_matter():
    p = torch.tensor([3, 0, 4, 1, 2])
    x, z, y = normal(5, 4, 3, 3), normal(3, 5, 6), labels(5, 6)
    for centre in ("sample", "batch"):
        s = losses.similarity_matrix(x, centre=centre)
        near(losses.similarity_matrix(x[p], centre=centre), plain(s[p][:, p]))
    a, b = normal(2, 5, 5)
    near(
        losses.pull_push_loss(x[p], a[p][:, p], b[p][:, p], 0.7, 0.3),
        plain(losses.pull_push_loss(x, a, b, 0.7, 0.3)),
    )
    near(losses.peer_targets(z[:, p], 2.0), plain(losses.peer_targets(z, 2.0)[:, p]))
    near(losses.output_loss(z[:, p], y[p]), plain(losses.output_loss(z, y)))
    near(
        losses.intermediate_losses([z[0][p], z[1][p]], z[2][p], y[p]),
        plain(losses.intermediate_losses([z[0], z[1]], z[2], y)),
    )


def every_loss(dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Each function on bfloat16-representable values, held as `dtype`."""
    z, x, w = (normal(*shape, dtype=torch.bfloat16).to(dtype) for shape in ((3, 4, 5), (4, 3, 5, 5), (6, 3, 3, 3)))
    y, (a, b) = labels(4, 5), normal(2, 4, 4, dtype=torch.bfloat16).tanh().to(dtype)
    return {
        "hard": losses.hard_loss(z[0], y),
        "soft": losses.soft_loss(torch.eye(5, dtype=dtype)[y], z[0], 2.0),
        "peers": losses.peer_targets(z, 2.0),
        "out": losses.output_loss(z, y),
        "mid": losses.intermediate_losses(list(z[:2]), z[2], y),
        "similarity": losses.similarity_matrix(x),
        "pull-push": losses.pull_push_loss(x, a, b, 0.7, 0.3),
        "covariance": losses.kernel_covariance(w),
        "kernel": losses.kernel_loss(w),
    }


def test_bfloat16_input_is_computed_in_float32():
    half, single = every_loss(torch.bfloat16), every_loss(torch.float32)
    for name, value in single.items():
        assert half[name].dtype == torch.float32, name
        near(half[name], plain(value), 1e-5)


def test_autocast_does_not_lower_the_precision():
    single = every_loss(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        lowered = every_loss(torch.float32)
    for name, value in single.items():
        assert lowered[name].dtype == torch.float32, name
        near(lowered[name], plain(value), 1e-5)


def test_bfloat16_features_beside_float32_targets():
    x, (a, b) = (
        normal(4, 3, 5, 5, dtype=torch.bfloat16).requires_grad_(),
        normal(2, 4, 4, dtype=torch.float32),
    )
    loss = losses.pull_push_loss(x, a, b, 0.7, 0.3)
    (gradient,) = gradients(loss, x)
    assert loss.dtype == torch.float32
    assert gradient.dtype == torch.bfloat16
    assert gradient.isfinite().all()


Z, Y, X, S, W = normal(3, 4, 5), labels(4, 5), normal(4, 3, 2, 2), normal(4, 4), normal(3, 2, 3, 3)
MISTAKES = {
    "one head has no peers": lambda: losses.peer_targets(Z[:1], 2.0),
    "one head has nobody to learn from": lambda: losses.output_loss(Z[:1], Y),
    "peers without a head axis": lambda: losses.peer_targets(Z[0], 2.0),
    "heads without a head axis": lambda: losses.output_loss(Z[0], Y),
    "hard: labels as a column": lambda: losses.hard_loss(Z[0], Y[:, None]),
    "hard: too few labels": lambda: losses.hard_loss(Z[0], Y[:1]),
    "hard: one-hot labels": lambda: losses.hard_loss(Z[0], one_hot(Y, 5).long()),
    "hard: soft labels of other classes": lambda: losses.hard_loss(Z[0], one_hot(Y, 6)),
    "out: soft labels of other classes": lambda: losses.output_loss(Z, one_hot(Y, 6)),
    "mid: soft labels of other classes": lambda: losses.intermediate_losses([Z[0]], Z[1], one_hot(Y, 6)),
    "hard: logits of several heads": lambda: losses.hard_loss(Z, Y),
    "soft: teacher of one row": lambda: losses.soft_loss(Z[1][:1].softmax(-1), Z[0], 2.0),
    "soft: teacher as a column": lambda: losses.soft_loss(torch.ones(4, 1).double(), Z[0], 2.0),
    "soft: teacher of other classes": lambda: losses.soft_loss(Z[1][:, :4].softmax(-1), Z[0], 2.0),
    "soft: teachers of every head": lambda: losses.soft_loss(Z.softmax(-1), Z[0], 2.0),
    "soft: both of every head": lambda: losses.soft_loss(Z.softmax(-1), Z, 2.0),
    "out: labels as a column": lambda: losses.output_loss(Z, Y[:, None]),
    "out: too few labels": lambda: losses.output_loss(Z, Y[:1]),
    "mid: labels as a column": lambda: losses.intermediate_losses([Z[0]], Z[1], Y[:, None]),
    "mid: too few labels": lambda: losses.intermediate_losses([Z[0]], Z[1], Y[:1]),
    "mid: network's logits of one row": lambda: losses.intermediate_losses([Z[0]], Z[1][:1], Y),
    "mid: network's logits of one class": lambda: losses.intermediate_losses([Z[0]], Z[1][:, :1], Y),
    "mid: a deeper layer of one row": lambda: losses.intermediate_losses([Z[0], Z[2][:1]], Z[1], Y),
    "mid: a deeper layer of one class": lambda: losses.intermediate_losses([Z[0], Z[2][:, :1]], Z[1], Y),
    "similarity: unknown centre": lambda: losses.similarity_matrix(X, centre="channel"),
    "pull-push: unknown centre": lambda: losses.pull_push_loss(X, S, S, 1.0, 1.0, centre="channel"),
    "similarity: three axes": lambda: losses.similarity_matrix(X[0]),
    "similarity: one axis": lambda: losses.similarity_matrix(X[0, 0, 0]),
    "pull-push: label similarity as a column": lambda: losses.pull_push_loss(X, S[:, :1], S, 1.0, 1.0),
    "pull-push: image similarity as a row": lambda: losses.pull_push_loss(X, S, S[:1], 1.0, 1.0),
    "pull-push: a push from nothing": lambda: losses.pull_push_loss(X, S, None, 1.0, 1.0),
    "pull-push: one number": lambda: losses.pull_push_loss(X, S, S[0, 0], 1.0, 1.0),
    "pull-push: of another batch": lambda: losses.pull_push_loss(X, normal(5, 5), S, 1.0, 1.0),
    "kernel: one axis": lambda: losses.kernel_covariance(W[0, 0, 0]),
    "kernel loss: one axis": lambda: losses.kernel_loss(W[0, 0, 0]),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_refused_in_a_sentence(name):
    with pytest.raises(MISTAKE) as caught:
        MISTAKES[name]()
    assert len(str(caught.value).split()) >= 4, "says what is wrong"
