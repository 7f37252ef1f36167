r"""The equations of the paper, as pure functions of tensors.

Symbols: a batch of ``B`` images, ``m`` classes, ``H`` predictions of one image, logits ``z``, temperature ``T``,
:math:`\psi(z;T)_i = \exp(z_i/T) / \sum_j \exp(z_j/T)`. Losses of predictions are means over the batch. All are
computed in float32 at least: half-precision inputs are promoted first.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from imcl_core.errors import ImclError, check_choice

NO_LABEL = -(2**31)  # for `ignore_index`: PyTorch's own, -100, drops rows without a word
_AS_ON_A_GPU: ContextVar[bool | None] = ContextVar("as on a GPU", default=None)


def few_calls(x: Tensor) -> bool:
    """Whether to take the ways with fewer calls: on a GPU, where a call costs more than a small tensor's arithmetic.

    The values differ by rounding alone, as `tests/losses/test_few_calls.py` compares.
    """
    asked = _AS_ON_A_GPU.get()
    return x.is_cuda if asked is None else asked


@contextmanager
def as_on_a_gpu(asked: bool = True) -> Iterator[None]:
    """Takes the ways of `few_calls` in here on any device, such as where a GPU's memory is counted; or on none."""
    before = _AS_ON_A_GPU.set(asked)
    try:
        yield
    finally:
        _AS_ON_A_GPU.reset(before)


def promote(x: Tensor) -> Tensor:
    """`x` in float32, or in float64 where it is float64 already."""
    return x if x.dtype == torch.float64 else x.float()


def _check_logits(logits: Tensor, target: Tensor) -> None:
    soft = target.is_floating_point()
    if logits.ndim != 2 or target.shape != (logits.shape if soft else logits.shape[:1]):
        raise ImclError(
            "Logits must have shape (B, m), and targets (B,), class indices, or (B, m), probabilities; got "
            f"{tuple(logits.shape)} and {tuple(target.shape)} of {target.dtype}."
        )


def _of_type(target: Tensor, z: Tensor) -> Tensor:
    """Soft labels in the precision of logits; class indices as they are."""
    return target.to(z.dtype) if target.is_floating_point() else target


def hard_loss(logits: Tensor, target: Tensor, temperature: float = 1.0) -> Tensor:
    """Cross-entropy with the labels, `J_hard` of Eq. 1 (T = 1) and Eq. 5 (T = 2).

    `logits` (B, m), `target` (B,) class indices, or probabilities (B, m); a scalar.
    """
    _check_logits(logits, target)
    z = promote(logits) / temperature
    return F.cross_entropy(z, _of_type(target, z), ignore_index=NO_LABEL)


def soft_loss(teacher: Tensor, logits: Tensor, temperature: float) -> Tensor:
    """Cross-entropy with a teacher's probabilities, `J_soft` of Eq. 2 and Eq. 6.

    `teacher` (B, m) probabilities, `logits` (B, m); a scalar.
    """
    if teacher.shape != logits.shape or logits.ndim != 2:
        raise ImclError(
            f"Teacher and logits must both have shape (B, m); got {tuple(teacher.shape)} and {tuple(logits.shape)}."
        )
    log_probabilities = F.log_softmax(promote(logits) / temperature, dim=1)
    return -(promote(teacher) * log_probabilities).sum(dim=1).mean()


def peer_targets(logits: Tensor, temperature: float, detach: bool = True) -> Tensor:
    """What each prediction is taught by the others: the softened mean of their logits, `q` of Eq. 2 and Eq. 4.

    `logits` (H, B, m) with H >= 2; probabilities (H, B, m). They are constants unless `detach` is false.
    """
    if logits.ndim != 3 or logits.shape[0] < 2:
        raise ImclError(
            f"Peers need logits of shape (H, B, m) with H >= 2 predictions; got {tuple(logits.shape)}: use two "
            "branches or more."
        )
    z = promote(logits.detach() if detach else logits)
    others = (z.sum(dim=0, keepdim=True) - z) / (len(z) - 1)
    return F.softmax(others / temperature, dim=2)


