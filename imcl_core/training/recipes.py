"""The paper's training settings per data set (Sec. IV), sizes, and one spelling for a run's methods."""

from dataclasses import dataclass, field, replace
from typing import Any

from imcl_core.methods import STRUCTURES, parse_methods

PROFILES = ("smoke", "cpu", "narrow", "t4", "paper")


@dataclass(frozen=True)
class Recipe:
    """How the paper trains on one data set; `milestones`: epochs after which the rate falls.

    The set has `images` for training and `test_images`, in so many `classes`, each of `side` × `side` pixels.
    """

    images: int
    test_images: int
    classes: int
    side: int
    epochs: int
    batch_size: int
    lr: float
    milestones: tuple[int, ...]
    padding: int = 4
    flip: bool = True


RECIPES = {
    # Not in the paper: small, real, and shipped with scikit-learn. A flipped digit is another sign, so no flips.
    "digits": Recipe(1_437, 360, 10, 32, 30, 32, 0.03, (24, 28), padding=2, flip=False),
    "cifar10": Recipe(50_000, 10_000, 10, 32, 200, 128, 0.1, (60, 120, 160)),
    "cifar100": Recipe(50_000, 10_000, 100, 32, 200, 128, 0.1, (60, 120, 160)),
    "stl10": Recipe(5_000, 8_000, 10, 96, 200, 128, 0.05, (60, 120, 180), padding=12),
    "imagenet32": Recipe(1_281_167, 50_000, 1000, 32, 40, 256, 0.1, (12, 24, 36)),
}
DATASETS = tuple(RECIPES)


@dataclass(frozen=True)
class Profile:
    """A size: how wide, how many epochs (None: the recipe's), and on how many training images at most (0: all).

    `batch_size` and `lr` cap the recipe's: a short run needs many small steps. `side`: of the images (None: the
    recipe's); `evaluate_every` and `precision`, on a CPU, are what the settings of a run start from. `repeatable`: a
    GPU too gives the same digits each time, for which it leaves out algorithms that may be faster. `special` holds what
    differs on some data sets.

    `narrow` is the paper's recipe on networks of a quarter of the width, on images of 32 pixels, in fewer epochs: what
    two cores can train to the end.

    `t4` is the paper's network in 20 minutes at most on the T4 of a free Colab session, for any run of Tables I to III.
    That is planned, not measured: `imcl_core.study.plan` expects half of it, and the rest is for a card that heats up.
    """

    width: float
    epochs: int | None = None
    train_size: int = 0
    batch_size: int = 1 << 20
    lr: float = float("inf")
    side: int | None = None
    evaluate_every: int = 1
    precision: str = "float32"
    repeatable: bool = False
    special: dict[str, dict[str, Any]] = field(default_factory=dict)

    def on(self, dataset: str) -> "Profile":
        """The size of runs on one data set."""
        return replace(self, **self.special.get(dataset, {}))


SIZES = {
    "smoke": Profile(width=0.125, epochs=4, train_size=1_290),
    "cpu": Profile(width=0.125, epochs=10, train_size=20_000, batch_size=64, lr=0.05),
    "narrow": Profile(
        width=0.25,
        epochs=30,
        evaluate_every=5,
        precision="bfloat16",
        repeatable=True,
        special={"stl10": {"epochs": 100, "side": 32}, "imagenet32": {"epochs": 10, "train_size": 100_000}},
    ),
    "t4": Profile(width=1.0, epochs=10, train_size=50_000),
    "paper": Profile(width=1.0),
}


def canonical(methods: str) -> str:
    """One spelling for each: `"kernel+mid"` to `"mid+kernel"`; raises `ImclError` on what is no method."""
    if methods.strip() in STRUCTURES:
        return methods.strip()
    return "+".join(parse_methods(methods, alone=STRUCTURES)) or "baseline"
