"""GraphSAGE with the mean aggregator by torch alone, the same for every way of bringing features (Hamilton et al. 2017).

Letters: R rows read, F features, T targets and S sources of a hop, V nodes of the batch, B pairs, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from gcnrec.graph import BipartiteGraph
from gcnrec.rows import Ticket
from gcnrec.sampling.blocks import Block, NeighbourSampler
from jobs.measure.gpu.bed import Bed
from jobs.measure.gpu.epochs.products import Hop, Upload

WIDTH, FANOUTS, TEMPERATURE, RATE = 64, (10, 10), 0.2, 1e-3


@dataclass(frozen=True)
class Means:
    """A drawn hop: places of its targets among its sources, and the mean of every target's sources."""

    own_T: torch.Tensor
    mean: Hop


@dataclass(frozen=True)
class Drawn:
    """A batch whose graph lies on the device; its features are still to come, by `ticket`, rows `index_R` on the device."""

    ticket: Ticket
    index_R: torch.Tensor
    hops: tuple[Means, ...]
    users_B: torch.Tensor
    items_B: torch.Tensor


class Sage(torch.nn.Module):
    """`columns` features of a node -> its embedding, by two layers."""

    def __init__(self, columns: int, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.projection = torch.nn.Linear(columns, WIDTH, bias=False)
            self.own = torch.nn.ModuleList(torch.nn.Linear(WIDTH, WIDTH) for _ in FANOUTS)
            self.pooled = torch.nn.ModuleList(torch.nn.Linear(WIDTH, WIDTH, bias=False) for _ in FANOUTS)

    def forward(self, features_RF: torch.Tensor, drawn: Drawn) -> torch.Tensor:
        """In-batch softmax of cosines, a scalar."""
        current_SD = self.projection(features_RF)
        for own, pooled, hop in zip(self.own, self.pooled, reversed(drawn.hops), strict=True):
            current_SD = F.relu(own(current_SD.index_select(0, hop.own_T)) + pooled(hop.mean(current_SD)))
        rows_VD = F.normalize(current_SD, dim=1)
        users_BD, items_BD = rows_VD.index_select(0, drawn.users_B), rows_VD.index_select(0, drawn.items_B)
        goal_B = torch.arange(len(users_BD), device=users_BD.device)
        return F.cross_entropy(users_BD @ items_BD.T / TEMPERATURE, goal_B)


def batches(bed: Bed, graph: BipartiteGraph, pairs: int, steps: int) -> Iterator[Drawn]:
    """Batches of `pairs` random edges with their neighbourhoods, on the device."""

    def upload(values: NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(bed.device)  # copy: before any clock

    sampler, draws = NeighbourSampler(graph, FANOUTS, seed=0, with_targets=True), np.random.default_rng(0)
    csr = graph.user_items
    for step in range(1, steps + 1):
        chosen_B = draws.choice(graph.num_edges, min(pairs, graph.num_edges), replace=False)
        users_B = np.searchsorted(csr.indptr, chosen_B, side="right") - 1
        nodes_V, places = np.unique(np.concatenate([users_B, csr.indices[chosen_B] + graph.num_users]), return_inverse=True)
        sampled = sampler.sample(nodes_V, int(np.searchsorted(nodes_V, graph.num_users)), step)
        hops = tuple(_means(block, upload) for block in sampled.blocks)
        users, items = (upload(part) for part in np.split(places, 2))
        yield Drawn(Ticket(sampled.rows_R), upload(sampled.rows_R), hops, users, items)


def _means(block: Block, upload: Upload) -> Means:
    own_T = upload(np.searchsorted(block.sources_S, block.targets_T))
    scale_T = (1 / np.maximum(block.csr.degrees, 1)).astype(np.float32)
    return Means(own_T, Hop(block.csr, scale_T, np.ones(len(block.sources_S), np.float32), upload))
