"""The paper's neighbours: other regularisers and losses on layers, each by its source, to compare with the four."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imcl_core import losses
from imcl_core.errors import ImclError
from imcl_core.settings import Settings, setting

# Their names, in the order in which they are written, each with the prefix of its settings.
NEIGHBOURS = {
    "spatial-dropout": "spatial_",
    "dropblock": "dropblock_",
    "cutout": "cutout_",
    "decov": "decov_",
    "deep-supervision": "deep_",
    "predsim": "predsim_",
    "hsic": "hsic_",
    "kd": "kd_",
}


@dataclass(frozen=True, kw_only=True)
class NeighbourSettings(Settings):
    """The settings of the paper's neighbours. A group: the layers whose maps have one size."""

    spatial_rate: float = setting(0.1, "probability of a feature map, SpatialDropout")
    spatial_groups: int = setting(0, "behind the last layers of so many groups, from the end; 0: of all")
    dropblock_rate: float = setting(0.1, "portion of each map to drop, reached linearly at the end of training")
    dropblock_size: int = setting(7, "side of a block; at most the largest odd number that fits into the map")
    dropblock_groups: int = setting(2, "behind the last layers of so many groups, from the end; 0: of all")
    cutout_size: int = setting(8, "side of the square, pixels")
    decov_weight: float = setting(0.1, "weight of DeCov, for each hidden layer of the classifier")
    deep_weight: float = setting(0.3, "weight of each auxiliary classifier")
    deep_decay: bool = setting(True, "let this weight fall linearly to 0")
    predsim_weight: float = setting(1.0, "weight of predsim, for each layer")
    predsim_beta: float = setting(0.99, "share of the similarity in predsim; the rest is cross-entropy")
    predsim_features: int = setting(4096, "maps are pooled to at most so many features for its classifiers")
    hsic_weight: float = setting(1e-3, "weight of the HSIC bottleneck, for each layer")
    hsic_beta: float = setting(200.0, "weight of the labels against the input in it")
    hsic_sigma: float = setting(5.0, "width of its Gaussian kernels, times the root of the dimension")
    kd_alpha: float = setting(0.5, "weight of the teacher against the labels")
    kd_temperature: float = setting(2.0, "T of distillation")
    kd_seed: int = setting(1, "the teacher is the baseline of this run's seed plus this")


def drop_blocks(maps: Tensor, rate: float, size: int) -> Tensor:
    """`maps` (B, C, H, W) with blocks of side `size` set to 0, a portion `rate` in all (Ghiasi et al. 2018).

    The side is at most the largest odd number that fits. What is left is scaled up to keep the sum.
    """
    from torchvision.ops import drop_block2d  # here, since it takes a second to import

    side = min(size, *maps.shape[2:])
    side -= 1 - side % 2
    return drop_block2d(losses.promote(maps), rate, side).to(maps.dtype)  # half precision cannot count the units


def cutout(images: Tensor, size: int) -> Tensor:
    """`images` (B, C, H, W), each with one square of 0 around a pixel drawn at random (DeVries & Taylor 2017).

    The square has a side of `size` pixels and is cut off at the border. In normalised images 0 is the mean.
    """
    rows, columns = (_near_a_centre(len(images), side, size, images.device) for side in images.shape[2:])
    return images.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], 0)


def _near_a_centre(count: int, side: int, size: int, device: torch.device) -> Tensor:
    """Which of `side` places lie in a stretch of `size` around a random one: (count, side), bool."""
    centre = torch.randint(side, (count, 1), device=device)
    place = torch.arange(side, device=device) - centre + size // 2
    return (place >= 0) & (place < size)


def decov_loss(activations: Tensor) -> Tensor:
    """Half the squared covariances of every two different units of a layer over a batch (Cogswell et al. 2016).

    `activations` (B, d); a scalar: (||C||_F² - ||diag(C)||²) / 2.
    """
    h = losses.promote(activations)
    centred = h - h.mean(dim=0)
    with torch.autocast(h.device.type, enabled=False):
        covariance = centred.T @ centred / len(h)
    return (covariance - torch.diag(covariance.diagonal())).square().sum() / 2


