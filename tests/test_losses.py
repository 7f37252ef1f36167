"""`imcl_core.losses` against a loop-written reference and hand-computed cases; properties, edges."""

from functools import partial
from math import log, sqrt

import numpy as np
import pytest
import reference as ref
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from imcl_core import losses
from imcl_core.errors import ImclError

MISTAKE = (ImclError, ValueError)
DTYPES = (torch.float32, torch.float64)
random_examples = settings(derandomize=True, deadline=None, max_examples=25)

dtypes = st.sampled_from(DTYPES)
seeds = st.integers(0, 2**32 - 1)
scales = st.sampled_from((1e-3, 0.3, 1.0, 1e3))
temperatures = st.sampled_from((0.5, 1.0, 2.0, 4.0))
weights = st.floats(0.0, 1.0)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape)).to(dtype)


def labels(batch: int, classes: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(classes, size=batch))


def plain(x: torch.Tensor) -> np.ndarray:
    """The very values of `x` for the reference: float32 is exact in float64."""
    return x.detach().double().numpy()


def agree(actual: torch.Tensor, expected, dtype: torch.dtype) -> None:
    assert actual.dtype == dtype
    tolerance = 1e-9 if dtype == torch.float64 else 1e-4
    np.testing.assert_allclose(plain(actual), expected, rtol=tolerance, atol=tolerance / 10)


def near(actual: torch.Tensor, expected, tolerance: float = 1e-12) -> None:
    np.testing.assert_allclose(plain(actual), expected, rtol=tolerance, atol=tolerance)


def gradients(loss: torch.Tensor, *inputs: torch.Tensor) -> list[torch.Tensor]:
    return list(torch.autograd.grad(loss, inputs))


def one_hot(target: torch.Tensor, classes: int) -> torch.Tensor:
    return torch.nn.functional.one_hot(target, classes).double()


# --- Against the reference, on random input -------------------------------------------------------


@st.composite
def logit_batches(draw, heads=(1, 1)):
    """(H, B, m) logits of several sizes of values, and (B,) labels."""
    h, batch, classes = draw(st.integers(*heads)), draw(st.integers(1, 5)), draw(st.integers(2, 6))
    seed = draw(seeds)
    size = draw(st.sampled_from((0.01, 1.0, 30.0)))
    return normal(h, batch, classes, seed=seed) * size, labels(batch, classes, seed)


@st.composite
def feature_maps(draw):
    """(n, C, H, W) or (n, d) features; in some, one sample or one channel of a sample is constant."""
    n, channels, seed, scale = draw(st.integers(2, 6)), draw(st.integers(1, 4)), draw(seeds), draw(scales)
    if draw(st.integers(0, 4)) == 0:
        x = normal(n, channels + 1, seed=seed)
    else:
        x = normal(n, channels, draw(st.integers(1, 4)), draw(st.integers(1, 4)), seed=seed)
    constant = draw(st.sampled_from(("nothing", "a sample", "a channel")))
    if constant == "a sample":
        x[draw(st.integers(0, n - 1))] = 0.1
    elif constant == "a channel" and x.ndim == 4:
        x[draw(st.integers(0, n - 1)), draw(st.integers(0, channels - 1))] = -0.7
    return x * scale


@st.composite
def kernels(draw):
    """(F, C, kh, kw) weights; in some, one filter is constant."""
    shape = [
        draw(st.integers(1, 5)),
        draw(st.integers(1, 4)),
        draw(st.integers(1, 3)),
        draw(st.integers(1, 3)),
    ]
    w = normal(*shape, seed=draw(seeds))
    if draw(st.integers(0, 3)) == 0:
        w[draw(st.integers(0, shape[0] - 1))] = 0.1
    return w * draw(scales)


@random_examples
@given(logit_batches(), temperatures, dtypes)
def test_hard_loss_is_the_reference(batch, temperature, dtype):
    logits, target = batch[0][0].to(dtype), batch[1]
    expected = ref.hard_loss(plain(logits), target.tolist(), temperature)
    agree(losses.hard_loss(logits, target, temperature), expected, dtype)


@random_examples
@given(logit_batches(heads=(2, 2)), temperatures, dtypes)
def test_soft_loss_is_the_reference(batch, temperature, dtype):
    teacher, logits = batch[0][0].softmax(-1).to(dtype), batch[0][1].to(dtype)
    agree(
        losses.soft_loss(teacher, logits, temperature),
        ref.soft_loss(plain(teacher), plain(logits), temperature),
        dtype,
    )


@random_examples
@given(logit_batches(heads=(2, 5)), temperatures, dtypes)
def test_peer_targets_are_the_reference(batch, temperature, dtype):
    logits = batch[0].to(dtype)
    agree(losses.peer_targets(logits, temperature), ref.peer_targets(plain(logits), temperature), dtype)


@random_examples
@given(logit_batches(heads=(2, 5)), weights, temperatures, st.booleans(), st.booleans(), dtypes)
def test_output_loss_is_the_reference(batch, alpha, temperature, t_squared, detach, dtype):
    logits, target = batch[0].to(dtype), batch[1]
    actual = losses.output_loss(logits, target, alpha, temperature, detach=detach, t_squared=t_squared)
    agree(actual, ref.output_loss(plain(logits), target.tolist(), alpha, temperature, t_squared), dtype)