def output_loss(
    logits: Tensor,
    target: Tensor,
    alpha: float = 0.5,
    temperature: float = 2.0,
    detach: bool = True,
    t_squared: bool = False,
) -> Tensor:
    """Collaboration of the output layer, Eq. 3 and Eq. 4: each of H predictions learns from labels and peers.

    `logits` (H, B, m), `target` as of `hard_loss`; a scalar. `t_squared`: the soft part times T², as in distillation.
    """
    teachers = peer_targets(logits, temperature, detach)
    _check_logits(logits[0], target)
    rows = logits.flatten(0, 1)  # all predictions in one call each: a mean over the batch and over H
    hard = hard_loss(rows, torch.cat([target] * len(logits)))
    soft = soft_loss(teachers.flatten(0, 1), rows, temperature)
    return alpha * hard + (1 - alpha) * (temperature**2 if t_squared else 1.0) * soft


def intermediate_losses(
    local_logits: list[Tensor],
    final_logits: Tensor,
    target: Tensor,
    alpha: float = 0.05,
    beta: float = 0.05,
    temperature: float = 2.0,
    own: bool = False,
) -> Tensor:
    """Collaboration of intermediate layers, Eq. 5-7: each local classifier learns from labels and deeper layers.

    `local_logits`: (B, m) for each layer, shallowest first; `final_logits` (B, m), the network's own output;
    `target` as of `hard_loss`. Returns one loss per layer, (len(local_logits),). Teachers are constants. With `own` a
    layer's own logits join the sum of Eq. 6 while its divisor stays N - i, both as printed.
    """
    if any(z.shape != final_logits.shape for z in local_logits):
        raise ImclError(f"Every layer's logits must have the shape of the network's, {tuple(final_logits.shape)}.")
    _check_logits(final_logits, target)
    if not local_logits:
        return promote(final_logits).new_zeros(0)
    z, count = promote(torch.stack(local_logits)), len(local_logits)
    from_here = torch.cat([z.detach(), promote(final_logits.detach())[None]]).flip(0).cumsum(0).flip(0)
    deeper = from_here[:-1] if own else from_here[1:]
    divisor = torch.arange(count, 0, -1, dtype=z.dtype, device=z.device)[:, None, None] * temperature
    teachers = F.softmax(deeper / divisor, dim=2)
    log_probabilities = F.log_softmax(z / temperature, dim=2)
    if target.is_floating_point():
        hard = -(_of_type(target, z) * log_probabilities).sum(dim=2)
    else:
        every = log_probabilities.flatten(0, 1), target.repeat(count)
        hard = F.nll_loss(*every, reduction="none", ignore_index=NO_LABEL).unflatten(0, (count, -1))
    soft = -(teachers * log_probabilities).sum(dim=2)
    return (alpha * hard + beta * soft).mean(dim=1)


class _CentredCosines(torch.autograd.Function):
    """Cosine similarity (…, n, n) of the rows (…, n, d) less their mean along `dim`, -1 or -2.

    With centred rows c, unit rows u = c/|c| and S = u uᵀ, a gradient G of S is (G + Gᵀ) u to u.
    """

    @staticmethod
    def forward(ctx, rows: Tensor, dim: int) -> Tensor:
        unit, inverse = _unit_rows(rows, dim)
        ctx.dim = dim
        ctx.save_for_backward(unit, inverse)
        return unit @ unit.mT

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        unit, inverse = ctx.saved_tensors
        to_centred = _to_centred((gradient + gradient.mT) @ unit, unit, inverse)
        if ctx.dim == -2:  # along dim -1 unit rows have no mean, and so neither has what they make
            to_centred -= to_centred.mean(dim=-2, keepdim=True)
        return to_centred, None


