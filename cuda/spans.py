"""Copies of pieces between pinned host memory and the device, and of pieces that two batches share: a launch for all planes.

Letters: R pieces, E rows of an earlier batch, L rows of a later one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.cuda import module
from gcnrec.cuda.arguments import BLOCK, address, blocks_for
from gcnrec.errors import DataError
from gcnrec.queues import Pair, Spans

LANES, PAIRS, PLANES = 16, 8, 4
"""Threads that share a piece, pairs of a launch, and pairs of a patch, as spans.cu has them."""
_WORDS = 9
"""Integers of a `Pair` of spans.cu."""
_STRUCT = np.dtype((np.void, 8 * _WORDS * PAIRS))
_NO_PAIR = [0, 0, 0, 0, 0, 0, 0, 0, np.iinfo(np.int64).max]
"""A pair that no piece belongs to."""


def copy_pairs(pairs: Sequence[Pair], max_blocks: int | None = None, by_target: bool = False) -> None:
    """Copy every source to its target on torch's current stream; either side may be pinned host memory.

    Any dtypes of 1, 2, 4 or 8 bytes, each size in a launch of its own; pieces of less than 2^31 bytes. Pieces that start and
    end on 16 (or 8) bytes move in vectors of that size. `max_blocks` caps the grid, so that a prefetch leaves multiprocessors
    to training. `by_target`: the target is the side whose lines are read or written whole; by default the source is.
    """
    whole = [pair for pair in pairs if len(pair[1])]
    for size in sorted({source.memory.element_size() for source, _ in whole}):
        same = [pair for pair in whole if pair[0].memory.element_size() == size]
        for first in range(0, len(same), PAIRS):
            _copy(same[first : first + PAIRS], size, max_blocks, by_target)


def copy_spans(
    source: torch.Tensor, source_at_R: torch.Tensor, target: torch.Tensor, target_at_R: torch.Tensor, length_R: torch.Tensor,
    max_blocks: int | None = None,
) -> None:  # fmt: skip
    """target[target_at[r] + j] = source[source_at[r] + j] for j < length[r], as `copy_pairs`."""
    copy_pairs([(Spans(source, source_at_R, length_R), Spans(target, target_at_R, length_R))], max_blocks)


def patch(earlier_E: torch.Tensor, later_L: torch.Tensor, pairs: Sequence[Pair]) -> None:
    """Copy piece e of each source to piece l of its target wherever earlier[e] == later[l], in one launch.

    Row numbers int64, ascending, unique; up to `PLANES` pairs of dtypes of 4 bytes. Raises DataError for others.
    """
    if len(pairs) > PLANES or any(source.memory.element_size() != 4 for source, _ in pairs):
        kinds = ", ".join(str(source.memory.dtype) for source, _ in pairs)
        raise DataError(f"a patch takes up to {PLANES} planes of 4 bytes a value, got {kinds}; copy others whole")
    if not (len(earlier_E) and len(later_L) and pairs):
        return
    rows = (
        address("earlier_E", earlier_E, torch.int64), np.int64(len(earlier_E)),
        address("later_L", later_L, torch.int64), np.int64(len(later_L)),
    )  # fmt: skip
    packed, _ = _packed(pairs)
    arguments = (packed, np.int32(len(pairs)), *rows)
    module.launch("spans.cu", "gcnrec_patch", blocks_for(len(later_L), BLOCK), BLOCK, arguments, later_L.device)


def _copy(pairs: Sequence[Pair], size: int, max_blocks: int | None, by_target: bool) -> None:
    packed, pieces = _packed(pairs)
    grid = blocks_for(pieces * LANES, BLOCK, max_blocks)
    arguments = (packed, np.int64(pieces), np.int32(by_target))
    module.launch("spans.cu", f"gcnrec_copy_spans_{size}", grid, BLOCK, arguments, pairs[0][1].at_R.device)


def _packed(pairs: Sequence[Pair]) -> tuple[NDArray[np.void], int]:
    """The `Pairs` of spans.cu, and how many pieces they have."""
    words: list[list[int]] = []
    pieces = 0
    for source, target in pairs:
        if source.memory.dtype != target.memory.dtype:
            kinds = f"{source.memory.dtype} and {target.memory.dtype}"
            raise DataError(f"source and target must be of one dtype, got {kinds}; convert one first")
        lengths, length = (0, target.length_R) if isinstance(target.length_R, int) else (_places(target.length_R), 0)
        words.append([*_side(source), *_side(target), lengths, length, pieces])
        pieces += len(target)
    words += [_NO_PAIR] * (PAIRS - len(words))
    # one parameter, by value: as many numbers would take longer to pass than the launch
    return np.array(words, np.int64).reshape(-1).view(_STRUCT), pieces


def _side(spans: Spans) -> tuple[int, int, int]:
    """A `Side` of spans.cu: the address of place 0, that of the places, and bytes from one place to the next."""
    pitch = spans.pitch * spans.memory.element_size()
    return int(address("memory", spans.memory, spans.memory.dtype)) + spans.shift * pitch, _places(spans.at_R), pitch


def _places(values_R: torch.Tensor) -> int:
    return int(address("places", values_R, torch.int64))
