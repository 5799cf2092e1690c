"""One hop of symmetric-normalised propagation on the node matrix (users first, then items), in every form training needs.

The matrix A = D^-1/2 [[0, R], [R^T, 0]] D^-1/2 (He et al. 2020, "LightGCN", eq. 3) is symmetric: its own backward pass.
Exports propagate all nodes layer by layer in column blocks: propagation treats every column alike, so a graph of any size needs
no more than four planes of a few columns in RAM.
Letters: N nodes, U users, I items, V chosen nodes, D width, L layers.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.graph import BipartiteGraph
from gcnrec.models.encoder import column_blocks
from gcnrec.ops.propagate import degrees_of, inverse_roots, inverse_roots_of, mark_rows, propagate, propagate_rows, scatter_rows
from gcnrec.rows import RowGrad
from gcnrec.system.pages import let_go, let_go_read_only
from gcnrec.tables.dense import Table


class Hop:
    """The matrix A of one graph. Nothing is stored but 1 / sqrt(degree) per node, from the first product on."""

    def __init__(self, graph: BipartiteGraph) -> None:
        self.graph = graph

    @cached_property
    def _users(self) -> torch.Tensor:
        return inverse_roots(self.graph.user_items)

    @cached_property
    def _items(self) -> torch.Tensor:
        return inverse_roots(self.graph.item_users)

    def degrees_of(self, nodes_V: NDArray[np.int64]) -> NDArray[Any]:
        """What the rows of ascending nodes are divided by, the neighbours' like it: their degrees, (V)."""
        cut = int(np.searchsorted(nodes_V, self.graph.num_users))
        items = nodes_V[cut:] - self.graph.num_users
        return np.concatenate([degrees_of(self.graph.user_items, nodes_V[:cut]), degrees_of(self.graph.item_users, items)])

    def inverse_roots_of(self, nodes_V: NDArray[np.int64]) -> NDArray[np.float32]:
        """1 / sqrt of `degrees_of` ascending nodes, float32 (V), 0 where it is 0."""
        out_V, cut = np.empty(len(nodes_V), np.float32), int(np.searchsorted(nodes_V, self.graph.num_users))
        inverse_roots_of(self.graph.user_items, nodes_V[:cut], out_V[:cut])
        inverse_roots_of(self.graph.item_users, nodes_V[cut:] - self.graph.num_users, out_V[cut:])
        return out_V

    def full(self, source_ND: torch.Tensor, out_ND: torch.Tensor | None = None) -> torch.Tensor:
        """A @ source for all nodes; source and out may be column blocks and must not overlap."""
        num_users = self.graph.num_users
        if out_ND is None:
            out_ND = torch.empty(source_ND.shape)
        propagate(self.graph.user_items, source_ND[num_users:], self._users, self._items, out_ND[:num_users])
        propagate(self.graph.item_users, source_ND[:num_users], self._items, self._users, out_ND[num_users:])
        return out_ND

    def rows(self, source_ND: torch.Tensor, nodes_V: NDArray[np.int64], num_users: int) -> torch.Tensor:
        """(A @ source)[nodes_V]; the first `num_users` of the ascending `nodes_V` are users."""
        users, items, first_item = *self._split(nodes_V, num_users), self.graph.num_users
        out_VD = torch.empty(len(nodes_V), source_ND.shape[1])
        propagate_rows(self.graph.user_items, source_ND[first_item:], self._users, self._items, users, out_VD[:num_users])
        propagate_rows(self.graph.item_users, source_ND[:first_item], self._items, self._users, items, out_VD[num_users:])
        return out_VD

    def spread(self, grad_VD: torch.Tensor, nodes_V: NDArray[np.int64], num_users: int, out_ND: torch.Tensor) -> None:
        """out += A[:, nodes_V] @ grad: the backward pass of `rows`."""
        users, items, first_item = *self._split(nodes_V, num_users), self.graph.num_users
        scatter_rows(self.graph.user_items, grad_VD[:num_users], users, self._users, self._items, out_ND[first_item:])
        scatter_rows(self.graph.item_users, grad_VD[num_users:], items, self._items, self._users, out_ND[:first_item])

    def read_rows(self, table: Table, nodes_V: NDArray[np.int64], num_users: int) -> torch.Tensor:
        """(A @ rows of `table`)[nodes_V], straight from where they are stored."""
        users, items = self._split(nodes_V, num_users)
        out_VD = torch.empty(len(nodes_V), table.width)
        graph = self.graph
        table.propagate_rows(graph.user_items, graph.num_users, self._users, self._items, users, out_VD[:num_users])
        table.propagate_rows(graph.item_users, 0, self._items, self._users, items, out_VD[num_users:])
        return out_VD

    def spread_rows(self, table: Table, grad_VD: torch.Tensor, nodes_V: NDArray[np.int64], num_users: int, grad: RowGrad) -> None:
        """grad += A[:, nodes_V] @ grad_VD at the stored values of `table`: the backward pass of `read_rows`."""
        users, items = self._split(nodes_V, num_users)
        graph = self.graph
        table.scatter_rows(graph.user_items, graph.num_users, self._users, self._items, users, grad_VD[:num_users], grad)
        table.scatter_rows(graph.item_users, 0, self._items, self._users, items, grad_VD[num_users:], grad)

    def touched(self, nodes_V: NDArray[np.int64], num_users: int) -> NDArray[np.int64]:
        """The nodes of `nodes_V` and their neighbours, ascending: the rows that `spread` and `grad_VD` itself reach."""
        users, items = self._split(nodes_V, num_users)
        flags_N = np.zeros(self.graph.num_nodes, np.uint8)
        flags_N[nodes_V] = 1
        mark_rows(self.graph.user_items, users, flags_N[self.graph.num_users :])
        mark_rows(self.graph.item_users, items, flags_N[: self.graph.num_users])
        return np.flatnonzero(flags_N)

    def _split(self, nodes_V: NDArray[np.int64], num_users: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        users = nodes_V[:num_users].astype(np.int32)
        return users, (nodes_V[num_users:] - self.graph.num_users).astype(np.int32)


class SymmetricHop(torch.autograd.Function):
    """`Hop.full` for autograd: the gradient of A @ x is A @ gradient, because A is symmetric."""

    @staticmethod
    def forward(ctx: Any, source_ND: torch.Tensor, hop: Hop) -> torch.Tensor:
        ctx.hop = hop
        return hop.full(source_ND.detach())

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> Any:
        return ctx.hop.full(grad_outputs[0].contiguous()), None


WIDEST = 64
"""Columns of a block at most: wider ones are no faster, as the edges are read once for a whole cache line or more."""


_NARROWEST = 4


_PLANES_BYTES = 1 << 30
"""Size of three planes of a block on large graphs; a fourth exists while a block begins."""


_ROWS_AT_ONCE = 1 << 18
"""Rows that are copied out before their pages are let go: a block of columns touches every page of the matrix."""


def block_columns(num_nodes: int) -> int:
    """Columns of a block, so that three float32 planes of them take a gibibyte at most, but no fewer than four."""
    return max(_NARROWEST, min(WIDEST, _PLANES_BYTES // (3 * 4 * max(num_nodes, 1))))


def export_blocks(num_nodes: int, width: int) -> list[tuple[int, int]]:
    """The blocks of columns that an export propagates, as [first, last). A column's bits depend on its block alone."""
    return column_blocks(width, min(block_columns(num_nodes), width))


class MeanOfHops:
    """1/(L+1) * sum over l = 0 .. L of A^l E for blocks of at most `columns` columns of E, in the same memory each time."""

    def __init__(self, hop: Hop, num_layers: int, columns: int) -> None:
        self._hop, self._num_layers = hop, num_layers
        num_nodes = hop.graph.num_nodes
        self._planes = [torch.empty(num_nodes, columns) for _ in range(min(num_layers, 2))]
        self._total_NC = torch.empty(num_nodes, columns)

    def of(self, source_NC: torch.Tensor) -> torch.Tensor:
        """Float32 (N, C), until the next block; `source_NC` is left as it is."""
        width = source_NC.shape[1]
        source, total = source_NC, self._total_NC[:, :width]
        total.copy_(source)
        for layer in range(self._num_layers):
            source = self._hop.full(source, self._planes[layer % 2][:, :width])
            total += source
        total /= self._num_layers + 1
        return total


def write_block(block_RC: torch.Tensor, out_RF: torch.Tensor, first: int, last: int) -> None:
    """Make the block the columns `first .. last-1` of rows that may lie on disk."""
    for row in range(0, len(block_RC), _ROWS_AT_ONCE):
        out_RF[row : row + _ROWS_AT_ONCE, first:last] = block_RC[row : row + _ROWS_AT_ONCE]  # copy: into the export
        let_go(out_RF)


def export_mean(hop: Hop, num_layers: int, table: Table, out_NF: torch.Tensor) -> None:
    """out = 1/(L+1) * sum over l = 0 .. L of A^l E, E the rows of `table`; `out_NF` float32 (N, D), on disk if it is large."""
    blocks = export_blocks(table.num_rows, table.width)
    mean = MeanOfHops(hop, num_layers, blocks[0][1])
    for first, last in blocks:
        write_block(mean.of(table.columns(first, last)), out_NF, first, last)
    for csr in (hop.graph.user_items, hop.graph.item_users):
        let_go_read_only(csr.indices)  # every edge has been read; what follows reads none
