"""The memory of a training step: what is counted against what an allocator holds."""

import pytest
import torch

from imcl_core import ImclError, RunConfig
from imcl_core.cli import main
from imcl_core.measure import memory
from imcl_core.networks import build
from imcl_core.training.run import assemble

SMALL = {"dataset": "cifar10", "width": 0.25, "batch_size": 64}


def allocated(config: RunConfig) -> int:
    """The peak of PyTorch's CPU allocator over two real steps, gradients made and freed among them."""
    collaboration = assemble(config, 10, (3, 32, 32))
    images, labels = torch.randn(config.batch_size, 3, 32, 32), torch.randint(10, (config.batch_size,))
    step = memory._Step(collaboration, config, half=False)
    step(images, labels)
    step.optimizer.zero_grad(set_to_none=True)
    kinds = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=kinds, profile_memory=True, acc_events=True) as profile:
        step(images, labels)
        step(images, labels)
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = peak = 2 * sum(p.nbytes for p in collaboration.parameters())  # weights and momentum
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


@pytest.mark.parametrize("model", ["resnet18", "vgg16"])
@pytest.mark.parametrize("methods", ["baseline", "out", "mid", "pull-push", "kernel", "tree"])
def test_counted_and_allocated_agree(model, methods):
    config = RunConfig(model=model, methods=methods, **SMALL)
    assert memory.count(config, side=32).total == pytest.approx(allocated(config), rel=0.1)


def test_parts_of_a_step():
    config = RunConfig(**SMALL)
    found = memory.count(config)
    parameters = sum(p.nbytes for p in assemble(config, 10, (3, 32, 32)).parameters())
    assert found.weights == found.gradients == found.optimizer == parameters
    assert found.total == 3 * parameters + found.activations + found.temporary


def test_activations_are_what_autograd_keeps():
    """By hand for VGG-16, in numbers an image."""
    config = RunConfig(model="vgg16", **SMALL)
    groups = [(16, 32, 2), (32, 16, 2), (64, 8, 3), (128, 4, 3), (128, 2, 3)]  # filters, side, convolutions
    units = sum(count * 2 * filters * side**2 for filters, side, count in groups)  # before BN, and after ReLU
    pools = sum(3 * filters * (side // 2) ** 2 for filters, side, _ in groups)  # maxima, and their places in int64
    classifier = 128 + 2 * 3 * 512 + 10  # its input; each ReLU's output, mask and what is left; log-probabilities
    expected = 3 * 32**2 + units + pools + classifier
    assert memory.count(config).activations / (4 * config.batch_size) == pytest.approx(expected, rel=0.001)


@pytest.mark.parametrize("methods", ["mid", "pull-push"])
def test_local_gradients_do_not_wait_for_one_another(methods):
    """Heads run right behind their layers, so that backward needs the gradients of one layer's maps at a time.

    Those are two, the network's and the local one. Of all layers they would be four times the largest layer's maps.
    """
    config = RunConfig(methods=methods, **SMALL)
    network = build(config.model, 10, config.width)
    maps = {name: 0 for name in network.layers}
    for name, layer in network.layers.items():
        layer.register_forward_hook(lambda _m, _i, output, name=name: maps.update({name: 4 * output.numel()}))
    network(torch.zeros(config.batch_size, 3, 32, 32))
    assert sum(maps.values()) > 4 * max(maps.values())
    assert memory.count(config).temporary < 2.5 * max(maps.values())


def test_activations_grow_with_the_batch_and_weights_do_not():
    one, two = (memory.count(RunConfig(**SMALL | {"batch_size": b})) for b in (64, 128))
    assert two.weights == one.weights
    assert two.activations / one.activations == pytest.approx(2, rel=0.01)


def test_half_precision_halves_the_maps():
    config = RunConfig(**SMALL)
    assert memory.count(config, half=True).activations / memory.count(config).activations == pytest.approx(
        0.5, abs=0.06
    )


def test_the_papers_case():
    """Its claim: hierarchical dropout costs no memory; a tree and whole copies do."""
    counted = {
        m: memory.count(RunConfig(methods=m, **memory.PAPER), side=memory.PAPER_SIDE) for m in ("baseline", "out")
    }
    assert counted["out"].total / counted["baseline"].total <= 1.01
    heads = memory.count(RunConfig(methods="multi-instance", **memory.PAPER), side=memory.PAPER_SIDE)
    assert heads.total / counted["baseline"].total == pytest.approx(4, rel=0.01)


def test_a_tree_holds_what_its_split_points_say():
    """The later it splits, the less it holds: between one network and four."""
    splits = [(), ("trunk.stage2.block1", "trunk.stage3.block1"), ("trunk.stage4.block1", "classifier")]
    configs = [RunConfig(methods="tree", pop_splits=s, **SMALL) for s in splits]
    late, early = memory.count(configs[2]).total, memory.count(configs[1]).total
    plain = memory.count(RunConfig(**SMALL)).total
    assert plain < late < memory.count(configs[0]).total < early < 4 * plain


def test_command_prints_a_row_a_method(capsys):
    arguments = ["--model", "resnet18", "--batch-size", "8", "--side", "32", "--methods", "baseline", "tree"]
    assert main(["memory", *arguments]) == 0
    header, baseline, tree, splits = capsys.readouterr().out.splitlines()
    assert splits.strip() == "splits in front of trunk.stage2.block1, trunk.stage3.block2"
    assert header.split()[0] == "GB" and header.split()[-1] == "ratio"
    assert baseline.split()[-1] == "1.000" and float(tree.split()[-1]) > 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--side", "8"], "side must be 32 or more"),
        (["--methods", "tee"], "Did you mean 'tree'"),
        (["--methods", "tree", "--splits", "trunk.stage9", "pool"], "cannot split"),
        (["--batch-size", "1"], "batch_size"),
    ],
)
def test_mistakes_are_one_sentence(capsys, arguments, says):
    assert main(["memory", *arguments]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_measuring_needs_a_gpu(capsys):
    with pytest.raises(ImclError, match="count it instead"):
        memory.measure(RunConfig(**SMALL))
    assert main(["memory", "--measure"]) == 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("methods", ["baseline", "out", "mid", "pull-push", "kernel", "tree"])
def test_counted_and_measured_agree_on_a_gpu(methods):
    config = RunConfig(methods=methods, **SMALL)
    assert memory.count(config).total == pytest.approx(memory.measure(config), rel=0.1)


def test_a_teacher_counts_as_weights_without_gradients():
    case = {"dataset": "cifar100", "width": 0.125, "batch_size": 8}
    plain, taught = (memory.count(RunConfig(methods=methods, **case)) for methods in ("baseline", "kd"))
    assert taught.weights == 2 * plain.weights
    assert taught.gradients == plain.gradients and taught.optimizer == plain.optimizer


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize(("methods", "most"), [("out", 1.01), ("kernel", 1.05), ("mid", 1.3), ("pull-push", 1.8)])
def test_what_a_method_adds_stays_below_a_bound(methods, most, half):
    paper = {"dataset": "cifar100", "profile": "paper"}
    plain, found = (memory.count(RunConfig(methods=m, **paper), half=half).total for m in ("baseline", methods))
    assert found < most * plain


def test_counting_leaves_the_random_numbers_of_its_caller_alone():
    drawn = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        memory.count(RunConfig(width=1 / 16, hidden=16, batch_size=4))
        memory.splits(RunConfig(width=1 / 16, hidden=16, methods="tree"))
        drawn.append(torch.rand(1).item())
    assert drawn[0] != drawn[1]
