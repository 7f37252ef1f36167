"""For chapter 9: what could explain a printed figure of memory, one knob after the other and all of them together."""

import itertools
from collections.abc import Mapping
from copy import deepcopy

import pandas as pd
from torch import Tensor, nn


def stride_first(network: nn.Module) -> nn.Module:
    """The same network with the stride of a block in its first 1×1 convolution, as in He et al.'s first description."""
    other = deepcopy(network)
    for block in other.blocks.values():
        if hasattr(block, "middle"):
            first, middle = block.first.conv, block.middle.conv
            first.stride, middle.stride = middle.stride, (1, 1)
    return other


def outputs(network: nn.Module, images: Tensor) -> dict[str, float]:
    """How many numbers a network's convolutions return for an image, in millions: of "blocks", "shortcuts", "stem"."""
    sizes, other = dict.fromkeys(("blocks", "shortcuts", "stem"), 0.0), deepcopy(network)
    for name, module in other.named_modules():
        if isinstance(module, nn.Conv2d):
            kind = "stem" if "stem" in name else "shortcuts" if "shortcut" in name else "blocks"

            def add(_module: nn.Module, _inputs: tuple, out: Tensor, kind: str = kind) -> None:
                sizes[kind] += out[0].numel() / 1e6

            module.register_forward_hook(add)
    other(images)
    return sizes


def combined(knobs: Mapping[str, Mapping[str, float]], figure: float) -> pd.DataFrame:
    """Every setting of the knobs together: what they come to in GB, and how far that is from a printed figure, %.

    `knobs[name][setting]` is in GB and added up, but for those of the last knob, factors on the sum.
    """
    rows = []
    for settings in itertools.product(*knobs.values()):
        *terms, factor = (knobs[name][setting] for name, setting in zip(knobs, settings, strict=True))
        rows.append((*settings, sum(terms) * factor))
    every = pd.DataFrame(rows, columns=[*knobs, "GB"])
    every["against the paper (%)"] = 100 * (every["GB"] / figure - 1)
    return every


def nearness(every: pd.DataFrame, figure: float) -> str:
    """How many of `combined` come near the figure, how many would by chance, and the nearest five."""
    off, reach = every["against the paper (%)"].abs(), every["GB"].max() - every["GB"].min()
    by_chance = len(every) * 0.02 * figure / reach
    return (
        f"{len(every)} combinations: {(off < 1).sum()} come within 1 %, {(off < 0.1).sum()} within 0.1 %;\n"
        f"spread evenly over their range, {by_chance:.1f} would come within 1 % of any figure in it.\n"
        f"The nearest:\n{every.loc[off.sort_values().index[:5]].round(2).to_string(index=False)}"
    )
