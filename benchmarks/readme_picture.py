"""The picture of the README: what each of the four losses works on, from a network trained here and now.

    python benchmarks/readme_picture.py      (half a minute; writes book/_static/readme.png)

VGG-16 learns the handwritten digits with all four losses, in the smoke profile. The image shown is the test image on
whose class its four predictions disagree most.
"""

import argparse
import io
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from imcl_book.figures.four_losses import four_losses
from torch import Tensor

from imcl_core import Collaboration, RunConfig, train
from imcl_core.data.batches import evaluation_batches
from imcl_core.data.sets import DataSet, load
from imcl_core.files import write_whole
from imcl_core.losses import kernel_covariance, similarity_matrix
from imcl_core.networks.classifier import hierarchical_dropout

PICTURE = Path(__file__).parents[1] / "book" / "_static" / "readme.png"
LAYER = "trunk.group4.conv2"  # whose similarities and filters are shown
SHOWN = 60  # images in the matrices of similarities


@torch.no_grad()
def dropout_predictions(collaboration: Collaboration, images: Tensor) -> Tensor:
    """Probabilities (4, B, m) under four dropout masks, everything else as at inference."""
    network = collaboration.network.eval()
    network.classifier.train()
    logits = hierarchical_dropout(network.classifier, network.pool(network.trunk(images)))
    network.eval()
    return logits.softmax(dim=2)


@torch.no_grad()
def local_predictions(collaboration: Collaboration, image: Tensor) -> np.ndarray:
    """Probabilities (N, m) of one image (1, C, H, W): those of every local classifier, then the network's own."""
    h, rows = image, []
    for name, module in collaboration.network.trunk.named_modules():
        if f"trunk.{name}" in collaboration.network.layers:
            h = module(h)
            rows.append(collaboration.heads[f"mid/trunk/{name.replace('.', '/')}"](h))
        elif isinstance(module, torch.nn.MaxPool2d):
            h = module(h)
    return torch.cat([*rows, collaboration.network(image)]).softmax(dim=1).numpy()


@torch.no_grad()
def similarities(collaboration: Collaboration, data: DataSet, images: Tensor) -> list[np.ndarray]:
    """Similarity matrices of some test images, sorted by class: of pixels, of a layer, and of labels.

    Pixels, not Eq. 8, for the images: their three channels are equal, and Eq. 8 makes zero of that (chapter 5).
    """
    labels, order = data.test.labels[:SHOWN].sort(stable=True)
    images, maps = images[:SHOWN][order], {}
    layer = collaboration.network.get_submodule(LAYER)
    hook = layer.register_forward_hook(lambda _module, _inputs, output: maps.update(layer=output))
    collaboration.network(images)
    hook.remove()
    projection = collaboration.heads[f"pull-push/{LAYER}".replace(".", "/")]
    one_hot = F.one_hot(labels, data.num_classes).float()
    return [similarity_matrix(x).numpy() for x in (images.flatten(1), projection(maps["layer"]), one_hot)]


def picture(config: RunConfig):
    """The figure, of a network trained as `config` says."""
    _, collaboration = train(config, return_collaboration=True, device="cpu")
    data = load(config.dataset)
    images = torch.cat([images for images, _ in evaluation_batches(data)])
    torch.manual_seed(config.seed)
    predictions = dropout_predictions(collaboration, images)
    of_class = predictions[:, torch.arange(len(images)), data.test.labels]
    shown = int(of_class.std(dim=0).argmax())
    return four_losses(
        data.test.images[shown].permute(1, 2, 0).numpy(),
        int(data.test.labels[shown]),
        data.classes,
        predictions[:, shown].numpy(),
        local_predictions(collaboration, images[shown : shown + 1]),
        similarities(collaboration, data, images),
        kernel_covariance(collaboration.network.get_submodule(f"{LAYER}.conv").weight.detach()).numpy(),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=PICTURE, help="the PNG file to write")
    out = parser.parse_args().out
    torch.set_num_threads(1)
    image = io.BytesIO()
    picture(RunConfig(model="vgg16", methods="out+mid+pull-push+kernel")).savefig(image, format="png", dpi=150)
    write_whole(out, image.getvalue())
    print(f"{out}: {len(image.getvalue()) / 1000:.0f} kB")


if __name__ == "__main__":
    main()
