"""Distillation against numpy, its teacher, and its share."""

import copy

import numpy as np
import pytest
import torch
from small import BATCH, CLASSES, loss_of, make, make_batch, random

from imcl_core import RunConfig, train
from imcl_core.methods.kd import distillation_loss
from imcl_core.networks import build
from imcl_core.training.run import Run


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_distillation_is_the_divergence_from_the_teacher(temperature):
    teacher, logits = random(BATCH, CLASSES), random(2, BATCH, CLASSES, seed=1)
    total = 0.0
    for z in logits.numpy():
        for t, s in zip(teacher.numpy(), z, strict=True):
            p, q = (np.exp(v / temperature) / np.exp(v / temperature).sum() for v in (t, s))
            total += (p * np.log(p / q)).sum()
    found = distillation_loss(teacher, logits, temperature).item()
    assert found == pytest.approx(temperature**2 * total / (2 * BATCH), rel=1e-12)
    assert distillation_loss(teacher, teacher[None], temperature).item() == pytest.approx(0, abs=1e-12)


def test_a_teacher_is_a_frozen_copy():
    teacher = build("resnet18", CLASSES, width=1 / 16, hidden=16).double()
    collaboration = make("kd", teacher=teacher).train()
    before = copy.deepcopy(collaboration.teacher.state_dict())
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.zero_()
    optimizer = torch.optim.SGD(collaboration.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    collaboration(*make_batch()).backward()
    optimizer.step()
    assert collaboration.training and not any(m.training for m in collaboration.teacher.modules())
    assert all(p.grad is None for p in (*collaboration.teacher.parameters(), *teacher.parameters()))
    assert all(torch.equal(value, before[name]) for name, value in collaboration.teacher.state_dict().items())
    assert not any("teacher" in name for name in collaboration.network.state_dict())


@pytest.mark.parametrize("hard", ["hard", "out"])
def test_the_teacher_shares_the_weight_with_the_labels(hard):
    methods = "kd" if hard == "hard" else "out+kd"
    silent, alone = make(methods, kd_alpha=0.0), make(methods, kd_alpha=1.0)
    plain = make("baseline" if hard == "hard" else "out")
    assert loss_of(silent) == pytest.approx(loss_of(plain))
    loss_of(alone)
    assert alone.terms[hard].item() == 0 < alone.terms["kd"].item()


def tiny(**settings):
    return RunConfig(**{"width": 1 / 16, "epochs": 2, "train_size": 64, "hidden": 16, "validation": True} | settings)


def test_the_teacher_is_the_baseline_of_another_seed_trained_once(tmp_path, monkeypatch):
    config = tiny(methods="mid+kd", kd_seed=3, kd_alpha=0.9, seed=1, noise=0.1)
    assert config.teacher == tiny(seed=4, noise=0.1)
    finish, trained = Run.finish, []
    monkeypatch.setattr(Run, "finish", lambda run, *rest: (trained.append(run.config.methods), finish(run, *rest)))
    record, collaboration = train(config, out=tmp_path, progress=False, return_collaboration=True)
    assert trained == ["baseline", "mid+kd"]
    teacher = torch.load(tmp_path / f"{config.teacher.name}.network.pt", weights_only=True)
    assert all(torch.equal(value, teacher[name]) for name, value in collaboration.teacher.state_dict().items())
    (tmp_path / f"{config.name}.json").unlink()
    assert train(config, out=tmp_path, progress=False).curve == record.curve
    assert trained == ["baseline", "mid+kd", "mid+kd"]
