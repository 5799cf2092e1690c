"""Bench `sample`: neighbourhood blocks of batches of nodes, [10, 10] without replacement, relabelled to compact positions.

Every variant draws for the same nodes, and sources include targets, as DGL's blocks have it. Draws differ, so a result
counts when all of these hold: every drawn edge is one of the graph; no target draws a neighbour twice; each draws
min(fanout, degree); the targets of a hop are the sources of the previous hop; and the total of drawn edges is within 1 % of
the first variant's. Peers use 64-bit numbers: with 32-bit ones, blocks of DGL 1.1.3 hold positions beyond their sources.
Letters: V nodes of a batch, N nodes of the graph, T targets and S sources of a hop, X drawn edges, E adjacency entries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.bench.graphs import GOWALLA, graph_of, indptr_of, load_dgl
from gcnrec.bench.harness import Row, measure, use_threads, variants_of
from gcnrec.graph import BipartiteGraph
from gcnrec.random import Stage, generator
from gcnrec.sampling.blocks import NeighbourSampler, Sampled

FANOUTS = (10, 10)
BATCH_SIZE = 2048
_BATCHES = 40
_TOTAL_TOLERANCE = 0.01


@dataclass(frozen=True)
class Hop:
    """A variant's draws in a hop, in node numbers: targets, drawn edges of each, and the other end of every edge."""

    targets_T: NDArray[np.int64]
    counts_T: NDArray[np.int64]
    sources_X: NDArray[np.int64]


@dataclass(frozen=True)
class Drawn:
    """A repetition's result as the library gives it, and how to read the hops of one batch from it, nearest first."""

    batches: list[Any]
    read: Callable[[Any], list[Hop]]


@dataclass(frozen=True)
class SampleInputs:
    """The graph, the nodes of every batch, and the adjacency of all nodes as one CSR with int64 numbers, as peers take it."""

    graph: BipartiteGraph
    batches: list[NDArray[np.int64]]

    @cached_property
    def indptr_N1(self) -> NDArray[np.int64]:
        return indptr_of(self.graph)

    @cached_property
    def indices_E(self) -> NDArray[np.int64]:
        up, down = self.graph.user_items, self.graph.item_users
        indices = np.empty(2 * up.num_edges, np.int64)
        np.add(up.indices, up.rows, out=indices[: up.num_edges])
        indices[up.num_edges :] = down.indices
        return indices


def run(
    dataset: Path | None = None, threads: int | None = None, runs: int = 15, size: tuple[int, int, int] = GOWALLA
) -> Iterator[Row]:
    """Rows of all variants and the closing row; units are drawn edges.

    `dataset` is a dataset folder; None is a synthetic graph of `size` (users, items, edges).
    """
    yield from rows_on(graph_of(dataset, size), "sample", _BATCHES, threads, runs)


def rows_on(graph: BipartiteGraph, bench: str, num_batches: int, threads: int | None, runs: int) -> Iterator[Row]:
    """Rows of `bench`: a repetition samples `num_batches` batches of nodes drawn uniformly from `graph`."""
    threads = use_threads(threads)
    draws = generator(0, Stage.ORDER)
    size = min(BATCH_SIZE, graph.num_nodes)
    batches = [np.sort(draws.choice(graph.num_nodes, size, replace=False)) for _ in range(num_batches)]
    given = SampleInputs(graph, batches)
    edges = sum(block.csr.num_edges for sampled in _ours(given, threads)().batches for block in sampled.blocks)
    variants = variants_of(CONTENDERS, given, threads)
    yield from measure(bench, variants, edges, partial(_difference, given, edges), _TOTAL_TOLERANCE, runs=runs)


Sample = Callable[[], Drawn]


def _ours(given: SampleInputs, threads: int) -> Sample:
    sampler, num_users = NeighbourSampler(given.graph, FANOUTS, seed=1, with_targets=True), given.graph.num_users

    def sample() -> Drawn:
        parts = [int(np.searchsorted(nodes_V, num_users)) for nodes_V in given.batches]
        return Drawn([sampler.sample(*batch, step) for step, batch in enumerate(zip(given.batches, parts, strict=True))], read)

    def read(sampled: Sampled) -> list[Hop]:
        rows_R = sampled.rows_R
        return [
            Hop(rows_R[block.targets_T], block.csr.degrees, rows_R[block.sources_S][block.csr.indices])
            for block in sampled.blocks
        ]

    return sample


def dgl_sampler(given: SampleInputs, threads: int) -> tuple[Any, Any, Any]:
    """DGL, its graph and its NeighborSampler of `FANOUTS`."""
    dgl = load_dgl(threads)
    adjacency = (torch.from_numpy(given.indptr_N1), torch.from_numpy(given.indices_E), torch.empty(0, dtype=torch.int64))
    graph = dgl.graph(("csc", adjacency), num_nodes=given.graph.num_nodes)
    return dgl, graph, dgl.dataloading.NeighborSampler(list(FANOUTS[::-1]))  # DGL's first fanout is the farthest hop's


