"""Data sets as whole uint8 tensors on one device."""

import hashlib
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from imcl_core.data.archives import Arrays
from imcl_core.data.download import prepare
from imcl_core.errors import ImclError, check_choice, needed
from imcl_core.files import move_aside, unreadable

NAMES = (
    "digits",
    "cifar10",
    "cifar100",
    "stl10",
    "imagenet32",
)
KEYS = ("x_train", "y_train", "x_test", "y_test", "classes")
HELD_OUT = 0.1  # share of the training images that become the validation split


@dataclass(frozen=True, eq=False)
class Split:
    """Images, uint8 (N, 3, H, W), and their labels, int64 (N,)."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Tensor) -> "Split":
        """The images that `indices` (n,) name, in the order they have here."""
        indices = indices.sort().values
        return Split(self.images[indices], self.labels[indices])

    def to(self, device: torch.device | str) -> "Split":
        return Split(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Origin:
    """The whole set that a `DataSet` was made of: how many images, pixels of a side, and a digest of the arrays."""

    images: int
    test_images: int
    side: int
    digest: str

    @classmethod
    def of(cls, arrays: Arrays) -> "Origin":
        digest = hashlib.sha256()
        for key in KEYS[:-1]:
            array = arrays[key]
            array = array if key.startswith("x") else array.reshape(-1).astype("<i8")
            digest.update(f"{key} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array))
        images = arrays["x_train"]
        return cls(len(images), len(arrays["x_test"]), max(images.shape[1:3]), digest.hexdigest()[:16])


@dataclass(frozen=True, eq=False)
class DataSet:
    """Both splits, the class names by label, mean and deviation (3,) of the training images in [0, 1]."""

    name: str
    classes: tuple[str, ...]
    train: Split
    test: Split
    mean: Tensor
    std: Tensor
    origin: Origin | None = None

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def to(self, device: torch.device | str) -> "DataSet":
        """The same data set with every tensor on `device`."""
        moved = (part.to(device) for part in (self.train, self.test, self.mean, self.std))
        return DataSet(self.name, self.classes, *moved, self.origin)


def data_folder(folder: str | Path | None = None) -> Path:
    """Where `<name>.npz` is looked for: `folder`, else IMCL_DATA, else `imcl` in the user's cache folder."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "imcl"
    return Path(folder or os.environ.get("IMCL_DATA") or cache).expanduser()


def is_ready(name: str, folder: str | Path | None = None) -> bool:
    """Whether a data set can be loaded without a download."""
    return name == "digits" or (data_folder(folder) / f"{name}.npz").exists()


def make_ready(name: str, folder: str | Path | None = None, progress: bool = True) -> None:
    """Downloads a data set that is not in the data folder; `ImclError` where it cannot be had."""
    if name == "digits":
        needed("sklearn.datasets", "scikit-learn", name)
    else:
        prepare(name, data_folder(folder), progress)


