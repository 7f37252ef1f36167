"""Eq. 1-10 written out as loops: one loop per sum sign, slow and plain, to hold `imcl_core.losses` against.

Arguments are NumPy arrays (float64) or nested lists, results floats or NumPy arrays. Means and variances
are taken in exact fractions, so that "this row is constant" is a fact here and never a matter of rounding.
"""

from fractions import Fraction
from math import exp, log, sqrt

import numpy as np


def mean(values) -> Fraction:
    """Exact mean, `1/G Σ_g v_g`."""
    total = Fraction(0)
    for value in values:
        total += Fraction(float(value))
    return total / len(values)


def deviation(values, less: int = 0) -> float:
    """Standard deviation, `sqrt(1/(G - less) Σ_g (v_g - mean)²)`; exactly 0 for equal values."""
    centre, total = mean(values), Fraction(0)
    for value in values:
        total += (Fraction(float(value)) - centre) ** 2
    return sqrt(total / (len(values) - less)) if total else 0.0


def softmax(z, temperature: float) -> list[float]:
    """`ψ(z;T)_i = exp(z_i/T) / Σ_j exp(z_j/T)`, both sides times `exp(-max/T)` against overflow."""
    top, total = max(float(v) for v in z), 0.0
    for value in z:
        total += exp((float(value) - top) / temperature)
    return [exp((float(value) - top) / temperature) / total for value in z]


def log_softmax(z, temperature: float) -> list[float]:
    """`log ψ(z;T)_i = z_i/T - log Σ_j exp(z_j/T)`."""
    top, total = max(float(v) for v in z), 0.0
    for value in z:
        total += exp((float(value) - top) / temperature)
    return [(float(value) - top) / temperature - log(total) for value in z]


def hard_loss(logits, target, temperature: float = 1.0) -> float:
    """`J_hard(y, z) = -Σ_i y_i log ψ(z;T)_i`, mean over the batch (Eq. 1 with T = 1, Eq. 5)."""
    total = 0.0
    for z, label in zip(logits, target, strict=True):
        log_psi = log_softmax(z, temperature)
        for i in range(len(z)):
            y_i = 1.0 if i == label else 0.0
            total -= y_i * log_psi[i]
    return total / len(logits)


def soft_loss(teacher, logits, temperature: float) -> float:
    """`J_soft(q, z) = -Σ_i q_i log ψ(z;T)_i`, mean over the batch (Eq. 2)."""
    total = 0.0
    for q, z in zip(teacher, logits, strict=True):
        log_psi = log_softmax(z, temperature)
        for i in range(len(z)):
            total -= float(q[i]) * log_psi[i]
    return total / len(logits)


def peer_targets(logits, temperature: float) -> np.ndarray:
    """`q^(h) = ψ( 1/(H-1) Σ_{j≠h} z^(j) ; T )` (Eq. 2, 4)."""
    heads, batch, classes = np.shape(logits)
    q = np.zeros((heads, batch, classes))
    for h in range(heads):
        for b in range(batch):
            others = [0.0] * classes
            for j in range(heads):
                if j != h:
                    for i in range(classes):
                        others[i] += float(logits[j][b][i]) / (heads - 1)
            q[h][b] = softmax(others, temperature)
    return q


def output_loss(logits, target, alpha=0.5, temperature=2.0, t_squared=False) -> float:
    """`L = 1/H Σ_h [ alpha J_hard(y, z^(h)) + (1 - alpha) J_soft(q^(h), z^(h)) ]` (Eq. 3, 4)."""
    q, total = peer_targets(logits, temperature), 0.0
    for h in range(len(logits)):
        soft = soft_loss(q[h], logits[h], temperature)
        if t_squared:
            soft *= temperature**2
        total += alpha * hard_loss(logits[h], target) + (1 - alpha) * soft
    return total / len(logits)


def deeper_targets(local_logits, final_logits, temperature: float, own: bool = False) -> list[np.ndarray]:
    """`q^(i) = ψ( 1/(N-i) Σ_{j>i} z^(j) ; T )`, the network's own output being `z^(N)` (Eq. 6); `own`: `Σ_{j>=i}`."""
    z = [*local_logits, final_logits]
    n, (batch, classes), targets = len(z), np.shape(final_logits), []
    for i in range(1, n):  # counted from 1, as in the paper
        q = np.zeros((batch, classes))
        for b in range(batch):
            deeper = [0.0] * classes
            for j in range(i if own else i + 1, n + 1):
                for k in range(classes):
                    deeper[k] += float(z[j - 1][b][k]) / (n - i)
            q[b] = softmax(deeper, temperature)
        targets.append(q)
    return targets


