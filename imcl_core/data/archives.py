"""Reads what the original archives of CIFAR, STL-10 and ImageNet32 hold."""

import pickle
import tarfile
from pathlib import Path

import numpy as np
from tqdm import tqdm

from imcl_core.errors import ImclError
from imcl_core.files import move_aside

Arrays = dict[str, np.ndarray]
STL10_CLASSES = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickles NumPy arrays and plain containers; anything else, such as code to run, is refused."""

    ALLOWED = frozenset({"ndarray", "dtype", "_reconstruct", "_frombuffer", "scalar"})

    def find_class(self, module: str, name: str) -> object:
        from_numpy = module.split(".")[0] == "numpy" and name in self.ALLOWED
        if from_numpy or (module, name) == ("_codecs", "encode"):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} is not an array")


def _rows_to_images(rows: np.ndarray) -> np.ndarray:
    """(N, 3072) with all red values first, then green, blue → (N, 32, 32, 3)."""
    return rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


def _read_cifar(path: Path, train: tuple[str, ...], test: str, meta: str, labels: str, classes: str) -> Arrays:
    """The arrays of a CIFAR archive in its Python version (pickles made by Python 2)."""
    with tarfile.open(path) as tar:
        files = {
            Path(member.name).name: _ArrayUnpickler(tar.extractfile(member), encoding="latin1").load()
            for member in tar
            if Path(member.name).name in (*train, test, meta)
        }
    return {
        "x_train": np.concatenate([_rows_to_images(files[name]["data"]) for name in train]),
        "y_train": np.concatenate([np.asarray(files[name][labels], np.int64) for name in train]),
        "x_test": _rows_to_images(files[test]["data"]),
        "y_test": np.asarray(files[test][labels], np.int64),
        "classes": np.array(files[meta][classes]),
    }


def read_cifar10(path: Path) -> Arrays:
    """The arrays of `cifar-10-python.tar.gz`."""
    batches = tuple(f"data_batch_{i}" for i in range(1, 6))
    return _read_cifar(path, batches, "test_batch", "batches.meta", "labels", "label_names")


def read_cifar100(path: Path) -> Arrays:
    """The arrays of `cifar-100-python.tar.gz`, with the 100 fine labels."""
    return _read_cifar(path, ("train",), "test", "meta", "fine_labels", "fine_label_names")


def read_stl10(path: Path) -> Arrays:
    """The labelled arrays of `stl10_binary.tar.gz`: images column by column, labels from 1."""
    wanted, data = {"train_X.bin", "train_y.bin", "test_X.bin", "test_y.bin"}, {}
    with tarfile.open(path) as tar:
        for member in tar:
            name = Path(member.name).name
            if name in wanted:
                data[name] = np.frombuffer(tar.extractfile(member).read(), np.uint8)
            if len(data) == len(wanted):  # the unlabelled images are most of the archive
                break
    arrays = {"classes": np.array(STL10_CLASSES)}
    for split in ("train", "test"):
        arrays[f"x_{split}"] = data[f"{split}_X.bin"].reshape(-1, 3, 96, 96).transpose(0, 3, 2, 1)
        arrays[f"y_{split}"] = data[f"{split}_y.bin"].astype(np.int64) - 1
    return arrays


def read_imagenet32(folder: Path, progress: bool = True) -> Arrays:
    """The arrays of the official ImageNet32 batch files in `folder` or `folder/imagenet32`."""
    names = [*(f"train_data_batch_{i}" for i in range(1, 11)), "val_data"]
    paths = [next((p for p in (folder / n, folder / "imagenet32" / n) if p.exists()), None) for n in names]
    missing = [name for name, path in zip(names, paths, strict=True) if path is None]
    if missing:
        raise ImclError(
            "imagenet32 is never downloaded: put the official batch files train_data_batch_1 to "
            "train_data_batch_10 and val_data (image-net.org, under Download: downsampled, 32 x 32) "
            f"or imagenet32.npz into {folder}; missing: {', '.join(missing)}."
        )
    batches = [_imagenet_batch(path) for path in tqdm(paths, desc="imagenet32", disable=not progress)]
    x_test, y_test = batches.pop()
    y_train = np.concatenate([y for _, y in batches])
    x_train, end = np.empty((len(y_train), 32, 32, 3), np.uint8), len(y_train)
    while batches:  # from the last one, each freed once copied: about one copy of the 4 GB in memory, not two
        rows, _ = batches.pop()
        x_train[end - len(rows) : end] = _rows_to_images(rows)
        end -= len(rows)
    test = {"x_test": _rows_to_images(x_test), "y_test": y_test}
    return {"x_train": x_train, "y_train": y_train, **test, "classes": np.arange(1, 1001).astype(str)}


def _imagenet_batch(path: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        with open(path, "rb") as file:
            batch = _ArrayUnpickler(file, encoding="latin1").load()
        rows, labels = batch["data"], np.asarray(batch["labels"], np.int64)
        shaped = rows.dtype == np.uint8 and rows.shape == (len(labels), 3072)
    except (pickle.UnpicklingError, EOFError, LookupError, TypeError, ValueError, AttributeError) as error:
        aside = move_aside(path)
        raise ImclError(
            f"{path} was not a readable ImageNet32 batch file and is now {aside.name}: put a good copy there."
        ) from error
    if not shaped or not ((labels >= 1) & (labels <= 1000)).all():
        raise ImclError(f"{path} lacks uint8 data (N, 3072) or labels 1 to 1000: put the official one there.")
    return rows, labels - 1