def _dgl(given: SampleInputs, threads: int) -> Sample:
    dgl, graph, sampler = dgl_sampler(given, threads)
    batches = [torch.from_numpy(nodes_V) for nodes_V in given.batches]

    def sample() -> Drawn:
        return Drawn([sampler.sample(graph, nodes_V)[2] for nodes_V in batches], read)

    def read(blocks: list[Any]) -> list[Hop]:
        hops = []
        for block in reversed(blocks):
            sources_X, targets_X = block.edges()
            order = torch.argsort(targets_X, stable=True)
            counts_T = torch.bincount(targets_X, minlength=block.num_dst_nodes())
            names = block.dstdata[dgl.NID], counts_T, block.srcdata[dgl.NID][sources_X[order]]
            hops.append(Hop(*(tensor.numpy() for tensor in names)))
        return hops

    return sample


def _torch(given: SampleInputs, threads: int) -> Sample:
    indptr_N1, indices_E = torch.from_numpy(given.indptr_N1), torch.from_numpy(given.indices_E)
    batches = [torch.from_numpy(nodes_V) for nodes_V in given.batches]

    def sample() -> Drawn:
        return Drawn([torch_blocks(indptr_N1, indices_E, nodes_V) for nodes_V in batches], read)

    def read(blocks: list[TorchBlock]) -> list[Hop]:
        return [
            Hop(block.targets_T.numpy(), block.counts_T.numpy(), block.sources_S[block.positions_X].numpy()) for block in blocks
        ]

    return sample


CONTENDERS: dict[str, Callable[[SampleInputs, int], Sample]] = {"gcnrec": _ours, "dgl-neighborsampler": _dgl, "torch": _torch}
"""All of them required."""


@dataclass(frozen=True)
class TorchBlock:
    """A hop of torch's: node numbers of targets and sources, edges drawn by each target, and their positions among sources."""

    targets_T: torch.Tensor
    counts_T: torch.Tensor
    sources_S: torch.Tensor
    positions_X: torch.Tensor


def torch_blocks(indptr_N1: torch.Tensor, indices_E: torch.Tensor, nodes_V: torch.Tensor) -> list[TorchBlock]:
    """Blocks of `FANOUTS` around `nodes_V` in plain torch, the hop of `nodes_V` first."""
    blocks, targets_T = [], nodes_V
    for fanout in FANOUTS:
        starts_T = indptr_N1[targets_T]
        degrees_T = indptr_N1[targets_T + 1] - starts_T
        chosen_TF, wanted_TF = _floyd(degrees_T, fanout)
        sources_X = indices_E[(starts_T[:, None] + chosen_TF)[wanted_TF]]
        sources_S = torch.unique(torch.cat([sources_X, targets_T]))
        blocks.append(TorchBlock(targets_T, wanted_TF.sum(1), sources_S, torch.searchsorted(sources_S, sources_X)))
        targets_T = sources_S
    return blocks


def _floyd(degrees_T: torch.Tensor, fanout: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions drawn by Floyd's algorithm in all rows at a time, and which of them count: all of a short row, in order."""
    chosen_TF = torch.arange(fanout).repeat(len(degrees_T), 1)
    many_T = degrees_T > fanout
    degrees_M = degrees_T[many_T]
    drawn_MF = torch.empty(len(degrees_M), fanout, dtype=torch.int64)
    for k in range(fanout):
        top_M = degrees_M - fanout + k
        draw_M = (torch.rand(len(top_M), dtype=torch.float64) * (top_M + 1)).long()
        taken_M = (drawn_MF[:, :k] == draw_M[:, None]).any(1)
        drawn_MF[:, k] = torch.where(taken_M, top_M, draw_M)
    chosen_TF[many_T] = drawn_MF
    return chosen_TF, torch.arange(fanout) < degrees_T[:, None]


def _difference(given: SampleInputs, edges: int, _: Drawn, result: Drawn) -> float:
    """Infinite when anything drawn is wrong, else how far the number of drawn edges is from `edges`, as a share."""
    total = 0
    for nodes_V, batch in zip(given.batches, result.batches, strict=True):
        expected_T = nodes_V
        for fanout, hop in zip(FANOUTS, result.read(batch), strict=True):
            if not np.array_equal(np.sort(hop.targets_T), np.sort(expected_T)) or not _right(given, hop, fanout):
                return float("inf")
            total += len(hop.sources_X)
            expected_T = np.union1d(hop.sources_X, hop.targets_T)
    return abs(total - edges) / edges


def _right(given: SampleInputs, hop: Hop, fanout: int) -> bool:
    starts_T, ends_T = (given.indptr_N1[hop.targets_T + shift] for shift in (0, 1))
    if not np.array_equal(hop.counts_T, np.minimum(ends_T - starts_T, fanout)):
        return False
    rows_X = np.repeat(np.arange(len(hop.targets_T)), hop.counts_T)
    pairs_X = rows_X * given.graph.num_nodes + hop.sources_X
    return len(np.unique(pairs_X)) == len(pairs_X) and _all_edges(given.indices_E, starts_T, ends_T, rows_X, hop.sources_X)


@numba.njit(cache=True)
def _all_edges(indices, starts_T, ends_T, rows_X, sources_X):  # type: ignore[no-untyped-def]
    for x in range(len(rows_X)):
        row = indices[starts_T[rows_X[x]] : ends_T[rows_X[x]]]
        at = np.searchsorted(row, sources_X[x])
        if at == len(row) or row[at] != sources_X[x]:
            return False
    return True