def load(
    name: str,
    *,
    folder: str | Path | None = None,
    train_size: int | None = None,
    validation: bool = False,
    held_out: int = 0,
    side: int | None = None,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> DataSet:
    """A data set of `NAMES`, from the data folder or downloaded into it (`digits` needs neither).

    With `validation`, a fixed stratified tenth of the training images, or `held_out` of them, takes the place of the
    test images, which are left out. `train_size` then keeps a fixed stratified subset of the training images, smaller
    ones within larger ones. Images larger than `side` are reduced to it: each new pixel is a square's mean.
    `ImclError` on an unknown name or size, and on missing, damaged or malformed files.
    """
    check_choice("data set", name, NAMES)
    arrays = _digits() if name == "digits" else _read(prepare(name, data_folder(folder), progress))
    origin, train = Origin.of(arrays), _split(arrays, "train")
    if validation:
        order = stratified_order(train.labels)
        held_out = held_out or round(HELD_OUT * len(order))
        if not 0 < held_out < len(order):
            raise ImclError(f"held_out of {name} must be from 1 to {len(order) - 1}, not {held_out}.")
        train, test = train.take(order[held_out:]), train.take(order[:held_out])
    else:
        test = _split(arrays, "test")
    if train_size is not None:
        if not 1 <= train_size <= len(train):
            raise ImclError(f"train_size of {name} must be from 1 to {len(train)}, not {train_size}.")
        train = train.take(stratified_order(train.labels)[:train_size])
    if side is not None:
        if side < 1:
            raise ImclError(f"side of {name} must be 1 or more, not {side}.")
        train, test = (Split(reduced(split.images, side), split.labels) for split in (train, test))
    mean, std = _statistics(train.images)
    return DataSet(name, tuple(map(str, arrays["classes"])), train, test, mean, std, origin).to(device)


def stratified_order(labels: Tensor) -> Tensor:
    """A fixed random order (N,), of which every prefix holds the classes in proportion but for rounding."""
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    by_class = labels[shuffled].argsort(stable=True)
    counts = labels.bincount()
    starts = (counts.cumsum(0) - counts).repeat_interleave(counts)
    rank = torch.arange(len(labels), dtype=torch.float64) - starts  # of each image among those of its class
    place = torch.empty_like(rank)
    place[by_class] = (rank + 0.5) / counts.repeat_interleave(counts)
    return shuffled[place.argsort(stable=True)]


def reduced(images: Tensor, side: int) -> Tensor:
    """Images, uint8 (N, C, H, W), of `side`×`side` pixels: rounded means, from sums of integers, the same anywhere.

    Smaller images are left as they are; `ImclError` where `side` does not divide theirs.
    """
    height, width = images.shape[2:]
    if max(height, width) <= side:
        return images
    if height % side or width % side:
        raise ImclError(
            f"Images of {height}×{width} have no exact means of {side}×{side}: use a side that divides theirs."
        )
    down, right = height // side, width // side
    means = []
    for part in images.split(1000):  # sums take four times the memory of bytes
        total = sum(part[:, :, i::down, j::right].int() for i in range(down) for j in range(right))
        means.append(((total + down * right // 2) // (down * right)).to(torch.uint8))
    return torch.cat(means)


def _split(arrays: Arrays, split: str) -> Split:
    images = torch.from_numpy(arrays.pop(f"x_{split}")).permute(0, 3, 1, 2).contiguous()
    return Split(images, torch.from_numpy(arrays[f"y_{split}"].reshape(-1).astype(np.int64)))


def _statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (3,), in units of [0, 1], of uint8 (N, 3, H, W): from exact histograms."""
    counts = torch.zeros(3, 256, dtype=torch.float64)
    for part in images.split(1000):  # bincount makes int64 copies
        counts += torch.stack([channel.flatten().bincount(minlength=256) for channel in part.unbind(1)])
    if constant := [c for c, levels in enumerate(counts > 0) if levels.sum() < 2]:
        raise ImclError(
            f"Channel {constant[0]} of the images has one value throughout, so that it cannot be normalised: put a "
            "copy of another channel there."
        )
    share = counts / counts.sum(1, keepdim=True)
    value = torch.arange(256, dtype=torch.float64) / 255
    mean = share @ value
    std = (share @ value.square() - mean.square()).clamp_min(0).sqrt()
    return mean.float(), std.float()


def _digits() -> Arrays:
    """scikit-learn's handwritten digits, 8 x 8 of 0 to 16, as 32 x 32 x 3; a fifth are the test split."""
    source = needed("sklearn.datasets", "scikit-learn", "digits").load_digits()
    images = torch.from_numpy(source.images).float()[:, None]
    # Resized in the original integers: bilinear weights in eighths make exact sums of them on any machine.
    images = F.interpolate(images, size=(32, 32), mode="bilinear") * 255 / 16
    images = images.round().to(torch.uint8).permute(0, 2, 3, 1).expand(-1, -1, -1, 3)
    labels = torch.from_numpy(source.target.astype(np.int64))
    order = stratified_order(labels)
    arrays = {"classes": np.arange(10).astype(str)}
    fifth = -(-len(order) // 5)
    for split, indices in (("test", order[:fifth]), ("train", order[fifth:])):
        chosen = indices.sort().values
        arrays |= {f"x_{split}": images[chosen].numpy(), f"y_{split}": labels[chosen].numpy()}
    return arrays


def _read(path: Path) -> Arrays:
    """The arrays of an `.npz` in the layout of Keras's data sets; a damaged file is moved aside."""
    try:
        with open(path, "rb") as raw, np.load(raw) as file:
            arrays = {key: file[key] for key in KEYS if key in file.files}
    except MemoryError as error:
        raise ImclError(
            f"{path} asks for more memory than there is ({error}): put a good copy there, or use a larger machine."
        ) from error
    except Exception as error:  # NumPy and zipfile have a dozen ways to say that a file is damaged
        if isinstance(error, OSError) and error.errno:
            raise unreadable(path, error) from error
        if _intact(path):
            raise ImclError(f"{path} is not readable as arrays ({error}): put a good copy there.") from error
        aside = move_aside(path)
        raise ImclError(
            f"{path} was damaged and is now {aside.name}: run again to make it anew or put a good copy there."
        ) from error
    problem = _problem(arrays)
    if problem:
        raise ImclError(f"{path} {problem}: put a good copy there, or remove it and run again.")
    return arrays


def _intact(path: Path) -> bool:
    """Whether every checksum in the file is right."""
    try:
        with zipfile.ZipFile(path) as file:
            return file.testzip() is None
    except Exception:
        return False


def _problem(arrays: Arrays) -> str | None:
    """What keeps these arrays from being a data set, as the end of a sentence; None if nothing does."""
    missing = [key for key in KEYS if key not in arrays]
    if missing:
        return f"lacks {', '.join(missing)}"
    if arrays["classes"].ndim != 1:
        return f"has classes of shape {arrays['classes'].shape}, not a list of names"
    classes = arrays["classes"].size
    for split in ("train", "test"):
        x, y = arrays[f"x_{split}"], arrays[f"y_{split}"]
        if x.dtype != np.uint8 or x.ndim != 4 or x.shape[3] != 3 or x.size == 0:
            return f"has x_{split} of {x.dtype} {x.shape}, not of uint8 (N, H, W, 3)"
        if y.dtype.kind not in "iu" or y.size != len(x):
            return f"has y_{split} of {y.dtype} {y.shape}, not an integer for each of {len(x)} images"
        if y.min() < 0 or y.max() >= classes:
            return f"has labels from {y.min()} to {y.max()} in y_{split}, but {classes} classes"
    if arrays["x_train"].shape[1:] != arrays["x_test"].shape[1:]:
        return "has training and test images of different sizes"
    return None