@random_examples
@given(logit_batches(heads=(2, 6)), weights, weights, temperatures, st.booleans(), dtypes)
def test_intermediate_losses_are_the_reference(batch, alpha, beta, temperature, own, dtype):
    logits, target = batch[0].to(dtype), batch[1]
    actual = losses.intermediate_losses(list(logits[:-1]), logits[-1], target, alpha, beta, temperature, own)
    z = plain(logits)
    agree(actual, ref.intermediate_losses(z[:-1], z[-1], target.tolist(), alpha, beta, temperature, own), dtype)


@random_examples
@given(feature_maps(), st.sampled_from(("sample", "batch")), dtypes)
def test_similarity_matrix_is_the_reference(x, centre, dtype):
    x = x.to(dtype)
    agree(losses.similarity_matrix(x, centre=centre), ref.similarity_matrix(plain(x), centre), dtype)


@random_examples
@given(feature_maps(), weights, weights, st.booleans(), seeds, dtypes)
def test_pull_push_loss_is_the_reference(x, pull, push, normalise, seed, dtype):
    n, x = len(x), x.to(dtype)
    to_labels, to_images = normal(2, n, n, seed=seed, dtype=dtype).tanh()
    actual = losses.pull_push_loss(x, to_labels, to_images, pull, push, normalise=normalise)
    expected = ref.pull_push_loss(plain(x), plain(to_labels), plain(to_images), pull, push, normalise)
    agree(actual, expected, dtype)


@random_examples
@given(kernels(), st.booleans(), dtypes)
def test_kernel_covariance_and_loss_are_the_reference(w, biased, dtype):
    w = w.to(dtype)
    agree(losses.kernel_covariance(w, biased), ref.kernel_covariance(plain(w), biased), dtype)
    agree(losses.kernel_loss(w, biased), ref.kernel_loss(plain(w), biased), dtype)


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


# --- Worked by hand -------------------------------------------------------------------------------