class PredSimHead(nn.Module):
    """The heads of predsim on a layer's maps (B, C, H, W): logits (B, m) and maps to compare (B, C, H, W).

    As in the authors' code: average pooling to at most `features` numbers and a linear layer that starts at 0; a 3×3
    convolution without bias (Nøkland & Eidnes 2019). `size` (H, W).
    """

    def __init__(self, channels: int, size: tuple[int, int], num_classes: int, features: int = 4096):
        super().__init__()
        side = max(1, int((features / channels) ** 0.5))
        self.size = (min(size[0], side), min(size[1], side))
        self.predict = nn.Linear(channels * self.size[0] * self.size[1], num_classes)
        nn.init.zeros_(self.predict.weight)
        self.compare = nn.Conv2d(channels, channels, 3, padding=1, bias=False)

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor]:
        return self.predict(F.adaptive_avg_pool2d(h, self.size).flatten(1)), self.compare(h)


def predsim_loss(
    logits: Tensor, similarity: Tensor, target: Tensor, target_similarity: Tensor, beta: float = 0.99
) -> Tensor:
    """(1 - β) · cross-entropy + β · mean squared difference of similarity matrices (Nøkland & Eidnes 2019).

    `logits` (B, m), `target` (B,), both similarities (B, B) as of `losses.similarity_matrix`; a scalar.
    """
    return (1 - beta) * losses.hard_loss(logits, target) + beta * F.mse_loss(similarity, target_similarity)


def normalised_kernel(x: Tensor, sigma: float = 5.0, epsilon: float = 1e-5) -> Tensor:
    """K (K + ε n I)⁻¹ of a batch, for K the centred Gaussian kernel matrix of width σ √d (Ma et al. 2020).

    `x` (n, …), each sample of d numbers; (n, n). The sum of the product of two of them, entry by entry, is their nHSIC.
    """
    x = losses.promote(x).flatten(1)
    with torch.autocast(x.device.type, enabled=False):
        squares = x.square().sum(dim=1)
        distances = (squares[:, None] + squares - 2 * x @ x.T).clamp(min=0)
        kernel = torch.exp(-distances / (2 * sigma**2 * x.shape[1]))
        kernel = kernel - kernel.mean(dim=0)
        kernel = kernel - kernel.mean(dim=1, keepdim=True)
        ridge = epsilon * len(x) * torch.eye(len(x), dtype=x.dtype, device=x.device)
        return torch.linalg.solve_ex(kernel + ridge, kernel).result


def hsic_loss(z: Tensor, x: Tensor, y: Tensor, beta: float = 200.0) -> Tensor:
    """nHSIC(Z, X) - β nHSIC(Z, Y), the HSIC bottleneck of one layer (Ma et al. 2020).

    Normalised kernels (n, n) of the layer's output, the input and the labels; a scalar.
    """
    return (z * x).sum() - beta * (z * y).sum()


def distillation_loss(teacher: Tensor, logits: Tensor, temperature: float = 2.0) -> Tensor:
    """T² · KL(ψ(teacher; T) ‖ ψ(z; T)), the mean over all predictions (Hinton et al. 2014).

    `teacher` (B, m) logits, constants; `logits` (H, B, m); a scalar.
    """
    if logits.ndim != 3 or teacher.shape != logits.shape[1:]:
        raise ImclError(
            f"The teacher's logits have shape {tuple(teacher.shape)}, the network's {tuple(logits.shape[1:])}: "
            "distillation needs a teacher for the same classes."
        )
    taught = F.log_softmax(losses.promote(teacher.detach()) / temperature, dim=1).expand(logits.shape).flatten(0, 1)
    learnt = F.log_softmax(losses.promote(logits) / temperature, dim=2).flatten(0, 1)
    return temperature**2 * F.kl_div(learnt, taught, reduction="batchmean", log_target=True)
