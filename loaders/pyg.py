"""PyTorch Geometric fed from a dataset folder: a sampler, a feature store and a graph store, without pyg-lib or torch-sparse.

    data = pyg.stores(dataset, {("user", "x"): users, ("item", "x"): items})
    loader = LinkLoader(data, pyg.SubgraphSampler(dataset.graph, (10, 10), seed=7), edge_label_index=pyg.USER_ITEM,
                        neg_sampling="triplet", batch_size=2048, shuffle=True)

Nodes keep their numbers in the folder, user 0 .. U-1 and item 0 .. I-1; the `n_id` of a batch, a `HeteroData`, are such numbers.
Draws come from torch's random state: `torch.manual_seed` before an epoch repeats its batches.
`num_workers` of a loader must stay 0, or its `multiprocessing_context` be "spawn": numba's threads do not survive a fork.
Letters: V nodes asked for, B positives, N negatives per positive.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.errors import UsageError, install
from gcnrec.graph import BipartiteGraph, Csr
from gcnrec.loaders.schema import Dataset
from gcnrec.loaders.subgraph import Numbers, Subgraphs, within
from gcnrec.loaders.table_rows import TableRows
from gcnrec.ops.draws.alias import AliasTable
from gcnrec.ops.draws.sample import negatives, popularity_table
from gcnrec.tables.dense import StepTable

try:
    from torch_geometric.data import FeatureStore, GraphStore, HeteroData, TensorAttr
    from torch_geometric.data.graph_store import EdgeAttr, EdgeLayout
    from torch_geometric.sampler import BaseSampler, EdgeSamplerInput, HeteroSamplerOutput, NegativeSampling, NodeSamplerInput
except ModuleNotFoundError as problem:
    if problem.name != "torch_geometric":
        raise
    raise UsageError(f"gcnrec.loaders.pyg needs PyTorch Geometric, which is not installed; {install('pyg')}") from None

USER, ITEM = "user", "item"
USER_ITEM, ITEM_USER = (USER, "interacts", ITEM), (ITEM, "rev_interacts", USER)
METADATA = ([USER, ITEM], [USER_ITEM, ITEM_USER])
"""What `to_hetero` asks for."""


class SubgraphSampler(BaseSampler):  # type: ignore[misc]
    """Draws `fanouts[h]` neighbours, without replacement, of every node that hop h - 1 met first; hop 0 is at the seeds.

    The subgraphs equal PyG's NeighborLoader's ("directional"): seeds first, in the order given, then the new nodes of each
    hop, ascending; edges point from a neighbour to the node that drew it. `num_sampled_nodes` and `num_sampled_edges` are given,
    edge ids are not. Negatives of a seed edge (u, i) are drawn by degree**`popularity_power` among the nodes of i's type; with
    `exclude_seen`, what u has an edge to is drawn again, 32 times at most.
    Raises UsageError unless every fanout lies in 1 .. 64. No two threads may draw at a time.
    """

    def __init__(
        self, graph: BipartiteGraph, fanouts: tuple[int, ...], seed: int, popularity_power: float = 0.0, exclude_seen: bool = True
    ) -> None:
        self._subgraphs = Subgraphs(graph, fanouts, seed)
        self._popularity_power, self._exclude_seen = popularity_power, exclude_seen
        self._tables: dict[str, AliasTable] = {}

    def sample_from_nodes(self, index: NodeSamplerInput, **kwargs: Any) -> HeteroSamplerOutput:
        """The subgraph of distinct seeds of one type, as `NodeLoader` asks for it."""
        _check_no_time(index.time)
        if index.input_type not in (USER, ITEM):
            raise UsageError(f"input_nodes must name the type {USER!r} or {ITEM!r}, got {index.input_type!r}")
        none = np.empty(0, np.int32)
        out = self._subgraph({USER: none, ITEM: none, index.input_type: _numbers(index.node)})
        out.metadata = (index.input_id, None)
        return out

    def sample_from_edges(self, index: EdgeSamplerInput, neg_sampling: NegativeSampling | None = None) -> HeteroSamplerOutput:
        """The subgraph of seed edges and their negatives, as `LinkLoader` asks for it.

        "triplet": `amount` negatives per seed edge. "binary": ceil(`amount` * edges) pairs, their first node drawn uniformly.
        """
        _check_no_time(index.time)
        if index.input_type not in (USER_ITEM, ITEM_USER):
            raise UsageError(f"edge_label_index must name {USER_ITEM} or {ITEM_USER}, got {index.input_type}")
        own, _, other = index.input_type
        sources, targets = self._with_negatives(own, _numbers(index.row), _numbers(index.col), neg_sampling)
        sources_S, at_source = np.unique(sources, return_inverse=True)
        targets_S, at_target = np.unique(targets, return_inverse=True)
        out = self._subgraph({own: sources_S, other: targets_S})
        out.metadata = _labels(index, neg_sampling, torch.from_numpy(at_source), torch.from_numpy(at_target))
        return out

    def _with_negatives(
        self, own: str, sources_B: Numbers, targets_B: Numbers, settings: NegativeSampling | None
    ) -> tuple[Numbers, Numbers]:
        """Both ends of all pairs, the positives first: "triplet" adds targets alone, in the order of the positives."""
        if settings is None:
            return sources_B, targets_B
        if settings.src_weight is not None or settings.dst_weight is not None:
            raise UsageError("the sampler's popularity_power weights negatives, got src_weight or dst_weight; leave them out")
        if settings.is_triplet():
            return sources_B, np.concatenate([targets_B, self._negatives(own, sources_B, settings.amount)])
        count = math.ceil(len(sources_B) * settings.amount)
        drawn = torch.randint(self._rows(own).rows, (count,), dtype=torch.int32).numpy()
        return np.concatenate([sources_B, drawn]), np.concatenate([targets_B, self._negatives(own, drawn, 1)])

    def _negatives(self, own: str, sources_B: Numbers, num: int) -> Numbers:
        """`num` negatives of each node of type `own`, flat."""
        self._subgraphs.check_process()
        seen = self._rows(own)
        if own not in self._tables:
            other = self._rows(ITEM if own == USER else USER)
            self._tables[own] = popularity_table(other.degrees, self._popularity_power)
        excluded = seen if self._exclude_seen else None
        sources = within(sources_B, seen.rows, own)
        return negatives(sources, num, self._tables[own], excluded, self._subgraphs.seed, _drawn_step()).reshape(-1)

    def _rows(self, own: str) -> Csr:
        graph = self._subgraphs.graph
        return graph.user_items if own == USER else graph.item_users

    def _subgraph(self, seeds: dict[str, Numbers]) -> HeteroSamplerOutput:
        users, items = self._subgraphs.sample(seeds[USER], seeds[ITEM], _drawn_step())
        sides = {ITEM_USER: users, USER_ITEM: items}  # users drew items, so edges of theirs point at users
        return HeteroSamplerOutput(
            node={USER: torch.from_numpy(users.numbers_V), ITEM: torch.from_numpy(items.numbers_V)},
            row={edge_type: torch.from_numpy(side.sources_X) for edge_type, side in sides.items()},
            col={edge_type: torch.from_numpy(side.targets_X) for edge_type, side in sides.items()},
            edge=dict.fromkeys(sides),
            num_sampled_nodes={USER: users.met, ITEM: items.met},
            num_sampled_edges={edge_type: side.drawn for edge_type, side in sides.items()},
        )


def _labels(
    index: EdgeSamplerInput, settings: NegativeSampling | None, at_source: torch.Tensor, at_target: torch.Tensor
) -> tuple[Any, ...]:
    """The metadata that LinkLoader expects: places of both ends among the subgraph's nodes, and labels."""
    count = len(index.row)
    if settings is not None and settings.is_triplet():
        negatives_BN = at_target[count:].view(count, settings.amount)
        return index.input_id, at_source, at_target[:count], negatives_BN.squeeze(-1), None
    label = index.label
    if settings is not None:
        label = torch.ones(count) if label is None else label
        label = torch.cat([label, label.new_zeros(len(at_source) - count, *label.shape[1:])])
    return index.input_id, torch.stack([at_source, at_target]), label, None


