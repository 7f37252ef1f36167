"""Records that no run made, for the tests of what is read from records."""

import json

from imcl_core import Record, RunConfig
from imcl_core.training.record import write_record

CELL = {"dataset": "cifar100", "model": "vgg16", "methods": "out", "profile": "paper"}
RUN = {"device": "Device <1>", "seconds": 1.0, "evaluation_seconds": 0.1, "images_per_s": 1.0, "peak_memory_gb": 1.0}


def record(last=25.0, best=24.0, top5=5.0, **settings):
    """A record of two epochs: first the lowest error, then the last."""
    curve = [{"epoch": i + 1, "test_error": e, "test_error_top5": top5 + i} for i, e in enumerate((best, last))]
    return Record(RunConfig(**CELL | settings), curve, RUN)


def write(folder, *written):
    return [write_record(one, folder) for one in written]


def cell(table, dataset="cifar100", model="vgg16", method="out", noise=0.0):
    """The figures of one cell."""
    data = table.data
    found = data[(data.dataset == dataset) & (data.model == model) & (data.method == method) & (data.noise == noise)]
    (figures_of_cell,) = found.to_dict("records")
    return figures_of_cell


def change(path, epoch, value):
    """Changes one error in a record."""
    content = json.loads(path.read_text())
    content["curve"][epoch]["test_error"] = value
    path.write_text(json.dumps(content))
