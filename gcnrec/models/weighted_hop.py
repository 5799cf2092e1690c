"""One hop of propagation on a graph whose edges have weights: A = D^-1/2 W D^-1/2, D the sums of weights of each node.

The matrix is symmetric, as `gcnrec.models.hops.Hop` has it without weights.
Letters: N nodes, E edges, V chosen nodes, D width.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.errors import DataError
from gcnrec.graph import BipartiteGraph
from gcnrec.models.encoder import column_blocks
from gcnrec.models.hops import WIDEST, Hop
from gcnrec.ops.propagate import inverse_sqrt
from gcnrec.ops.weighted import EdgeWeights
from gcnrec.ops.weighted_products import weighted_product_rows, weighted_scatter_rows
from gcnrec.rows import RowGrad
from gcnrec.tables.dense import Table


class WeightedHop(Hop):
    """The matrix A of a graph and its weights, 8 bytes an edge. DataError unless all are finite and above 0."""

    def __init__(self, graph: BipartiteGraph, weights: EdgeWeights) -> None:
        super().__init__(graph)
        bad = ~((weights.user_items_E > 0) & np.isfinite(weights.user_items_E))
        if bad.any():
            raise DataError(
                f"a graph with weights needs all of them finite and above 0, and {int(bad.sum()):,} of {len(bad):,} edges have "
                "others; ingest without these rows (--where), or set model.weighted_graph = false"
            )
        self._weights = weights
        of_users, of_items = (
            np.bincount(csr.row_numbers(), weights_E, csr.rows)
            for csr, weights_E in ((graph.user_items, weights.user_items_E), (graph.item_users, weights.item_users_E))
        )
        self._sums_N = np.concatenate([of_users, of_items])
        self._users, self._items = inverse_sqrt(of_users), inverse_sqrt(of_items)

    def degrees_of(self, nodes_V: NDArray[np.int64]) -> NDArray[Any]:
        """Sums of weights of nodes, float64 (V)."""
        return self._sums_N[nodes_V]

    def inverse_roots_of(self, nodes_V: NDArray[np.int64]) -> NDArray[np.float32]:
        roots_V: NDArray[np.float32] = inverse_sqrt(self._sums_N[nodes_V]).numpy()
        return roots_V

    def of_users(self, items_ID: torch.Tensor, first: int, out_RD: torch.Tensor) -> None:
        rows_R = np.arange(first, first + len(out_RD), dtype=np.int32)
        csr, weights_E = self.graph.user_items, self._weights.user_items_E
        weighted_product_rows(csr, weights_E, items_ID, self._users, self._items, rows_R, out_RD)

    def of_items(self, users_UD: torch.Tensor, first: int, out_RD: torch.Tensor) -> None:
        rows_R = np.arange(first, first + len(out_RD), dtype=np.int32)
        csr, weights_E = self.graph.item_users, self._weights.item_users_E
        weighted_product_rows(csr, weights_E, users_UD, self._items, self._users, rows_R, out_RD)

    def rows(self, source_ND: torch.Tensor, nodes_V: NDArray[np.int64], num_users: int) -> torch.Tensor:
        users, items, first_item = *self._split(nodes_V, num_users), self.graph.num_users
        of_users_E, of_items_E = self._weights
        out_VD = torch.empty(len(nodes_V), source_ND.shape[1])
        weighted_product_rows(
            self.graph.user_items, of_users_E, source_ND[first_item:], self._users, self._items, users, out_VD[:num_users]
        )
        weighted_product_rows(
            self.graph.item_users, of_items_E, source_ND[:first_item], self._items, self._users, items, out_VD[num_users:]
        )
        return out_VD

    def spread(self, grad_VD: torch.Tensor, nodes_V: NDArray[np.int64], num_users: int, out_ND: torch.Tensor) -> None:
        users, items, first_item = *self._split(nodes_V, num_users), self.graph.num_users
        of_users_E, of_items_E = self._weights
        weighted_scatter_rows(
            self.graph.user_items, of_users_E, grad_VD[:num_users], users, self._users, self._items, out_ND[first_item:]
        )
        weighted_scatter_rows(
            self.graph.item_users, of_items_E, grad_VD[num_users:], items, self._items, self._users, out_ND[:first_item]
        )

    def read_rows(self, table: Table, nodes_V: NDArray[np.int64], num_users: int) -> torch.Tensor:
        """(A @ rows of `table`)[nodes_V], decoded in blocks of columns."""
        out_VD = torch.empty(len(nodes_V), table.width)
        for first, last in column_blocks(table.width, WIDEST):
            out_VD[:, first:last] = self.rows(table.columns(first, last), nodes_V, num_users)
        return out_VD

    def spread_rows(self, table: Table, grad_VD: torch.Tensor, nodes_V: NDArray[np.int64], num_users: int, grad: RowGrad) -> None:
        """grad += A[:, nodes_V] @ grad_VD at the stored values of `table`, in blocks of columns."""
        for first, last in column_blocks(table.width, WIDEST):
            plane_NC = torch.zeros(table.num_rows, last - first)
            self.spread(grad_VD[:, first:last], nodes_V, num_users, plane_NC)
            table.add_columns(grad, first, last, plane_NC)
