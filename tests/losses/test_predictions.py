"""Eq. 1 to 7, losses of predictions: reference, by hand, gradients, properties, edges."""

from functools import partial
from math import log

import numpy as np
import pytest
import reference as ref
import torch
from hypothesis import given
from hypothesis import strategies as st
from loss_inputs import (
    agree,
    check,
    dtypes,
    gradients,
    labels,
    near,
    normal,
    on_dtypes,
    one_hot,
    plain,
    random_examples,
    rows,
    seeds,
    temperatures,
    weights,
)

from imcl_core import losses


@st.composite
def logit_batches(draw, heads=(1, 1)):
    """(H, B, m) logits of several sizes of values, and (B,) labels."""
    h, batch, classes = draw(st.integers(*heads)), draw(st.integers(1, 5)), draw(st.integers(2, 6))
    seed = draw(seeds)
    size = draw(st.sampled_from((0.01, 1.0, 30.0)))
    return normal(h, batch, classes, seed=seed) * size, labels(batch, classes, seed)


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


def test_gradcheck_of_the_logit_losses():
    z, y = normal(3, 4, 5), labels(4, 5)
    check(partial(losses.hard_loss, target=y, temperature=2.0), z[0])
    check(lambda q, logits: losses.soft_loss(q.softmax(-1), logits, 2.0), z[0], z[1])
    check(partial(losses.peer_targets, temperature=2.0, detach=False), z)
    check(partial(losses.output_loss, target=y, detach=False, t_squared=True), z)
    # Teachers are constants, so numerical differences see Eq. 7's gradient only where nothing else moves.
    check(lambda local: losses.intermediate_losses([local], z[1], y, 0.3, 0.7), z[0])


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


def test_peer_targets_carry_gradient_only_if_asked():
    z = normal(3, 2, 4).requires_grad_()
    assert not losses.peer_targets(z, 2.0).requires_grad
    q = losses.peer_targets(z, 2.0, detach=False)
    (gradient,) = gradients(q[0, 0, 0], z)
    assert gradient[1].any()
    assert gradient[2].any()
    assert not gradient[0].any(), "a head must not teach itself"


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


def test_order_of_the_heads_does_not_matter():
    z, y = normal(3, 4, 5), labels(4, 5)
    near(losses.output_loss(z.flip(0), y), plain(losses.output_loss(z, y)))


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
