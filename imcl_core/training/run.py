"""One run: a configuration in, a record out. Read it from top to bottom."""

import math
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as distributed
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from imcl_core.collaboration import Collaboration
from imcl_core.data.batches import TrainBatches, evaluation_batches
from imcl_core.data.sets import DataSet, load
from imcl_core.errors import ImclError
from imcl_core.files import remove_partials
from imcl_core.measure import arrays
from imcl_core.methods.population import PATTERNS, Population
from imcl_core.networks import build
from imcl_core.training import checkpoints
from imcl_core.training.config import RunConfig
from imcl_core.training.files import Files, tell
from imcl_core.training.machine import (
    choose_device,
    environment,
    forget_peak,
    kept_memory,
    maker,
    own_random_numbers,
    peak_memory,
    processes,
)
from imcl_core.training.record import Record, finished_record, read_record, write_record
from imcl_core.training.sheets import NewerRecord
from imcl_core.training.step import make_step

SAVE_EVERY = 30  # seconds of training, at the least, from one checkpoint to the next


def train(
    config: RunConfig,
    *,
    out: str | Path | None = None,
    data_folder: str | Path | None = None,
    device: str | torch.device | None = None,
    progress: bool = True,
    return_collaboration: bool = False,
    save_every: float = SAVE_EVERY,
    after_epoch: Callable[["Run"], None] | None = None,
) -> Record | tuple[Record, Collaboration | Population]:
    """Trains one network and reports every epoch: the record, with `return_collaboration` also what was trained.

    With `out`, a folder: a checkpoint is written there after the first epoch, then after one that ends `save_every`
    seconds or more after the last one written, and where the run is interrupted; at the end `<name>.json`, the record,
    `<name>.network.pt`, the network's weights, and `<name>.npz`, small arrays of it. A run resumes from its checkpoint
    and gives the same record; a finished one is not trained again, unless its `Collaboration` is asked for. On a CPU
    the record depends on the configuration and the number of threads alone; on a GPU a run of `narrow` gives the same
    digits each time.

    Where a method has a teacher, a baseline, that is taken from `out`, or trained first: `config.teacher`.
    `after_epoch` is called with the `Run` at the end of every epoch that is trained here: to look, not to change.

    Raises `ImclError`, which names the remedy: data or checkpoint missing or damaged, a loss that is not finite, memory
    exhausted.
    """
    files = Files(Path(out).expanduser(), config.name) if out is not None else None
    if files and files.record.exists() and not return_collaboration:
        return finished_record(files.record)
    device = choose_device(device)
    with processes(device) as rank:
        if files and rank == 0:
            remove_partials(files.folder, config.name)
        shown = progress and rank == 0
        keeper = checkpoints.Keeper(files.checkpoint if files and rank == 0 else None, save_every)
        run = _trained(config, files, keeper, after_epoch, data_folder=data_folder, device=device, progress=shown)
        record = run.record()
        if files and rank == 0:
            _write(files, record, run.collaboration.network, run.data)
    return (record, run.collaboration) if return_collaboration else record


def _trained(
    config: RunConfig,
    files: Files | None,
    keeper: checkpoints.Keeper,
    after_epoch: Callable[["Run"], None] | None,
    *,
    data_folder: str | Path | None,
    device: torch.device,
    progress: bool,
) -> "Run":
    """A run at its end; the caller's random numbers are left as they were."""
    where = {"data_folder": data_folder, "device": device, "progress": progress}
    teacher = _teacher_weights(config.teacher, out=files and files.folder, **where) if config.teacher else None
    began = time.perf_counter()
    data = load_for(config, **where)
    with own_random_numbers(device), memory_errors(config), _interruptions(files), kept_memory(device):
        run = Run(config, data, device)
        if teacher:
            run.collaboration.teacher.load_state_dict(teacher)
        if files and files.checkpoint.exists():
            run.resume(files.checkpoint)
        run.finish(keeper, progress, after_epoch)
    run.rest = time.perf_counter() - began - run.timed
    return run


def load_for(config: RunConfig, data_folder: str | Path | None, device: torch.device, progress: bool = True) -> DataSet:
    """The data of a run, on its device; `ImclError` where there is none, or it is not what its name says."""
    data = load(
        config.dataset,
        folder=data_folder,
        train_size=config.train_size or None,
        validation=config.validation,
        held_out=config.held_out,
        side=config.side,
        device=device,
        progress=progress,
    )
    check_data(config, data)
    return data


