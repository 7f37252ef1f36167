"""Models of Hugging Face, and their Trainer as chapter 10 shows it; where transformers is installed."""

import re
from pathlib import Path

import nbformat
import pytest
import torch
from test_loops import assert_same_weights, make, make_batch, plain_loop, sgd

from imcl_core import Collaboration

transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install transformers")
CHAPTER = Path(__file__).parents[1] / "notebooks" / "10-your-own-network.ipynb"
STEPS = 3


def example():
    """The example's code, in which data and arguments are small ones."""
    cells = nbformat.read(CHAPTER, as_version=4).cells
    (code,) = [c for cell in cells for c in re.findall("```python\n(.*?)```", cell.source, re.DOTALL) if "Trainer" in c]
    return code


@pytest.mark.filterwarnings("ignore")  # Hugging Face's own
def test_the_chapters_trainer_trains_as_the_plain_loop(tmp_path):
    collaboration, (images, labels) = make(), make_batch()
    quiet = {"output_dir": str(tmp_path), "use_cpu": True, "num_train_epochs": STEPS, "max_grad_norm": 0.0}
    quiet |= {"per_device_train_batch_size": len(images), "report_to": [], "disable_tqdm": True, "save_strategy": "no"}
    optimizer = sgd(collaboration)
    constant = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)

    class Trainer(transformers.Trainer):
        def __init__(self, *given, **named):
            super().__init__(*given, **named, optimizers=(optimizer, constant))

    names = {
        "Trainer": Trainer,
        "TrainingArguments": lambda _, **given: transformers.TrainingArguments(**quiet, **given),
        "collaboration": collaboration,
        "train_set": [{"pixel_values": x, "labels": y} for x, y in zip(images, labels, strict=True)],
    }
    exec(example(), names)
    expected = plain_loop(make(), [make_batch()] * STEPS)
    assert_same_weights(collaboration, expected, rtol=1e-3, atol=1e-5)  # the images come in another order
    found = names["trainer"].evaluate(names["train_set"])["eval_loss"]
    with torch.no_grad():
        assert found == pytest.approx(expected.eval()(images, labels).item(), rel=1e-3)


@pytest.mark.filterwarnings("ignore")
def test_a_vision_transformer_as_it_is():
    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    torch.manual_seed(0)
    model = transformers.ViTForImageClassification(
        transformers.ViTConfig(image_size=16, patch_size=4, num_labels=4, hidden_dropout_prob=0.0, **small)
    )
    collaboration = Collaboration(model, "mid+pull-push+kernel", image_shape=(3, 16, 16))
    assert len(collaboration.layers) >= 2
    images = torch.randn(4, 3, 16, 16)
    collaboration(images, torch.arange(4)).backward()
    assert all(p.grad is not None for p in collaboration.parameters())
    assert torch.equal(collaboration.eval()(images), model(images).logits)
