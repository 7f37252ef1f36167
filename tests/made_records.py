"""Records that no run made, for the tests of what is read from records."""

import dataclasses

from imcl_core import Record, RunConfig
from imcl_core.training.record import read_record, write_record

CELL = {"dataset": "cifar100", "model": "vgg16", "methods": "out", "profile": "paper"}
RUN = {"device": "Device <1>", "seconds": 1.0, "evaluation_seconds": 0.1, "images_per_s": 1.0, "peak_memory_gb": 1.0}


def record(last=25.0, best=24.0, top5=5.0, **settings):
    """A record of two epochs: first the lowest error, then the last."""
    curve = [{"epoch": i + 1, "test_error": e, "test_error_top5": top5 + i} for i, e in enumerate((best, last))]
    return Record(RunConfig(**CELL | settings), curve, RUN)


def write(folder, *written):
    return [write_record(whole(one), folder) for one in written]


def whole(record):
    """The record with as many epochs as its run has: the first entry again and again, then the last."""
    (first, *_, last), config = record.curve, record.config
    curve = [dict(first, epoch=i + 1) for i in range(config.epochs - 1)] + [dict(last, epoch=config.epochs)]
    for i, epoch in enumerate(curve):
        if not config.evaluates(i):
            del epoch["test_error"], epoch["test_error_top5"]
    return dataclasses.replace(record, curve=curve)


def write_many(folder, cells, count):
    """So many records, of each cell at seed 0, 1, …; fast, being copies of the first one's text."""
    made = {}
    for i in range(count):
        config, seed = cells[i % len(cells)], i // len(cells)
        if config.key not in made:
            text = whole(Record(config, record().curve, RUN)).to_json()
            made[config.key] = text.replace(config.name, "{name}", 1).split('\n  "seed": 0,')
        name, (before, after) = config.names()(seed), made[config.key]
        text = f'{before.replace("{name}", name)}\n  "seed": {seed},{after}'
        (folder / f"{name}.json").write_text(text)


def cell(table, **where):
    """The figures of one cell, of VGG-16 on CIFAR-100 unless told."""
    found = table.data
    for name, value in ({"dataset": "cifar100", "model": "vgg16", "method": "out", "noise": 0.0} | where).items():
        found = found[found[name] == value]
    (figures_of_cell,) = found.to_dict("records")
    return figures_of_cell


def change(path, epoch, value):
    """Another outcome in place of a record: one error differs."""
    record = read_record(path)
    record.curve[epoch]["test_error"] = value
    write_record(record, path.parent)
