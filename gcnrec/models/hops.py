"""One hop of symmetric-normalised propagation on the node matrix (users first, then items), in every form training needs.

The matrix A = D^-1/2 [[0, R], [R^T, 0]] D^-1/2 (He et al. 2020, "LightGCN", eq. 3) is symmetric: its own backward pass.
Exports propagate all nodes layer by layer in column blocks: propagation treats every column alike, so a graph of any size needs
no more than a few planes of a few columns in RAM. A plane holds one side: a hop reads one and writes the other.
Letters: N nodes, U users, I items, V chosen nodes, R consecutive rows, D width, C columns of a block, L layers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.graph import BipartiteGraph
from gcnrec.models.encoder import column_blocks
from gcnrec.ops.propagate import degrees_of, inverse_roots, inverse_roots_of, mark_rows, propagate, propagate_rows, scatter_rows
from gcnrec.rows import RowGrad
from gcnrec.system.limits import read_limits
from gcnrec.system.pages import in_large_pages, let_go, let_go_read_only
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
        self.of_users(source_ND[num_users:], 0, out_ND[:num_users])
        self.of_items(source_ND[:num_users], 0, out_ND[num_users:])
        return out_ND

    def of_users(self, items_ID: torch.Tensor, first: int, out_RD: torch.Tensor) -> None:
        """out = (A @ source) of users `first .. first + R - 1`; of the source a hop to users reads the items' rows alone."""
        last = first + len(out_RD)
        propagate(self.graph.user_items.between(first, last), items_ID, self._users[first:last], self._items, out_RD)

    def of_items(self, users_UD: torch.Tensor, first: int, out_RD: torch.Tensor) -> None:
        """out = (A @ source) of items `first .. first + R - 1`, numbered from 0, by the users' rows of the source."""
        last = first + len(out_RD)
        propagate(self.graph.item_users.between(first, last), users_UD, self._items[first:last], self._users, out_RD)

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


_LEAST_BYTES, _MOST_BYTES = 1 << 30, 7 << 30
"""Of all planes of a block: the first whatever is free, the second at most."""


_SHARE = 3
"""Planes take one part in so many of the free memory: the pages of edges and table that a hop reads want the rest."""


_ROWS_AT_ONCE = 1 << 16
"""Rows of the last hops that are computed, and leave, at a time."""


def planes_of(num_layers: int) -> tuple[int, int]:
    """Planes of the side with more nodes and of the other, the least that the mean over layers 0 .. L needs.

    A hop reads one side alone: layer l + 1 of the larger side takes the place of layer l once the smaller side has read that.
    The last hop, and up to three layers the sum, exist in stretches of rows only; more layers keep a sum of each side.
    """
    return {0: (0, 0), 1: (1, 1), 2: (1, 2), 3: (1, 2)}.get(num_layers, (2, 3))


def column_bytes(graph: BipartiteGraph, num_layers: int) -> int:
    """Bytes of one float32 column of all planes of an export."""
    larger, smaller = planes_of(num_layers)
    sizes = graph.num_users, graph.num_items
    return 4 * (larger * max(sizes) + smaller * min(sizes))