def check_data(config: RunConfig, data: DataSet) -> None:
    """`ImclError` where the data that was loaded under a name is not what the recipe of that name trains on."""
    recipe, origin = config.recipe, data.origin
    if origin is None:
        return
    found = (origin.images, origin.test_images, data.num_classes, origin.side)
    if found != (recipe.images, recipe.test_images, recipe.classes, recipe.side):
        raise ImclError(
            f"{config.dataset} has {recipe.images:,} training and {recipe.test_images:,} test images of side "
            f"{recipe.side} in {recipe.classes} classes; the file of this name holds {found[0]:,} and {found[1]:,} of "
            f"side {found[3]} in {found[2]} classes: put the right file there, or remove it to have it made anew."
        )


def _teacher_weights(teacher: RunConfig, *, out: str | Path | None, **options: Any) -> dict[str, Tensor]:
    """The network of a teacher's run: of the finished one in `out`, else trained now."""
    files = Files(Path(out), teacher.name) if out is not None else None
    if files and files.record.exists() and files.network.exists():
        with own_random_numbers(options["device"]):
            like = assemble(teacher, teacher.recipe.classes, (3, teacher.side, teacher.side)).network
        try:
            return checkpoints.load_network(files.network, finished_record(files.record).run.get("network"), like)
        except NewerRecord:
            raise
        except ImclError as error:
            tell(str(error))
    _, trained = train(teacher, out=out, **options, return_collaboration=True)
    return trained.network.state_dict()


def _write(files: Files, record: Record, network: nn.Module, data: DataSet) -> None:
    """What is left of a finished run; the record last: what has one is finished.

    A record that is there already, of another process or of a teacher whose network was lost, is never replaced by
    another outcome.
    """
    if _has_another(files, record):
        tell(f"{record.config.name} has a record of another outcome in {files.folder}, which stays as it is.")
        return
    arrays.write(files.arrays, arrays.small_arrays(network, data))
    record.run["network"] = checkpoints.save_network(files.network, network)
    write_record(record, files.folder)
    files.checkpoint.unlink(missing_ok=True)


def _has_another(files: Files, record: Record) -> bool:
    """Whether there is a record of another outcome; a damaged one is none."""
    try:
        return files.record.exists() and read_record(files.record).curve != record.curve
    except NewerRecord:
        return True
    except ImclError:
        return False


FORMAT = 2  # of checkpoints; the first one did not name its run


