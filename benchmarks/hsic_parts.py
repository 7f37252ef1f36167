"""What of the HSIC bottleneck helps: it and *pull-push*, each with one thing of the other, on the search's images.

    python benchmarks/hsic_parts.py                                      (forty minutes of one core)
    python benchmarks/hsic_parts.py --parts "pull-push: whole maps" --model resnet18

Narrow networks, thirty epochs of 5,000 of CIFAR-10's training images, judged by 10,000 others of them; one seed, every
method at its default strength. The methods as they are have records: the table `neighbours` has them. The test set has
no part. A process has one thread. Each run is written as it ends, and what the file has already is not run again.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from imcl_core import losses, train
from imcl_core.attach.layer import Layer
from imcl_core.files import write_whole
from imcl_core.methods import TERMS, Step
from imcl_core.methods.hsic import Hsic, centred_kernel, hsic_loss, normalised_kernel
from imcl_core.methods.pull_push import PullPush
from imcl_core.methods.term import without_autocast
from imcl_core.study.grids import as_judged


class WithoutInput(Hsic):
    """Its labels alone: images that are all alike have a centred kernel of zeros."""

    def losses(self, seen: dict[str, Tensor], step: Step) -> dict[str, Tensor]:
        return super().losses(seen, replace(step, images=torch.zeros_like(step.images)))


class Channels(Hsic):
    """It compares what pull-push does: of each channel one number, its deviation."""

    def read(self, place: Layer, maps: Tensor) -> Tensor:
        return normalised_kernel(losses.similarity_rows(self.task.compared(maps)), self.settings.hsic_sigma)


class NotNormalised(Hsic):
    """Its kernel matrices centred and scaled to norm 1, without the inverse of Eq. N7.

    A cosine is at most 1, where the normalised product with the labels of ten classes is at most 9: hence the factor.
    """

    def read(self, place: Layer, maps: Tensor) -> Tensor:
        return of_norm_1(self.task.compared(maps), self.settings.hsic_sigma)

    def losses(self, seen: dict[str, Tensor], step: Step) -> dict[str, Tensor]:
        s, one_hot = self.settings, self.task.one_hot(step.labels, step.logits)
        x, y = (of_norm_1(values, s.hsic_sigma) for values in (self.task.compared(step.images), one_hot))
        weight = s.hsic_weight * (one_hot.shape[1] - 1)
        return {self.named(p): weight * hsic_loss(seen[p.name], x, y, s.hsic_beta) for p in self.reads}


def of_norm_1(x: Tensor, sigma: float) -> Tensor:
    """The centred kernel matrix (n, n) of a batch (n, …), divided by its norm."""
    kernel = centred_kernel(x, sigma)
    return kernel / kernel.norm().clamp(min=1e-12)


class WeakerAtFirst(Hsic):
    """A tenth of its weight at the first layer, rising evenly to all of it at the last, as pull-push has."""

    def losses(self, seen: dict[str, Tensor], step: Step) -> dict[str, Tensor]:
        found = super().losses(seen, step)
        weights = torch.linspace(0.1, 1.0, len(found)).tolist()
        return {name: weight * loss for weight, (name, loss) in zip(weights, found.items(), strict=True)}


class WholeMaps(PullPush):
    """Pull-push on maps place by place, as HSIC compares them, without a projection."""

    def head(self, place: Layer) -> None:
        return None

    def read(self, place: Layer, maps: Tensor) -> Tensor:
        with without_autocast(maps.device):
            rows = losses.promote(self.task.compared(maps).flatten(1))
            return rows if losses.few_calls(maps) else losses.similarity_matrix(rows, self.settings.pp_centre)


PARTS: dict[str, tuple[type, dict]] = {
    "hsic: one number a channel": (Channels, {}),
    "hsic: not normalised": (NotNormalised, {}),
    "hsic: weaker at the first layers": (WeakerAtFirst, {}),
    "hsic: without the input": (WithoutInput, {}),
    "pull-push: whole maps": (WholeMaps, {}),
    "pull-push: no projection": (PullPush, {"pp_projection": "none"}),
    "pull-push: one weight at all layers": (PullPush, {"pp_pull": (1.0, 1.0)}),
}


def run(part: str, model: str) -> dict:
    term, settings = PARTS[part]
    TERMS[term.name] = term  # in this process, in place of the method that it differs from
    record = train(as_judged(term.name, model, **settings), progress=True)
    last = record.curve[-1]
    kept = ("device", "precision", "threads", "torch", "project", "finished", "seconds")
    return {
        "part": part, "model": model, "seed": record.config.seed, "held_out_error": record.last_error,
        "train_error": last["train_error"], "run": {name: record.run[name] for name in kept},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="*", default=[*PARTS], choices=PARTS, metavar="PART")
    parser.add_argument("--model", default="vgg16", choices=("vgg16", "resnet18"))
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("hsic_parts.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    runs = json.loads(arguments.out.read_text(encoding="utf-8")) if arguments.out.exists() else []
    for part in tqdm(arguments.parts, unit="run"):
        if not any((kept["part"], kept["model"]) == (part, arguments.model) for kept in runs):
            runs.append(run(part, arguments.model))
            write_whole(arguments.out, (json.dumps(runs, indent=1) + "\n").encode())
        found = next(kept for kept in runs if (kept["part"], kept["model"]) == (part, arguments.model))
        tqdm.write(f"{part}: held out {found['held_out_error']:.2f} %, training images {found['train_error']:.2f} %")


if __name__ == "__main__":
    main()
