"""A set of node numbers as a bitmap: unique ascending numbers and their ranks without a sort or a hash table.

Two levels: a bit for each node, and a bit for each word of 64 nodes that holds any. Listing and clearing read the words of
the second level and then touch only words that hold nodes, so a batch costs what it touches and N / 4096 words. The rank
of a node is the number of members before its word, noted when members are listed, plus those before it in the word.
Bits are set by one thread, so that no two write one word; ranks are taken by all.
Letters: N nodes, X numbers, V members.
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


@dataclass(frozen=True, slots=True)
class NodeSet:
    """A set of numbers 0 .. N-1 that is filled, asked and cleared over and over; not by several threads at a time."""

    bits: NDArray[np.uint64]
    words: NDArray[np.uint64]
    before: NDArray[np.int32]

    @classmethod
    def empty(cls, num_nodes: int) -> NodeSet:
        """Room for numbers below `num_nodes`: 3/16 of a byte each."""
        count = num_nodes // 64 + 1
        return cls(np.zeros(count, np.uint64), np.zeros(count // 64 + 1, np.uint64), np.zeros(count, np.int32))

    def mark(self, numbers_X: NDArray[np.integer], first: int = 0) -> None:
        """Add `first` + each number."""
        _mark(self.bits, self.words, frozen(numbers_X), first)

    def members(self) -> NDArray[np.int64]:
        """All members, ascending, int64 (V); until the next `mark` their ranks can be asked for."""
        out_V = np.empty(_count(self.bits, self.words, self.before), np.int64)
        _list(self.bits, self.words, out_V)
        return out_V

    def ranks(self, numbers_X: NDArray[np.integer], out_X: NDArray[np.integer], first: int = 0) -> None:
        """out = place in `members()` of `first` + each number; all of them must be members."""
        _ranks(self.bits, self.before, frozen(numbers_X), first, out_X)

    def clear(self) -> None:
        """Remove all members."""
        _clear(self.bits, self.words)


@intrinsic
def _ones(typing, word):  # type: ignore[no-untyped-def]
    """The number of set bits."""

    def emit(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.ctpop(args[0])

    return types.int64(types.uint64), emit


@intrinsic
def _lowest(typing, word):  # type: ignore[no-untyped-def]
    """The place of the lowest set bit; there must be one."""

    def emit(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.uint64), emit


@numba.njit(cache=True, nogil=True)
def _mark(bits, words, numbers_X, first):  # type: ignore[no-untyped-def]
    for number in numbers_X:
        node = np.uint64(first + number)
        at = node >> np.uint64(6)
        if bits[at] == 0:
            words[at >> np.uint64(6)] |= np.uint64(1) << (at & np.uint64(63))
        bits[at] |= np.uint64(1) << (node & np.uint64(63))


@numba.njit(cache=True, nogil=True)
def _count(bits, words, before):  # type: ignore[no-untyped-def]
    """The number of members; notes how many of them come before each word that holds any."""
    total = 0
    for high in range(len(words)):
        left = words[high]
        while left:
            at = high * 64 + _lowest(left)
            before[at] = total
            total += _ones(bits[at])
            left &= left - np.uint64(1)
    return total


@numba.njit(cache=True, nogil=True)
def _list(bits, words, out_V):  # type: ignore[no-untyped-def]
    count = 0
    for high in range(len(words)):
        left = words[high]
        while left:
            at = high * 64 + _lowest(left)
            own = bits[at]
            while own:
                out_V[count] = at * 64 + _lowest(own)
                count += 1
                own &= own - np.uint64(1)
            left &= left - np.uint64(1)


@numba.njit(parallel=True, cache=True)
def _ranks(bits, before, numbers_X, first, out_X):  # type: ignore[no-untyped-def]
    for x in numba.prange(len(numbers_X)):
        node = np.uint64(first + numbers_X[x])
        at = node >> np.uint64(6)
        lower = (np.uint64(1) << (node & np.uint64(63))) - np.uint64(1)
        out_X[x] = before[at] + _ones(bits[at] & lower)


@numba.njit(cache=True, nogil=True)
def _clear(bits, words):  # type: ignore[no-untyped-def]
    for high in range(len(words)):
        left = words[high]
        words[high] = 0
        while left:
            bits[high * 64 + _lowest(left)] = 0
            left &= left - np.uint64(1)
