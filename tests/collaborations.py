"""Small collaborations, and their gradients by running each layer a second time."""

import copy

import torch
import torch.nn.functional as F

from imcl_core import Collaboration, MethodSettings, losses
from imcl_core.networks import build
from imcl_core.networks.classifier import hierarchical_dropout

CLASSES, BATCH = 5, 6


def make(model="resnet18", methods="baseline", **settings):
    torch.manual_seed(0)
    network = build(model, CLASSES, width=1 / 16, hidden=16).double()
    return Collaboration(network, methods, settings=MethodSettings(**settings)).double()


def make_batch(seed=1):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(BATCH, 3, 32, 32, generator=generator, dtype=torch.float64)
    return images, torch.arange(BATCH) % CLASSES


def gradients(module):
    return {name: p.grad for name, p in module.named_parameters() if p.grad is not None}


def recomputed_gradients(collaboration, images, labels):
    """The objective with every local loss on a second, detached run of its layer: slow, and plainly right."""
    c = copy.deepcopy(collaboration)
    inputs, s = {}, c.settings
    hooks = [
        c.network.get_submodule(name).register_forward_hook(lambda m, x, out, name=name: inputs.update({name: x}))
        for name in c.layers
    ]
    if "out" in c.methods:
        features = c.network.pool(c.network.trunk(images))
        predictions = hierarchical_dropout(c.network.classifier, features, s.out_branches)
        final = predictions.mean(dim=0)
        total = losses.output_loss(predictions, labels)
    else:
        final = c.network(images)
        total = losses.hard_loss(final, labels)
    for hook in hooks:
        hook.remove()
    outputs = {name: c.network.get_submodule(name)(*[x.detach() for x in inputs[name]]) for name in c.layers}
    if "mid" in c.methods:
        local = [c.heads[f"mid/{n}".replace(".", "/")](h) for n, h in outputs.items()]
        total = total + losses.intermediate_losses(local, final.detach(), labels).sum()
    if "pull-push" in c.methods:
        target = losses.similarity_matrix(F.one_hot(labels, CLASSES).double())
        source = losses.similarity_matrix(images)
        for i, (name, h) in enumerate(outputs.items()):
            depth = i / (len(outputs) - 1)
            pull, push = ((1 - depth) * a + depth * b for a, b in (s.pp_pull, s.pp_push))
            projected = c.heads[f"pull-push/{name}".replace(".", "/")](h)
            total = total + losses.pull_push_loss(projected, target, source, pull, push)
    for name in c.kernels:
        total = total + s.kernel_weight * losses.kernel_loss(c.network.get_submodule(name).weight)
    total.backward()
    return total.detach(), gradients(c)
