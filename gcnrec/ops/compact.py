"""A set of node numbers as a bitmap: unique ascending numbers and their ranks without a sort or a hash table.

Two levels: a bit for each node, and a bit for each line of 512 nodes (64 bytes) that holds any. Listing and clearing read the
second level and then touch only lines that hold nodes, so a batch costs what it touches and N / 32768 words. The rank of a
node adds the members before its line, the members in earlier words of the line (both noted when members are counted, the seven
inner counts in 9 bits each of one word: rank9 of Vigna 2008, "Broadword implementation of rank/select queries") and the members
before it in its word.
One thread works at a time: two would write one word, and a batch's share of this is shorter than the wake-up of another.
Letters: N nodes, X numbers, V members, W words.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from gcnrec.ops.arrays import frozen

_SPARE = 2
"""Places behind the last member that listing may write to."""


@dataclass(frozen=True, slots=True)
class NodeSet:
    """A set of numbers 0 .. N-1 that is filled, asked and cleared over and over; not by several threads at a time."""

    bits_W: NDArray[np.uint64]
    lines: NDArray[np.uint64]
    before: NDArray[np.uint64]

    @classmethod
    def empty(cls, num_nodes: int) -> NodeSet:
        """Room for numbers below `num_nodes`: 5/32 of a byte each."""
        count = num_nodes // 512 + 1
        return cls(np.zeros(8 * count, np.uint64), np.zeros(count // 64 + 1, np.uint64), np.zeros(2 * count, np.uint64))

    def mark(self, numbers_X: NDArray[np.integer], first: int = 0) -> None:
        """Add `first` + each number."""
        _mark(self.bits_W, self.lines, frozen(numbers_X), first)

    def members(self) -> NDArray[np.int64]:
        """All members, ascending, int64 (V); until the next `mark` their ranks can be asked for."""
        count = _count(self.bits_W, self.lines, self.before)
        out = np.empty(count + _SPARE, np.int64)
        _list(self.bits_W, self.lines, out)
        return out[:count]

    def ranks(self, numbers_X: NDArray[np.integer], out_X: NDArray[np.integer], first: int = 0) -> None:
        """out = place in `members()` of `first` + each number; all of them must be members."""
        _ranks(self.bits_W, self.before, frozen(numbers_X), first, out_X)

    def clear(self) -> None:
        """Remove all members."""
        _clear(self.bits_W, self.lines)


@intrinsic
def _ones(typing, word):  # type: ignore[no-untyped-def]
    """The number of set bits."""

    def emit(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.ctpop(args[0])

    return types.int64(types.uint64), emit


@intrinsic
def _lowest(typing, word):  # type: ignore[no-untyped-def]
    """The place of the lowest set bit, 64 without one."""

    def emit(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 0))

    return types.int64(types.uint64), emit


@numba.njit(cache=True, nogil=True)
def _mark(bits_W, lines, numbers_X, first):  # type: ignore[no-untyped-def]
    one, low = np.uint64(1), np.uint64(63)
    for number in numbers_X:
        node = np.uint64(first + number)
        bits_W[node >> np.uint64(6)] |= one << (node & low)
        lines[node >> np.uint64(15)] |= one << (node >> np.uint64(9) & low)


@numba.njit(cache=True, nogil=True)
def _count(bits_W, lines, before):  # type: ignore[no-untyped-def]
    """The number of members; notes how many come before each line that holds any, and before each word in it."""
    total = np.uint64(0)
    for high in range(len(lines)):
        left = lines[high]
        while left:
            line = high * 64 + _lowest(left)
            inner, inside = np.uint64(0), np.uint64(0)
            for word in range(8):
                # Word w at bit 9 * (7 - w): the shift of word 0, which has none before it, is 63 and finds a 0.
                inner |= inside << np.uint64(9 * (7 - word))
                inside += np.uint64(_ones(bits_W[8 * line + word]))
            before[2 * line] = total
            before[2 * line + 1] = inner
            total += inside
            left &= left - np.uint64(1)
    return np.int64(total)


@numba.njit(cache=True, nogil=True)
def _list(bits_W, lines, out):  # type: ignore[no-untyped-def]
    count = 0
    for high in range(len(lines)):
        left = lines[high]
        while left:
            line = high * 64 + _lowest(left)
            for at in range(8 * line, 8 * line + 8):
                own = bits_W[at]
                # Written whether they exist or not: how many members a sparse word has cannot be foretold.
                for _ in range(_SPARE):
                    out[count] = at * 64 + _lowest(own)
                    count += own != 0
                    own &= own - np.uint64(own != 0)
                while own:
                    out[count] = at * 64 + _lowest(own)
                    count += 1
                    own &= own - np.uint64(1)
            left &= left - np.uint64(1)


@numba.njit(cache=True, nogil=True)
def _ranks(bits_W, before, numbers_X, first, out_X):  # type: ignore[no-untyped-def]
    for x in range(len(numbers_X)):
        node = np.uint64(first + numbers_X[x])
        at = node >> np.uint64(6)
        line = node >> np.uint64(9) << np.uint64(1)
        inner = before[line + np.uint64(1)] >> (np.uint64(9) * (~at & np.uint64(7))) & np.uint64(511)
        lower = bits_W[at] & ((np.uint64(1) << (node & np.uint64(63))) - np.uint64(1))
        out_X[x] = np.int64(before[line] + inner) + _ones(lower)


@numba.njit(cache=True, nogil=True)
def _clear(bits_W, lines):  # type: ignore[no-untyped-def]
    for high in range(len(lines)):
        left = lines[high]
        lines[high] = 0
        while left:
            line = high * 64 + _lowest(left)
            for word in range(8):
                bits_W[8 * line + word] = 0
            left &= left - np.uint64(1)
