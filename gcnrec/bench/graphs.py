"""The graph of a bench: a dataset's train graph or one of Gowalla's size, and its adjacency as peers take it.

Letters: N nodes (users, then items), E edges, both ways, D width.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.graph import BipartiteGraph
from gcnrec.random import Stage, generator

GOWALLA = (29858, 40981, 810128)
"""Users, items and train interactions of Gowalla's standard split: the size of the synthetic default."""


@dataclass(frozen=True)
class GraphInputs:
    """The same for every variant: the graph, its normalised adjacency in COO (exact), rows and a gradient of the result."""

    graph: BipartiteGraph
    rows_E: NDArray[np.int64]
    columns_E: NDArray[np.int64]
    exact_E: NDArray[np.float64]
    source_ND: torch.Tensor
    grad_ND: torch.Tensor

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the adjacency."""
        return self.graph.num_nodes, self.graph.num_nodes

    @property
    def values_E(self) -> NDArray[np.float32]:
        """The adjacency's values as all variants use them."""
        return self.exact_E.astype(np.float32)


def graph_inputs(dataset: Path | None, width: int, size: tuple[int, int, int]) -> GraphInputs:
    """The adjacency of `graph_of(dataset, size)`, and random rows and gradients."""
    graph = graph_of(dataset, size)
    users = graph.num_users
    rows_E = np.concatenate([graph.user_items.row_numbers(), graph.item_users.row_numbers() + users]).astype(np.int64)
    columns_E = np.concatenate([graph.user_items.indices.astype(np.int64) + users, graph.item_users.indices.astype(np.int64)])
    degrees = np.concatenate([graph.user_items.degrees, graph.item_users.degrees])
    exact_E = 1 / np.sqrt(degrees[rows_E] * degrees[columns_E])
    draws = generator(0, Stage.INIT)
    # clone: torch starts its memory on a cache line, as training's rows and gradients do, NumPy does not
    source, grad = (torch.from_numpy(draws.standard_normal((graph.num_nodes, width), np.float32)).clone() for _ in range(2))
    return GraphInputs(graph, rows_E, columns_E, exact_E, source, grad)


def indptr_of(graph: BipartiteGraph) -> NDArray[np.int64]:
    """The start of each node's neighbours among all of both sides, (N+1), users first."""
    return np.concatenate([graph.user_items.indptr, graph.item_users.indptr[1:] + graph.num_edges])


def graph_of(dataset: Path | None, size: tuple[int, int, int] = GOWALLA) -> BipartiteGraph:
    """The train graph of a dataset folder; for None a synthetic one of `size`: users, items, edges."""
    if dataset is None:
        return synthetic(*size)
    from gcnrec.loaders.schema import open_dataset

    return open_dataset(dataset).graph


def synthetic(num_users: int, num_items: int, num_edges: int) -> BipartiteGraph:
    """Exactly `num_edges` distinct edges; density falls as number^-1/3 of users and ^-0.4 of items, much as Gowalla's."""
    draws = generator(0, Stage.SYNTHETIC)
    count = num_edges * 3 // 2
    users_E = (num_users * draws.random(count) ** 1.5).astype(np.int64)
    items_E = (num_items * draws.random(count) ** 1.65).astype(np.int64)
    kept = np.sort(np.unique(users_E * num_items + items_E, return_index=True)[1])[:num_edges]
    return BipartiteGraph.from_edges(users_E[kept].astype(np.int32), items_E[kept].astype(np.int32), num_users, num_items)


def load_dgl(threads: int) -> Any:
    """DGL with torch's backend, on `threads` threads. ImportError where it is not installed."""
    os.environ["DGLBACKEND"] = "pytorch"  # else the first import writes a file into the home folder
    import dgl

    dgl.utils.set_num_threads(threads)
    return dgl


def torch_csr(given: GraphInputs, index: type, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """The adjacency as torch's CSR with `index` integers and `dtype` values."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that CSR tensors are in beta
        return torch.sparse_csr_tensor(
            torch.from_numpy(indptr_of(given.graph).astype(index)),
            torch.from_numpy(given.columns_E.astype(index)),
            torch.from_numpy(given.exact_E).to(dtype),
            given.shape,
            check_invariants=False,
        )
