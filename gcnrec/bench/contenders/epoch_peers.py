"""Peers of bench `epoch`: the same steps by DGL and by torch, as one careful user of each would write them.

Each draws its own batches and neighbourhoods, reads rows by `F.embedding` with sparse gradients and updates them by SparseAdam.
Letters: B positives, V nodes of the batch, J distinct positives, T targets and S sources of a hop, X drawn edges, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from gcnrec.bench.contenders.epoch_task import BETA1, BETA2, EPSILON, L2, RATE, TEMPERATURE, Stretch, Task
from gcnrec.bench.contenders.peer_loss import Labels, softmax_loss
from gcnrec.bench.sample import SampleInputs, dgl_sampler, torch_blocks


class Peer:
    """A call trains the next stretch. `draw` gives the neighbourhoods of nodes; the first rows of its `rows_R` are these nodes.

    Its `final` returns embeddings of the nodes from the rows `rows_R`: the mean of layers 0 .. L, in expectation.
    """

    def __init__(self, task: Task, draw: Callable[[torch.Tensor], _DglDrawn | _TorchDrawn]) -> None:
        self._task, self._draw = task, draw
        csr = task.graph.user_items
        self._users_E = torch.from_numpy(csr.row_numbers().astype(np.int64))
        self._items_E = torch.from_numpy(csr.indices.astype(np.int64)) + csr.rows
        self._table = torch.nn.Parameter(task.start_ND.clone())
        self._optimizer = torch.optim.SparseAdam([self._table], RATE, (BETA1, BETA2), EPSILON)
        self._draws = torch.Generator().manual_seed(0)

    def __call__(self) -> Stretch:
        order_E = torch.randperm(len(self._users_E), generator=self._draws)[: self._task.positives]
        return Stretch([self._step(self._users_E[part], self._items_E[part]) for part in order_E.split(self._task.batch_size)])

    def _step(self, users_B: torch.Tensor, items_B: torch.Tensor) -> float:
        nodes_V, places_2B = torch.unique(torch.cat([users_B, items_B]), return_inverse=True)
        drawn = self._draw(nodes_V)
        rows_RD = F.embedding(drawn.rows_R, self._table, sparse=True)
        num_users = int((nodes_V < self._task.graph.num_users).sum())
        labels = Labels.of(nodes_V, num_users, *places_2B.split(len(users_B)))
        loss = softmax_loss(labels, drawn.final(rows_RD), rows_RD[: len(nodes_V)], TEMPERATURE, L2)
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        return float(loss.detach())


def dgl(task: Task, threads: int) -> Peer:
    """NeighborSampler's blocks, nodes of a block in DGL's order: targets first among sources."""
    given = SampleInputs(task.graph, [])
    library, graph, sampler = dgl_sampler(given, threads)
    root_N = _root_degrees(given)
    total = library.function.copy_u("scaled", "message"), library.function.sum("message", "total")

    def draw(nodes_V: torch.Tensor) -> _DglDrawn:
        rows_R, _, blocks = sampler.sample(graph, nodes_V)
        return _DglDrawn(rows_R, blocks, root_N, library.NID, total)

    return Peer(task, draw)


@dataclass(frozen=True)
class _DglDrawn:
    rows_R: torch.Tensor
    blocks: list[Any]
    root_N: torch.Tensor
    name: str
    total: tuple[Any, Any]

    def final(self, rows_RD: torch.Tensor) -> torch.Tensor:
        inner_SD = rows_RD
        for block in self.blocks:  # the farthest hop first
            targets = block.num_dst_nodes()
            roots_S = self.root_N[block.srcdata[self.name]]
            block.srcdata["scaled"] = inner_SD / roots_S[:, None]
            block.update_all(*self.total)
            scale_T = roots_S[:targets] / block.in_degrees().clamp_min(1)
            inner_SD = rows_RD[:targets] + block.dstdata["total"] * scale_T[:, None]
        return inner_SD / (len(self.blocks) + 1)


def torch_only(task: Task, threads: int) -> Peer:
    """Floyd's draws by whole arrays, as in bench `sample`; sums of neighbours by `embedding_bag`."""
    given = SampleInputs(task.graph, [])
    indptr_N1, indices_E, root_N = torch.from_numpy(given.indptr_N1), torch.from_numpy(given.indices_E), _root_degrees(given)

    def draw(nodes_V: torch.Tensor) -> _TorchDrawn:
        return _TorchDrawn.of(torch_blocks(indptr_N1, indices_E, nodes_V), nodes_V, root_N)

    return Peer(task, draw)


@dataclass(frozen=True)
class _TorchHop:
    """Targets' rows, and for every drawn edge its source's place in the hop below and its scale; edges of a target together."""

    own_T: torch.Tensor
    offsets_T: torch.Tensor
    positions_X: torch.Tensor
    scale_X: torch.Tensor


@dataclass(frozen=True)
class _TorchDrawn:
    rows_R: torch.Tensor
    sources_S: torch.Tensor
    hops: list[_TorchHop]

    @classmethod
    def of(cls, blocks: list[Any], nodes_V: torch.Tensor, root_N: torch.Tensor) -> _TorchDrawn:
        """Rows are read with the batch's nodes first, and then all others."""
        far_S = blocks[-1].sources_S
        place_S = torch.searchsorted(far_S, nodes_V)
        others_S = torch.ones(len(far_S), dtype=torch.bool).index_fill_(0, place_S, False)
        rows_R = torch.cat([nodes_V, far_S[others_S]])
        at_S = torch.empty(len(far_S), dtype=torch.int64)
        at_S[place_S] = torch.arange(len(nodes_V))
        at_S[others_S] = torch.arange(len(nodes_V), len(far_S))
        hops = []
        for block in blocks:
            counts_T = block.counts_T
            scale_T = root_N[block.targets_T] / counts_T.clamp_min(1)
            scale_X = scale_T.repeat_interleave(counts_T) / root_N[block.sources_S][block.positions_X]
            own_T = at_S[torch.searchsorted(far_S, block.targets_T)]
            hops.append(_TorchHop(own_T, counts_T.cumsum(0) - counts_T, block.positions_X, scale_X))
        return cls(rows_R, at_S, hops)

    def final(self, rows_RD: torch.Tensor) -> torch.Tensor:
        inner_SD = rows_RD[self.sources_S]
        for hop in reversed(self.hops):
            sums_TD = F.embedding_bag(hop.positions_X, inner_SD, hop.offsets_T, mode="sum", per_sample_weights=hop.scale_X)
            inner_SD = rows_RD[hop.own_T] + sums_TD
        return inner_SD / (len(self.hops) + 1)


def _root_degrees(given: SampleInputs) -> torch.Tensor:
    """sqrt(degree), at least 1."""
    return torch.from_numpy(np.sqrt(np.maximum(np.diff(given.indptr_N1), 1)).astype(np.float32))
