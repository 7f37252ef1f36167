"""What a run does is what its configuration says: each setting held against its effect, by hand."""

import functools
import itertools

import pytest
import torch
import torch.nn.functional as F
from made_data import data_set
from runs import CPU, load_digits, run, tiny
from tqdm import tqdm

from imcl_core import RunConfig
from imcl_core.data.batches import TrainBatches, evaluation_batches
from imcl_core.data.sets import load
from imcl_core.training import run as training
from imcl_core.training.step import Step


def test_the_rate_falls_at_the_milestones():
    rates = []
    run(tiny(milestones=(1, 2)), after_epoch=lambda at: rates.append(at.step.optimizer.param_groups[0]["lr"]))
    assert rates == pytest.approx([0.03, 0.006, 0.0012])


def test_an_evaluation_is_the_one_by_hand_whatever_its_batches(monkeypatch):
    monkeypatch.setattr(training, "evaluation_batches", functools.partial(evaluation_batches, batch_size=100))
    at = training.Run(tiny(), load_digits(), CPU)
    found = at.evaluate()
    x, y = (torch.cat(p) for p in zip(*evaluation_batches(at.data), strict=True))
    with torch.no_grad():
        z = at.collaboration.network.eval()(x)
    rank = (z > z.gather(1, y[:, None])).sum(dim=1)
    assert found["test_loss"] == pytest.approx(F.cross_entropy(z, y).item(), rel=1e-4)
    assert found["test_error"] == pytest.approx(100 * (rank > 0).double().mean().item())
    assert found["test_error_top5"] == pytest.approx(100 * (rank > 4).double().mean().item())


def test_a_run_draws_its_batches_by_its_configuration():
    config = RunConfig(dataset="cifar10", width=1 / 16, hidden=16, noise=0.25, seed=3)
    data = data_set()
    found = training.Run(config, data, CPU).batches
    expected = TrainBatches(data, config.batch_size, padding=4, flip=True, noise=0.25, seed=3)
    assert torch.equal(found._plan, expected._plan) and torch.equal(found.labels, expected.labels)
    assert not RunConfig().flip


def test_a_seed_decides_weights_heads_and_copies():
    one, other = (training.assemble(tiny(methods="mid", seed=s), 10, (3, 32, 32)) for s in (0, 1))
    for part in ("network", "heads"):
        pairs = zip(getattr(one, part).parameters(), getattr(other, part).parameters(), strict=True)
        assert not all(torch.equal(a, b) for a, b in pairs if a.ndim > 1)
    t1, t2 = (training.assemble(tiny(methods="tree", seed=s), 10, (3, 32, 32)) for s in (0, 1))
    assert not all(
        torch.equal(a, b) for a, b in zip(t1.copies.parameters(), t2.copies.parameters(), strict=True) if a.ndim > 1
    )


def test_a_run_is_judged_by_the_images_it_asks_for():
    seen = []
    run(
        tiny(epochs=1, validation=True, held_out=500, side=16),
        after_epoch=lambda at: seen.append(at.data.test.images.shape),
    )
    assert seen == [(500, 3, 16, 16)]


def test_each_epoch_draws_masks_of_its_own():
    seen = []
    run(tiny(), after_epoch=lambda at: seen.append(torch.initial_seed()))
    assert len(set(seen)) == 3


def test_the_optimizer_and_the_classifier_are_as_configured():
    config = tiny(nesterov=True, momentum=0.8, weight_decay=0.01, pool=2)
    changed, plain = (training.Run(each, load_digits(), CPU) for each in (config, tiny()))
    (group,) = changed.step.optimizer.param_groups
    assert (group["nesterov"], group["momentum"], group["weight_decay"]) == (True, 0.8, 0.01)
    features, usual = (run.collaboration.network.classifier[0].in_features for run in (changed, plain))
    assert features == 4 * usual


def test_masks_differ_by_seed_epoch_and_process():
    seen = set()
    with torch.random.fork_rng(devices=[]):
        for seed, rank in itertools.product(range(2), range(2)):
            at = training.Run(tiny(seed=seed, train_size=32), load("digits", train_size=32), CPU)
            at.rank = rank
            for epoch in range(2):
                at.train_epoch(epoch, tqdm(disable=True))
                seen.add(torch.initial_seed())
    assert len(seen) == 8


def test_an_epoch_tells_the_means_over_its_steps_and_its_own_rate(monkeypatch):
    call, rows = Step.__call__, []
    monkeypatch.setattr(Step, "__call__", lambda step, start: rows.append(call(step, start)) or rows[-1])
    curve = run(tiny(methods="mid", epochs=2, milestones=(1,))).curve
    assert len(rows) == 6 and [epoch["lr"] for epoch in curve] == pytest.approx([0.03, 0.006])
    for epoch, steps in zip(curve, (rows[:3], rows[3:]), strict=True):
        *terms, error = torch.stack(steps).double().mean(dim=0).tolist()
        assert [*epoch["terms"].values()] == pytest.approx(terms)
        assert epoch["train_error"] == pytest.approx(100 * error)


def test_a_step_tells_the_error_on_its_own_batch():
    def decided(module, given, loss):  # right about the first eight of its images alone
        module.logits = F.one_hot(torch.where(torch.arange(32) < 8, given[1], (given[1] + 1) % 10), 10).float()

    at = training.Run(tiny(noise=0.2), load_digits(), CPU)
    at.collaboration.register_forward_hook(decided)
    *_, error = at.step(32).tolist()
    assert error == 0.75
