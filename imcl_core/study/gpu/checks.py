"""Is the GPU path right? All checks are tried, and what fails is told together."""

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from imcl_core.collaboration import METHODS, Collaboration
from imcl_core.data.sets import DataSet, Split
from imcl_core.methods import NEIGHBOURS, TERMS, Term
from imcl_core.methods.population import PATTERNS
from imcl_core.networks import build
from imcl_core.training.config import RunConfig
from imcl_core.training.machine import own_random_numbers
from imcl_core.training.run import Run
from imcl_core.training.step import half_type

MODELS = ("vgg16", "resnet18")
ALL = "+".join(METHODS)
EXACT, ROUNDED = 1e-4, 0.05  # one minus the cosine: float32 on a CPU is 2e-6 from float64 already
Check = tuple[str, Callable[[], None]]


def run_checks(device: torch.device, seconds: float, tell: Callable[[str], None]) -> dict[str, str]:
    """What failed, by the name of the check: why. None is begun after so many `seconds`."""
    failed, began = {}, time.monotonic()
    todo = list(checks(device))
    for done, (name, check) in enumerate(todo):
        if time.monotonic() - began > seconds:
            tell(f"checks: no time for the last {len(todo) - done} of {len(todo)}")
            break
        try:
            check()
        except Exception as error:  # the next check may say more
            failed[name] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            tell(f"FAILED {name}: {failed[name]}")
    else:
        done = len(todo)
    tell(f"checks: {done - len(failed)} of {len(todo)} passed in {time.monotonic() - began:.0f} s")
    return failed


def checks(device: torch.device) -> Iterator[Check]:
    """The captured step first, then gradients of all methods, the ones of most worth at the beginning."""
    every = ("baseline", ALL, *METHODS, *PATTERNS, *(term.name for term in NEIGHBOURS))
    if device.type == "cuda":
        yield "fresh numbers", lambda: check_fresh_numbers(device)
        for methods in every:
            if all(TERMS[name].capturable for name in methods.split("+") if name in TERMS):
                yield f"replay {methods}", lambda methods=methods: check_replay(device, methods)
    yield "resume", lambda: check_resume(device)
    for methods, model in itertools.product(every, MODELS):
        if not any(_at_random(TERMS[name]) for name in methods.split("+") if name in TERMS):
            yield f"gradients {model} {methods}", lambda m=model, n=methods: check_gradients(device, m, n)


def random_images(count: int, device: torch.device) -> DataSet:
    """As many of the size of CIFAR's, in 100 classes, for training and for the test."""
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8, generator=draw)
    split, half = Split(pixels, torch.randint(100, (count,), generator=draw)), torch.full((3,), 0.5)
    return DataSet("random", tuple(map(str, range(100))), split, split, half, half / 2).to(device)


def check_gradients(device: torch.device, model: str, methods: str) -> None:
    """Float32 on the device against float64 on the CPU; half precision against float32, to its rounding.

    Convolutions compute in float32 here: in TF32, PyTorch's default on a GPU, they are 1e-3 off.
    """
    exact = _gradients(model, methods, torch.device("cpu"), torch.float64)
    with _without_tf32():
        single = _gradients(model, methods, device, torch.float32)
        plain = _gradients(model, "baseline", device, torch.float32)
    half = _gradients(model, methods, device, torch.float32, half=True)
    if not _angle(exact, single) < EXACT:
        raise AssertionError(f"float32 is {_angle(exact, single):.1e} off")
    plain_half = _gradients(model, "baseline", device, torch.float32, half=True)
    if not _angle(single, half) < 1.5 * _angle(plain, plain_half) + ROUNDED:
        raise AssertionError(f"half precision is {_angle(single, half):.1e} off")


def check_replay(device: torch.device, methods: str) -> None:
    """The captured step has the metrics of the one that runs as it reads, for the same seeds."""
    eager, replayed = (_metrics(_run(methods, device, graphed), 0, range(8)) for graphed in (False, True))
    torch.testing.assert_close(eager, replayed, rtol=0.05, atol=0.02)


