"""Steps of graphsage and pinsage on a small world, in place or behind a device."""

from __future__ import annotations

from contextlib import closing

import numpy as np
import torch
from built import start_table

from gcnrec.config import Job
from gcnrec.sampling.minibatches import Waits
from gcnrec.steps.state import copied
from gcnrec.tables.dense import in_ram
from gcnrec.tables.features.sides import Features
from gcnrec.tables.hot_rows import Prefixes
from gcnrec.tables.pipelined import PipelinedTable
from gcnrec.tables.placement import Placement, placed_features
from gcnrec.tables.unread import UnreadTable
from gcnrec.testing import checkerboard
from gcnrec.training.build import TrainData, build_step, features_read
from gcnrec.training.plan import plan_of

GRAPH = checkerboard().graph


def features_of(users=None, items=None):
    draw = np.random.default_rng(3)
    return Features(*(None if width is None else draw.normal(size=(24, width)).astype(np.float32) for width in (users, items)))


def job_of(name="graphsage", model=None, sampler=None, loss=None):
    return Job.parse(
        {
            "model": {"name": name, "layers": 2, "width": 8, "start": "normal", **(model or {})},
            "sampler": {"fanouts": [3, 2], **({"walks": 10} if name == "pinsage" else {}), **(sampler or {})},
            "loss": loss or {},
            "optimizer": {"rule": "adam"},
            "train": {"batch_size": 60},
        },
        [],
        "test",
    )


def step_behind(device, job, features, hot=None):
    """The step, in place without a device."""
    weights_E = np.linspace(0.5, 2.0, GRAPH.num_edges, dtype=np.float32) if job.sampler.neighbours == "weighted" else None
    sides = features_read(job, features, GRAPH, in_ram, for_gpu=device is not None)
    table = start_table(job, GRAPH)
    if device is not None and job.model.inputs == "features":
        table = UnreadTable(table, device, hot or Prefixes(24, 0, 0))
    elif device is not None:
        table = PipelinedTable(table, device, hot)
    data = TrainData(GRAPH, weights_E, placed_features(Placement(True), table, sides))
    return build_step(job, plan_of(job, GRAPH.num_nodes), data, table)


def trained(step, epochs=1):
    """Losses, and everything that training changed."""
    losses = []
    for epoch in range(epochs):
        with closing(step.batches(epoch, Waits())) as batches:
            for uploaded in batches:
                losses += step.train(uploaded, 0.02)
    return losses, copied(step, None)


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


CASES = {
    "rows": ({}, Features()),
    "items": ({}, features_of(items=9)),
    "both sides": ({"model": {"feature_dtype": "float16"}}, features_of(5, 9)),
    "int8": ({"model": {"feature_dtype": "int8"}}, features_of(33, 9)),
    "features alone": ({"model": {"inputs": "features"}}, features_of(5, 9)),
    "weighted": ({"sampler": {"neighbours": "weighted"}}, features_of(items=9)),
    "no positives": ({"sampler": {"exclude_positives": True}}, features_of(items=9)),
    "pinsage": ({"name": "pinsage", "loss": {"name": "bsl"}}, features_of(items=9)),
    "pinsage, directau": ({"name": "pinsage", "loss": {"name": "directau"}}, features_of(5)),
}
