"""Deep supervision: how far its gradients reach, and how its weight falls."""

import pytest
import torch
from small import gradients, loss_of, make, make_batch


def test_auxiliary_classifiers_reach_all_layers_below():
    collaboration = make("deep-supervision", "vgg16")
    layers = list(collaboration.network.layers)
    for group in (1, 2, 3, 4):
        end = collaboration.network.groups[group - 1][-1]
        collaboration.zero_grad(set_to_none=True)
        collaboration.objective(*make_batch())[f"deep-supervision/{end}"].backward()
        reached = {n for n in layers if any(k.startswith(f"network.{n}.conv") for k in gradients(collaboration))}
        assert reached == set(layers[: layers.index(end) + 1])
    assert len([n for n in collaboration.objective(*make_batch()) if n.startswith("deep")]) == 4


@pytest.mark.parametrize("kind", [float, torch.tensor])
@pytest.mark.parametrize(("decay", "factor"), [(True, 0.25), (False, 1.0)])
def test_the_weight_of_auxiliary_classifiers_falls(decay, factor, kind):
    values = []
    for progress in (0.0, 0.75):
        collaboration = make("deep-supervision", deep_decay=decay)
        collaboration.progress = kind(progress)
        loss_of(collaboration)
        values.append([v.item() for n, v in collaboration.terms.items() if n.startswith("deep")])
    assert len(values[0]) == 3
    assert values[1] == pytest.approx([factor * v for v in values[0]])
