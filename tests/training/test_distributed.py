"""One run over two processes: the same weights as averaging the two halves' gradients by hand."""

import json
import os
import socket
import subprocess
import sys

import pytest
import torch

from imcl_core import ImclError, RunConfig
from imcl_core.data.batches import TrainBatches
from imcl_core.data.sets import load
from imcl_core.training.run import _stream, build_collaboration

# Dropout is off, since each process draws masks of its own.
SETTINGS = {
    "methods": "mid+pull-push+kernel", "width": 1 / 16, "epochs": 2, "train_size": 96, "hidden": 16, "dropout": 0.0,
}  # fmt: skip
PROGRAM = """
import json, sys, torch
from imcl_core import RunConfig, train
torch.set_num_threads(1)
record = train(RunConfig(**json.loads(sys.argv[1])), out=sys.argv[2], progress=False)
"""


def two_processes(out):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "WORLD_SIZE": "2",
        "OMP_NUM_THREADS": "1",
    }
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    command = [sys.executable, "-c", PROGRAM, json.dumps(SETTINGS), str(out)]
    running = [
        subprocess.Popen(command, env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(2)
    ]
    assert [process.wait(timeout=120) for process in running] == [0, 0]


def by_hand(config):
    data = load("digits", train_size=config.train_size)
    halves = []
    for part in range(2):
        with torch.random.fork_rng(devices=[]):
            collaboration = build_collaboration(config, data).to(memory_format=torch.channels_last).train()
        optimizer = torch.optim.SGD(
            collaboration.parameters(), lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay
        )
        batches = TrainBatches(data, config.batch_size, padding=2, flip=False, seed=config.seed, share=(part, 2))
        halves.append((collaboration, optimizer, batches))
    for epoch in range(config.epochs):
        for _, optimizer, batches in halves:
            batches.draw(epoch)
            optimizer.param_groups[0]["lr"] = config.lr_at(epoch)
        for start in range(0, len(halves[0][2]) * config.batch_size, config.batch_size):
            for collaboration, optimizer, batches in halves:
                optimizer.zero_grad()
                collaboration(*batches.batch(start)).backward()
            for pair in zip(*(c.parameters() for c, _, _ in halves), strict=True):
                mean = (pair[0].grad + pair[1].grad) / 2
                for parameter in pair:
                    parameter.grad = mean.clone()
            for _, optimizer, _ in halves:
                optimizer.step()
    return halves[0][0].network


def test_two_processes_train_as_one(tmp_path):
    config = RunConfig(**SETTINGS)
    two_processes(tmp_path)
    [record] = tmp_path.glob("*.json")  # one process writes
    assert json.loads(record.read_text())["run"]["processes"] == 2
    found = torch.load(tmp_path / f"{config.name}.network.pt", weights_only=True)
    expected = by_hand(config).state_dict()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(ImclError, match="multiple"):
        TrainBatches(load("digits"), 31, share=(0, 2))


def test_the_parts_of_a_batch_make_the_whole():
    data = load("digits")
    whole = TrainBatches(data, 32, seed=1).batch(64)
    parts = [TrainBatches(data, 32, seed=1, share=(part, 2)).batch(64) for part in range(2)]
    for whole_tensor, *part_tensors in zip(whole, *parts, strict=True):
        assert torch.equal(whole_tensor, torch.cat(part_tensors))


def test_streams_of_epochs_and_seeds_differ():
    streams = {_stream(seed, epoch) for seed in range(5) for epoch in range(-1, 20)}
    assert len(streams) == 5 * 21
