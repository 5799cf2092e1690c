"""Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).

A draw depends only on (seed, stage, step, index): never on threads, launch geometry or history.
So a resumed run, a GPU and a CPU all see the same integers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum

import numba
import numpy as np
from numpy.typing import NDArray

_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = np.uint32(0x9E3779B9), np.uint32(0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)


class Stage(IntEnum):
    """What a stream is for; two stages never share a draw."""

    INIT = 0
    ORDER = 1
    NEGATIVES = 2
    SPLIT = 3
    SPECTRAL = 4
    BOOTSTRAP = 5
    SYNTHETIC = 6
    EXPLORE = 7
    SAMPLE = 8
    DROPOUT = 9
    OWN_NEGATIVES = 10
    FEATURES = 11
    EXAMPLES = 12
    JUDGED = 13


UNIFORM, WEIGHTED, WALK, DATED = 0, 1, 2, 3
"""Kinds of draws of neighbours."""


@dataclass(frozen=True, slots=True)
class DrawKey:
    """What a draw of neighbours depends on: row r of a graph side is node `first_node` + r."""

    seed: int
    step: int
    hop: int
    first_node: int

    def words(self, kind: int) -> tuple[np.uint32, np.uint32]:
        """The last two words of the Philox counter of a draw of `kind` (gcnrec.ops.draws.neighbours has the layout)."""
        step, last = self.step & 0xFFFFFFFF, int(Stage.SAMPLE) | (self.hop | kind << 6) << 8 | (self.step >> 32 & 0xFFFF) << 16
        return np.uint32(step), np.uint32(last)


@numba.njit(inline="always")
def philox4x32(  # type: ignore[no-untyped-def]
    c0, c1, c2, c3, k0, k1
):
    """Ten rounds on four uint32 counters and two uint32 keys; returns four uint32."""
    for _ in range(10):
        p0 = _M0 * np.uint64(c0)
        p1 = _M1 * np.uint64(c2)
        n0 = np.uint32(p1 >> _32) ^ c1 ^ k0
        n2 = np.uint32(p0 >> _32) ^ c3 ^ k1
        c1 = np.uint32(p1 & _LOW)
        c3 = np.uint32(p0 & _LOW)
        c0, c2 = n0, n2
        k0 = np.uint32(k0 + _W0)
        k1 = np.uint32(k1 + _W1)
    return c0, c1, c2, c3


@numba.njit(inline="always")
def two_u64(seed, stage, step, counter):  # type: ignore[no-untyped-def]
    """The uniform uint64 with indices `2 * counter` and `2 * counter + 1`; `seed` and `counter` are uint64."""
    a, b, c, d = philox4x32(
        np.uint32(counter & _LOW), np.uint32(counter >> _32), np.uint32(step), np.uint32(stage),
        np.uint32(seed & _LOW), np.uint32(seed >> _32),
    )  # fmt: skip
    return (np.uint64(a) << _32) | np.uint64(b), (np.uint64(c) << _32) | np.uint64(d)


@numba.njit(parallel=True, cache=True, nogil=True)
def _fill_u64(seed, stage, step, first, out):  # type: ignore[no-untyped-def]
    for block in numba.prange((out.shape[0] + 1) // 2):
        left, right = two_u64(seed, stage, step, np.uint64(first) // np.uint64(2) + np.uint64(block))
        out[2 * block] = left
        if 2 * block + 1 < out.shape[0]:
            out[2 * block + 1] = right


def u64(seed: int, stage: int, step: int, count: int, first: int = 0) -> NDArray[np.uint64]:
    """`count` uniform 64-bit integers with indices `first ..` (`first` must be even)."""
    out = np.empty(count, np.uint64)
    _fill_u64(np.uint64(seed), int(stage), np.uint64(step), first, out)
    return out


def uniform(seed: int, stage: int, step: int, count: int, first: int = 0) -> NDArray[np.float64]:
    """`count` float64 in [0, 1): the top 53 bits of `u64`."""
    return (u64(seed, stage, step, count, first) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permutation(seed: int, stage: Stage, step: int, count: int) -> NDArray[np.int64]:
    """A uniform random order of 0 .. count-1: the argsort of `count` keys (ties, if any, by index)."""
    return np.argsort(u64(seed, stage, step, count), kind="stable")


@numba.njit(parallel=True, cache=True, nogil=True)
def _fill_uniform32(seed, stage, step, out):  # type: ignore[no-untyped-def]
    for block in numba.prange((out.shape[0] + 1) // 2):
        left, right = two_u64(seed, stage, step, np.uint64(block))
        out[2 * block] = np.float32(_fraction(left))
        if 2 * block + 1 < out.shape[0]:
            out[2 * block + 1] = np.float32(_fraction(right))


@numba.njit(inline="always")
def _fraction(bits):  # type: ignore[no-untyped-def]
    return np.float64(bits >> np.uint64(11)) * 2.0**-53


def uniform32(seed: int, stage: int, step: int, count: int) -> NDArray[np.float32]:
    """`count` draws of `uniform`, each rounded to float32: 1.0 is among them."""
    out = np.empty(count, np.float32)
    _fill_uniform32(np.uint64(seed), int(stage), np.uint64(step), out)
    return out


def normal(seed: int, stage: Stage, step: int, shape: tuple[int, ...], first: int = 0) -> NDArray[np.float32]:
    """Standard normal float32 of `shape` with indices `first ..`, by Box-Muller on pairs of `uniform`."""
    return normal_at(seed, stage, step, np.arange(first, first + int(np.prod(shape)))).reshape(shape)


@numba.njit(parallel=True, cache=True, nogil=True)
def _normal_at(seed, stage, step, index_X, out_X):  # type: ignore[no-untyped-def]
    for x in numba.prange(index_X.shape[0]):
        left, right = two_u64(seed, stage, step, np.uint64(index_X[x]))
        radius = math.sqrt(-2.0 * math.log1p(-_fraction(left)))
        out_X[x] = np.float32(radius * math.cos(2.0 * math.pi * _fraction(right)))


def normal_at(seed: int, stage: Stage, step: int, index_X: NDArray[np.int64]) -> NDArray[np.float32]:
    """The draws of `normal` with these indices, float32 (X)."""
    out_X = np.empty(len(index_X), np.float32)
    _normal_at(np.uint64(seed), int(stage), np.uint64(step), index_X, out_X)
    return out_X


def generator(seed: int, stage: Stage, step: int = 0) -> np.random.Generator:
    """A NumPy generator for work that never runs on a GPU (bootstrap, splits), keyed like the streams."""
    return np.random.Generator(np.random.Philox(key=np.array([seed, (int(stage) << 32) | step], np.uint64)))


@numba.njit(inline="always")
def _mix(value, key):  # type: ignore[no-untyped-def]
    """A 64-bit finaliser (the constants of SplitMix64, Steele et al. 2014): the round function of `shuffled`."""
    z = value + key
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


_WALKED = 512
"""Entries of an order that are walked together: rounds of different entries do not wait for each other."""


@numba.njit(parallel=True, cache=True, nogil=True)
def _shuffled(keys, half, first, count, out):  # type: ignore[no-untyped-def]
    mask = (np.uint64(1) << half) - np.uint64(1)
    for block in numba.prange((len(out) + _WALKED - 1) // _WALKED):
        begin = block * _WALKED
        left = min(_WALKED, len(out) - begin)
        high, low, place = np.empty(left, np.uint64), np.empty(left, np.uint64), np.empty(left, np.int64)
        for k in range(left):
            value = np.uint64(first + begin + k)
            high[k], low[k], place[k] = value >> half, value & mask, begin + k
        while left:
            for key in keys:
                for k in range(left):
                    mixed = high[k] ^ (_mix(low[k], key) & mask)
                    high[k] = low[k]
                    low[k] = mixed
            outside = 0
            for k in range(left):
                value = (high[k] << half) | low[k]
                if value < np.uint64(count):
                    out[place[k]] = value
                else:  # cycle walking: positions outside 0 .. count-1 are walked through
                    high[outside], low[outside], place[outside] = high[k], low[k], place[k]
                    outside += 1
            left = outside


def shuffled(seed: int, stage: int, step: int, first: int, last: int, count: int) -> NDArray[np.int64]:
    """Entries `first .. last-1` of a random order of 0 .. count-1, in O(last - first) time and no memory of `count`.

    An eight-round Feistel network over the smallest even number of bits that hold `count`, with cycle walking
    (Black & Rogaway 2002, "Ciphers with arbitrary finite domains").
    """
    half = max(1, (max(count - 1, 1).bit_length() + 1) // 2)
    out = np.empty(last - first, np.int64)
    _shuffled(u64(seed, stage, step, 8), np.uint64(half), first, count, out)
    return out