def check_fresh_numbers(device: torch.device) -> None:
    """Replays draw fresh masks, repeat them for the same seed, move on in the epoch and obey the learning rate."""
    run = _run("out", device, True, lr=1e-9, weight_decay=0.0)
    _metrics(run, 0, range(5))
    run.step.set_lr(0.0)
    before = [p.clone() for p in run.collaboration.parameters()]
    first, again, other = (_metrics(run, seed, range(1))[0] for seed in (1, 1, 2))
    two = _metrics(run, 1, range(2))
    unchanged = all(torch.equal(a, b) for a, b in zip(before, run.collaboration.parameters(), strict=True))
    found = {
        "the same seed gives other masks": not torch.equal(first, again),
        "another seed gives the same masks": torch.equal(first, other),
        "a replay repeats the batch or the masks": torch.equal(two[0], two[1]),
        "the learning rate is not obeyed": not unchanged,
    }
    if wrong := [what for what, holds in found.items() if holds]:
        raise AssertionError("; ".join(wrong))


def check_resume(device: torch.device) -> None:
    """A state of the CPU goes on on the device, and the device's own comes to what an undisturbed run comes to."""
    whole = _run("mid", device)
    _metrics(whole, 0, range(4))
    state = whole.step.state_dict(), whole.collaboration.state_dict()
    state = torch.utils._pytree.tree_map_only(torch.Tensor, lambda x: x.detach().cpu().clone(), state)
    expected = _metrics(whole, 1, range(4, 8))
    resumed = _run("mid", device)
    resumed.collaboration.load_state_dict(state[1])
    resumed.step.load_state_dict(state[0])
    resumed.step.set_lr(resumed.config.lr)
    torch.testing.assert_close(_metrics(resumed, 1, range(4, 8)), expected, rtol=0.05, atol=0.02)


def _run(methods: str, device: torch.device, graphed: bool | None = None, **settings: float) -> Run:
    config = RunConfig(dataset="cifar100", profile="cpu", methods=methods, **settings)
    with own_random_numbers(device):
        run = Run(config, random_images(1_024, device), device, graphed)
    run.collaboration.train()
    run.step.set_progress(0.5)
    return run


def _metrics(run: Run, seed: int, positions: range) -> torch.Tensor:
    """All terms and the error, a row a step."""
    torch.manual_seed(seed)
    return torch.stack([run.step(position * run.config.batch_size) for position in positions]).cpu()


def _gradients(model: str, methods: str, device: torch.device, dtype: torch.dtype, half: bool = False) -> torch.Tensor:
    """All gradients of one step as one vector, float64 on the CPU; dropout is off, so that devices can be compared."""
    torch.manual_seed(0)
    network = build(model, 10, width=1 / 8, dropout=0.0)
    attached = PATTERNS[methods](network) if methods in PATTERNS else Collaboration(network, methods, teacher=network)
    collaboration = attached.to(device, dtype)
    draw = torch.Generator().manual_seed(1)
    images = torch.randn(16, 3, 32, 32, generator=draw, dtype=torch.float64).to(device, dtype)
    with torch.autocast(device.type, dtype=half_type(device), enabled=half):
        loss = collaboration(images, torch.arange(16, device=device) % 10)
    (1_024 * loss).backward()  # else float16 loses the smallest, for which training has a scaler
    return torch.cat([p.grad.flatten() for p in collaboration.parameters() if p.grad is not None]).double().cpu()


@contextmanager
def _without_tf32() -> Iterator[None]:
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def _at_random(term: type[Term]) -> bool:
    """Whether it changes images or features by numbers drawn on the device."""
    return term.change is not Term.change or term.images is not Term.images


def _angle(a: torch.Tensor, b: torch.Tensor) -> float:
    """One minus the cosine between two vectors; NaN where one is not finite."""
    return 1 - torch.nn.functional.cosine_similarity(a, b, dim=0).item()
