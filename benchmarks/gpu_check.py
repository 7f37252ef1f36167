"""Is the GPU path right? Seconds; run it before anything that costs time.

    python benchmarks/gpu_check.py                       (on a GPU; with --device cpu what can be checked without one)

1. Gradients of all 16 subsets, of tree and multi-instance, and of both networks: float32 on the device against float64
   on the CPU, and half precision against float32 to the rounding of half precision.
2. The captured step against the one that runs as it reads: the same metrics for the same seeds.
3. Replays draw fresh dropout masks, repeat them for the same seed, move on in the epoch and obey the learning rate.
"""

import argparse
import itertools

import torch
from speed import random_images

from imcl_core import Collaboration, RunConfig
from imcl_core.collaboration import METHODS
from imcl_core.data.batches import TrainBatches
from imcl_core.methods.population import PATTERNS
from imcl_core.networks import build
from imcl_core.training.machine import choose_device
from imcl_core.training.run import build_collaboration
from imcl_core.training.step import Step, make_step

SUBSETS = ["+".join(s) or "baseline" for n in range(5) for s in itertools.combinations(METHODS, n)]


def gradients(model: str, methods: str, device: torch.device, dtype: torch.dtype, half: bool = False) -> torch.Tensor:
    """All gradients of one step as one vector, float64 on the CPU; dropout is off, so that devices can be compared."""
    torch.manual_seed(0)
    network = build(model, 10, width=1 / 8, dropout=0.0)
    attached = PATTERNS[methods](network) if methods in PATTERNS else Collaboration(network, methods)
    collaboration = attached.to(device, dtype)
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(32, 3, 32, 32, generator=generator, dtype=torch.float64).to(device, dtype)
    labels = torch.arange(32, device=device) % 10
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=half):
        loss = collaboration(images, labels)
    loss.backward()
    return torch.cat([p.grad.flatten() for p in collaboration.parameters()]).double().cpu()


def angle(a: torch.Tensor, b: torch.Tensor) -> float:
    """One minus the cosine between two vectors."""
    return 1 - torch.nn.functional.cosine_similarity(a, b, dim=0).item()


def check_gradients(device: torch.device, subsets: list[str]) -> None:
    rounding = 0.0
    for model, methods in itertools.product(("vgg16", "resnet18"), subsets):  # the baseline comes first
        exact = gradients(model, methods, torch.device("cpu"), torch.float64)
        single = gradients(model, methods, device, torch.float32)
        half = gradients(model, methods, device, torch.float32, half=True)
        assert angle(exact, single) < 1e-5, f"{model} {methods}: float32 is {angle(exact, single):.1e} off"
        if methods == "baseline":
            rounding = angle(single, half)  # of the network alone
        assert angle(single, half) < 1.5 * rounding + 0.05, f"{model} {methods}: half is {angle(single, half):.1e} off"
    print(f"gradients: {2 * len(subsets)} cases agree on {device}")


def prepared(methods: str, device: torch.device, graphed: bool, **settings) -> Step:
    config = RunConfig(dataset="cifar100", profile="cpu", methods=methods, **settings)
    data = random_images(2_048, device)
    with torch.random.fork_rng(devices=[device]):
        collaboration = build_collaboration(config, data).to(device, memory_format=torch.channels_last).train()
    return make_step(collaboration, TrainBatches(data, config.batch_size), config, device, graphed)


def run(step: Step, seed: int, positions: range) -> torch.Tensor:
    torch.manual_seed(seed)
    return torch.stack([step(position * step.batches.batch_size) for position in positions]).cpu()


def check_replay(device: torch.device, methods: str) -> None:
    eager = run(prepared(methods, device, graphed=False), 0, range(10))
    replayed = run(prepared(methods, device, graphed=True), 0, range(10))
    torch.testing.assert_close(eager, replayed, rtol=0.05, atol=0.02)
    print(f"replay: {methods} has the eager step's metrics, largest difference {(eager - replayed).abs().max():.1e}")


def check_fresh_numbers(device: torch.device) -> None:
    step = prepared("out", device, graphed=True, lr=1e-9, weight_decay=0.0)
    run(step, 0, range(5))
    step.set_lr(0.0)
    before = [p.clone() for p in step.collaboration.parameters()]
    same_batch = [run(step, seed, range(1))[0] for seed in (1, 1, 2)]
    assert torch.equal(same_batch[0], same_batch[1]), "the same seed gives other masks"
    assert not torch.equal(same_batch[0], same_batch[2]), "another seed gives the same masks"
    two = run(step, 1, range(2))
    assert not torch.equal(two[0], two[1]), "a replay repeats the batch or the masks"
    assert all(torch.equal(a, b) for a, b in zip(before, step.collaboration.parameters(), strict=True)), (
        "lr is not obeyed"
    )
    print("replay: fresh masks, the next batch, the learning rate of the tensor")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", help="cpu or cuda (default: a GPU where there is one)")
    device = choose_device(parser.parse_args().device)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    check_gradients(device, [*SUBSETS, *PATTERNS])
    if device.type == "cuda":
        for methods in ("baseline", "out", "mid+pull-push+kernel", "out+mid+pull-push+kernel", *PATTERNS):
            check_replay(device, methods)
        check_fresh_numbers(device)


if __name__ == "__main__":
    main()
