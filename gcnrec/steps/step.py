"""One training step: read, encode, lose, pull back, update, write. Straight down, no branches on the algorithm.

Letters: V nodes of the batch, D width, N nodes of the graph.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.errors import DataError, UsageError
from gcnrec.graph import BipartiteGraph
from gcnrec.models.convolutions import PinSageHead, pinsage_convolutions, sage_convolutions
from gcnrec.models.encoder import Encoded, Encoder, every_row
from gcnrec.models.lightgcn import LightGcn
from gcnrec.models.lightgcn_sampled import SampledLightGcn
from gcnrec.models.mf import MatrixFactorisation
from gcnrec.models.ngcf import Ngcf
from gcnrec.models.node_encoder import IdDropout, NodeEncoder
from gcnrec.models.node_inputs import Features, NodeInputs
from gcnrec.models.objective import Objective, objective_of
from gcnrec.models.pooling import Means, Visits, WeightedMeans
from gcnrec.ops.directions import uniform, weighted
from gcnrec.ops.weighted import EdgeWeights, edge_weights
from gcnrec.sampling.blocks import BlockSampler, NeighbourSampler
from gcnrec.sampling.sampler import Batch, EdgeSampler, edge_sampler
from gcnrec.sampling.walk_blocks import WalkSampler
from gcnrec.steps.guards import finite
from gcnrec.tables.dense import Allocate, StepTable, in_ram
from gcnrec.tables.rules import Rule, rule_of

if TYPE_CHECKING:
    from gcnrec.config import Job


@dataclass(frozen=True)
class Step:
    """The parts of a step. Calling it trains on one batch at one learning rate and returns the loss.

    A loss or gradient that is not finite raises DivergedError before the table is touched.
    """

    sampler: EdgeSampler
    encoder: Encoder
    table: StepTable
    rule: Rule
    objective: Objective
    layer_optimizer: torch.optim.Optimizer | None
    layer_rate: float = 1.0

    def __call__(self, batch: Batch, rate: float) -> float:
        if self.layer_optimizer is not None:
            self.layer_optimizer.zero_grad()
        loss, encoded, grad_VD, grad_ego_VD = self._backward(batch)
        grad = encoded.pull(grad_VD, grad_ego_VD)
        gradients = {"gradient of the table's rows": [grad.values_X], "gradient of the model's layers": self._layer_gradients()}
        value = finite(batch.step, loss, gradients)
        if self.rule.every_row:
            grad = every_row(grad, self.table.num_rows, self.table.width)
        rows = self.rule.update(self.table.read(grad.ticket, with_state=True), grad, batch.step, rate)
        self.table.write(rows)
        if self.layer_optimizer is not None:
            for group in self.layer_optimizer.param_groups:
                group["lr"] = rate * self.layer_rate
            self.layer_optimizer.step()
        return value

    def add_gradient(self, batch: Batch, rows_R: NDArray[np.int64], out_RD: torch.Tensor) -> None:
        """Add the gradient of every cell of rows `rows_R`, stored or not, to `out_RD`; nothing is updated."""
        loss, encoded, grad_VD, grad_ego_VD = self._backward(batch)
        finite(batch.step, loss, {"gradient of the embeddings": [grad_VD, grad_ego_VD]})
        encoded.pull_whole(grad_VD, grad_ego_VD, rows_R, out_RD)

    def _backward(self, batch: Batch) -> tuple[torch.Tensor, Encoded, torch.Tensor, torch.Tensor]:
        """Loss, and its gradients with respect to the embeddings and the table rows of the batch's nodes."""
        encoded = self.encoder.encode(self.table, batch)
        final_VD = encoded.final_VD.requires_grad_()
        # A second leaf even where both are the same rows: each use has its own gradient.
        ego_VD = encoded.ego_VD.detach().requires_grad_()
        loss = self.objective(final_VD, ego_VD, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach(), encoded, _grad(final_VD), _grad(ego_VD)

    def _layer_gradients(self) -> list[torch.Tensor]:
        parameters = [] if self.encoder.layers is None else self.encoder.layers.parameters()
        return [leaf.grad for leaf in parameters if leaf.grad is not None]


def build_step(
    job: Job,
    graph: BipartiteGraph,
    weights_E: NDArray[np.float32] | None,
    table: StepTable,
    features: Features | None = None,
    scratch: Allocate = in_ram,
) -> Step:
    """The step that a job describes, on `graph`, updating `table`. `weights_E`: one positive weight per edge.

    `features` are those of the data, for models that read them; `scratch` gives exports the memory of whole node matrices.
    """
    from gcnrec.config import INDUCTIVE  # here, so that a step put together from its parts needs no pydantic

    rule = rule_of(job.optimizer)
    drawn_by = _neighbour_weights(job, graph, weights_E)
    neighbours = _neighbours(job, graph, drawn_by)
    if job.model.name in INDUCTIVE:
        encoder: Encoder = inductive_encoder(job, graph, table.width, features or Features(), scratch, drawn_by)
    else:
        encoder = _encoder(job, graph, table.width, rule.every_row)
    weights = None if weights_E is None else _mean_one(weights_E)
    betas = (job.optimizer.beta1, job.optimizer.beta2)
    return Step(
        edge_sampler(job.sampler, graph, weights, job.train.batch_size, job.train.seed, neighbours),
        encoder,
        table,
        rule,
        objective_of(job, graph, weights is not None),
        None if encoder.layers is None else torch.optim.Adam(encoder.layers.parameters(), betas=betas, eps=job.optimizer.epsilon),
        job.optimizer.layer_rate,
    )


def _encoder(job: Job, graph: BipartiteGraph, width: int, dense_grad: bool) -> Encoder:
    match (job.model.name, job.model.propagation):
        case ("mf", _) | ("lightgcn", "none"):
            return MatrixFactorisation(width)
        case ("lightgcn", "full"):
            return LightGcn(graph, job.model.layers, width, dense_grad)
        case ("lightgcn", "sampled"):
            return SampledLightGcn(graph, job.model.layers, width)
        case _:
            return Ngcf(graph, job.model.layers, width, job.train.seed)


def inductive_encoder(
    job: Job,
    graph: BipartiteGraph,
    width: int,
    features: Features,
    scratch: Allocate = in_ram,
    weights: EdgeWeights | None = None,
) -> NodeEncoder:
    """The encoder of graphsage or pinsage as it starts; neighbours count by `weights`, alike without.

    UsageError when it is to read features that the data does not have.
    """
    model, seed = job.model, job.train.seed
    has_features = any(rows is not None for rows in features.sides)
    if model.inputs == "features" and not has_features:
        raise UsageError("model.inputs = 'features' needs features; ingest with --item-features or --user-features")
    read = Features() if model.inputs == "rows" else features
    inputs = NodeInputs(graph, read, width, model.inputs != "features", model.feature_scale or model.start_scale)
    dropout = IdDropout(model.id_dropout, seed)
    if model.name == "pinsage":
        convolutions, head = pinsage_convolutions(model.layers, width, seed), PinSageHead(width, seed)
        return NodeEncoder(inputs, convolutions, head, Visits(_walks(job, graph)), dropout, scratch)
    layers = sage_convolutions(model.layers, width)
    means = Means(graph) if weights is None else WeightedMeans(graph, weights)
    return NodeEncoder(inputs, layers, torch.nn.Identity(), means, dropout, scratch)


def _neighbour_weights(job: Job, graph: BipartiteGraph, weights_E: NDArray[np.float32] | None) -> EdgeWeights | None:
    """By what neighbours are drawn; None: uniformly."""
    if job.sampler.neighbours == "uniform":
        return None
    if weights_E is None:
        raise UsageError(
            "sampler.neighbours = 'weighted' needs weights of interactions, and this dataset has none; ingest with --weight, or "
            "set sampler.neighbours = 'uniform'"
        )
    return edge_weights(graph, weights_E)


def _neighbours(job: Job, graph: BipartiteGraph, weights: EdgeWeights | None) -> BlockSampler | None:
    if job.model.propagation != "sampled":
        return None
    if job.model.name == "pinsage":
        return _walks(job, graph)
    directions = uniform(graph) if weights is None else weighted(graph, weights)
    return NeighbourSampler(graph, _fanouts(job), job.train.seed, job.model.name == "graphsage", directions)


def _walks(job: Job, graph: BipartiteGraph) -> WalkSampler:
    settings = job.sampler
    return WalkSampler(graph, _fanouts(job), settings.walks, settings.walk_length, settings.restart, job.train.seed)


def _fanouts(job: Job) -> tuple[int, ...]:
    return (10,) * job.model.layers if job.sampler.fanouts is None else job.sampler.fanouts


def _mean_one(weights_E: NDArray[np.float32]) -> NDArray[np.float32]:
    """Weights scaled to a mean of 1, so that they do not change the learning rate."""
    mean = float(weights_E.mean(dtype=np.float64))
    if not mean > 0:
        raise DataError(
            "every weight of the train interactions is 0, so nothing can be learnt; ingest with other weights or none"
        )
    return (weights_E / mean).astype(np.float32)


def _grad(leaf: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
