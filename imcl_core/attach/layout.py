"""Where the channels of a module's output are: told by the operations that made it, else by its sides."""

import math
from typing import Any

from torch import Tensor

# By the beginning of an autograd node's name: what has channels second, what has them last, and what leaves them.
_SECOND = ("Convolution", "ConvolutionOverrideable", "Mkldnn", "NativeBatchNorm", "CudnnBatchNorm", "MiopenBatchNorm",
           "NativeGroupNorm", "MaxPool", "AvgPool", "AdaptiveAvgPool", "AdaptiveMaxPool", "Upsample")  # fmt: skip
_LAST = ("Addmm", "Mm", "NativeLayerNorm")
_SAME = ("Add", "Sub", "Mul", "Div", "Relu", "LeakyRelu", "Prelu", "Elu", "Celu", "Gelu", "Silu", "Mish", "Hardtanh",
         "Hardswish", "Hardsigmoid", "Sigmoid", "Tanh", "Softplus", "Clone", "Alias", "NativeDropout", "ToCopy", "Cat",
         "Contiguous", "Where", "Threshold")  # fmt: skip


def channels_at(output: Tensor) -> int | None:
    """The dimension of the channels of `output`, by a walk back through its graph; None where that does not tell."""
    todo, seen = [(output.grad_fn, tuple(range(output.ndim)))], set()
    while todo:
        node, order = todo.pop(0)  # order: where each dimension of the output is in what the node returned
        if node is None or node in seen:
            continue
        seen.add(node)
        name = node.name()
        if name.startswith(_SECOND):
            return order.index(1)
        if name.startswith(_LAST) or _is_linear(node):
            return order.index(max(order))
        if name.startswith("Permute"):
            dims = [d % len(order) for d in _signed(node._saved_dims)]
            todo.append((node.next_functions[0][0], tuple(dims[d] for d in order)))
        elif name.startswith("Transpose"):
            swap = {a: b for a, b in (_pair(node, len(order)), _pair(node, len(order))[::-1])}
            todo.append((node.next_functions[0][0], tuple(swap.get(d, d) for d in order)))
        elif name.startswith(_SAME):
            joined = name.startswith("Cat")
            todo += [(behind, order) for behind, _ in node.next_functions if joined or not _stretched(behind, node)]
    return None


def _stretched(behind: Any, node: Any) -> bool:
    """Whether broadcasting makes an operand as large as the result, as it does a gate of the channels."""
    made, result = (getattr(n, "_input_metadata", ()) for n in (behind, node))
    return len(made) == 1 and tuple(made[0].shape) != tuple(result[0].shape)


def _pair(node: Any, dims: int) -> tuple[int, int]:
    return tuple(d % dims for d in _signed((node._saved_dim0, node._saved_dim1)))


def _signed(numbers: tuple[int, ...]) -> list[int]:
    """A node keeps -1 as the largest of the numbers without a sign."""
    return [n - 2**64 if n >= 2**63 else n for n in numbers]


def _is_linear(node: Any) -> bool:
    """Whether it is the view behind the matrix product of a linear layer."""
    views = node.name().startswith(("View", "UnsafeView", "ReshapeAlias"))
    return views and any(n is not None and n.name().startswith(("Addmm", "Mm")) for n, _ in node.next_functions)


def as_maps(output: Tensor, sides: tuple[int, int]) -> tuple[tuple[int, int, int], str]:
    """Shape (C, H, W) and layout of an output: maps have the proportions of the image, whose `sides` these are."""
    height, width = sides
    if output.ndim == 3:
        first, second, channels = output.shape  # of one image
        count = first * second
        columns = min(count, max(1, math.isqrt(count * width // height)))
        rows = max(1, min(count // columns, math.isqrt(count * height // width)))
        return (channels, rows, columns), "sequence first" if first > 1 else "tokens"
    _, a, b, c = output.shape
    channels = channels_at(output)
    if channels is None:
        channels = 3 if b * width != c * height and a * width == b * height else 1
    return ((c, a, b), "channels last") if channels == 3 else ((a, b, c), "maps")
