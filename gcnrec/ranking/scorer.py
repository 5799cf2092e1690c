"""What ranking needs from any model, trained or closed-form.

Letters: B users of a chunk, T items of a tile, U users, I items, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.graph import BipartiteGraph
from gcnrec.ops.arrays import copy_columns


class Scorer(Protocol):
    """Scores of every item for a chunk of users, a tile of items at a time, so that memory stays bounded."""

    @property
    def num_users(self) -> int: ...

    @property
    def num_items(self) -> int: ...

    def prepare(self, users_B: NDArray[np.int32]) -> torch.Tensor:
        """Whatever one chunk of users needs for all its tiles (for embeddings: their rows, float32 (B, D))."""
        ...

    def score(self, prepared: torch.Tensor, first: int, last: int, out_BT: torch.Tensor) -> None:
        """Write the scores of items `first .. last-1` into `out_BT` float32 (B, last - first). Higher is better."""
        ...


@runtime_checkable
class WholeScorer(Scorer, Protocol):
    """A scorer that makes all scores of its users at once, and can do so where they are wanted."""

    def write(self, users_B: NDArray[np.int32], out_BI: torch.Tensor) -> None:
        """Write the users' scores of all items into `out_BI` float32, contiguous."""
        ...


@dataclass(frozen=True)
class GraphScorer:
    """What scorers by the train graph itself have in common; unless overridden, `prepare` makes all scores of a chunk."""

    graph: BipartiteGraph

    @property
    def num_users(self) -> int:
        return self.graph.num_users

    @property
    def num_items(self) -> int:
        return self.graph.num_items

    def score(self, prepared: torch.Tensor, first: int, last: int, out_BT: torch.Tensor) -> None:
        copy_columns(prepared, first, last, out_BT)


@dataclass(frozen=True)
class EmbeddingScorer:
    """Inner products of exported embeddings, plus a number per item where `column_I` is given.

    `users_UD`, `items_ID` float32, contiguous; `column_I` float32 (I): the same for every user, for example of popularity.
    """

    users_UD: torch.Tensor
    items_ID: torch.Tensor
    column_I: torch.Tensor | None = None

    @property
    def num_users(self) -> int:
        return len(self.users_UD)

    @property
    def num_items(self) -> int:
        return len(self.items_ID)

    def prepare(self, users_B: NDArray[np.int32]) -> torch.Tensor:
        return self.users_UD[torch.from_numpy(users_B.astype(np.int64))]

    def score(self, prepared: torch.Tensor, first: int, last: int, out_BT: torch.Tensor) -> None:
        if self.column_I is None:
            torch.mm(prepared, self.items_ID[first:last].T, out=out_BT)
        else:
            torch.addmm(self.column_I[first:last], prepared, self.items_ID[first:last].T, out=out_BT)


@dataclass(frozen=True)
class View:
    """Another ranking from the same inner products: product * `scale_I` + `column_I`, float32 (I) each; None changes nothing."""

    scale_I: torch.Tensor | None = None
    column_I: torch.Tensor | None = None

    def score(self, products_BT: torch.Tensor, first: int, last: int, out_BT: torch.Tensor) -> None:
        """Write the scores of items `first .. last-1` into `out_BT`."""
        if self.scale_I is None:
            out_BT.copy_(products_BT)
        else:
            torch.mul(products_BT, self.scale_I[first:last], out=out_BT)
        if self.column_I is not None:
            out_BT += self.column_I[first:last]
