"""Collaboration in the training loops people use: the same gradients, or the same weights, as in the plainest one."""

import copy
import importlib.util
import io
import os
import socket
import subprocess
import sys

import pytest
import torch
from torch import nn

from imcl_core import Collaboration, ImclError, MethodSettings
from imcl_core.networks.classifier import make_classifier

EVERY = "out+mid+pull-push+kernel"
CLASSES, BATCH = 5, 8
needs = {
    name: pytest.mark.skipif(
        importlib.util.find_spec(name) is None, reason=f"{name} is not installed: pip install {name}"
    )
    for name in ("lightning", "accelerate")
}


class Network(nn.Module):
    """Layers spread over the module, one activation for all, and a block that runs in one piece."""

    def __init__(self, dropout=0.0, norm=nn.BatchNorm2d):
        super().__init__()
        self.conv1, self.norm1, self.relu = nn.Conv2d(3, 8, 3, padding=1), norm(8), nn.ReLU(inplace=True)
        self.conv2, self.norm2 = nn.Conv2d(8, 8, 3, padding=1), norm(8)
        self.block = nn.Sequential(nn.Conv2d(8, 8, 3, stride=2), norm(8), nn.ReLU())
        self.fc = make_classifier(8, 8, CLASSES, dropout)

    def forward(self, x):
        x = self.relu(self.norm1(self.conv1(x)))
        x = self.relu(self.norm2(self.conv2(x)) + x)
        return self.fc(self.block(x).mean(dim=(2, 3)))


def make(methods=EVERY, **network):
    torch.manual_seed(0)
    return Collaboration(Network(**network), methods, settings=MethodSettings(mid_width=4), image_shape=(3, 12, 12))


def make_batch(seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(BATCH, 3, 12, 12, generator=generator), torch.arange(BATCH) % CLASSES


def sgd(module):
    return torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)


def plain_loop(collaboration, batches, optimizer=None):
    optimizer = optimizer or sgd(collaboration)
    for images, labels in batches:
        optimizer.zero_grad()
        collaboration(images, labels).backward()
        optimizer.step()
    return collaboration


def assert_same_weights(found, expected, **tolerance):
    found, expected = found.state_dict(), expected.state_dict()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, **tolerance, msg=lambda m, n=name: f"{n}: {m}")


BATCHES = [make_batch(seed) for seed in (1, 2, 3)]
EXACT = {"rtol": 0, "atol": 0}


def test_a_plain_loop_learns():
    collaboration = make()
    before = collaboration(*BATCHES[0]).item()
    assert plain_loop(collaboration, BATCHES[:1] * 20)(*BATCHES[0]).item() < before


