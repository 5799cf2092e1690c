"""The step of graphsage as gcnrec trains it: rows and features of both sides behind a device's queues.

It is put together from its parts, not from a job, so that it can be built where pydantic is not installed.
"""

from __future__ import annotations

import torch

from gcnrec.bench.contenders.epoch_task import BETA1, BETA2, EPSILON, RATE, Task, pace_of, softmax
from gcnrec.models.convolutions import sage_convolutions
from gcnrec.models.node_encoder import IdDropout, NodeEncoder, NodeLayers
from gcnrec.models.node_inputs import NodeInputs
from gcnrec.models.pooling import Means
from gcnrec.queues import Device
from gcnrec.sampling.blocks import NeighbourSampler
from gcnrec.sampling.sampler import EdgeSampler
from gcnrec.steps.step import Step
from gcnrec.tables.dense import StepTable, in_ram
from gcnrec.tables.features.pipelined import PipelinedFeatures
from gcnrec.tables.features.sides import FeatureSides
from gcnrec.tables.rules import Adam
from jobs.measure.gpu.bed import Bed, fill
from jobs.measure.gpu.epochs.feature_tables import table_of
from jobs.measure.gpu.epochs.sage import FANOUTS

DROPOUT, START_SCALE = 0.1, 0.1


def sage_step(task: Task, table: StepTable, features: FeatureSides) -> Step:
    """Rows and features, two layers, softmax in the batch of cosines, Adam."""
    graph, device = task.graph, table.device
    fraction = (task.positives - 0.5) / graph.num_edges
    neighbours = NeighbourSampler(graph, FANOUTS, seed=0, with_targets=True)
    sampler = EdgeSampler(graph, None, task.batch_size, 0, None, False, 0, fraction, neighbours)
    inputs = NodeInputs(graph, features, task.width, read_rows=True, start_scale=START_SCALE)
    layers = NodeLayers(inputs, sage_convolutions(len(FANOUTS), task.width), torch.nn.Identity()).to(device)
    encoder = NodeEncoder(layers, features, Means(graph), IdDropout(DROPOUT, 0), in_ram)
    optimizer = torch.optim.Adam(layers.parameters(), RATE, fused=device.type == "cuda" or None)
    check, drawing = pace_of(device, optimizer)
    rule = Adam(BETA1, BETA2, EPSILON)
    return Step(sampler, encoder, table, rule, softmax(graph), optimizer, 1.0, check, drawing, features)


def features_behind(bed: Bed, queues: Device, task: Task, columns: int, share: float) -> FeatureSides:
    """Normal features of all nodes, aligned; the device keeps those of a `share` of each side."""
    graph, sides = task.graph, []
    for count, first in ((graph.num_users, 0), (graph.num_items, graph.num_users)):
        table = table_of(count, columns, None, first)
        fill(bed, torch.from_numpy(table.stored.values).view(torch.uint8))
        sides.append(PipelinedFeatures(table, queues, round(share * count)))
    return FeatureSides(graph.num_users, *sides)
