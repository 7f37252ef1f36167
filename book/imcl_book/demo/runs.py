"""The four runs whose networks the page holds: digits and photographs, each as a baseline and with all four losses.

Small on purpose: the page is to weigh little and to answer at once on a phone, the runs to take minutes on one core.
"""

from pathlib import Path

import torch

from imcl_core import RunConfig, train
from imcl_core.collaboration import Collaboration
from imcl_core.data.sets import DataSet
from imcl_core.training.checkpoints import load, save
from imcl_core.training.record import Record, read_record, write_record
from imcl_core.training.run import Run

SETS = {"digits": "digits", "photographs": "cifar10"}  # the page's names of data sets, and ours
KINDS = {"baseline": "baseline", "collaboration": "out+mid+pull-push+kernel"}


def config_of(name: str, kind: str) -> RunConfig:
    """The run of one of `SETS` and one of `KINDS`."""
    common = {"dataset": SETS[name], "methods": KINDS[kind], "profile": "cpu", "attach": "blocks", "mid_width": 32}
    common |= {"kernel_weight": 0.01, "pp_push": (0.1, 0.0)}  # the defaults when they were trained
    if name == "digits":
        return RunConfig(**common, width=1 / 16, epochs=30, hidden=64)
    # Half the dropout, of which narrow networks bear little, and a weaker pull: in a short run labels must be heard.
    pull_push = {"pp_pull": (0.05, 0.5), "pp_push": (0.05, 0.0)}
    return RunConfig(**common | pull_push, width=1 / 8, epochs=10, hidden=128, dropout=0.25)


def trained(config: RunConfig, runs: Path, data_folder: Path | None = None) -> tuple[Record, dict[str, torch.Tensor]]:
    """The record of a run and the weights of its network and heads: from the folder `runs`, else trained into it."""
    weights, record = runs / f"{config.name}.heads.pt", runs / f"{config.name}.json"
    if not (weights.exists() and record.exists()):
        made, collaboration = train(config, data_folder=data_folder, return_collaboration=True)
        save(weights, collaboration.state_dict())
        write_record(made, runs)
    return read_record(record), load(weights)


def assembled(config: RunConfig, data: DataSet, weights: dict[str, torch.Tensor]) -> Run:
    """A run with trained weights, ready to be evaluated."""
    run = Run(config, data, torch.device("cpu"))
    collaboration: Collaboration = run.collaboration
    collaboration.load_state_dict(weights)
    collaboration.eval()
    return run
