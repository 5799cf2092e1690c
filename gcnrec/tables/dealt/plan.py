"""Who asks whom for the rows of a batch, and the order in which pieces travel: by worker, and by part within one.

Letters: W workers, P parts of a worker, R rows of a part, A rows asked of this worker.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.workers.sums import by_owner
from gcnrec.workers.world import World


@dataclass(frozen=True, slots=True)
class Plan:
    """Who asks whom for the rows of tickets, a ticket for each part of this worker.

    `order_R` of a ticket groups its rows by owner; `asks_PW` has how many rows each part asks of each worker, and `asked_WP` how
    many each part of a worker asks of this one, at local places `asked`, by worker and part. `num_rows`: rows that all parts of
    all workers ask for.
    """

    orders: tuple[NDArray[np.int64], ...]
    asks_PW: NDArray[np.int64]
    asked_WP: NDArray[np.int64]
    asked: tuple[NDArray[np.int64], ...]
    num_rows: int

    @property
    def outs(self) -> list[int]:
        """How many rows this worker gives to each worker."""
        return self.asked_WP.sum(1).tolist()  # type: ignore[no-any-return]

    @property
    def ins(self) -> list[int]:
        """How many rows this worker gets of each worker."""
        return self.asks_PW.sum(0).tolist()  # type: ignore[no-any-return]


def planned(world: World, rows: Sequence[NDArray[np.int64]]) -> Plan:
    """The plan of the rows of each of this worker's parts, ascending and unique. All workers call it together: two exchanges."""
    size, parts = world.size, len(rows)
    found = [by_owner(rows_R, size) for rows_R in rows]
    asks_PW = np.stack([counts_W for _, counts_W in found])
    counts = torch.from_numpy(np.vstack([asks_PW, np.full(size, asks_PW.sum())]).T.copy())  # copy: a few numbers
    came = world.exchange(counts, [1] * size, [1] * size).numpy()
    asked_WP, num_rows = came[:, :parts], int(came[:, parts].sum())
    asks = [split(places_of(rows_R[order_R], size), counts_W) for rows_R, (order_R, counts_W) in zip(rows, found, strict=True)]
    sent = np.concatenate([asks[part][worker] for worker in range(size) for part in range(parts)]).astype(np.int32)
    ids = world.exchange(torch.from_numpy(sent), asks_PW.sum(0).tolist(), asked_WP.sum(1).tolist())
    asked = split(ids.numpy().astype(np.int64), asked_WP.reshape(-1))
    return Plan(tuple(order_R for order_R, _ in found), asks_PW, asked_WP, tuple(asked), num_rows)


def places_of(rows_R: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Places of rows in the tables of their owners: row // size, by a shift where that is the same."""
    return rows_R // size if size & (size - 1) else rows_R >> (size.bit_length() - 1)


def split(values: NDArray[np.int64], counts: Sequence[int] | NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Values cut into pieces of so many."""
    return [values[first:last] for first, last in pairwise(accumulate(counts, initial=0))]


def joined(tiles: Sequence[torch.Tensor]) -> torch.Tensor:
    """One tensor of pieces along axis 0: a view where they lie one behind the other in one memory, as pieces of a split do."""
    first, *others = [tile for tile in tiles if len(tile)] or [tiles[0]]
    memory, end = first.untyped_storage().data_ptr(), first.data_ptr() + first.nbytes
    for tile in others:
        follows = tile.untyped_storage().data_ptr() == memory and tile.data_ptr() == end
        if not (follows and first.is_contiguous() and tile.is_contiguous()):
            return torch.cat(list(tiles))  # copy: pieces of several memories
        end += tile.nbytes
    return first.as_strided((sum(map(len, tiles)), *first.shape[1:]), first.stride())


def by_part(pieces: Sequence[Any], parts: int) -> list[list[Any]]:
    """Pieces by worker and part, as the pieces of each part, by worker."""
    return [list(pieces[part::parts]) for part in range(parts)]


def in_part_order(pieces: Sequence[Any], size: int) -> list[Any]:
    """Pieces by worker, and by part within one, in the order of parts: part j of worker w is w + j * W of all."""
    parts = len(pieces) // size
    return [pieces[worker * parts + place] for place in range(parts) for worker in range(size)]
