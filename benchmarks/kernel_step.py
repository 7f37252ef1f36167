"""How much longer a training step takes with `kernel`: CPU time of one thread, steps with and without in turn.

    python benchmarks/kernel_step.py [steps]

Images of 64×64, 16 of them: where a weight is applied at few positions, its own matrix of filters costs most. Networks
of timm are measured where it is installed.
"""

import statistics
import sys
import time

import torch
import torchvision

from imcl_core import Collaboration

SHAPE, BATCH, CLASSES = (3, 64, 64), 16, 10


def vit_tiny() -> torch.nn.Module:
    import timm

    return timm.create_model("vit_tiny_patch16_224", img_size=SHAPE[1], num_classes=CLASSES)


NETWORKS = {
    "resnet50": lambda: torchvision.models.resnet50(num_classes=CLASSES),
    "convnext_tiny": lambda: torchvision.models.convnext_tiny(num_classes=CLASSES),
    "vit_tiny": vit_tiny,
}


def seconds(collaboration: Collaboration, images: torch.Tensor, labels: torch.Tensor) -> float:
    """CPU time of a step."""
    collaboration.zero_grad()
    start = time.thread_time()
    collaboration(images, labels).backward()
    return time.thread_time() - start


def main(steps: int = 10) -> None:
    torch.set_num_threads(1)
    images, labels = torch.randn(BATCH, *SHAPE), torch.arange(BATCH) % CLASSES
    for name, make in NETWORKS.items():
        try:
            network = make()
        except ModuleNotFoundError as error:
            print(f"{name:16}needs {error.name}")
            continue
        pair = [Collaboration(network, methods, image_shape=SHAPE) for methods in ("baseline", "kernel")]
        taken = [[seconds(c, images, labels) for c in pair] for _ in range(steps + 1)][1:]
        ratio = statistics.median(kernel / plain for plain, kernel in taken)
        print(f"{name:16}{statistics.median(plain for plain, _ in taken):8.3f} s, with kernel {ratio:5.2f} times")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