def test_gradients_accumulate_over_the_parts_of_a_batch():
    whole, parts = (make("mid+kernel", norm=nn.Identity) for _ in range(2))
    images, labels = make_batch()
    whole(images, labels).backward()
    for part in range(4):
        (parts(images[part::4], labels[part::4]) / 4).backward()
    for ours, theirs in zip(parts.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_autocast_and_a_scaled_loss():
    scaled, plain = make(), make()
    optimizer, scaler = sgd(scaled), torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for images, labels in BATCHES:
        optimizer.zero_grad()
        scaler.scale(scaled(images, labels)).backward()
        scaler.step(optimizer)
        scaler.update()
    assert_same_weights(scaled, plain_loop(plain, BATCHES), rtol=1e-4, atol=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = plain(*BATCHES[0])
    plain.zero_grad()
    loss.backward()
    assert loss.dtype == torch.float32
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in plain.parameters())


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # the compiler looks at tensors between its graphs
@pytest.mark.parametrize("methods", ["baseline", "kernel", "out+mid"])
def test_compiled(methods):
    torch.compiler.reset()
    compiled = make(methods)
    step = torch.compile(compiled, backend="aot_eager")
    expected = plain_loop(make(methods), BATCHES)
    optimizer = sgd(compiled)
    for images, labels in BATCHES:
        optimizer.zero_grad()
        step(images, labels).backward()
        optimizer.step()
    assert_same_weights(compiled, expected)


def test_compiled_parts_of_the_network_run_as_they_are():
    torch.compiler.reset()
    compiled = make()
    compiled.network.block.compile(backend="aot_eager")
    compiled.network.conv1.compile(backend="aot_eager")
    plain_loop(compiled, BATCHES)
    assert_same_weights(compiled, plain_loop(make(), BATCHES), **EXACT)


@pytest.mark.parametrize("wrap", [lambda n: torch.compile(n, backend="eager"), nn.DataParallel])
def test_a_wrapped_network_is_refused(wrap):
    with pytest.raises(ImclError, match="wrap the Collaboration instead"):
        Collaboration(wrap(Network()), "mid")


def test_training_resumes_from_state_dicts():
    optimizer = sgd(first := make())
    plain_loop(first, BATCHES[:1], optimizer)
    saved = io.BytesIO()
    torch.save({"collaboration": first.state_dict(), "optimizer": optimizer.state_dict()}, saved)
    saved.seek(0)
    state = torch.load(saved, weights_only=True)
    optimizer = sgd(resumed := make(norm=nn.BatchNorm2d))
    resumed.load_state_dict(state["collaboration"])
    optimizer.load_state_dict(state["optimizer"])
    plain_loop(resumed, BATCHES[1:], optimizer)
    assert_same_weights(resumed, plain_loop(make(), BATCHES), **EXACT)
    heads = make()
    heads.heads.load_state_dict(resumed.heads.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(heads.heads.parameters(), resumed.heads.parameters(), strict=True))


def test_groups_of_parameters_have_their_own_rates():
    collaboration = make()
    before = copy.deepcopy(collaboration.state_dict())
    groups = [
        {"params": collaboration.network.conv1.parameters(), "lr": 0.0},
        {"params": collaboration.network.fc.parameters(), "lr": 0.1},
        {"params": collaboration.heads.parameters(), "lr": 0.1},
    ]
    plain_loop(collaboration, BATCHES, torch.optim.SGD(groups))
    for name, parameter in collaboration.named_parameters():
        trained = name.startswith(("network.fc.", "heads."))
        assert torch.equal(parameter, before[name]) != trained, name


def test_a_loaded_checkpoint_is_fine_tuned_with_its_trunk_frozen():
    pretrained = plain_loop(make("baseline"), BATCHES).network.state_dict()
    collaboration = make()
    collaboration.network.load_state_dict(pretrained)
    for part in (collaboration.network.conv1, collaboration.network.norm1, collaboration.network.conv2):
        part.requires_grad_(False)
    plain_loop(collaboration, BATCHES)
    frozen = ("conv1.", "norm1.weight", "norm1.bias", "conv2.")
    for name, value in collaboration.network.state_dict().items():
        assert torch.equal(value, pretrained[name]) == name.startswith(frozen), name


PROGRAM = """
import json, os, sys, torch
import torch.distributed as distributed
from torch.nn.parallel import DistributedDataParallel
sys.path.insert(0, sys.argv[1])
from test_loops import BATCHES, make, plain_loop
torch.set_num_threads(1)
distributed.init_process_group("gloo")
rank = distributed.get_rank()
collaboration = make("mid+pull-push+kernel", norm=torch.nn.Identity)
parallel = DistributedDataParallel(collaboration)
plain_loop(parallel, [(images[rank::2], labels[rank::2]) for images, labels in BATCHES])
if rank == 0:
    torch.save(collaboration.state_dict(), sys.argv[2])
distributed.destroy_process_group()
"""


def two_processes(path, program=PROGRAM):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    environment = {**os.environ, **shared, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", program, os.path.dirname(__file__), str(path)]
    running = [subprocess.Popen(command, env={**environment, "RANK": str(rank)}) for rank in range(2)]
    assert [process.wait(timeout=120) for process in running] == [0, 0]


def test_two_processes_train_as_the_mean_of_their_gradients(tmp_path):
    two_processes(tmp_path / "state.pt")
    expected = make("mid+pull-push+kernel", norm=nn.Identity)
    optimizer = sgd(expected)
    for images, labels in BATCHES:
        optimizer.zero_grad()
        for rank in range(2):
            (expected(images[rank::2], labels[rank::2]) / 2).backward()
        optimizer.step()
    found = make("mid+pull-push+kernel", norm=nn.Identity)
    found.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert_same_weights(found, expected)


@needs["lightning"]
@pytest.mark.filterwarnings("ignore")  # Lightning's own
def test_lightning_with_manual_optimisation():
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.collaboration = make()
            self.automatic_optimization = False

        def training_step(self, batch, index):
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(self.collaboration(*batch))
            optimizer.step()

        def configure_optimizers(self):
            return sgd(self.collaboration)

    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    module = Module()
    trainer = lightning.Trainer(accelerator="cpu", max_epochs=1, enable_model_summary=False, **quiet)
    trainer.fit(module, torch.utils.data.DataLoader(BATCHES, batch_size=None))
    assert_same_weights(module.collaboration, plain_loop(make(), BATCHES), **EXACT)


@needs["accelerate"]
@pytest.mark.filterwarnings("ignore")  # Accelerate's own
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_accelerate(precision):
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(cpu=True, mixed_precision=precision)
    loader = torch.utils.data.DataLoader(BATCHES, batch_size=None)
    collaboration = make()
    prepared, optimizer, loader = accelerator.prepare(collaboration, sgd(collaboration), loader)
    for images, labels in loader:
        optimizer.zero_grad()
        accelerator.backward(prepared(images, labels))
        optimizer.step()
    expected = plain_loop(make(), BATCHES)
    found = accelerator.unwrap_model(prepared)
    assert_same_weights(found, expected, **(EXACT if precision == "no" else {"rtol": 0.1, "atol": 0.05}))
    assert not any("forward" in vars(module) for module in found.network.modules())
