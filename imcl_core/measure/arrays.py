"""Small arrays of a trained network for the book's figures: what similarity and kernels look like after a run."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from imcl_core import losses
from imcl_core.data.batches import evaluation_batches
from imcl_core.data.sets import DataSet
from imcl_core.files import write_whole
from imcl_core.networks import Network

IMAGES = 64  # the first test images, sorted by class, so that classes are blocks of a similarity matrix
FILTERS = 48  # the most redundant filters of a layer
BINS = np.linspace(0, 1, 51)


@torch.no_grad()
def small_arrays(network: Network, data: DataSet) -> dict[str, np.ndarray]:
    """What a trained network's layers look like, under 1 MB for any network of the paper.

    ``labels`` (64,), int64, of the test images used, sorted by class; ``similarity/images`` (64, 64), float16, of these
    themselves by Eq. 8, and for each layer ``similarity/<layer>``, of its maps; for each convolution of Eq. 10
    ``covariance/<layer>`` (48, 48), float16, of its most redundant filters, and ``redundancy/<layer>`` (50,), int64:
    how many of all pairs of filters have an absolute covariance in each fiftieth from 0 to 1.
    """
    images, labels = next(iter(evaluation_batches(data)))
    order = labels[:IMAGES].argsort(stable=True)
    maps = _maps(network, images[:IMAGES][order])
    arrays = {"labels": labels[:IMAGES][order].cpu().numpy()}
    for name, features in ({"images": images[:IMAGES][order]} | maps).items():
        arrays[f"similarity/{name}"] = _half(losses.similarity_matrix(features))
    for name in (name for group in network.groups[-2:] for name in group):
        weight = network.layers[name].conv.weight
        if weight.shape[2:] == (3, 3):
            covariance = losses.kernel_covariance(weight).fill_diagonal_(0)
            chosen = covariance.abs().amax(dim=1).argsort(descending=True, stable=True)[:FILTERS]
            arrays[f"covariance/{name}"] = _half(covariance[chosen][:, chosen])
            pairs = covariance.abs()[tuple(torch.triu_indices(*covariance.shape, offset=1))]
            arrays[f"redundancy/{name}"] = np.histogram(pairs.clamp(max=1).cpu().numpy(), BINS)[0]
    return arrays


def write(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes the arrays as a compressed `.npz`, whole."""
    write_whole(path, lambda file: np.savez_compressed(file, **arrays))


def read(name: str, *folders: str | Path) -> dict[str, np.ndarray] | None:
    """What `small_arrays` made of the run of this name, from below the folders; None where it is not kept."""
    path = next((path for folder in folders for path in Path(folder).rglob(f"{name}.npz")), None)
    return None if path is None else dict(np.load(path))


def _maps(network: Network, images: Tensor) -> dict[str, Tensor]:
    """Every layer's output (n, C, H, W) for `images`, in evaluation mode."""
    maps: dict[str, Tensor] = {}
    hooks = [
        layer.register_forward_hook(lambda _module, _inputs, output, name=name: maps.update({name: output}))
        for name, layer in network.layers.items()
    ]
    training = network.training
    try:
        network.eval()(images)
    finally:
        network.train(training)
        for hook in hooks:
            hook.remove()
    return maps


def _half(x: Tensor) -> np.ndarray:
    return x.cpu().numpy().astype(np.float16)
