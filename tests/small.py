"""Small networks with terms attached, and batches for them."""

import torch

from imcl_core import Collaboration, MethodSettings
from imcl_core.collaboration import METHODS
from imcl_core.methods import NEIGHBOURS, TERMS
from imcl_core.networks import build

CLASSES, BATCH = 5, 6
NAMES = tuple(term.name for term in NEIGHBOURS)
RIVALS = {term.name for term in TERMS.values() if term.replaces}  # one of them at a time
EVERY = "+".join(name for name in (*METHODS, *NAMES) if name not in RIVALS - {"out"})


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make_batch():
    return random(BATCH, 3, 32, 32, seed=1), torch.arange(BATCH) % CLASSES


def make(methods, model="resnet18", dropout=0.5, teacher=None, **settings):
    torch.manual_seed(0)
    network = build(model, CLASSES, width=1 / 16, hidden=16, dropout=dropout).double()
    if "kd" in methods and teacher is None:
        teacher = build(model, CLASSES, width=1 / 16, hidden=16).double()
    return Collaboration(network, methods, settings=MethodSettings(**settings), teacher=teacher).double()


def gradients(module):
    return {name: p.grad for name, p in module.named_parameters() if p.grad is not None}


def loss_of(collaboration, seed=3):
    torch.manual_seed(seed)
    return collaboration(*make_batch()).item()


def head_of(collaboration, method, layer):
    return collaboration.heads[f"{method}/{layer}".replace(".", "/")]