def rows(*values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_hard_loss_by_hand():
    # ψ((0, ln 3); 1) = (1, 3)/4, so label 0 costs ln 4 and label 1 ln 4/3; both together their mean.
    z = rows([0, log(3)], [0, log(3)])
    near(losses.hard_loss(z, torch.tensor([0, 1])), (log(4) + log(4 / 3)) / 2)
    # At T = 2 the same logits doubled give the same ψ.
    near(losses.hard_loss(2 * z[:1], torch.tensor([0]), temperature=2.0), log(4))


def test_soft_loss_by_hand():
    # -Σ q log ψ with q = (1/3, 2/3) and ψ = (1, 3)/4: 1/3 ln 4 + 2/3 ln 4/3. At T = 2 the logits double.
    teacher, expected = rows([1 / 3, 2 / 3]), log(4) / 3 + 2 * log(4 / 3) / 3
    near(losses.soft_loss(teacher, rows([0, log(3)]), 1.0), expected)
    near(losses.soft_loss(teacher, rows([0, 2 * log(3)]), 2.0), expected)


def test_peer_targets_by_hand():
    # Three heads, T = 2: z1 = (0, 0), z2 = (0, 4 ln 3), z3 = (0, 0).
    # q1 and q3: the mean of z2 and a zero is (0, 2 ln 3), over T (0, ln 3): (1, 3)/4. q2: zeros: (1, 1)/2.
    z = rows([[0, 0]], [[0, 4 * log(3)]], [[0, 0]])
    near(losses.peer_targets(z, 2.0), [[[1 / 4, 3 / 4]], [[1 / 2, 1 / 2]], [[1 / 4, 3 / 4]]])


@pytest.mark.parametrize(("t_squared", "factor"), [(False, 1), (True, 4)])
def test_output_loss_by_hand(t_squared, factor):
    # Two heads, label 1, T = 2: z1 = (0, 0), z2 = (0, 2 ln 3).
    # Hard: ψ(z1;1)_2 = 1/2 costs ln 2; ψ(z2;1) = (1, 9)/10 costs ln 10/9.
    # Soft: q1 = ψ(z2;2) = (1, 3)/4 against ψ(z1;2) = (1, 1)/2 costs ln 2;
    #       q2 = ψ(z1;2) = (1, 1)/2 against (1, 3)/4 costs 1/2 ln 4 + 1/2 ln 4/3 = 1/2 ln 16/3.
    z, label = rows([[0, 0]], [[0, 2 * log(3)]]), torch.tensor([1])
    hard, soft = log(2) + log(10 / 9), log(2) + log(16 / 3) / 2
    for alpha in (0.5, 0.9):
        expected = (alpha * hard + (1 - alpha) * factor * soft) / 2
        near(losses.output_loss(z, label, alpha=alpha, temperature=2.0, t_squared=t_squared), expected)


def test_intermediate_losses_by_hand():
    # Two layers, label 0, T = 2: z1 = (0, 2 ln 3), z2 = (0, 0), the network's own z3 = (0, 4 ln 3).
    # Hard, with T: ψ(z1;2) = (1, 3)/4 costs ln 4; ψ(z2;2) = (1, 1)/2 costs ln 2.
    # Soft: the mean of z2 and z3 is (0, 2 ln 3): q1 = (1, 3)/4 against itself: 1/4 ln 4 + 3/4 ln 4/3;
    #       q2 = ψ(z3;2) = (1, 9)/10 against (1, 1)/2 costs ln 2.
    z1, z2, z3 = rows([0, 2 * log(3)]), rows([0, 0]), rows([0, 4 * log(3)])
    expected = [0.05 * log(4) + 0.1 * (log(4) / 4 + 3 * log(4 / 3) / 4), 0.05 * log(2) + 0.1 * log(2)]
    near(
        losses.intermediate_losses([z1, z2], z3, torch.tensor([0]), alpha=0.05, beta=0.1, temperature=2.0),
        expected,
    )
    # As Eq. 6 is printed, z1 joins the sum of its teachers over 2, and z2 the sum over 1, where it changes nothing:
    # q1 = ψ((0, 6 ln 3)/2; 2), odds of 3^(3/2).
    odds = 3**1.5
    own = 0.05 * log(4) + 0.1 * (log(4) + odds * log(4 / 3)) / (1 + odds)
    near(
        losses.intermediate_losses([z1, z2], z3, torch.tensor([0]), 0.05, 0.1, 2.0, own=True),
        [own, expected[1]],
    )


def opposite_maps() -> torch.Tensor:
    """Two samples of two maps of 1 by 2: channel deviations (1, 0) and (0, 1)."""
    return rows([[[0, 2]], [[5, 5]]], [[[7, 7]], [[3, 1]]])


def test_similarity_matrix_by_hand():
    # Deviations (1, 0) and (0, 1), centred (1/2, -1/2) and (-1/2, 1/2): opposite.
    near(losses.similarity_matrix(opposite_maps()), [[1, -1], [-1, 1]])
    # (1, 0, 0) and (1, 1, 0), centred (2, -1, -1)/3, (1, 1, -2)/3: product 3/9, lengths √6/3: 1/2.
    near(losses.similarity_matrix(rows([1, 0, 0], [1, 1, 0])), [[1, 1 / 2], [1 / 2, 1]])


def test_similarity_centred_over_the_batch_by_hand():
    # (1, 0), (0, 1), (2, 2) have mean (1, 1): centred (0, -1), (-1, 0), (1, 1).
    s = losses.similarity_matrix(rows([1, 0], [0, 1], [2, 2]), centre="batch")
    near(s, [[1, 0, -1 / sqrt(2)], [0, 1, -1 / sqrt(2)], [-1 / sqrt(2), -1 / sqrt(2), 1]])


def test_pull_push_loss_by_hand():
    # S = (1, -1; -1, 1): ‖S - identity‖_F = √2, ‖S - ones‖_F = √8; 0.5 √2 - 0.125 √8 = √2/4, over n = 2 √2/8.
    arguments = opposite_maps(), torch.eye(2).double(), torch.ones(2, 2).double(), 0.5, 0.125
    near(losses.pull_push_loss(*arguments, normalise=False), sqrt(2) / 4)
    near(losses.pull_push_loss(*arguments), sqrt(2) / 8)


def test_kernel_by_hand():
    # (2, 0) and (0, 6) standardise to (1, -1) and (-1, 1): covariance -1, so the loss is √((-1)² + (-1)²).
    w = rows([2, 0], [0, 6]).reshape(2, 1, 1, 2)
    near(losses.kernel_covariance(w), [[1, -1], [-1, 1]])
    near(losses.kernel_loss(w), sqrt(2))
    # (1, 0, 0) and (1, 1, 0): covariance 1/2 as for the similarity; the constant third adds nothing.
    w = rows([1, 0, 0], [1, 1, 0], [4, 4, 4]).reshape(3, 3, 1, 1)
    near(losses.kernel_covariance(w), [[1, 1 / 2, 0], [1 / 2, 1, 0], [0, 0, 0]])
    near(losses.kernel_loss(w), sqrt(1 / 2))
    # Over G - 1 = 2 the deviations grow by √(3/2), so that products over G shrink to 2/3.
    near(losses.kernel_covariance(w, biased=False), [[2 / 3, 1 / 3, 0], [1 / 3, 2 / 3, 0], [0, 0, 0]])
    near(losses.kernel_loss(w, biased=False), sqrt(2 / 9))


# --- Gradients ------------------------------------------------------------------------------------


def check(function, *inputs: torch.Tensor) -> None:
    assert torch.autograd.gradcheck(function, [x.clone().requires_grad_() for x in inputs])


def test_gradcheck_of_the_logit_losses():
    z, y = normal(3, 4, 5), labels(4, 5)
    check(partial(losses.hard_loss, target=y, temperature=2.0), z[0])
    check(lambda q, logits: losses.soft_loss(q.softmax(-1), logits, 2.0), z[0], z[1])
    check(partial(losses.peer_targets, temperature=2.0, detach=False), z)
    check(partial(losses.output_loss, target=y, detach=False, t_squared=True), z)
    # Teachers are constants, so numerical differences see Eq. 7's gradient only where nothing else moves.
    check(lambda local: losses.intermediate_losses([local], z[1], y, 0.3, 0.7), z[0])


@pytest.mark.parametrize("shape", [(4, 3, 2, 3), (4, 3, 1, 1), (4, 3)], ids=str)
@pytest.mark.parametrize("centre", ["sample", "batch"])
def test_gradcheck_of_the_similarity(shape, centre):
    check(partial(losses.similarity_matrix, centre=centre), normal(*shape))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("shape", [(4, 3, 5, 5), (4, 1, 3, 2), (1, 3, 2, 2)], ids=str)
def test_gradcheck_in_either_layout(shape, layout):
    x = normal(*shape).contiguous(memory_format=layout).requires_grad_()
    assert torch.autograd.gradcheck(losses.similarity_matrix, x)
    assert torch.autograd.gradcheck(losses.kernel_loss, x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_gradients_keep_type_and_layout(dtype):
    x = normal(4, 3, 5, 5).to(dtype).contiguous(memory_format=torch.channels_last).requires_grad_()
    for loss in (losses.similarity_matrix(x).square().sum(), losses.kernel_loss(x)):
        (gradient,) = torch.autograd.grad(loss, x)
        assert gradient.dtype == dtype
        assert gradient.is_contiguous(memory_format=torch.channels_last), "a copy of whole maps otherwise"


def test_a_constant_map_beside_others_gets_no_gradient():
    x = normal(4, 3, 5, 5)
    x[1, 2] = 0.1
    x.requires_grad_()
    (gradient,) = torch.autograd.grad((losses.similarity_matrix(x) * normal(4, 4)).sum(), x)
    assert gradient.isfinite().all()
    assert not gradient[1, 2].any()
    assert gradient[1, :2].any()


def test_a_second_derivative_is_refused_not_wrong():
    x = normal(4, 3, 5, 5).requires_grad_()
    (gradient,) = torch.autograd.grad(losses.similarity_matrix(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_distances_of_all_layers_in_one_call():
    similarity, (to_labels, to_images) = normal(3, 4, 4).tanh(), normal(2, 4, 4, seed=1).tanh()
    pull, push = normal(2, 3, seed=2)
    together = losses.pull_push_distance(similarity, to_labels, to_images, pull, push)
    each = zip(similarity, pull, push, strict=True)
    near(together, [losses.pull_push_distance(s, to_labels, to_images, a, b) for s, a, b in each])


@pytest.mark.parametrize("normalise", [True, False])
def test_gradcheck_of_pull_push_and_kernel(normalise):
    to_labels, to_images = normal(2, 4, 4).tanh()
    for centre in ("sample", "batch"):
        check(
            lambda x, centre=centre: losses.pull_push_loss(x, to_labels, to_images, 0.7, 0.3, normalise, centre=centre),
            normal(4, 3, 2, 3),
        )
    check(losses.kernel_covariance, normal(3, 2, 3, 3))
    check(losses.kernel_loss, normal(3, 2, 3, 3))


@pytest.mark.parametrize("t_squared", [False, True])
def test_output_gradient_with_constant_teachers(t_squared):
    # With q constant, dL/dz^(h) = 1/(H B) [ a (ψ(z;1) - y) + (1-a) (ψ(z;T) - q) / T ], the soft part times T²
    # if asked.
    z, y, alpha, t = normal(3, 4, 5).requires_grad_(), labels(4, 5), 0.3, 2.0
    (actual,) = gradients(losses.output_loss(z, y, alpha, t, t_squared=t_squared), z)
    q = torch.from_numpy(ref.peer_targets(plain(z), t))
    soft = (torch.softmax(z / t, -1) - q) / t * (t**2 if t_squared else 1)
    near(actual, plain((alpha * (z.softmax(-1) - one_hot(y, 5)) + (1 - alpha) * soft) / (3 * 4)))


def test_intermediate_gradient_reaches_its_own_layer_only():
    # With q constant, dL^(i)/dz^(i) = 1/(B T) [ a (ψ(z;T) - y) + b (ψ(z;T) - q) ]; all others are 0.
    z, final, y, t = list(normal(3, 4, 5)), normal(4, 5, seed=1).requires_grad_(), labels(4, 5), 2.0
    local = [x.clone().requires_grad_() for x in z]
    terms = losses.intermediate_losses(local, final, y, 0.3, 0.7, t)
    for i, q in enumerate(ref.deeper_targets([plain(x) for x in z], plain(final), t)):
        found = torch.autograd.grad(terms[i], [*local, final], retain_graph=True, allow_unused=True)
        psi = torch.softmax(z[i] / t, -1)
        expected = (0.3 * (psi - one_hot(y, 5)) + 0.7 * (psi - torch.from_numpy(q))) / (4 * t)
        for j, gradient in enumerate(found):
            if j == i:
                near(gradient, plain(expected))
            else:
                assert gradient is None or not gradient.any()


def test_similarities_of_labels_and_images_are_constants():
    x = normal(4, 3, 2, 2).requires_grad_()
    targets = [s.clone().requires_grad_() for s in normal(2, 4, 4)]
    found = torch.autograd.grad(losses.pull_push_loss(x, *targets, 0.7, 0.3), [x, *targets], allow_unused=True)
    assert found[0].any()
    assert all(gradient is None or not gradient.any() for gradient in found[1:])


def test_peer_targets_carry_gradient_only_if_asked():
    z = normal(3, 2, 4).requires_grad_()
    assert not losses.peer_targets(z, 2.0).requires_grad
    q = losses.peer_targets(z, 2.0, detach=False)
    (gradient,) = gradients(q[0, 0, 0], z)
    assert gradient[1].any()
    assert gradient[2].any()
    assert not gradient[0].any(), "a head must not teach itself"


def test_detach_changes_the_gradient_and_not_the_value():
    z, y = normal(3, 2, 4).requires_grad_(), labels(2, 4)
    constant, flowing = (losses.output_loss(z, y, detach=detach) for detach in (True, False))
    assert constant == flowing
    assert not torch.allclose(*gradients(constant, z), *gradients(flowing, z))


# --- Properties -----------------------------------------------------------------------------------


@random_examples
@given(logit_batches(heads=(2, 5)), temperatures)
def test_peer_targets_are_probabilities_and_leave_one_out(batch, temperature):
    z = batch[0]
    q = losses.peer_targets(z, temperature)
    near(q.sum(-1), np.ones(q.shape[:-1]))
    assert (q >= 0).all()
    for h in range(len(z)):
        moved = z.clone()
        moved[h, :, 0] += 3.0
        q_moved = losses.peer_targets(moved, temperature)
        near(q_moved[h], plain(q[h]))
        assert all(not torch.equal(q_moved[j, :, 0], q[j, :, 0]) for j in range(len(z)) if j != h)


def test_two_heads_teach_each_other():
    z = normal(2, 3, 4)
    near(losses.peer_targets(z, 2.0), plain(torch.softmax(z.flip(0) / 2, -1)))


def test_a_high_temperature_makes_targets_uniform():
    near(losses.peer_targets(normal(3, 4, 5), 1e9), np.full((3, 4, 5), 1 / 5), 1e-8)


def test_a_soft_loss_is_least_where_student_is_teacher():
    teacher, student = normal(2, 4, 5)
    q = torch.softmax(teacher / 2, -1)
    entropy = -(q * q.log()).sum(-1).mean()
    near(losses.soft_loss(q, teacher, 2.0), plain(entropy))
    assert losses.soft_loss(q, student, 2.0) > entropy


def test_a_soft_loss_with_one_hot_teacher_is_the_hard_loss():
    z, y = normal(4, 5), labels(4, 5)
    near(losses.soft_loss(one_hot(y, 5), z, 2.0), plain(losses.hard_loss(z, y, 2.0)))


def test_only_the_network_teaches_the_last_layer():
    z, final, y = normal(3, 4, 5), normal(4, 5, seed=1), labels(4, 5)
    alone = losses.intermediate_losses([z[-1]], final, y)
    near(losses.intermediate_losses(list(z), final, y)[-1:], plain(alone))
    near(alone, [ref.intermediate_losses([plain(z[-1])], plain(final), y.tolist())[0]])
    assert losses.intermediate_losses(list(z), final + normal(4, 5, seed=2), y)[-1] != alone[0]


def test_shallower_layers_teach_nobody():
    z, final, y = list(normal(3, 4, 5)), normal(4, 5, seed=1), labels(4, 5)
    before = losses.intermediate_losses(z, final, y)
    after = losses.intermediate_losses([z[0] + normal(4, 5, seed=3), *z[1:]], final, y)
    assert after[0] != before[0]
    near(after[1:], plain(before[1:]))


@pytest.mark.parametrize("classes", [2, 3, 10, 100])
def test_label_similarity_is_one_within_a_class_and_minus_one_over_m_minus_one_across(classes):
    y = labels(12, min(classes, 4))
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        s = losses.similarity_matrix(one_hot(y, classes).to(dtype))
        near(s, np.where(np.equal.outer(y.numpy(), y.numpy()), 1.0, -1 / (classes - 1)), tolerance)


@random_examples
@given(feature_maps(), st.sampled_from(("sample", "batch")))
def test_similarity_is_symmetric_bounded_and_one_or_zero_on_the_diagonal(x, centre):
    s = losses.similarity_matrix(x, centre=centre)
    near(s, plain(s.T))
    assert s.abs().max() <= 1 + 1e-12
    assert all(d == 0 or abs(d - 1) < 1e-12 for d in s.diagonal().tolist())


def test_similarity_ignores_scale_and_shift_of_a_sample():
    x, factor = normal(5, 4, 3, 3), torch.tensor([0.01, 0.5, 1.0, 20.0, 300.0]).double()
    near(
        losses.similarity_matrix(x * factor.view(5, 1, 1, 1) + normal(5, 4, 1, 1, seed=1)),
        plain(losses.similarity_matrix(x)),
        1e-10,
    )
    flat = normal(5, 4)
    near(
        losses.similarity_matrix(flat * factor.view(5, 1) + normal(5, 1, seed=1)),
        plain(losses.similarity_matrix(flat)),
        1e-10,
    )


def test_similarity_centred_over_the_batch_ignores_a_common_shift_and_scale():
    x = normal(5, 4)
    near(
        losses.similarity_matrix(3 * x + normal(1, 4, seed=1), centre="batch"),
        plain(losses.similarity_matrix(x, centre="batch")),
    )
    assert not torch.allclose(losses.similarity_matrix(x, centre="batch"), losses.similarity_matrix(x))


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


def test_order_of_the_heads_does_not_matter():
    z, y = normal(3, 4, 5), labels(4, 5)
    near(losses.output_loss(z.flip(0), y), plain(losses.output_loss(z, y)))


def test_channels_last_gives_the_same():
    x, w = normal(4, 3, 5, 2), normal(4, 3, 3, 3)
    last = partial(torch.Tensor.contiguous, memory_format=torch.channels_last)
    near(losses.similarity_matrix(last(x)), plain(losses.similarity_matrix(x)))
    near(losses.kernel_covariance(last(w)), plain(losses.kernel_covariance(w)))


def test_normalise_divides_by_the_batch():
    x, (a, b) = normal(5, 3, 2, 2), normal(2, 5, 5)
    near(
        losses.pull_push_loss(x, a, b, 0.7, 0.3) * 5,
        plain(losses.pull_push_loss(x, a, b, 0.7, 0.3, normalise=False)),
    )


def test_pull_push_centred_over_the_batch():
    x, (a, b) = normal(5, 3, 2, 2), normal(2, 5, 5)
    s = ref.similarity_matrix(plain(x), "batch")
    expected = 0.7 * ref.frobenius(s, a) - 0.3 * ref.frobenius(s, b)
    near(losses.pull_push_loss(x, a, b, 0.7, 0.3, normalise=False, centre="batch"), expected)


def test_pull_and_push_have_opposite_signs():
    x, s = normal(5, 3, 2, 2), normal(5, 5)
    assert losses.pull_push_loss(x, s, s, 1.0, 0.0) > 0
    near(losses.pull_push_loss(x, s, s, 0.0, 1.0), -plain(losses.pull_push_loss(x, s, s, 1.0, 0.0)))
    assert losses.pull_push_loss(x, s, s, 0.5, 0.5) == 0


@random_examples
@given(seeds, st.integers(2, 6))
def test_kernel_loss_is_zero_for_orthogonal_zero_mean_filters(seed, filters):
    centred = normal(9, filters, seed=seed)
    q, _ = torch.linalg.qr(centred - centred.mean(0))
    w = (q.T * torch.arange(1, filters + 1).view(-1, 1)).reshape(filters, 1, 3, 3)
    near(losses.kernel_loss(w), 0.0, 1e-12)


@random_examples
@given(seeds, st.integers(1, 6))
def test_kernel_covariance_has_a_unit_diagonal_and_ignores_scale_and_shift(seed, filters):
    w = normal(filters, 2, 3, 3, seed=seed)
    c = losses.kernel_covariance(w)
    near(c.diagonal(), np.ones(filters))
    near(c, plain(c.T))
    scale = 10 ** normal(filters, 1, 1, 1, seed=seed)
    near(losses.kernel_covariance(w * scale + normal(filters, 1, 1, 1, seed=seed)), plain(c), 1e-9)


# --- Edges: finite values, finite gradients -------------------------------------------------------


def ramp(n: int, channels: int, size: int) -> torch.Tensor:
    """Constant maps, each channel of each sample with its own value, none of them a short binary fraction."""
    values = (torch.arange(1, n * channels + 1).double() / 7 + 0.1).view(n, channels, 1, 1)
    return values.expand(n, channels, size, size).clone()


def with_row(x: torch.Tensor, value: float, index=0) -> torch.Tensor:
    x = x.clone()
    x[index] = value
    return x


FEATURES = {
    "constant maps": torch.full((3, 4, 5, 5), 0.1).double(),
    "constant maps, own values": ramp(3, 4, 7),
    "zero maps": torch.zeros(3, 4, 3, 3).double(),
    "one constant sample": with_row(normal(3, 4, 3, 3), 0.1),
    "one zero sample": with_row(normal(3, 4, 3, 3), 0.0),
    "one constant channel": with_row(normal(3, 4, 3, 3), 0.1, (0, 1)),
    "only one channel varies": normal(3, 1, 3, 3) * one_hot(torch.tensor([2]), 4).view(1, 4, 1, 1),
    "1x1 maps": normal(3, 4, 1, 1),
    "1x1 constant maps": torch.full((3, 4, 1, 1), 0.1).double(),
    "1x1 zero maps": torch.zeros(3, 4, 1, 1).double(),
    "1x1 one channel": normal(3, 1, 1, 1),
    "one channel": normal(3, 1, 4, 4),
    "one channel, constant": torch.full((3, 1, 4, 4), 0.1).double(),
    "same sample n times": normal(1, 4, 3, 3).expand(3, 4, 3, 3),
    "opposite samples": torch.cat([normal(1, 4), -normal(1, 4), normal(1, 4)]),
    "flat": normal(3, 4),
    "flat, constant row": with_row(normal(3, 4), 0.1),
    "flat, one feature": normal(3, 1),
    "flat, constant": torch.full((3, 7), 0.1).double(),
    "n = 1": normal(1, 4, 3, 3),
    "n = 1, constant": torch.full((1, 4, 3, 3), 0.1).double(),
    "huge": normal(3, 4, 3, 3) * 1e4,
    "tiny": normal(3, 4, 3, 3) * 1e-6,
    "huge, constant": torch.full((3, 4, 7, 7), 1e4 / 3).double(),
    "tiny, constant": torch.full((3, 4, 7, 7), 1e-6 / 3).double(),
}
on_features = pytest.mark.parametrize("name", FEATURES)
on_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


@on_dtypes
@on_features
def test_pull_push_is_finite_at_the_edges(name, dtype):
    n = len(FEATURES[name])
    to_labels, to_images = normal(2, n, n, dtype=dtype).tanh()
    x = FEATURES[name].to(dtype).clone().requires_grad_()
    loss = losses.pull_push_loss(x, to_labels, to_images, 0.7, 0.3)
    (gradient,) = gradients(loss, x)
    agree(loss, ref.pull_push_loss(plain(x), plain(to_labels), plain(to_images), 0.7, 0.3), dtype)
    assert gradient.isfinite().all()


@on_dtypes
@on_features
@pytest.mark.parametrize("centre", ["sample", "batch"])
def test_similarity_at_the_edges_is_the_reference_and_its_gradient_finite(name, centre, dtype):
    x = FEATURES[name].to(dtype).clone().requires_grad_()
    s = losses.similarity_matrix(x, centre=centre)
    agree(s, ref.similarity_matrix(plain(x), centre), dtype)
    (gradient,) = gradients((s * normal(*s.shape, dtype=dtype)).sum(), x)
    assert gradient.isfinite().all()


@on_dtypes
@on_features
def test_gradient_is_finite_at_a_distance_of_exactly_zero(name, dtype):
    x = FEATURES[name].to(dtype).clone().requires_grad_()
    s = losses.similarity_matrix(x).detach()
    loss = losses.pull_push_loss(x, s, s, 0.7, 0.3)
    (gradient,) = gradients(loss, x)
    assert loss == 0
    assert not gradient.any(), "zero, not NaN"
    (gradient,) = gradients(losses.pull_push_loss(x, s, 0.5 * s + 0.1, 0.7, 0.3), x)
    assert gradient.isfinite().all()


@on_dtypes
@pytest.mark.parametrize("size", [(1, 1), (1, 3), (3, 3), (5, 5), (7, 7), (32, 32)], ids=str)
@pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3, -7.7, 1e4 / 3, 1e-6 / 3])
def test_a_constant_sample_is_similar_to_nothing_not_even_itself(value, size, dtype):
    x = with_row(normal(4, 6, *size, dtype=dtype), value, 1).requires_grad_()
    s = losses.similarity_matrix(x)
    assert not torch.cat([s[1], s[:, 1]]).any(), "exactly 0, whatever the rounding of the mean"
    assert s.diagonal().count_nonzero() == 3
    (gradient,) = gradients((s * normal(4, 4, dtype=dtype)).sum(), x)
    assert gradient.isfinite().all()
    assert not gradient[1].any()


@on_dtypes
@pytest.mark.parametrize("factor", [1e-6, 1.0, 1e4])
def test_maps_that_are_constant_channel_by_channel_are_similar_to_nothing(factor, dtype):
    assert not losses.similarity_matrix(ramp(3, 4, 7).to(dtype) * factor).any()


@on_dtypes
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_constant_maps_at_the_largest_size(layout, dtype):
    # 9,216 positions, as in STL-10's first layers: the float32 mean of these is several roundings off.
    values = torch.tensor([0.05370005592703819, 3.3631036281585693, 0.006482650060206652, 13.741433143615723])
    x = values.to(dtype).view(1, 4, 1, 1).expand(1, 4, 96, 96).contiguous(memory_format=layout)
    assert not losses.similarity_matrix(x).any()


@on_dtypes
@pytest.mark.parametrize("length", [512, 4608, 9216])
def test_constant_rows_and_filters_of_any_value(length, dtype):
    x = normal(256, 1, dtype=dtype).mul(3).exp().expand(256, length).contiguous()
    assert not losses.similarity_matrix(x).any()
    assert not losses.similarity_matrix(x[:1].expand(100, length), centre="batch").any()
    assert not losses.kernel_covariance(x.view(256, length, 1, 1)).any()


@on_dtypes
def test_one_channel_has_no_shape_to_compare(dtype):
    assert not losses.similarity_matrix(normal(3, 1, 4, 4, dtype=dtype)).any()


@on_dtypes
def test_a_small_sample_beside_a_large_one_keeps_its_similarity(dtype):
    x = normal(3, 4, 3, 3, dtype=dtype)
    mixed = x * torch.tensor([1e4, 1e-6, 1.0], dtype=dtype).view(3, 1, 1, 1)
    agree(losses.similarity_matrix(mixed), plain(losses.similarity_matrix(x)), dtype)


def test_a_little_variation_on_a_large_mean_is_not_taken_for_none():
    x = 100 + 1e-4 * normal(3, 4, 3, 3)
    near(losses.similarity_matrix(x), ref.similarity_matrix(plain(x)), 1e-6)
    # In float32 a part in ten thousand is still a thousand roundings: inexact, but no constant.
    x = (100 + 1e-2 * normal(3, 4, 3, 3)).float()
    assert losses.similarity_matrix(x).diagonal().count_nonzero() == 3
    assert losses.similarity_matrix(x[:, :, 0, 0]).diagonal().count_nonzero() == 3
    assert losses.kernel_covariance(x).diagonal().count_nonzero() == 3


KERNELS = {
    "one filter": normal(1, 2, 3, 3),
    "one constant filter": torch.full((1, 2, 3, 3), 0.1).double(),
    "a constant filter": with_row(normal(3, 2, 3, 3), 0.1),
    "a zero filter": with_row(normal(3, 2, 3, 3), 0.0),
    "all filters constant": torch.full((3, 2, 3, 3), 0.1).double(),
    "all filters zero": torch.zeros(3, 2, 3, 3).double(),
    "all filters equal": normal(1, 2, 3, 3).expand(3, 2, 3, 3),
    "opposite filters": torch.cat([normal(1, 2, 3, 3), -normal(1, 2, 3, 3)]),
    "orthogonal filters": rows([1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]).view(3, 1, 2, 2),
    "huge": normal(3, 2, 3, 3) * 1e4,
    "tiny": normal(3, 2, 3, 3) * 1e-6,
    "huge, constant": torch.full((3, 2, 3, 3), 1e4 / 3).double(),
    "tiny, constant": torch.full((3, 2, 3, 3), 1e-6 / 3).double(),
    "1x1 kernels": normal(3, 4, 1, 1),
    "one weight a filter": normal(3, 1, 1, 1),
    "of very different sizes": normal(3, 2, 3, 3) * torch.tensor([1e4, 1e-6, 1.0]).view(3, 1, 1, 1),
}


@on_dtypes
@pytest.mark.parametrize("name", KERNELS)
def test_kernel_loss_is_the_reference_at_the_edges_and_its_gradient_finite(name, dtype):
    w = KERNELS[name].to(dtype).clone().requires_grad_()
    agree(losses.kernel_covariance(w), ref.kernel_covariance(plain(w)), dtype)
    loss = losses.kernel_loss(w)
    agree(loss, ref.kernel_loss(plain(w)), dtype)
    assert gradients(loss, w)[0].isfinite().all()


@on_dtypes
@pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3, -7.7, 1e4 / 3, 1e-6 / 3])
@pytest.mark.parametrize("channels", [1, 5, 64])
def test_a_constant_filter_covaries_with_nothing(value, channels, dtype):
    w = with_row(normal(3, channels, 3, 3, dtype=dtype), value, 1).requires_grad_()
    c = losses.kernel_covariance(w)
    assert not torch.cat([c[1], c[:, 1]]).any(), "exactly 0, whatever the rounding of the mean"
    assert not gradients(losses.kernel_loss(w), w)[0][1].any()


