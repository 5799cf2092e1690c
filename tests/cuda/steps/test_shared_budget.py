"""What a step of parts asks of a GPU: only what is prepared goes there, and numbers come to the host for the verdict alone."""

from __future__ import annotations

import pytest

pytest.importorskip("pydantic", reason="reads jobs")

from dataclasses import replace

import no_gpu
import torch
from built import start_table

from gcnrec.config import Job
from gcnrec.steps.guards import Loss
from gcnrec.steps.parted import PartedStep
from gcnrec.tables.dealt.exchanged import ExchangedTable
from gcnrec.tables.dealt.staged import StagedShards
from gcnrec.tables.dense import in_ram
from gcnrec.tables.features.pipelined import PipelinedFeatures
from gcnrec.tables.features.sides import FeatureSides
from gcnrec.tables.pipelined import PipelinedTable
from gcnrec.training.build import TrainData, build_step, features_read, parted, shards_of
from gcnrec.training.plan import plan_of
from gcnrec.workers.world import Alone

STEPS, PARTS = 4, 2
JOBS = {
    "dense": ({}, 29, 200, 340),
    "slots": ({"table": {"budget": 0.5}, "sparsity": {"policy": "static"}, "loss": {"name": "bsl"}}, 37, 300, 420),
    "graphsage": ({"model": {"name": "graphsage", "layers": 2, "width": 64}}, 33, 360, 540),
    "drawn negatives": ({"sampler": {"negatives": "uniform", "fanouts": [10, 10]}}, 31, 210, 390),
}


def step_behind(counts, sections):
    common = {
        "model": {"propagation": "sampled", "layers": 2, "width": 64, "start": "normal"},
        "sampler": {"fanouts": [10, 10]},
        "loss": {"name": "softmax", "l2": 1e-4},
        "optimizer": {"rule": "adam"},
        "train": {"batch_size": 24, "parts": PARTS, "device": "cpu"},
    }
    job, graph = Job.parse({**common, **sections}, [], "test"), no_gpu.GRAPH
    plan = plan_of(job, graph.num_nodes)
    shards = StagedShards(shards_of(plan), no_gpu.DEVICE, lambda share: PipelinedTable(share, no_gpu.Device(counts)))
    table, features = ExchangedTable(Alone(), shards, start_table(job, graph)), None
    if job.model.reads_features:
        host = features_read(job, no_gpu.FEATURES, graph, in_ram, for_gpu=True)
        features = FeatureSides(host.num_users, None, PipelinedFeatures(host.items, no_gpu.Device(counts)))
    step = parted(build_step(job, plan, TrainData(graph, None, features), table), table, Alone(), PARTS)
    return replace(step, layer_optimizer=None)  # a fused one knows real devices alone


@pytest.mark.parametrize("name", JOBS)
def test_a_step_of_parts_keeps_its_numbers_on_the_device(name, monkeypatch):
    sections, launches, dispatches, views = JOBS[name]
    judged = []

    def verdict(self, step, losses_P, gradients):
        judged.append([losses_P.shape, *(tensor.device.type for tensor in gradients)])
        return Loss(step, 0.0)

    def agreed(self, layers_G):
        assert all(layer_G.device.type == "meta" for layer_G in layers_G) or self.encoder.layers is None

    monkeypatch.setattr(PartedStep, "_judged", verdict)  # there are no numbers
    monkeypatch.setattr(PartedStep, "_set_layers", agreed)
    with no_gpu.counted() as counts:
        step = step_behind(counts, sections)
        prepared = [step._prepared(step.sampler.batch(0, number)) for number in range(STEPS + 1)]
        current = step._announced(prepared[0])
        for later in prepared[1:]:
            with counts:
                counts.clear()
                coming = step._announced(later)
                step.trained(current, 0.01)
            current = coming
    assert len(judged) == STEPS and all(each[0] == torch.Size([PARTS]) and set(each[1:]) == {"meta"} for each in judged)
    places = {"pageable": PARTS} if name == "graphsage" else {}  # of nodes whose features are read, which a real device pins
    assert counts.copies == {"upload": 2, **places} and counts.waits == {}  # of what is prepared, and of the plan
    assert sum(counts.launches.values()) <= launches, counts.launches
    assert sum(counts.dispatches.values()) <= dispatches, counts.dispatches
    assert sum(counts.views.values()) <= views, counts.views