class RowStore(FeatureStore):  # type: ignore[misc]
    """Attributes of nodes by (node type, name): float32 arrays, which may be memory-mapped, or rows of a table.

    A read gathers just the rows asked for, as a new tensor. Whole attributes can be put and removed, rows of one cannot.
    """

    def __init__(self, attributes: Mapping[tuple[str, str], NDArray[np.float32] | TableRows]) -> None:
        super().__init__()
        self._attributes = dict(attributes)

    def get_all_tensor_attrs(self) -> list[TensorAttr]:
        return [TensorAttr(group, name) for group, name in self._attributes]

    def _get_tensor(self, attr: TensorAttr) -> torch.Tensor | None:
        source = self._attributes.get((attr.group_name, attr.attr_name))
        if source is None:
            return None
        numbers_V = np.arange(source.shape[0]) if attr.index is None else _index(attr.index, source.shape[0])
        if isinstance(source, TableRows):
            return source.read(numbers_V)
        return torch.from_numpy(np.take(source, numbers_V, axis=0))

    def _get_tensor_size(self, attr: TensorAttr) -> tuple[int, ...] | None:
        source = self._attributes.get((attr.group_name, attr.attr_name))
        return None if source is None else tuple(source.shape)

    def _put_tensor(self, tensor: torch.Tensor | NDArray[np.float32], attr: TensorAttr) -> bool:
        if attr.index is not None:
            return False
        self._attributes[attr.group_name, attr.attr_name] = np.asarray(tensor)
        return True

    def _remove_tensor(self, attr: TensorAttr) -> bool:
        return self._attributes.pop((attr.group_name, attr.attr_name), None) is not None


