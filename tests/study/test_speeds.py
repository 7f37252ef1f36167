"""What a budget is reckoned with."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from runs import run, tiny

from imcl_core import ImclError
from imcl_core.study import speeds
from imcl_core.study.batch import run_batch
from imcl_core.study.speeds import Measured, Speeds

CPU = torch.device("cpu")


def test_what_a_run_takes_beside_its_images_counts_too():
    record = run(tiny(epochs=2))
    took = {"seconds": 20.0, "evaluation_seconds": 4.0, "images_per_s": 48.0, "rest_seconds": 3.0}
    record = dataclasses.replace(record, run=record.run | took)
    known = Speeds(CPU, [record])
    # 2 x 96 images in 4 seconds, 4 for evaluations, 12 to warm up in the first epoch, 3 for checkpoints
    assert known.seconds(record.config) == pytest.approx(23.0)
    shared = dataclasses.replace(record, run=record.run | {"at_once": 2})  # its GPU had another run too
    assert Speeds(CPU, [shared]).seconds(record.config) is None
    parted = dataclasses.replace(record, run=record.run | {"processes": 2})
    assert Speeds(CPU, [parted]).seconds(record.config) is None
    # of a longer run only images and evaluations take longer
    assert known.seconds(tiny(epochs=4)) == pytest.approx(8 + 8 + 15)


def test_a_trial_counts_what_it_takes_to_start_and_to_save(monkeypatch):
    known = Speeds(CPU, [])
    known.measure(tiny())
    ((images_per_s, evaluation, rest, threads, _),) = known.measured[tiny().like]
    assert rest > evaluation > 0 and threads == torch.get_num_threads()
    assert known.seconds(tiny()) > 3 * 96 / images_per_s + rest


def test_runs_of_other_heads_or_precision_tell_nothing():
    mid = tiny(methods="mid")
    others = [tiny(methods="mid", **c) for c in ({"mid_width": 4}, {"mid_pool": 2}, {"precision": "bfloat16"})]
    assert all(other.like != mid.like for other in others)
    alike = {"mid_alpha": 0.1, "mid_beta": 0.3, "lr": 0.3, "seed": 2, "epochs": 9, "augment": False}
    assert tiny(methods="mid", **alike).like == mid.like


def test_a_processor_is_judged_by_runs_of_as_many_threads():
    record = run(tiny(epochs=1))
    many, few = (
        dataclasses.replace(record, run=record.run | {"threads": threads, "images_per_s": rate, "seconds": 60.0})
        for threads, rate in ((torch.get_num_threads(), 96.0), (64, 9.6))
    )
    assert Speeds(CPU, [few, many]).seconds(tiny(epochs=10)) == Speeds(CPU, [many]).seconds(tiny(epochs=10))
    assert Speeds(CPU, [few]).seconds(tiny(epochs=10)) is not None  # better than nothing


def test_runs_that_share_a_gpu_are_planned_by_runs_that_did(monkeypatch):
    record = run(tiny(epochs=2))
    took = {"seconds": 12.0, "evaluation_seconds": 4.0, "images_per_s": 24.0, "rest_seconds": 3.0}
    lone, shared = (
        dataclasses.replace(record, run=record.run | took | {"at_once": runs, "images_per_s": rate})
        for runs, rate in ((1, 24.0), (2, 16.0))
    )
    alone_takes = Speeds(CPU, [lone, shared]).seconds(record.config)
    assert alone_takes == pytest.approx(8 + 4 + 3)
    monkeypatch.setattr(speeds, "at_once", lambda device: 2)
    assert Speeds(CPU, [lone, shared]).seconds(record.config) == Speeds(CPU, [shared]).seconds(record.config)
    assert Speeds(CPU, [lone]).seconds(record.config) == pytest.approx(2 * (8 + 4) + 3)  # at most
    monkeypatch.setattr(speeds, "at_once", lambda device: 3)
    assert Speeds(CPU, [shared]).seconds(record.config) is None  # so a trial tells, in the midst of the others


def test_an_evaluation_of_more_images_takes_longer():
    record = run(tiny(epochs=2))
    took = {"seconds": 12.0, "evaluation_seconds": 4.0, "images_per_s": 24.0, "rest_seconds": 3.0}
    known = Speeds(CPU, [dataclasses.replace(record, run=record.run | took)])
    fewer, more = (tiny(epochs=2, validation=True, held_out=images) for images in (100, 400))
    assert fewer.like == more.like == record.config.like
    longer = 2 * 300 * 2.0 / record.config.evaluated_images  # two evaluations of 300 further images
    assert known.seconds(more) - known.seconds(fewer) == pytest.approx(longer)


def test_a_trial_names_the_remedy_as_training_does(monkeypatch, tmp_path):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(speeds.Run, "trial", full)
    with pytest.raises(ImclError, match="lower batch_size"):
        Speeds(CPU, []).measure(tiny())
    x = np.arange(100 * 32 * 32 * 3).astype(np.uint8).reshape(100, 32, 32, 3)
    y = np.arange(100) % 10
    np.savez(tmp_path / "cifar10.npz", x_train=x, y_train=y, x_test=x, y_test=y, classes=np.array(list("abcdefghij")))
    with pytest.raises(ImclError, match="put the right file there"):
        Speeds(CPU, [], tmp_path).measure(tiny(dataset="cifar10"))


def test_once_a_run_did_not_fit_trials_take_a_tenth_of_what_is_left(monkeypatch, tmp_path):
    """The end of a budget is for training: trials of kinds that do not fit either would take it all."""
    tried, clock = [], [0.0]

    def measure(self, config):
        tried.append(config.methods)
        clock[0] += 4.0
        self.measured[config.like] = [Measured(1e6 if config.methods == "mid" else 1e-3, 0.0, 0.0)]

    monkeypatch.setattr(Speeds, "measure", measure)
    monkeypatch.setattr(speeds, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    configs = [tiny(epochs=1, methods=methods) for methods in ("baseline", "out", "mid", "kernel", "pull-push")]
    outcome = run_batch(configs, tmp_path, budget=60, progress=False)
    assert outcome.done == [configs[2].name]  # a short run behind long ones
    assert tried == ["baseline", "out", "mid"]
