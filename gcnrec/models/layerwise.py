"""Exact embeddings of all nodes, layer by layer in column blocks: what training by samples is exported and ranked with.

Propagation treats every column alike, so a graph of any size needs no more than four planes of a few columns in RAM.
Letters: N nodes, D width, L layers.
"""

from __future__ import annotations

import torch

from gcnrec.models.encoder import column_blocks
from gcnrec.models.hops import Hop
from gcnrec.system.pages import let_go, let_go_read_only
from gcnrec.tables.dense import Table

WIDEST = 64
"""Columns of a block at most: wider ones are no faster, as the edges are read once for a whole cache line or more."""
_NARROWEST = 4
_PLANES_BYTES = 1 << 30
"""Size of three planes of a block on large graphs, beside which there is a fourth while a block begins."""
_ROWS_AT_ONCE = 1 << 18
"""Rows that are copied out before their pages are let go: a block of columns touches every page of the matrix."""


def block_columns(num_nodes: int) -> int:
    """Columns of a block, so that three float32 planes of them take a gibibyte at most, but no fewer than four."""
    return max(_NARROWEST, min(WIDEST, _PLANES_BYTES // (3 * 4 * max(num_nodes, 1))))


def export_mean(hop: Hop, num_layers: int, table: Table, out_NF: torch.Tensor) -> None:
    """out = 1/(L+1) * sum over l = 0 .. L of A^l E, E the rows of `table`; `out_NF` float32 (N, D), on disk if it is large."""
    columns = min(block_columns(table.num_rows), table.width)
    planes = [torch.empty(table.num_rows, columns) for _ in range(min(num_layers, 2))]
    total_NC = torch.empty(table.num_rows, columns)
    for first, last in column_blocks(table.width, columns):
        source, total = table.columns(first, last), total_NC[:, : last - first]
        total.copy_(source)
        for layer in range(num_layers):
            source = hop.full(source, planes[layer % 2][:, : last - first])
            total += source
        total /= num_layers + 1
        for row in range(0, table.num_rows, _ROWS_AT_ONCE):
            out_NF[row : row + _ROWS_AT_ONCE, first:last] = total[row : row + _ROWS_AT_ONCE]
            let_go(out_NF)
    for csr in (hop.graph.user_items, hop.graph.item_users):
        let_go_read_only(csr.indices)  # every edge has been read; what follows reads none
