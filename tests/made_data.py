"""Small data sets in the layouts they come in."""

import hashlib
import io
import pickle
import struct
import tarfile

import numpy as np
import torch

from imcl_core.data.sets import DataSet, Split


def arrays(train=200, test=40, classes=10, side=32, seed=0):
    """A small data set in the layout of the .npz, every class in it."""
    random = np.random.default_rng(seed)
    made = {"classes": np.array([f"c{i}" for i in range(classes)])}
    for split, n in (("train", train), ("test", test)):
        made[f"x_{split}"] = random.integers(0, 256, (n, side, side, 3), dtype=np.uint8)
        made[f"y_{split}"] = random.permutation(np.arange(n) % classes)
    return made


def data_set(train=200, side=32, classes=10, seed=0):
    made, splits = arrays(train, 40, classes, side, seed), []
    for split in ("train", "test"):
        images = torch.from_numpy(made[f"x_{split}"]).permute(0, 3, 1, 2).contiguous()
        splits.append(Split(images, torch.from_numpy(made[f"y_{split}"])))
    mean, std = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.25, 0.3])
    return DataSet("made", tuple(map(str, range(classes))), *splits, mean, std)


class Python2Pickler(pickle._Pickler):
    """Writes text and bytes as Python 2's `str`, as the pickles of the original CIFAR archives have them."""

    def save_string(self, value):
        raw = value.encode("latin1") if isinstance(value, str) else value
        self.write(pickle.BINSTRING + struct.pack("<i", len(raw)) + raw)
        self.memoize(value)

    dispatch = {**pickle._Pickler.dispatch, str: save_string, bytes: save_string}  # noqa: RUF012

    def save_reduce(self, func, args, *rest, obj=None, **named):
        if func.__name__ == "encode":  # how Python 3 spells bytes in an old pickle
            self.save_string(args[0])
        else:
            super().save_reduce(func, args, *rest, obj=obj, **named)


def python2_pickle(value):
    out = io.BytesIO()
    Python2Pickler(out, protocol=2).dump(value)
    return out.getvalue()


def tar(files):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


def rows(images):
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2)).reshape(len(images), -1)


def cifar100_archive(made):
    batch = {
        s: {"data": rows(made[f"x_{s}"]), "fine_labels": made[f"y_{s}"].tolist(), "coarse_labels": []}
        for s in ("train", "test")
    }
    batch["meta"] = {"fine_label_names": made["classes"].tolist()}
    return tar({f"cifar-100-python/{name}": python2_pickle(value) for name, value in batch.items()})


def md5(content):
    return hashlib.md5(content).hexdigest()
