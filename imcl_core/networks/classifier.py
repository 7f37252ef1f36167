"""Classifiers: the network's own with hierarchical dropout, the local ones, and the projection of pull-push."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from imcl_core.errors import ImclError
from imcl_core.losses import few_calls

DROPOUT = (nn.Dropout, nn.Dropout2d)
PROJECTIONS = ("3x3", "1x1", "none")


def make_classifier(in_features: int, hidden: int, num_classes: int, dropout: float = 0.5) -> nn.Sequential:
    """Three fully connected layers with dropout after the first two (Sec. IV): (B, in_features) to (B, m)."""
    return nn.Sequential(
        nn.Linear(in_features, hidden),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(hidden, num_classes),
    )


def hierarchical_dropout(classifier: nn.Sequential, x: Tensor, branches: int = 2) -> Tensor:
    """Every prediction of a classifier whose dropout layers each draw `branches` masks (Sec. III-A, Fig. 1d).

    `x` (B, d); (K**n, B, m) logits for K branches at n dropout layers; of maps (B, C, H, W) logits (K**n, B, m, H, W).
    What comes before a dropout layer is computed once for all its branches. Prediction `h` has the masks that the
    digits of `h` in base K name, first layer first.
    """
    if not isinstance(classifier, nn.Sequential) or not any(isinstance(m, DROPOUT) for m in classifier):
        raise ImclError("Hierarchical dropout needs a classifier that is an nn.Sequential with nn.Dropout layers.")
    if branches < 2:
        raise ImclError(f"Collaboration of the output layer needs 2 branches or more; got {branches}.")
    batch = len(x)
    for module in classifier:
        if isinstance(module, DROPOUT):
            x = x.unflatten(0, (-1, batch)).repeat_interleave(branches, dim=0).flatten(0, 1)
        x = module(x)
    return x.unflatten(0, (-1, batch))


class LocalClassifier(nn.Module):
    """Max-pool, 3×3 convolution, fully connected layer: one intermediate layer's own prediction (Sec. III-B).

    (B, C, H, W) to logits (B, m), for maps of the given `size` (H, W). They are pooled to at most `pool`×`pool`; the
    convolution has min(C, `width`) filters.
    """

    def __init__(self, channels: int, size: tuple[int, int], num_classes: int, pool: int = 4, width: int = 128):
        super().__init__()
        self.size = (min(size[0], pool), min(size[1], pool))
        self.conv = nn.Conv2d(channels, min(channels, width), 3, padding=1)
        self.linear = nn.Linear(self.conv.out_channels * self.size[0] * self.size[1], num_classes)

    def forward(self, h: Tensor) -> Tensor:
        # Flattened before ReLU, whose gradient then comes in the order of what it is the gradient of.
        return self.linear(F.relu(self.conv(_max_pooled(h, self.size)).flatten(1)))


def _max_pooled(h: Tensor, size: tuple[int, int]) -> Tensor:
    """The maxima (B, C, *size) of maps (B, C, H, W). Adaptive pooling changes the layout: only where it must be."""
    (height, width), (rows, columns) = h.shape[2:], size
    if (height, width) == size:
        return h
    if height % rows or width % columns:
        return F.adaptive_max_pool2d(h, size)
    return (_MaxPool.apply if few_calls(h) else F.max_pool2d)(h, (height // rows, width // columns))


class _MaxPool(torch.autograd.Function):
    """Max-pooling that finds its places, of eight bytes each, again backward: the maps are kept anyway."""

    @staticmethod
    def forward(ctx, h: Tensor, window: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(h)
        ctx.window = window
        return F.max_pool2d(h, window)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        (h,), window = ctx.saved_tensors, ctx.window
        _, places = F.max_pool2d(h, window, return_indices=True)
        back = torch.ops.aten.max_pool2d_with_indices_backward
        return back(gradient, h, window, window, 0, 1, False, places), None


class LocalSegmenter(nn.Sequential):
    """An intermediate layer's own prediction at each of its places: 3×3 convolution, ReLU, 1×1 convolution.

    (B, C, H, W) to logits (B, m, H, W); the first convolution has min(C, `width`) filters.
    """

    def __init__(self, channels: int, num_classes: int, width: int = 128):
        filters = min(channels, width)
        super().__init__(nn.Conv2d(channels, filters, 3, padding=1), nn.ReLU(), nn.Conv2d(filters, num_classes, 1))


class Projection(nn.Conv2d):
    """`g_i` of Eq. 9: one convolution that keeps shape and number of channels, without bias, `side`×`side`."""

    def __init__(self, channels: int, side: int = 3):
        super().__init__(channels, channels, side, padding=side // 2, bias=False)


def make_projection(channels: int, form: str = "3x3") -> nn.Module:
    """`g_i` of Eq. 9 in one of `PROJECTIONS`: (B, C, H, W) to (B, C, H, W); "none" compares the maps themselves."""
    return nn.Identity() if form == "none" else Projection(channels, int(form[0]))