class Run:
    """The state of a run between epochs; everything random in an epoch follows from the seed and its number."""

    def __init__(self, config: RunConfig, data: DataSet, device: torch.device, graphed: bool | None = None):
        self.config, self.data, self.device = config, data, device
        self.rank, self.world = 0, 1
        if distributed.is_initialized():
            self.rank, self.world = distributed.get_rank(), distributed.get_world_size()
        self.batches = TrainBatches(
            data,
            config.batch_size,
            share=(self.rank, self.world),
            padding=config.padding,
            flip=config.flip,
            noise=config.noise,
            seed=config.seed,
        )
        self.collaboration = build_collaboration(config, data).to(device, memory_format=torch.channels_last)
        capturable = all(term.capturable for term in config.terms)
        self.step = make_step(self.collaboration, self.batches, config, device, graphed if capturable else False)
        self.part_size = part_size(device, config.side)
        self.curve: list[dict[str, Any]] = []
        self.seconds: list[tuple[float, float]] = []  # training and evaluation of each epoch
        self.timed = 0.0  # of `seconds`, what was spent here
        self.rest = 0.0  # seconds beside them: to start, to keep checkpoints
        self.peak = 0  # bytes, while it trained
        by = {"processes": self.world, "data": data.origin and data.origin.digest}
        self.makers = [maker(device) | by]  # of its epochs, in order

    def finish(
        self,
        keeper: checkpoints.Keeper,
        progress: bool,
        after_epoch: Callable[["Run"], None] | None = None,
    ) -> None:
        """Trains the epochs that are left, each followed by an evaluation where one is due, and kept."""
        steps, shown = len(self.batches), {}
        with tqdm(
            total=self.config.epochs * steps * self.config.batch_size,
            initial=len(self.curve) * steps * self.config.batch_size,
            desc=f"{self.config.model} {self.config.methods}",
            unit=" images",
            unit_scale=True,
            disable=not progress,
            dynamic_ncols=True,
        ) as bar:
            try:
                for epoch in range(len(self.curve), self.config.epochs):
                    self._epoch(epoch, bar)
                    shown |= {"loss": f"{self.curve[-1]['loss']:.3f}"}
                    if self.config.evaluates(epoch):
                        shown |= {"error": f"{self.curve[-1]['test_error']:.2f}%"}
                    bar.set_postfix(shown)
                    keeper.keep(self.state_dict(), last=epoch + 1 == self.config.epochs)
                    if after_epoch:
                        after_epoch(self)
            finally:
                keeper.flush()

    def _epoch(self, epoch: int, bar: tqdm) -> None:
        """Trains and evaluates, and adds to the curve."""
        started = time.perf_counter()
        forget_peak(self.device)
        trained = self.train_epoch(epoch, bar)
        self.peak = max(self.peak, peak_memory(self.device))
        evaluating = time.perf_counter()
        self.curve.append(trained | (self.evaluate() if self.config.evaluates(epoch) else {}))
        ended = time.perf_counter()
        self.seconds.append((evaluating - started, ended - evaluating))
        self.timed += ended - started

    def train_epoch(self, epoch: int, bar: tqdm) -> dict[str, Any]:
        """One pass over the training images: the mean of every term, and the error on the images as trained on, %."""
        torch.manual_seed(_stream(self.config.seed, epoch) + self.rank)
        self.batches.draw(epoch)
        self.step.set_lr(self.config.lr_at(epoch))
        self.collaboration.train()
        rows, images = [], len(self.batches) * self.config.batch_size
        for start in range(0, images, self.config.batch_size):
            self.step.set_progress((epoch + start / images) / self.config.epochs)
            rows.append(self.step(start))
            bar.update(self.config.batch_size)
        values = torch.stack(rows).double()
        if self.world > 1:
            distributed.all_reduce(values)
        values = values.cpu() / self.world
        names = list(self.collaboration.terms)
        _check_finite(values, names, epoch)
        *terms, error = values.mean(dim=0).tolist()
        return {
            "epoch": epoch + 1,
            "lr": self.config.lr_at(epoch),
            "loss": math.fsum(terms),
            "train_error": 100 * error,
            "terms": dict(zip(names, terms, strict=True)),
        }

    def trial(self, steps: int) -> tuple[float, float]:
        """Training images a second, and the seconds of an evaluation, from `steps` steps; spoils the weights."""
        self.collaboration.train()
        self.step.set_progress(0.5)
        for _ in range(2):
            self._synchronise()
            started = time.perf_counter()
            for step in range(steps):  # the first round warms up
                self.step(step % len(self.batches) * self.config.batch_size)
            self._synchronise()
        images_per_s = steps * self.config.batch_size / (time.perf_counter() - started)
        if self.device.type == "cuda":
            self._evaluation()  # the first one loads kernels
        started = time.perf_counter()
        self._evaluation()
        return images_per_s, time.perf_counter() - started

    def _synchronise(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def evaluate(self) -> dict[str, float | None]:
        """Mean loss and top-1 and top-5 error, %, on the test images (the held-out ones in a validation run).

        The loss is None where it is too large for a number. `ImclError` where the predictions are not finite, so that
        no error can be told.
        """
        loss, error, error_top5, broken = self._evaluation()
        if broken:
            raise ImclError(
                f"The evaluation of epoch {len(self.curve) + 1} is not finite: the predictions for {broken:.1%} of the "
                "images are no numbers. Lower the learning rate (lr)."
            )
        loss = loss if math.isfinite(loss) else None
        return {"test_loss": loss, "test_error": 100 * error, "test_error_top5": 100 * error_top5}

    @torch.no_grad()
    def _evaluation(self) -> list[float]:
        """Means over the test images: the loss, and shares that are wrong at once, in five, and no numbers at all."""
        self.collaboration.eval()
        totals = torch.zeros(4, dtype=torch.float64, device=self.device)
        for images, labels in evaluation_batches(self.data):
            images = images.contiguous(memory_format=torch.channels_last)
            with self.step.precision():
                logits = torch.cat([self.collaboration(part) for part in images.split(self.part_size)]).float()
            best = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
            wrong = len(labels) - torch.stack([best[:, 0].sum(), best.sum(), logits.isfinite().all(dim=1).sum()])
            totals += torch.cat([F.cross_entropy(logits, labels, reduction="sum")[None], wrong]).double()
        return (totals / len(self.data.test.labels)).tolist()

    def state_dict(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "name": self.config.name,
            "collaboration": self.collaboration.state_dict(),
            "step": self.step.state_dict(),
            "curve": self.curve,
            "seconds": self.seconds,
            "peak": self.peak,
            "makers": self.makers,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.collaboration.load_state_dict(state["collaboration"])
        self.step.load_state_dict(state["step"])
        self.curve, self.seconds, self.peak = state["curve"], state["seconds"], state.get("peak", 0)

    def resume(self, path: Path) -> None:
        """Goes on from a checkpoint; one of another run, or that does not fit, is moved aside as a damaged one is."""
        state = checkpoints.load(path, self.device)
        if isinstance(state, dict) and isinstance(state.get("format"), int) and state["format"] > FORMAT:
            raise ImclError(f"{path} was made by a newer version of this project: update this one to go on with it.")
        with checkpoints.damage_moved_aside(path, "run again to start afresh, or put back a good copy"):
            if state["name"] != self.config.name:
                raise ValueError(f"it is of the run {state['name']}")
            if not 0 < len(state["curve"]) == len(state["seconds"]) <= self.config.epochs:
                raise ValueError(f"it has {len(state['curve'])} epochs of {self.config.epochs}")
            self.makers = checkpoints.carried_on(path, state.get("makers", []), self.makers[-1], self.rank == 0)
            self.load_state_dict(state)

    def record(self) -> Record:
        training, evaluation = zip(*self.seconds, strict=True)
        images = len(self.batches) * self.config.batch_size
        return Record(
            self.config,
            self.curve,
            {
                **environment(self.device),
                "data": self.makers[-1]["data"],
                **({"makers": self.makers} if len(self.makers) > 1 else {}),
                "processes": self.world,
                "precision": str(self.step.dtype).removeprefix("torch."),
                "seconds": round(sum(training) + sum(evaluation), 2),
                "evaluation_seconds": round(sum(evaluation), 2),
                "rest_seconds": round(self.rest, 2),
                "images_per_s": round(images / statistics.median(training), 1),  # the first epoch warms up
                "peak_memory_gb": round(self.peak / 1e9, 3),  # of training alone
            },
        )


def part_size(device: torch.device, side: int) -> int:
    """How many images of so many pixels an evaluation looks at together."""
    if device.type == "cpu":
        return 250  # more do not fit into a processor's cache
    return max(1, min(1000, 4_096_000 // side**2))  # less memory than a training step takes


def build_collaboration(config: RunConfig, data: DataSet) -> Collaboration | Population:
    """The network of a run with its methods attached, on the CPU, with the seed's initial weights."""
    return assemble(config, data.num_classes, tuple(data.test.images.shape[1:]))


def assemble(config: RunConfig, num_classes: int, image_shape: tuple[int, int, int]) -> Collaboration | Population:
    """`build_collaboration` for images of shape (C, H, W) of so many classes, without data."""
    torch.manual_seed(_stream(config.seed, -1))
    network = build(config.model, num_classes, config.width, config.hidden, config.dropout, config.pool)
    if config.methods in PATTERNS:
        return PATTERNS[config.methods](network, settings=config, seed=config.seed)
    methods = "+".join(term.name for term in config.terms) or "baseline"
    options = {"settings": config, "image_shape": image_shape, "seed": config.seed}
    return Collaboration(network, methods, teacher=network, **options)  # a copy, whose weights `train` loads


def _stream(seed: int, epoch: int) -> int:
    """A seed of its own for each epoch of each run; -1 stands for the initial weights."""
    return int(np.random.SeedSequence([seed, epoch + 1]).generate_state(1, np.uint64)[0] >> 1)


def _check_finite(values: Tensor, names: list[str], epoch: int) -> None:
    """Names the term that was the first to become NaN or infinite; `values` (steps, terms + 1)."""
    broken = ~values[:, :-1].isfinite()
    if broken.any():
        step = int(broken.any(dim=1).nonzero()[0])
        terms = ", ".join(name for name, bad in zip(names, broken[step].tolist(), strict=True) if bad)
        raise ImclError(
            f"The loss is not finite: {terms} in epoch {epoch + 1}, step {step + 1}. Lower the learning rate (lr) or "
            "the weight of that term."
        )


@contextmanager
def memory_errors(config: RunConfig) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        exhausted = isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
        if not exhausted:
            raise
        raise ImclError(
            f"Out of memory at batch_size {config.batch_size}: lower batch_size (to {config.batch_size // 2}) or width."
        ) from error


@contextmanager
def _interruptions(files: Files | None) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt as error:
        if files is None:
            raise
        kept = "its checkpoint is kept" if files.checkpoint.exists() else "no epoch was finished"
        raise ImclError(f"Interrupted; {kept}: run the same command again to go on.") from error