@on_dtypes
@pytest.mark.parametrize("size", [1e-6, 1e4])
def test_logit_losses_are_finite_at_extreme_logits(size, dtype):
    z, y = (normal(3, 4, 5, dtype=dtype) * size).requires_grad_(), labels(4, 5)
    value = plain(z)
    terms = [
        (losses.hard_loss(z[0], y), ref.hard_loss(value[0], y.tolist())),
        (losses.output_loss(z, y), ref.output_loss(value, y.tolist())),
        (losses.output_loss(z, y, detach=False), ref.output_loss(value, y.tolist())),
        (losses.intermediate_losses(list(z[:2]), z[2], y).sum(),
         ref.intermediate_losses(value[:2], value[2], y.tolist()).sum()),
    ]  # fmt: skip
    for actual, expected in terms:
        agree(actual, expected, dtype)
        assert gradients(actual, z)[0].isfinite().all()


@on_dtypes
def test_equal_logits_and_a_batch_of_one(dtype):
    z, y = torch.zeros(2, 1, 3, dtype=dtype), torch.tensor([2])
    agree(losses.output_loss(z, y), log(3), dtype)
    agree(losses.intermediate_losses([z[0]], z[1], y), [0.1 * log(3)], dtype)


# --- Half precision -------------------------------------------------------------------------------


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


# --- Mistakes -------------------------------------------------------------------------------------

Z, Y, X, S, W = normal(3, 4, 5), labels(4, 5), normal(4, 3, 2, 2), normal(4, 4), normal(3, 2, 3, 3)

MISTAKES = {
    "one head has no peers": lambda: losses.peer_targets(Z[:1], 2.0),
    "one head has nobody to learn from": lambda: losses.output_loss(Z[:1], Y),
    "peers without a head axis": lambda: losses.peer_targets(Z[0], 2.0),
    "heads without a head axis": lambda: losses.output_loss(Z[0], Y),
    "hard: labels as a column": lambda: losses.hard_loss(Z[0], Y[:, None]),
    "hard: too few labels": lambda: losses.hard_loss(Z[0], Y[:1]),
    "hard: one-hot labels": lambda: losses.hard_loss(Z[0], one_hot(Y, 5)),
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
