"""Draws on the GPU: for equal keys the integers of `neighbours`, `alias` and `sample` of `gcnrec.ops.draws`.

Letters: T targets, X places for drawn edges, E edges, B positives, N negatives per positive, I items.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from gcnrec.cuda import module
from gcnrec.cuda.arguments import BLOCK, address, blocks_for
from gcnrec.cuda.propagate import Csr, edges
from gcnrec.errors import UsageError
from gcnrec.random import UNIFORM, WEIGHTED, DrawKey, Stage

MAX_FANOUT = 64
"""Draws of a node: two for each lane of a warp."""
ATTEMPTS = 32
"""Draws before a negative that the user has seen is accepted."""


class AliasTable(NamedTuple):
    """`thresholds_I` uint32 and `others_I` int32, as `gcnrec.ops.draws.alias` builds them, in memory that the device reads."""

    thresholds_I: torch.Tensor
    others_I: torch.Tensor


def sample_neighbours(csr: Csr, rows_T: torch.Tensor, fanout: int, key: DrawKey) -> tuple[torch.Tensor, torch.Tensor]:
    """min(fanout, degree) columns of each of `rows_T` (int32), ascending within a row: (indptr int64 (T+1), indices int32 (X)).

    The device alone knows how many were drawn: `indices` has T * fanout places, of which the first indptr[-1] are filled.
    Raises UsageError unless 1 <= fanout <= 64.
    """
    degrees_T = _degrees(csr, rows_T, fanout)
    keys = (np.uint64(key.seed), *key.words(UNIFORM))
    return _sample("gcnrec_sample_neighbours", csr, rows_T, fanout, key.first_node, keys, degrees_T.clamp(max=fanout))


def sample_weighted(
    csr: Csr, tables: AliasTable, rows_T: torch.Tensor, fanout: int, key: DrawKey
) -> tuple[torch.Tensor, torch.Tensor]:
    """`fanout` columns of each of `rows_T` that has any, with replacement, by its table; shapes as above."""
    degrees_T = _degrees(csr, rows_T, fanout)
    keys = (np.uint64(key.seed), *key.words(WEIGHTED), *_table(tables))
    return _sample("gcnrec_sample_weighted", csr, rows_T, fanout, key.first_node, keys, (degrees_T > 0) * fanout)


def negatives(users_B: torch.Tensor, num: int, table: AliasTable, seen: Csr | None, seed: int, step: int) -> torch.Tensor:
    """int32 (B, N) items drawn by `table`; with `seen`, items of the user's row are redrawn. `users_B` int32."""
    out_BN = torch.empty(len(users_B), num, dtype=torch.int32, device=users_B.device)
    users = (address("users_B", users_B, torch.int32), np.int64(len(users_B)), np.int64(num))
    graph = edges(seen) if seen is not None else (np.uint64(0), np.uint64(0))
    # Steps beyond 2**32 (explorations count so far) go above the stage in the last word.
    keys = (np.uint64(seed), np.uint32(step & 0xFFFFFFFF), np.uint32(int(Stage.NEGATIVES) | (step >> 32 & 0xFFFFFF) << 8))
    items = np.int64(len(table.others_I))
    arguments = (*users, *_table(table), items, *graph, np.int32(ATTEMPTS), *keys, address("out_BN", out_BN, torch.int32))
    if out_BN.numel():
        module.launch("sample.cu", "gcnrec_negatives", blocks_for(out_BN.numel(), BLOCK), BLOCK, arguments, users_B.device)
    return out_BN


def _degrees(csr: Csr, rows_T: torch.Tensor, fanout: int) -> torch.Tensor:
    if not 1 <= fanout <= MAX_FANOUT:
        raise UsageError(f"a fanout must lie in 1 .. {MAX_FANOUT}, got {fanout}; change sampler.fanouts")
    rows = rows_T.long()
    return csr.indptr[rows + 1] - csr.indptr[rows]


def _sample(
    kernel: str,
    csr: Csr,
    rows_T: torch.Tensor,
    fanout: int,
    first_node: int,
    keys: tuple[np.generic, ...],
    counts_T: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    device, targets = rows_T.device, len(rows_T)
    indptr_T1 = torch.zeros(targets + 1, dtype=torch.int64, device=device)
    torch.cumsum(counts_T, 0, out=indptr_T1[1:])
    indices_X = torch.empty(targets * fanout, dtype=torch.int32, device=device)
    lanes = min(32, 1 << (fanout - 1).bit_length())
    rows = (address("rows_T", rows_T, torch.int32), np.int64(targets), np.int64(first_node), np.int32(fanout))
    out = (address("indptr_T1", indptr_T1, torch.int64), address("indices_X", indices_X, torch.int32), np.int32(lanes))
    if targets:
        arguments: tuple[np.generic, ...] = (*edges(csr), *rows, *keys, *out)
        module.launch("sample.cu", kernel, blocks_for(targets * lanes, BLOCK), BLOCK, arguments, device)
    return indptr_T1, indices_X


def _table(table: AliasTable) -> tuple[np.uint64, np.uint64]:
    return (
        address("thresholds_I", table.thresholds_I, torch.uint32, torch.int32),
        address("others_I", table.others_I, torch.int32),
    )
