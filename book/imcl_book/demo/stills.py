"""Still pictures of the page's panels, for paper and for browsers without scripts."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor

from imcl_book.demo import small
from imcl_book.figures.shared import tiles
from imcl_core import losses
from imcl_core.collaboration import Collaboration
from imcl_core.networks.classifier import hierarchical_dropout

INK = {"baseline": "#5a5f66", "collaboration": "#c04e00"}  # as in demo.css
TEACHER, TEMPERATURE = "#0072b2", 2.0
STYLE = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "figure.constrained_layout.use": True}
SHOWN = {"stem": 0, "block 3": 3, "block 6": 6, "block 8": 8}
KERNEL = "last"  # of block 6
Networks = dict[str, Collaboration]


@torch.no_grad()
def draw(out: Path, networks: Networks, images: Tensor, labels: Tensor) -> list[Path]:
    """Pictures of both networks looking at normalised images (n, 3, H, W), at the first above all; their paths."""
    torch.manual_seed(0)
    ordered = labels.argsort(stable=True)
    maps = {kind: _maps(network, images[ordered]) for kind, network in networks.items()}
    figures: dict[str, Callable[[], Figure]] = {
        "output": lambda: output(networks, images[:1]),
        "layers": lambda: layers(networks["collaboration"], images[:1]),
        "similarity": lambda: similarity(maps, images[ordered], labels[ordered]),
        "kernel": lambda: kernel(networks),
        "training": training,
    }
    paths = []
    for name, make in figures.items():
        with plt.rc_context(STYLE):
            figure = make()
            paths.append(out / f"{name}.png")
            figure.savefig(paths[-1], dpi=130, metadata={"Software": None})
            plt.close(figure)
    return paths


def _maps(collaboration: Collaboration, images: Tensor) -> list[Tensor]:
    """What stem and blocks put out."""
    seen: list[Tensor] = []
    blocks = collaboration.network.blocks.values()
    handles = [block.register_forward_hook(lambda _m, _i, out: seen.append(out)) for block in blocks]
    collaboration.network(images)
    for handle in handles:
        handle.remove()
    return seen


def output(networks: Networks, image: Tensor) -> Figure:
    """Four predictions with their teachers, the mean, and the prediction without dropout."""
    figure, axes = plt.subplots(6, 2, figsize=(8, 5), sharex=True, sharey=True)
    for column, (kind, collaboration) in zip(axes.T, networks.items(), strict=True):
        network = collaboration.network
        features = network.pool(network.trunk(image))
        network.classifier.train()
        z = hierarchical_dropout(network.classifier, features)
        network.classifier.eval()
        rows = [*z[:, 0], z.mean(dim=0)[0], network(image)[0]]
        teachers = [*losses.peer_targets(z, TEMPERATURE)[:, 0], None, None]
        names = [*(f"masks {h // 2 + 1}, {h + 1}" for h in range(4)), "their mean", "no dropout"]
        for axis, name, row, teacher in zip(column, names, rows, teachers, strict=True):
            axis.bar(range(len(row)), (row / TEMPERATURE).softmax(dim=0), 0.85, color=INK[kind])
            if teacher is not None:
                axis.hlines(teacher, np.arange(10) - 0.5, np.arange(10) + 0.5, color=TEACHER, lw=2)
            axis.set(ylim=(0, 1), yticks=[], xticks=range(10))
            axis.set_ylabel(name, rotation=0, ha="right", va="center")
        column[0].set_title(kind)
    return figure


def layers(collaboration: Collaboration, image: Tensor) -> Figure:
    """What each layer says, and what it is taught, the output on top."""
    maps = _maps(collaboration, image)
    heads = [head for name, head in collaboration.heads.items() if name.startswith("mid/")]
    local = torch.cat([head(h) for head, h in zip(heads, maps, strict=True)])
    final = collaboration.network(image)
    every = torch.cat([local, final])
    teachers = torch.stack([every[i + 1 :].mean(dim=0) for i in range(len(local))])
    says, taught = ((z / TEMPERATURE).softmax(dim=1).flip(0).numpy() for z in (every, teachers))
    names = ["output", *(f"block {i}" for i in range(len(local) - 1, 0, -1)), "stem"]
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.4), sharey=True)
    blank = np.full((1, says.shape[1]), np.nan)
    for axis, rows, title, colours in (
        (axes[0], says, "what the layer says", "Oranges"),
        (axes[1], np.concatenate([blank, taught]), "what deeper layers teach it", "Blues"),
    ):
        axis.imshow(rows, vmin=0, vmax=1, cmap=colours, aspect="auto")
        axis.set(xticks=range(10), yticks=range(len(names)), yticklabels=names, title=title)
    return figure


def similarity(maps: dict[str, list[Tensor]], images: Tensor, labels: Tensor) -> Figure:
    """Similarity of images by pixels, by some layers of both networks, and by labels."""
    goal = losses.similarity_matrix(F.one_hot(labels, 10).float())
    ends = losses.similarity_matrix(images.flatten(1)), goal
    figure, axes = plt.subplots(2, len(SHOWN) + 2, figsize=(8, 3.4))
    for row, (kind, seen) in zip(axes, maps.items(), strict=True):
        matrices = [ends[0], *(losses.similarity_matrix(seen[i]) for i in SHOWN.values()), ends[1]]
        for axis, name, matrix in zip(row, ("pixels", *SHOWN, "labels"), matrices, strict=True):
            axis.imshow(matrix, vmin=-1, vmax=1, cmap="RdBu_r")
            far = losses.pull_push_distance(matrix, goal, goal, 1.0, 0.0).item()
            axis.set(xticks=[], yticks=[], title=name, xlabel=f"{far:.2f}")
        row[0].set_ylabel(kind)
    return figure


def kernel(networks: Networks) -> Figure:
    """The most alike pair of filters of one convolution of both networks."""
    figure, axes = plt.subplots(1, 4, figsize=(8, 2.6))
    for pair, (kind, collaboration) in zip((axes[:2], axes[2:]), networks.items(), strict=True):
        weight = getattr(list(collaboration.network.blocks.values())[6], KERNEL).conv.weight
        covariance = losses.kernel_covariance(weight).fill_diagonal_(-1)
        place = divmod(int(covariance.argmax()), len(covariance))
        for axis, filter_ in zip(pair, place, strict=True):
            axis.imshow(tiles(weight[filter_].numpy()), vmin=-3, vmax=3, cmap="RdBu_r")
            axis.set(xticks=[], yticks=[])
        pair[0].set_title(f"{kind}: covariance {covariance.max():.2f}", loc="left")
    return figure


@torch.enable_grad()
def training() -> Figure:
    """Norms of the gradients of the network that learns on the page, with random weights and images."""
    torch.manual_seed(0)
    network, x, labels = small.SmallNetwork(), torch.randn(25, small.INPUTS, dtype=torch.float64), torch.arange(25) % 10
    masks = 2.0 * torch.randint(2, (4, 25, small.HIDDEN), dtype=torch.float64)
    found = small.gradients(network, x, labels, masks, out=1.0, mid=0.1, pull=0.3, push=0.03, kernel=0.02)
    places: dict[str, Sequence[str]] = {
        "layer 1": ("W1", "b1"), "layer 2": ("W2", "b2"), "output": ("W3", "b3"),
        "added to 1": ("L1", "c1", "G1"), "added to 2": ("L2", "c2", "G2"),
    }  # fmt: skip
    norms = np.array([[_norm(by_name, names) for names in places.values()] for _, by_name in found.values()])
    figure, axis = plt.subplots(figsize=(5, 3))
    axis.imshow(np.log10(np.where(norms > 0, norms, np.nan)), cmap="Oranges", aspect="auto", vmin=-4, vmax=1)
    for (y, x_), value in np.ndenumerate(norms):
        axis.text(x_, y, f"{value:.1g}" if value else "0", ha="center", va="center")
    axis.set(xticks=range(len(places)), xticklabels=list(places), yticks=range(len(found)), yticklabels=list(found))
    axis.xaxis.tick_top()
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    return figure


def _norm(by_name: dict[str, Any], names: Sequence[str]) -> float:
    return torch.cat([by_name[name].flatten() for name in names]).norm().item()
