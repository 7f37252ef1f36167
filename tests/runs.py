"""Runs of seconds."""

import pytest
import torch

from imcl_core import RunConfig, train
from imcl_core.training import run as training
from imcl_core.training.step import has_bfloat16

CPU = torch.device("cpu")
needs_bfloat16 = pytest.mark.skipif(not has_bfloat16(CPU), reason="this processor does not compute in bfloat16")


def tiny(**settings):
    defaults = {"width": 1 / 16, "epochs": 3, "train_size": 96, "hidden": 16}
    return RunConfig(**defaults | settings)


def run(config, **options):
    """Trains without a progress bar, with a checkpoint after every epoch."""
    return train(config, **{"progress": False, "save_every": 0} | options)


def outcome(record):
    """What must not depend on interruptions, hosts or time."""
    return record.config, record.curve


def load_digits():
    return training.load("digits", train_size=96)
