"""Writes what the page holds: weights, digits, facts and records, all of them made from the runs."""

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from imcl_book.demo import stills
from imcl_book.demo.runs import KINDS, SETS, assembled, config_of, trained
from imcl_book.demo.weights import packed, unpack
from imcl_core.collaboration import Collaboration
from imcl_core.data.sets import DataSet, load, stratified_order
from imcl_core.files import write_whole
from imcl_core.training.record import Record, write_record
from imcl_core.training.run import Run

PAGE = Path("book/_static/demo")  # from the root of the repository
TRAINING, TESTING = 400, 200  # digits of the network that is trained on the page
EXAMPLES = (0, 3, 4, 8)  # classes of digits that the page begins with


def export(out: Path = PAGE, runs: Path = Path("runs/demo"), data_folder: Path | None = None) -> list[Path]:
    """Trains what is not in the folder `runs` yet, and writes the page's files into `out`; returns their paths."""
    facts: dict[str, Any] = {}
    written = []
    for name, dataset in SETS.items():
        data = load(dataset, folder=data_folder, train_size=config_of(name, "baseline").train_size or None)

        content: dict[str, Any] = {"classes": data.classes, "mean": data.mean.tolist(), "std": data.std.tolist()}
        content |= {"side": data.test.images.shape[-1], "networks": {}}
        facts[name], networks = {}, {}
        for kind in KINDS:
            record, weights = trained(config_of(name, kind), runs, data_folder)
            run = assembled(record.config, data, weights)
            network = content["networks"][kind] = packed(run.collaboration)
            unpack(network, run.collaboration)
            network |= {"error": run.evaluate()["test_error"], "dropout": record.config.dropout}
            facts[name][kind], networks[kind] = _facts(record, run, network["error"]), run.collaboration
            written.append(write_record(record, out / "records"))
        counts = sum(_multiply_adds(network) for network in networks.values())
        facts[name]["both"] = {"million multiply-adds": f"{counts / 1e6:.1f}"}
        if name == "digits":
            content["handwritten"] = handwritten()
            images, labels = _normalised(content["handwritten"]["test"], data)
            content["examples"] = _examples(networks, images, labels)
            chosen = content["examples"]
            written += stills.draw(out, networks, images[chosen], labels[chosen])
        script = f"(window.imclDemo ??= {{}}).{name} = {json.dumps(content, separators=(',', ':'))};\n"
        written.append(out / f"{name}.js")
        write_whole(written[-1], script.encode())
    drop_old(out / "records", written)
    write_whole(out / "facts.json", (json.dumps(facts, indent=1, ensure_ascii=False) + "\n").encode())
    return [*written, out / "facts.json"]


def drop_old(folder: Path, written: list[Path]) -> None:
    """Removes records of earlier exports, which tell of networks that the page no longer holds."""
    for path in folder.glob("*-resnet18-*-seed*.json"):
        if path not in written:
            path.unlink()


def _facts(record: Record, run: Run, error: float) -> dict[str, str]:
    """What the page says of a network, as it is to be read."""
    config = record.config
    return {
        "error": f"{error:.1f}",
        "error before rounding": f"{record.last_error:.1f}",
        "epochs": str(config.epochs),
        "images": f"{len(run.batches) * config.batch_size:,}",
        "test images": f"{len(run.data.test):,}",
        "minutes": f"{record.run['seconds'] / 60:.0f}",
        "device": record.run["device"],
        "record": f"{config.name}.json",
    }


def _multiply_adds(collaboration: Collaboration) -> int:
    """Of one image: the network, its local classifiers and projections."""
    return int(collaboration.cost(1)["multiply-adds"].sum())


def handwritten() -> dict[str, dict[str, str]]:
    """Digits as scikit-learn has them, 8×8 of 0 to 16, and labels: of the training images, and of the test images."""
    from sklearn.datasets import load_digits

    source = load_digits()
    order = stratified_order(torch.from_numpy(source.target.astype(np.int64))).numpy()
    fifth = -(-len(order) // 5)  # the test images of the data set `digits`
    chosen = {"train": order[fifth : fifth + TRAINING], "test": order[:TESTING]}
    return {
        split: {
            "pixels": _base64(source.images[indices].astype(np.uint8)),
            "labels": _base64(source.target[indices].astype(np.uint8)),
        }
        for split, indices in chosen.items()
    }


def _normalised(test: dict[str, str], data: DataSet) -> tuple[torch.Tensor, torch.Tensor]:
    """The test digits of the page as the networks take them, (n, 3, H, W), and their labels."""
    labels = np.frombuffer(base64.b64decode(test["labels"]), np.uint8)
    cells = np.frombuffer(base64.b64decode(test["pixels"]), np.uint8).reshape(-1, 1, 8, 8)
    images = F.interpolate(torch.tensor(cells).float() / 16, size=data.test.images.shape[2:], mode="bilinear")
    mean, std = data.mean.view(3, 1, 1), data.std.view(3, 1, 1)
    return (images.expand(-1, 3, -1, -1) - mean) / std, torch.tensor(labels.astype(np.int64))


@torch.no_grad()
def _examples(networks: dict[str, Collaboration], images: torch.Tensor, labels: torch.Tensor) -> list[int]:
    """The test digits that the page begins with: the one that the networks find hardest, and three of each class."""
    sure = sum(network(images).softmax(dim=1)[range(len(labels)), labels] for network in networks.values())
    hardest = int(sure.argmin())
    others = [i.item() for label in EXAMPLES for i in (labels == label).nonzero()[:3, 0]]
    return [hardest, *(i for i in others if i != hardest)]


def _base64(array: np.ndarray) -> str:
    return base64.b64encode(array.tobytes()).decode()
