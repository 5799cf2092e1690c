"""DGL fed from a dataset folder: graphs, blocks drawn by gcnrec's sampler, and negatives for DGL's own loaders.

    graph = dgl.homogeneous(dataset.graph)
    for batch in dgl.batches(edge_sampler(settings, dataset.graph, None, 2048, seed, neighbours), epoch=0): ...
    DataLoader(graph, nodes, dgl.BlockSampler(neighbours))              # or DGL's loader, with our draws

Nodes carry node numbers: user 0 .. U-1, item number + U. DGL lists fanouts and blocks from the farthest hop to the nearest, the
reverse of ours: `NeighbourSampler(fanouts=(10, 5))` draws as DGL's `NeighborSampler([5, 10])`.
Works with DGL 1.1 as it is, and with 2.1 where its compiled graphbolt has no build for the installed torch (`_imported`).
Letters: V given nodes, R rows to read, T targets and S sources of a hop, X drawn edges, B positives, N negatives per positive.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from os import environ
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.errors import UsageError, install
from gcnrec.graph import BipartiteGraph, Csr
from gcnrec.loaders.subgraph import within
from gcnrec.ops.draws.sample import negatives, popularity_table
from gcnrec.sampling.blocks import Block, NeighbourSampler, Sampled
from gcnrec.sampling.sampler import EdgeSampler

BACKEND = "DGLBACKEND"


def _imported() -> Any:
    """DGL on torch. Its environment variable is set for the import alone: without it DGL writes to the home folder.

    Where DGL brings graphbolt but no build of it for this torch, an empty module stands in; nothing here needs it.
    Raises UsageError when DGL is not installed.
    """
    if sys.modules.get("dgl") is not None:
        return sys.modules["dgl"]
    found = importlib.util.find_spec("dgl")
    if found is None or found.origin is None:
        raise UsageError(f"gcnrec.loaders.dgl needs DGL, which is not installed; {install('dgl')}")
    graphbolt = Path(found.origin).parent / "graphbolt"
    build = f"libgraphbolt_pytorch_{torch.__version__.split('+')[0]}.so"
    if graphbolt.is_dir() and not (graphbolt / build).is_file():
        sys.modules["dgl.graphbolt"] = _Empty("dgl.graphbolt")
    before = environ.get(BACKEND)
    environ[BACKEND] = "pytorch"
    try:
        return importlib.import_module("dgl")
    finally:
        if before is None:
            del environ[BACKEND]
        else:
            environ[BACKEND] = before


class _Empty(ModuleType):
    """A module in which every public name is a class without content."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


dgl = _imported()

USER_ITEM, ITEM_USER = ("user", "interacts", "item"), ("item", "rev_interacts", "user")


def homogeneous(graph: BipartiteGraph) -> Any:
    """A `dgl.graph` of all nodes with both directions of every edge; the first E edges go from an item to a user.

    These have the order of `times_E` and `weights_E`. Edges are copied, 16 bytes each.
    """
    users, edges = graph.num_users, graph.num_edges
    indptr = np.concatenate([graph.user_items.indptr, graph.item_users.indptr[1:] + edges])
    indices = np.empty(2 * edges, np.int64)  # copy: DGL wants int64 node numbers
    np.add(graph.user_items.indices, users, out=indices[:edges])
    indices[edges:] = graph.item_users.indices
    return dgl.graph(("csc", (torch.from_numpy(indptr), torch.from_numpy(indices), [])), num_nodes=graph.num_nodes)


def bipartite(graph: BipartiteGraph) -> Any:
    """A `dgl.heterograph` of users and items with an edge type per direction; nodes keep their own numbers, items from 0.

    Edges of (user, interacts, item) are ordered by item, edges of (item, rev_interacts, user) as `times_E` and `weights_E`.
    """
    edges = {USER_ITEM: _csc(graph.item_users), ITEM_USER: _csc(graph.user_items)}
    return dgl.heterograph(edges, {"user": graph.num_users, "item": graph.num_items})


def blocks_of(sampled: Sampled, nodes_V: NDArray[np.int64]) -> list[Any]:
    """DGL's blocks of what a `NeighbourSampler` with `with_targets` drew, farthest hop first.

    Sources begin with the targets, in their order; the targets of the last block are `nodes_V` in the order given here, which
    may be any order of the nodes drawn for. `srcdata[dgl.NID]` and `dstdata[dgl.NID]` are node numbers.
    """
    made: list[Any] = []
    order_T = nodes_V
    for block in sampled.blocks:
        made.append(_made(block, sampled.rows_R, order_T))
        order_T = made[-1].srcdata[dgl.NID].numpy()
    return made[::-1]


@dataclass(frozen=True)
class BlockBatch:
    """A step for a DGL model: it reads rows `input_nodes`, and its output has a row for each target of the last block.

    `users_B`, `positives_B` and `negatives_BN`, int64, are places among these targets.
    """

    step: int
    input_nodes: torch.Tensor
    blocks: list[Any]
    users_B: torch.Tensor
    positives_B: torch.Tensor
    negatives_BN: torch.Tensor


def batches(sampler: EdgeSampler, epoch: int) -> Iterator[BlockBatch]:
    """The batches of `epoch` (0, 1, ...); UsageError unless `sampler.neighbours` is a `NeighbourSampler` with targets."""
    _check_targets(sampler.neighbours)
    for batch in sampler.epoch(epoch):
        blocks = blocks_of(Sampled(batch.rows_R, batch.blocks), batch.nodes_V)
        places = (torch.from_numpy(places) for places in (batch.users_B, batch.positives_B, batch.negatives_BN))
        yield BlockBatch(batch.step, blocks[0].srcdata[dgl.NID], blocks, *places)