def block_columns(bytes_per_column: int, available: int) -> int:
    """Columns of a block, so that its planes take a third of `available` bytes, within a gibibyte and seven; four at least.

    Powers of two, and half of one more: narrower rows than a cache line cost as much to fetch.
    """
    room = min(max(available // _SHARE, _LEAST_BYTES), _MOST_BYTES)
    fitting = room // max(bytes_per_column, 1)
    return max([width for width in (_NARROWEST, 8, 12, 16, 32, WIDEST) if width <= fitting], default=_NARROWEST)


def export_blocks(graph: BipartiteGraph, num_layers: int, width: int, freed: int = 0) -> list[tuple[int, int]]:
    """The blocks of columns that an export propagates, as [first, last): as many as memory allows now with `freed` bytes more."""
    columns = block_columns(column_bytes(graph, num_layers), read_limits().available + freed)
    return column_blocks(width, min(columns, width))


class Columns(Protocol):
    """Float32 rows of all nodes that take one block of columns, [first, last), after the other, in stretches of rows."""

    @property
    def blocks(self) -> list[tuple[int, int]]: ...

    def put(self, block: int, row: int, piece_RC: torch.Tensor) -> None:
        """Make `piece_RC` the rows from `row` on in the columns of that block; its memory may be used again after this."""
        ...


@dataclass(frozen=True)
class Matrix:
    """`Columns` of a tensor, float32 (N, D), that may lie on disk."""

    rows_ND: torch.Tensor
    blocks: list[tuple[int, int]]

    def put(self, block: int, row: int, piece_RC: torch.Tensor) -> None:
        first, last = self.blocks[block]
        self.rows_ND[row : row + len(piece_RC), first:last] = piece_RC  # copy: into the export
        let_go(self.rows_ND)


Rows = Callable[[slice], torch.Tensor]
"""Consecutive rows of a block of columns of the table, float32 (R, C)."""
Put = Callable[[int, torch.Tensor], None]
"""Takes the rows from a number on, as `Columns.put` does."""


@dataclass(frozen=True)
class _Side:
    """The users or the items: their rows among all nodes, how a hop reaches them from the other side, their planes' memory."""

    first: int
    count: int
    reach: Callable[[torch.Tensor, int, torch.Tensor], None]
    memory: list[torch.Tensor]

    def planes(self, width: int) -> list[torch.Tensor]:
        """Float32 (count, C), rows without gaps."""
        return [flat[: self.count * width].view(self.count, width) for flat in self.memory]

    def stretches(self) -> list[tuple[int, int]]:
        return [(row, min(row + _ROWS_AT_ONCE, self.count)) for row in range(0, self.count, _ROWS_AT_ONCE)]

    def rows(self, source: Rows, row: int, last: int) -> torch.Tensor:
        return source(slice(self.first + row, self.first + last))


class MeanOfHops:
    """1/(L+1) * sum over l = 0 .. L of A^l E for blocks of at most `columns` columns of E, in the same memory each time.

    Sums run from layer 0 to layer L, whatever the order in which layers are computed.
    """

    def __init__(self, hop: Hop, num_layers: int, columns: int) -> None:
        self._num_layers = num_layers
        counts = planes_of(num_layers)
        sides = [(0, hop.graph.num_users, hop.of_users), (hop.graph.num_users, hop.graph.num_items, hop.of_items)]
        sides.sort(key=lambda side: -side[1])
        self._larger, self._smaller = (
            _Side(first, count, reach, [in_large_pages(count * columns) for _ in range(planes)])
            for (first, count, reach), planes in zip(sides, counts, strict=True)
        )

    def of(self, source: Rows, width: int, put: Put) -> None:
        """Hand the mean to `put`, each row once, in stretches; `source` gives rows of E, perhaps twice."""
        match self._num_layers:
            case 0:
                for side in (self._larger, self._smaller):
                    for row, last in side.stretches():
                        put(side.first + row, side.rows(source, row, last).contiguous())
            case 1:
                self._of_one(source, width, put)
            case _:
                self._of_several(source, width, put)

    def _of_one(self, source: Rows, width: int, put: Put) -> None:
        (large,), (small,) = self._larger.planes(width), self._smaller.planes(width)
        _fill(self._larger, large, source)
        _fill(self._smaller, small, source)
        for side, own, other in ((self._larger, large, small), (self._smaller, small, large)):
            for row, last in side.stretches():
                reached = _reached(side, other, row, last)
                self._finish(put, side.first + row, own[row:last] + reached)

    def _of_several(self, source: Rows, width: int, put: Put) -> None:
        (large, *large_sum), (small, spare, *small_sum) = self._larger.planes(width), self._smaller.planes(width)
        _fill(self._larger, large, source)
        _fill(self._smaller, small, source)
        for layer in range(1, self._num_layers - 1):
            self._smaller.reach(large, 0, spare)
            self._larger.reach(small, 0, large)  # in place: this hop reads the smaller side alone
            small, spare = spare, small
            if layer < self._num_layers - 2:
                _add(self._larger, large, large_sum[0], source if layer == 1 else None)
                _add(self._smaller, small, small_sum[0], source if layer == 1 else None)
        self._smaller.reach(large, 0, spare)
        for row, last in self._larger.stretches():  # its last two layers
            total = self._before(self._larger, source, large, large_sum, row, last)
            reached = _reached(self._larger, small, row, last)
            large[row:last] = reached
            total += reached
            total += _reached(self._larger, spare, row, last)
            self._finish(put, self._larger.first + row, total)
        for row, last in self._smaller.stretches():
            total = self._before(self._smaller, source, small, small_sum, row, last)
            total += spare[row:last]
            total += _reached(self._smaller, large, row, last)
            self._finish(put, self._smaller.first + row, total)

    def _before(
        self, side: _Side, source: Rows, plane: torch.Tensor, sums: list[torch.Tensor], row: int, last: int
    ) -> torch.Tensor:
        """The sum of layers 0 .. L-2, of which `plane` holds the last, in memory of its own."""
        if self._num_layers == 2:
            return plane[row:last].clone()
        earlier = sums[0][row:last] if sums else side.rows(source, row, last)
        return earlier + plane[row:last]

    def _finish(self, put: Put, row: int, total: torch.Tensor) -> None:
        total /= self._num_layers + 1
        put(row, total)


def _fill(side: _Side, plane: torch.Tensor, source: Rows) -> None:
    for row, last in side.stretches():
        plane[row:last] = side.rows(source, row, last)  # copy: a hop reads rows at random, from one piece


def _reached(side: _Side, other: torch.Tensor, row: int, last: int) -> torch.Tensor:
    out = torch.empty(last - row, other.shape[1])
    side.reach(other, row, out)
    return out


def _add(side: _Side, plane: torch.Tensor, total: torch.Tensor, source: Rows | None) -> None:
    """total += plane, where `source` begins the sum of its own rows."""
    for row, last in side.stretches():
        if source is not None:
            total[row:last] = side.rows(source, row, last)
        total[row:last] += plane[row:last]


@dataclass(frozen=True)
class MeanExport:
    """The export of a model that treats all columns alike: 1/(L+1) * sum over l = 0 .. L of A^l E, E the rows of a table."""

    hop: Hop
    num_layers: int

    @property
    def num_nodes(self) -> int:
        return self.hop.graph.num_nodes

    def blocks(self, width: int, freed: int = 0) -> list[tuple[int, int]]:
        """`export_blocks` of the graph. A column has the same bits in any block."""
        return export_blocks(self.hop.graph, self.num_layers, width, freed)

    def mean(self, columns: int) -> MeanOfHops:
        """What propagates blocks of at most so many columns."""
        return MeanOfHops(self.hop, self.num_layers, columns)

    def write(self, table: Table, out: Columns) -> None:
        """Propagate a block of `out` after the other."""
        mean = self.mean(max(last - first for first, last in out.blocks))
        for block, (first, last) in enumerate(out.blocks):
            mean.of(partial(table.columns, first, last), last - first, partial(out.put, block))
        for csr in (self.hop.graph.user_items, self.hop.graph.item_users):
            let_go_read_only(csr.indices)  # every edge has been read; what follows reads none

    def write_matrix(self, table: Table, out_ND: torch.Tensor) -> None:
        """The same into float32 (N, D), row after row."""
        self.write(table, Matrix(out_ND, self.blocks(table.width)))