class _Redundancies(torch.autograd.Function):
    """Frobenius norms (N,) of the similarities of the filters of N kernels of one shape, without the diagonals.

    With unit rows u, ‖u uᵀ‖ = ‖uᵀu‖: where F > G the smaller matrix, whose square has a one too much for every filter
    that is not constant. The norm's gradient is 2 (u uᵀ - diag) u / norm; 0 where the norm is 0. Between the passes
    only the kernels are kept, which are there anyway, and what is small. With `tf32` a GPU rounds the factors of
    products to 10 bits.
    """

    @staticmethod
    def forward(ctx, tf32: bool, *kernels: Tensor) -> Tensor:
        rows = _stacked([*map(_filters, kernels)])
        mean, inverse = _mean_and_inverse(rows)
        unit, (count, size), matrix = (rows - mean).mul_(inverse), rows.shape[-2:], (-2, -1)
        with _products_in(tf32 and rows.is_cuda):
            products = unit.mT @ unit if count > size else unit @ unit.mT
        if count > size:
            norm = (products.square().sum(matrix) - (inverse > 0).sum(matrix)).clamp_(min=0).sqrt_()
        else:
            products.diagonal(dim1=-2, dim2=-1).zero_()
            norm = torch.linalg.vector_norm(products, dim=matrix)
        ctx.tf32 = tf32
        ctx.save_for_backward(mean, inverse, products, norm, *kernels)
        return norm

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        mean, inverse, products, norm, *kernels = ctx.saved_tensors
        unit = (_stacked([*map(_filters, kernels)]) - mean).mul_(inverse)
        factors = (unit, products) if products.shape[-1] < unit.shape[-2] else (products, unit)
        with _products_in(ctx.tf32 and unit.is_cuda):
            to_unit = torch.baddbmm(unit, *factors, beta=0, alpha=2)
        scale = gradient / norm.clamp_min(torch.finfo(norm.dtype).tiny ** 0.5)
        to_rows = _to_centred(to_unit, unit, inverse * scale[:, None, None])
        return None, *(_as_kernel(rows, kernel) for rows, kernel in zip(to_rows, kernels, strict=True))


def _mean_and_inverse(rows: Tensor) -> tuple[Tensor, Tensor]:
    """The means of rows (…, n, d), and one over the lengths they have without: (…, n, 1); 0 for constant rows."""
    size = rows.shape[-1]
    if few_calls(rows):
        squares, mean = torch.var_mean(rows, dim=-1, correction=size - 1, keepdim=True)  # divided by 1
    else:
        mean = rows.mean(dim=-1, keepdim=True)
        squares = (rows - mean).square_().sum(dim=-1, keepdim=True)
    rounding = size * (16 * torch.finfo(rows.dtype).eps) ** 2  # a mean of thousands is wrong by 5 eps
    return mean, squares.rsqrt().masked_fill_(torch.addcmul(squares, mean, mean, value=-rounding) <= 0, 0.0)


