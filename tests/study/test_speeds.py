"""What a budget is reckoned with."""

import dataclasses

import pytest
import torch
from runs import run, tiny

from imcl_core.study.speeds import Speeds

CPU = torch.device("cpu")


def test_what_a_run_takes_beside_its_images_counts_too():
    record = run(tiny(epochs=2))
    took = {"seconds": 20.0, "evaluation_seconds": 4.0, "images_per_s": 48.0, "rest_seconds": 3.0}
    record = dataclasses.replace(record, run=record.run | took)
    speeds = Speeds(CPU, [record])
    # 2 x 96 images in 4 seconds, 4 for evaluations, 12 to warm up in the first epoch, 3 for checkpoints
    assert speeds.seconds(record.config) == pytest.approx(23.0)
    shared = dataclasses.replace(record, run=record.run | {"at_once": 2})  # its GPU had another run too
    assert Speeds(CPU, [shared]).seconds(record.config) is None
    # of a longer run only images and evaluations take longer
    assert speeds.seconds(tiny(epochs=4)) == pytest.approx(8 + 8 + 15)


def test_a_trial_counts_what_it_takes_to_start_and_to_save(monkeypatch):
    speeds = Speeds(CPU, [])
    speeds.measure(tiny())
    ((images_per_s, evaluation, rest, threads),) = speeds.measured[tiny().like]
    assert rest > evaluation > 0 and threads == torch.get_num_threads()
    assert speeds.seconds(tiny()) > 3 * 96 / images_per_s + rest


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
