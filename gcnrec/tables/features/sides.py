"""The features of users and of items: rows as a dataset has them, and tables of them, which may differ in width.

Letters: U users, I items, N nodes, R rows of a batch, F features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from gcnrec.graph import BipartiteGraph
from gcnrec.rows import Ticket
from gcnrec.tables.dense import Allocate
from gcnrec.tables.features.code import Code, Rows, code_of
from gcnrec.tables.features.table import FeatureTable, StepFeatures, pitch_of

SIDES = ("user", "item")
Tiles = tuple[torch.Tensor | None, torch.Tensor | None]
"""Features of the users and of the items among nodes, float32 (R, F) each with its own R and F; None for a side without any."""


@dataclass(frozen=True, slots=True)
class Features:
    """`users_UF` and `items_IF`, float32 and perhaps memory-mapped, None for a side without features.

    `codes`: how each side is stored, None where that is not decided yet.
    """

    users_UF: Rows | None = None
    items_IF: Rows | None = None
    codes: tuple[Code, Code] | None = None

    @property
    def sides(self) -> tuple[Rows | None, Rows | None]:
        """Features of users, then of items; None for a side without any."""
        return self.users_UF, self.items_IF

    @property
    def any(self) -> bool:
        """Whether a side has features."""
        return any(rows is not None for rows in self.sides)


class FeatureSides(NamedTuple):
    """Features of users and of items as tables; None for a side without any. Nodes count users first."""

    num_users: int
    users: StepFeatures | None = None
    items: StepFeatures | None = None

    @property
    def sides(self) -> tuple[StepFeatures | None, StepFeatures | None]:
        """Features of users, then of items."""
        return self.users, self.items

    @property
    def host(self) -> FeatureSides:
        """The same features, read by the CPU."""
        return FeatureSides(self.num_users, *(None if side is None else side.host for side in self.sides))

    @property
    def bytes(self) -> int:
        """What was allocated in host memory."""
        return sum(side.host.bytes for side in self.sides if side is not None)

    @property
    def widths(self) -> tuple[int | None, int | None]:
        """Columns of the users' features and of the items'; None for a side without any."""
        users, items = (None if side is None else side.host.width for side in self.sides)
        return users, items

    def bytes_of(self, nodes: range) -> int:
        """Bytes that the rows of nodes take, all of one side, with what lies between them."""
        side = self.items if nodes.start >= self.num_users else self.users
        return 0 if side is None else len(nodes) * side.host.pitch_bytes

    def prefetch(self, ticket: Ticket, index_R: torch.Tensor | None = None) -> None:
        """Announce the rows of all nodes of a ticket; `index_R` is their numbers once more, where reads find them."""
        for side, here in zip(self.sides, self._split(ticket), strict=True):
            if side is not None:
                side.prefetch(ticket, ticket.rows_R[here], None if index_R is None else index_R[here])

    def read(self, ticket: Ticket) -> Tiles:
        """Features of all nodes of a ticket, where training computes."""
        parts = zip(self.sides, self._split(ticket), strict=True)
        users, items = (None if side is None else side.read(ticket, ticket.rows_R[here]) for side, here in parts)
        return users, items

    def _split(self, ticket: Ticket) -> tuple[slice, slice]:
        """The users and the items among ascending nodes."""
        cut = int(np.searchsorted(ticket.rows_R, self.num_users))
        return slice(0, cut), slice(cut, len(ticket.rows_R))


def with_codes(features: Features, graph: BipartiteGraph, dtype: str, seed: int) -> Features:
    """The same features, to be stored as `dtype`; nodes with edges in `graph` decide what int8 codes stand for.

    Raises DataError for NaN or infinite values where int8 codes are to be found.
    """
    codes = []
    for what, rows_NF, csr in zip(SIDES, features.sides, (graph.user_items, graph.item_users), strict=True):
        codes.append(Code(dtype) if rows_NF is None else code_of(rows_NF, csr.degrees > 0, dtype, seed, what))
    return Features(features.users_UF, features.items_IF, (codes[0], codes[1]))


def stored_bytes(features: Features, dtype: str, for_gpu: bool) -> int:
    """Bytes that `feature_tables` allocates for features as `dtype`."""
    if dtype == "float32" and not for_gpu:
        return 0
    return sum(len(rows_NF) * pitch_of(rows_NF.shape[1], dtype) for rows_NF in features.sides if rows_NF is not None)


def feature_tables(features: Features, num_users: int, allocate: Allocate, for_gpu: bool) -> FeatureSides:
    """Tables of both sides: float32 where it lies, or a copy that is stored by its code, in memory of `allocate`.

    Without codes, all is float32.

    `for_gpu`: copies of float32, too, as a mapped file is not pinned. DataError for values that a code does not hold.
    """
    made: list[FeatureTable | None] = []
    codes = features.codes or (Code(), Code())
    for what, rows_NF, code, first in zip(SIDES, features.sides, codes, (0, num_users), strict=True):
        if rows_NF is None:
            made.append(None)
        elif code.dtype == "float32" and not for_gpu:
            made.append(FeatureTable.adopted(rows_NF, first))
        else:
            made.append(FeatureTable.encoded(rows_NF, code, what, first, allocate))
    return FeatureSides(num_users, *made)