class BipartiteStore(GraphStore):  # type: ignore[misc]
    """Both directions of a graph, read-only: (user, interacts, item) and (item, rev_interacts, user), each in any layout.

    Edges of a direction are ordered by its first node, so (user, interacts, item) has the order of `times_E` and `weights_E`.
    Indices are new int64 tensors: a whole copy of what is asked for.
    """

    def __init__(self, graph: BipartiteGraph) -> None:
        super().__init__()
        self._graph = graph

    def get_all_edge_attrs(self) -> list[EdgeAttr]:
        users, items = self._graph.num_users, self._graph.num_items
        sizes = {USER_ITEM: (users, items), ITEM_USER: (items, users)}
        return [EdgeAttr(edge_type, EdgeLayout.CSR, size=size) for edge_type, size in sizes.items()]

    def _get_edge_index(self, attr: EdgeAttr) -> tuple[torch.Tensor, torch.Tensor] | None:
        if attr.edge_type not in (USER_ITEM, ITEM_USER):
            return None
        forward = attr.edge_type == USER_ITEM
        graph = self._graph
        if attr.layout == EdgeLayout.CSC:
            csc = graph.item_users if forward else graph.user_items
            return _copied(csc.indices), _copied(csc.indptr)
        csr = graph.user_items if forward else graph.item_users
        return _copied(csr.row_numbers() if attr.layout == EdgeLayout.COO else csr.indptr), _copied(csr.indices)

    def _put_edge_index(self, edge_index: tuple[torch.Tensor, torch.Tensor], edge_attr: EdgeAttr) -> bool:
        return False

    def _remove_edge_index(self, edge_attr: EdgeAttr) -> bool:
        return False


def stores(
    dataset: Dataset, attributes: Mapping[tuple[str, str], NDArray[np.float32] | TableRows] | None = None
) -> tuple[RowStore, BipartiteStore]:
    """What PyG's loaders take as data. Without `attributes`, the features that the folder has, named "x"."""
    if attributes is None:
        features = ((USER, dataset.user_features), (ITEM, dataset.item_features))
        attributes = {(own, "x"): array for own, array in features if array is not None}
    return RowStore(attributes), BipartiteStore(dataset.graph)


def table_rows(graph: BipartiteGraph, table: StepTable) -> dict[tuple[str, str], TableRows]:
    """The rows of a table over all nodes (users, then items) as attributes "x"."""
    return {
        (USER, "x"): TableRows(table, 0, graph.num_users),
        (ITEM, "x"): TableRows(table, graph.num_users, graph.num_items),
    }


def hetero_data(data: tuple[RowStore, BipartiteStore]) -> HeteroData:
    """All attributes and both directions in memory at once, for propagation over the whole graph."""
    rows, graph = data
    whole = HeteroData()
    for attr in graph.get_all_edge_attrs():
        for own, count in zip(attr.edge_type[::2], attr.size, strict=True):
            whole[own].num_nodes = count
        whole[attr.edge_type].edge_index = torch.stack(graph.get_edge_index(attr.edge_type, EdgeLayout.COO))
    for attr in rows.get_all_tensor_attrs():
        whole[attr.group_name][attr.attr_name] = rows.get_tensor(attr.group_name, attr.attr_name, None)
    return whole


def _drawn_step() -> int:
    """A step for draws, from torch's random state: `torch.manual_seed` repeats it, and each worker has another."""
    return int(torch.randint(1 << 48, ()))


def _numbers(index: torch.Tensor) -> Numbers:
    return index.numpy().astype(np.int32)


def _check_no_time(time: torch.Tensor | None) -> None:
    if time is not None:
        raise UsageError("neighbours are drawn whatever their time, got times for the seeds; leave them out")


def _index(index: Any, count: int) -> NDArray[np.int64]:
    """Row numbers from a tensor, a slice or one number."""
    if isinstance(index, slice):
        return np.arange(count)[index]
    return np.atleast_1d(np.asarray(index)).astype(np.int64)


def _copied(array: NDArray[np.integer]) -> torch.Tensor:
    return torch.from_numpy(array.astype(np.int64))  # copy: PyG wants int64, and torch warns of memory it must not write