class BlockSampler(dgl.dataloading.BlockSampler):  # type: ignore[name-defined,misc]
    """Our draws inside DGL's `DataLoader`, also through `as_edge_prediction_sampler`; the graph there is `homogeneous`.

    Draws come from torch's random state: `torch.manual_seed` repeats them (DGL shuffles by NumPy's). No edge can be excluded.
    """

    def __init__(self, neighbours: NeighbourSampler) -> None:
        super().__init__()
        _check_targets(neighbours)
        self._neighbours = neighbours

    def sample_blocks(self, g: Any, seed_nodes: torch.Tensor, exclude_eids: object = None) -> tuple[Any, Any, list[Any]]:
        if exclude_eids is not None:
            raise UsageError("neighbours are drawn from all edges, got edges to exclude; leave exclude out")
        graph = self._neighbours.graph
        if g.num_nodes() != graph.num_nodes:
            raise UsageError(f"the loader's graph must have {graph.num_nodes} nodes, as the sampler's, got {g.num_nodes()}")
        given_V = within(seed_nodes.numpy().astype(np.int64), graph.num_nodes, "node")
        nodes_V = np.unique(given_V)
        if len(nodes_V) != len(given_V):
            raise UsageError("the nodes of a batch must be distinct, some come twice; draw them without replacement")
        users = int(np.searchsorted(nodes_V, graph.num_users))
        sampled = self._neighbours.sample(nodes_V, users, int(torch.randint(1 << 48, ())))
        blocks = blocks_of(sampled, given_V)
        return blocks[0].srcdata[dgl.NID], seed_nodes, blocks


class Negatives:
    """`negative_sampler` of `as_edge_prediction_sampler` for seed edges that go from an item to a user (the first E).

    `num` items per edge, drawn by degree**`popularity_power`, in place of the item; items that the user has an edge to are drawn
    again, 32 times at most.
    """

    def __init__(self, graph: BipartiteGraph, num: int, seed: int, popularity_power: float = 0.0) -> None:
        self._graph, self._num, self._seed = graph, num, seed
        self._table = popularity_table(graph.item_users.degrees, popularity_power)

    def __call__(self, g: Any, eids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(item nodes, user nodes), `num` of each per edge."""
        users_B = within(g.find_edges(eids)[1].numpy().astype(np.int32), self._graph.num_users, "user")
        step = int(torch.randint(1 << 48, ()))
        items = negatives(users_B, self._num, self._table, self._graph.user_items, self._seed, step).reshape(-1)
        users = np.repeat(users_B.astype(np.int64), self._num)
        return torch.from_numpy(items.astype(np.int64) + self._graph.num_users), torch.from_numpy(users)


def _check_targets(neighbours: object) -> None:
    if not isinstance(neighbours, NeighbourSampler) or not neighbours.with_targets:
        raise UsageError(
            "DGL's blocks hold a node with its drawn neighbours, "
            f"got {'one without them' if isinstance(neighbours, NeighbourSampler) else type(neighbours).__name__}; "
            "give a NeighbourSampler with with_targets=True"
        )
    if not neighbours.fanouts:
        raise UsageError("DGL's loaders need at least one block, got no fanout; give the NeighbourSampler one per layer")


def _made(block: Block, rows_R: NDArray[np.int64], order_T: NDArray[np.int64]) -> Any:
    """One block whose targets come in the order of these node numbers."""
    targets_T, sources_S = rows_R[block.targets_T], rows_R[block.sources_S]
    at_T = np.searchsorted(targets_T, order_T)  # the csr row of each target, in the new order
    is_target_S = np.zeros(len(sources_S), np.bool_)
    is_target_S[np.searchsorted(sources_S, targets_T)] = True
    place_S = np.empty(len(sources_S), np.int64)
    place_S[np.searchsorted(sources_S, order_T)] = np.arange(len(order_T))
    place_S[~is_target_S] = np.arange(len(order_T), len(sources_S))
    indptr, drawn_X = _rows_in_order(block.csr, at_T)
    csc: tuple[Any, Any, list[Any]] = torch.from_numpy(indptr), torch.from_numpy(place_S[drawn_X]), []
    made = dgl.create_block(("csc", csc), num_src_nodes=len(sources_S), num_dst_nodes=len(order_T))
    made.srcdata[dgl.NID] = torch.from_numpy(np.concatenate([order_T, sources_S[~is_target_S]]))
    made.dstdata[dgl.NID] = torch.from_numpy(order_T)
    return made


def _rows_in_order(csr: Csr, rows_T: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """indptr and columns of the given rows, one after the other."""
    counts_T = csr.degrees[rows_T]
    indptr = np.concatenate([[0], np.cumsum(counts_T)])
    shift_X = np.repeat(csr.indptr[rows_T] - indptr[:-1], counts_T)
    return indptr, csr.indices[np.arange(len(shift_X)) + shift_X]


def _csc(csr: Csr) -> tuple[str, tuple[Any, Any, list[Any]]]:
    """A CSR by target, in DGL's words; copies, as DGL wants int64 and memory that may be written."""
    return "csc", (torch.from_numpy(csr.indptr.astype(np.int64)), torch.from_numpy(csr.indices.astype(np.int64)), [])