def intermediate_losses(
    local_logits, final_logits, target, alpha=0.05, beta=0.05, temperature=2.0, own=False
) -> np.ndarray:
    """`L_mid^(i) = alpha_mid J_hard^mid + beta_mid J_soft^mid`, both at temperature T (Eq. 5-7)."""
    losses = []
    for z, q in zip(local_logits, deeper_targets(local_logits, final_logits, temperature, own), strict=True):
        losses.append(alpha * hard_loss(z, target, temperature) + beta * soft_loss(q, z, temperature))
    return np.array(losses)


def channel_deviations(x) -> list[list[float]]:
    """`z_{i,c} = std(d_{i,c})` over the H·W positions; the values themselves where there is one."""
    if np.ndim(x) == 2:
        return [[float(v) for v in row] for row in x]
    rows = []
    for sample in x:
        row = []
        for channel in sample:
            positions = [float(v) for line in channel for v in line]
            row.append(positions[0] if len(positions) == 1 else deviation(positions))
        rows.append(row)
    return rows


def cosine(a: list[Fraction], b: list[Fraction]) -> float:
    """`Σ a_c b_c / (|a| |b|)`, 0 where either is the zero vector."""
    dot, aa, bb = Fraction(0), Fraction(0), Fraction(0)
    for a_c, b_c in zip(a, b, strict=True):
        dot += a_c * b_c
        aa += a_c * a_c
        bb += b_c * b_c
    return 0.0 if aa == 0 or bb == 0 else float(dot) / (sqrt(aa) * sqrt(bb))


def similarity_matrix(x, centre: str = "sample") -> np.ndarray:
    """`S_ij = cos(z̃_i, z̃_j)`, z centred per sample over channels, or per channel over the batch (Eq. 8)."""
    z = channel_deviations(x)
    n, width = len(z), len(z[0])
    if centre == "sample":
        middle = [[mean(z[i])] * width for i in range(n)]
    else:
        middle = [[mean([z[k][c] for k in range(n)]) for c in range(width)]] * n
    centred = [[Fraction(z[i][c]) - middle[i][c] for c in range(width)] for i in range(n)]
    s = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            s[i][j] = cosine(centred[i], centred[j])
    return s


def frobenius(a, b) -> float:
    """`‖A - B‖_F = sqrt(Σ_i Σ_j (A_ij - B_ij)²)`."""
    total = 0.0
    for i in range(len(a)):
        for j in range(len(a)):
            total += (float(a[i][j]) - float(b[i][j])) ** 2
    return sqrt(total)


def pull_push_loss(features, target_similarity, input_similarity, alpha_pull, alpha_push, normalise=True) -> float:
    """`L_pp = alpha_pull ‖S(h) - S(y)‖_F - alpha_push ‖S(h) - S(x)‖_F`, by default divided by n (Eq. 9)."""
    s = similarity_matrix(features)
    loss = alpha_pull * frobenius(s, target_similarity) - alpha_push * frobenius(s, input_similarity)
    return loss / len(s) if normalise else loss


def kernel_covariance(weight, biased=True) -> np.ndarray:
    """`C = W̃ W̃ᵀ / G`, each filter of W̃ of zero mean and unit deviation, 0 if constant (Eq. 10)."""
    filters = np.shape(weight)[0]
    standard = []
    for f in range(filters):
        values = [float(v) for channel in weight[f] for line in channel for v in line]
        middle, sigma = mean(values), deviation(values, less=0 if biased else 1)
        standard.append([float(Fraction(v) - middle) / sigma if sigma > 0 else 0.0 for v in values])
    g = len(standard[0])
    covariance = np.zeros((filters, filters))
    for i in range(filters):
        for j in range(filters):
            for k in range(g):
                covariance[i][j] += standard[i][k] * standard[j][k] / g
    return covariance


def kernel_loss(weight, biased=True) -> float:
    """`L_kernel = ‖C - diag(C)‖_F` (Eq. 10)."""
    covariance, total = kernel_covariance(weight, biased), 0.0
    for i in range(len(covariance)):
        for j in range(len(covariance)):
            if i != j:
                total += covariance[i][j] ** 2
    return sqrt(total)