def _unit_rows(rows: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Rows (…, n, d) less their mean along `dim`, of length 1, and one over the length they had (…, n, 1).

    0 where centring leaves nothing: a row counts as constant where what is left is the rounding of the mean.
    """
    centred = rows - rows.narrow(dim, 0, 1)  # changes nothing but the rounding: constants become exact
    centred -= centred.mean(dim=dim, keepdim=True)
    norm, rounding = _norms(centred, (-1,)), 4 * torch.finfo(rows.dtype).eps * _norms(rows, (-1,))
    inverse = (1 / norm).masked_fill_(norm <= rounding, 0.0)
    return centred.mul_(inverse), inverse


def _to_centred(to_unit: Tensor, unit: Tensor, inverse: Tensor) -> Tensor:
    """A gradient of unit rows c/|c| as one of c: a unit row turns and keeps its length, so less the part along it."""
    along = (unit * to_unit).sum(dim=-1, keepdim=True)
    return to_unit.addcmul_(unit, along, value=-1).mul_(inverse)


@contextmanager
def _products_in(tf32: bool) -> Iterator[None]:
    """Lets a GPU round the factors of matrix products to 10 bits."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = before or tf32
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


class _MapDeviations(torch.autograd.Function):
    """Standard deviation of each feature map over its N positions: (n, C, H, W) to (n, C); 0 for a constant map.

    In float32 at least; half-precision maps get their gradient in half precision. With a centred map c and its
    deviation s = |c|/√N, the gradient of s to the map is c / (N s), which has no mean of its own to take off; at a
    constant map it is zero, not infinite.
    """

    @staticmethod
    def forward(ctx, maps: Tensor) -> Tensor:
        wide, first, positions = promote(maps), promote(maps[:, :, :1, :1]), (2, 3)
        # Changes nothing but the rounding: constants become exact. Without another copy where `promote` made one.
        centred = wide - first if wide is maps else wide.sub_(first)
        mean = centred.mean(dim=positions, keepdim=True)
        centred -= mean
        norm, count = _norms(centred, positions), maps.shape[2] * maps.shape[3]
        size = (norm.square() + count * (first + mean).square()).sqrt()  # of the map as it came
        constant = norm <= 4 * torch.finfo(wide.dtype).eps * size
        ctx.save_for_backward(centred, torch.where(constant, 0.0, 1 / (norm * count**0.5)))
        ctx.dtype = maps.dtype
        return torch.where(constant, 0.0, norm / count**0.5).flatten(1)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> Tensor:
        centred, inverse = ctx.saved_tensors
        return (centred * (gradient[:, :, None, None] * inverse)).to(ctx.dtype)


class _FewCallDeviations(torch.autograd.Function):
    """As `_MapDeviations`, in a third of the calls, and from the maps as they came in place of a centred copy.

    Welford's algorithm, by which a GPU finds variances, finds none in a constant map. On a CPU it is slow.
    """

    @staticmethod
    def forward(ctx, maps: Tensor) -> Tensor:
        variance, mean = torch.var_mean(promote(maps), dim=(2, 3), correction=0, keepdim=True)
        rounding = (4 * torch.finfo(variance.dtype).eps) ** 2
        inverse = variance.rsqrt().masked_fill_(torch.addcmul(variance, mean, mean, value=-rounding) <= 0, 0.0)
        ctx.save_for_backward(maps, mean, inverse)
        return (variance * inverse).flatten(1)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> Tensor:
        maps, mean, inverse = ctx.saved_tensors
        scale = gradient[:, :, None, None] * inverse / (maps.shape[2] * maps.shape[3])
        return ((maps - mean) * scale).to(maps.dtype)


def _norms(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Euclidean norms along `dims`, which stay; on a CPU many times as fast as `vector_norm` along few numbers."""
    return torch.linalg.vector_norm(x, dim=dims, keepdim=True) if few_calls(x) else x.square().sum(dims, True).sqrt()


def _cosines(rows: Tensor, centre: str) -> Tensor:
    with torch.autocast(rows.device.type, enabled=False):
        return _CentredCosines.apply(rows, -1 if centre == "sample" else -2)


def similarity_matrix(x: Tensor, centre: str = "sample") -> Tensor:
    """Cosine similarity of every two samples of a batch, Eq. 8.

    `x` (n, C, H, W) feature maps, each reduced to its standard deviation over H·W (1×1 maps are flattened), or
    (n, d) vectors; (n, n). `centre`: subtract each sample's own mean over channels ("sample", as Nøkland & Eidnes
    2019) or each channel's mean over the batch ("batch"). A row that centring makes zero is similar to nothing: 0.
    """
    check_choice("centre", centre, ("sample", "batch"))
    return _cosines(similarity_rows(x), centre)


def similarity_rows(x: Tensor) -> Tensor:
    """What `similarity_matrix` compares, in float32 at least: (n, C), or (n, d) of vectors."""
    if x.ndim not in (2, 4):
        raise ImclError(f"Similarity is defined for (n, C, H, W) or (n, d); got {tuple(x.shape)}.")
    if x.ndim == 2 or x.shape[2] * x.shape[3] == 1:
        return promote(x.flatten(1))
    return (_FewCallDeviations if few_calls(x) else _MapDeviations).apply(x)


def similarity_matrices(rows: list[Tensor], centre: str = "sample") -> Tensor:
    """`similarity_matrix` of the `similarity_rows` of N layers, (N, n, n); those of one width in one call."""
    return in_one_call(lambda same: _cosines(_stacked(same), centre), rows)


def in_one_call(function: Callable[[list[Tensor]], Tensor], tensors: list[Tensor]) -> Tensor:
    """`function` of each tensor, stacked; it is called once for all of one shape, and returns theirs stacked."""
    places: dict[tuple[int, ...], list[int]] = {}
    for place, tensor in enumerate(tensors):
        places.setdefault(tuple(tensor.shape), []).append(place)
    found = [function([tensors[i] for i in same]) for same in places.values()]
    order = [place for same in places.values() for place in same]
    if order == sorted(order):
        return torch.cat(found)
    values = dict(zip(order, (value for part in found for value in part), strict=True))
    return torch.stack([values[place] for place in sorted(order)])


def _stacked(tensors: list[Tensor]) -> Tensor:
    return torch.stack(tensors) if len(tensors) > 1 else tensors[0][None]


def pull_push_loss(
    features: Tensor,
    target_similarity: Tensor,
    input_similarity: Tensor | None,
    alpha_pull: float | Tensor,
    alpha_push: float | Tensor,
    normalise: bool = True,
    centre: str = "sample",
) -> Tensor:
    """Pulls a layer's similarity matrix to the labels' and pushes it from the input's, Eq. 9.

    `features` (n, C, H, W), a layer's projected output; similarities (n, n), constants, the input's None without push;
    a scalar. Frobenius norms, not squared; divided by n with `normalise`: a weight means the same at any batch size.
    """
    similarity = similarity_matrix(features, centre)
    return pull_push_distance(similarity, target_similarity, input_similarity, alpha_pull, alpha_push, normalise)


def pull_push_distance(
    similarity: Tensor,
    target_similarity: Tensor,
    input_similarity: Tensor | None,
    alpha_pull: float | Tensor,
    alpha_push: float | Tensor,
    normalise: bool = True,
) -> Tensor:
    """`pull_push_loss` of a layer's similarity matrix itself, Eq. 9.

    `similarity` (n, n); or (N, n, n) of N layers, both weights (N,), for N losses.
    """
    n = similarity.shape[-1]
    if input_similarity is None and isinstance(alpha_push, int | float) and alpha_push:
        raise ImclError(f"A push of {alpha_push:g} is from something: pass input_similarity, or let alpha_push be 0.")
    given = [target_similarity] if input_similarity is None else [target_similarity, input_similarity]
    if any(matrix.shape != (n, n) for matrix in given):
        shapes = " and ".join(str(tuple(matrix.shape)) for matrix in given)
        raise ImclError(f"{n} samples need similarity matrices of shape {(n, n)}; got {shapes}.")
    pull, *push = (torch.linalg.matrix_norm(similarity - matrix.detach()) for matrix in given)
    return (alpha_pull * pull - (alpha_push * push[0] if push else 0)) / (n if normalise else 1)


def kernel_covariance(weight: Tensor, biased: bool = True) -> Tensor:
    """Covariance of a convolution's standardised filters, Eq. 10.

    `weight` (F, C, kh, kw); (F, F) with ones on the diagonal. Standardised rows have length sqrt(G), so that this is
    the cosine similarity of the centred filters; a constant filter has covariance 0 with all, itself included. Where
    the standard deviation is not `biased`, dividing by G - 1, every entry is (G - 1)/G times that.
    """
    filters = _filters(weight)
    cosines, size = _cosines(filters, "sample"), filters.shape[1]
    return cosines if biased else (size - 1) / size * cosines


def _filters(weight: Tensor) -> Tensor:
    """The filters of a kernel as rows (F, G), without a copy: in the order in which they lie in memory."""
    if weight.ndim < 2:
        raise ImclError(f"A kernel has shape (F, C, kh, kw); got {tuple(weight.shape)}.")
    wide = promote(weight)
    return wide.flatten(1) if weight.is_contiguous() else wide.movedim(1, -1).flatten(1)


def _as_kernel(rows: Tensor, kernel: Tensor) -> Tensor:
    """Rows as of `_filters` in the shape, the order and the type of their kernel."""
    if kernel.is_contiguous():
        return rows.view_as(kernel).to(kernel.dtype)
    channels, *sides = kernel.shape[1:]
    return rows.unflatten(1, (*sides, channels)).movedim(-1, 1).to(kernel.dtype)


def kernel_loss(weight: Tensor, biased: bool = True) -> Tensor:
    """How much a convolution's filters resemble one another: `||C - diag(C)||_F` of Eq. 10.

    `weight` (F, C, kh, kw); a scalar, 0 for filters that are orthogonal after centring. `biased`: see
    `kernel_covariance`.
    """
    return kernel_losses([weight], biased)[0]


def kernel_losses(weights: list[Tensor], biased: bool = True, tf32: bool = False) -> Tensor:
    """`kernel_loss` of N kernels, (N,); those of one shape in one call, as a GPU likes it.

    With `tf32` a GPU rounds the factors of its products to 10 bits, which the filters of convolutions in half precision
    do not have either.
    """

    def of_one_shape(kernels: list[Tensor]) -> Tensor:
        with torch.autocast(kernels[0].device.type, enabled=False):
            norms = _Redundancies.apply(tf32, *kernels)
        size = kernels[0][0].numel()
        return norms if biased else norms * ((size - 1) / size)

    return in_one_call(of_one_shape, weights)
