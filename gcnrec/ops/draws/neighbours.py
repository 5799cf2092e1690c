"""Neighbours drawn uniformly without replacement, at a cost that follows the fanout and never the degree.

Floyd's algorithm (Bentley & Floyd 1987, "Programming pearls: a sample of brilliance"): for k = 0 .. s-1, with
j = d - s + k, draw p uniformly from 0 .. j; the k-th chosen position is p, or j where p was chosen before.

Draw k of a target is half k % 2 of one Philox4x32 call: words (a, b) for the first half, (c, d) for the second, joined to
a 64-bit integer u = a * 2**32 + b; p is the high 64 bits of u * (j + 1). Key: the seed's low and high word. Counter:

    (node, k // 2, step mod 2**32, Stage.SAMPLE | (hop | kind * 64) << 8 | ((step >> 32) mod 2**16) << 16)

with node = `first_node` + row, hop < 64, and a kind of gcnrec.random: `UNIFORM` (here), `WEIGHTED` (`alias.py`),
`WALK` (`walks.py`), `DATED` (`dated.py`). So a draw depends on its node alone: not on threads, on the batch or on
the order of targets.

Here 16 targets draw together, one to a vector lane; the lines of the neighbours that they chose are requested at once and
read after the next 16 have drawn, because in a large graph every one of them misses the cache.
Letters: T targets, X drawn edges.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, import-untyped"
# (llvmlite and numba's intrinsics carry no types)

from __future__ import annotations

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from gcnrec.errors import UsageError
from gcnrec.graph import Csr
from gcnrec.ops.arrays import frozen
from gcnrec.random import UNIFORM, DrawKey

MAX_FANOUT = 64
_LOW = 0xFFFFFFFF
_AHEAD_ROWS = 24
"""Rows between the request for their place in `indptr` and its use."""
_LAG = 24
"""Targets between the request for the neighbours of a short row and their reading."""
_PARALLEL = 1 << 16
"""Drawn edges from which on other threads are worth their wake-up."""
_LANES = 16
"""Targets that draw together, one to a vector lane."""
_WORD, _LONG = ir.VectorType(ir.IntType(32), _LANES), ir.VectorType(ir.IntType(64), _LANES)


def sample_neighbours(
    csr: Csr, rows_T: NDArray[np.int32], fanout: int, key: DrawKey
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """min(fanout, degree) columns of each of `rows_T`, ascending within a row: (indptr int64 (T+1), indices int32 (X)).

    Raises UsageError unless 1 <= fanout <= 64.
    """
    check_fanout(fanout)
    starts_T, degrees_T = np.empty(len(rows_T), np.int64), np.empty(len(rows_T), np.int32)
    indptr_T1 = np.zeros(len(rows_T) + 1, np.int64)
    rows, indices = frozen(rows_T), frozen(csr.indices)
    _counts(frozen(csr.indptr), rows, fanout, starts_T, degrees_T, indptr_T1)
    indices_X = np.empty(int(indptr_T1[-1]), np.int32)
    numbers = fanout, np.uint64(key.seed), *key.words(UNIFORM)
    if len(indices_X) >= _PARALLEL:
        _fill(indices, rows, key.first_node, starts_T, degrees_T, indptr_T1, *numbers, indices_X, numba.get_num_threads())
    else:
        _fill_share(indices, rows, key.first_node, starts_T, degrees_T, indptr_T1, *numbers, indices_X, 0, 1)
    return indptr_T1, indices_X


def check_fanout(fanout: int) -> None:
    """Raise UsageError unless a node can draw `fanout` neighbours."""
    if not 1 <= fanout <= MAX_FANOUT:
        raise UsageError(f"a fanout must lie in 1 .. {MAX_FANOUT}, got {fanout}; change sampler.fanouts")


@numba.njit(inline="always")
def below(high, low, count):
    """Integer in 0 .. count-1, count < 2**32: the high 64 bits of (high * 2**32 + low) * count."""
    many, word = np.uint64(count), np.uint64(32)
    return np.int64((np.uint64(high) * many + ((np.uint64(low) * many) >> word)) >> word)


@intrinsic
def request(typing, array, at):
    """Fetch the cache line of array[at] towards this core, to be read soon."""
    # Not gcnrec.ops.lanes.request_line: numba's disk cache is keyed by the text of one file, and that request is for writes.

    def emit(context, builder, signature, args):
        data = context.make_array(signature.args[0])(context, builder, value=args[0]).data
        byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), (byte, word, word, word))
        prefetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        place = builder.bitcast(builder.gep(data, [args[1]]), byte)
        builder.call(prefetch, (place, word(0), word(3), word(1)))
        return context.get_dummy_value()

    return types.void(array, types.int64), emit


@numba.njit(cache=True, nogil=True)
def _counts(indptr, rows_T, fanout, starts_T, degrees_T, indptr_T1):
    """Write the start and number of each target's neighbours, and the indptr of the drawn edges."""
    size = len(rows_T)
    for t in range(size):
        later = np.int64(rows_T[min(t + _AHEAD_ROWS, size - 1)])
        request(indptr, later)
        request(indptr, later + 1)
        row = rows_T[t]
        starts_T[t] = indptr[row]
        degrees_T[t] = indptr[row + 1] - indptr[row]
        indptr_T1[t + 1] = indptr_T1[t] + min(fanout, degrees_T[t])


@numba.njit(parallel=True, cache=True, nogil=True)
def _fill(indices, rows_T, first_node, starts_T, degrees_T, indptr_T1, fanout, seed, low, last_word, out_X, shares):
    """A share owns a range of targets with about as many drawn edges as any other's."""
    for share in numba.prange(shares):
        _fill_share(
            indices, rows_T, first_node, starts_T, degrees_T, indptr_T1, fanout, seed, low, last_word, out_X, share, shares
        )  # fmt: skip


@numba.njit(cache=True, nogil=True)
def _fill_share(
    indices, rows_T, first_node, starts_T, degrees_T, indptr_T1, fanout, seed, low, last_word, out_X, share, shares
):  # fmt: skip
    k0, k1 = np.uint32(seed & np.uint64(_LOW)), np.uint32(seed >> np.uint64(32))
    # Rows without neighbours at the end of a share may belong to none: they have nothing to fill.
    total = indptr_T1[len(rows_T)]
    first = np.searchsorted(indptr_T1, total * share // shares)
    last = np.searchsorted(indptr_T1, total * (share + 1) // shares)
    nodes, degrees = np.zeros(_LANES, np.uint32), np.full(_LANES, fanout + 1, np.int32)
    starts, places = np.empty((2, _LANES), np.int64), np.empty((2, _LANES), np.int64)
    chosen, ranks = np.empty((2, MAX_FANOUT * _LANES), np.int32), np.empty((2, MAX_FANOUT * _LANES), np.int32)
    side, used, waiting = 0, 0, 0
    for t in range(first, last + _LAG):
        if t < last and degrees_T[t] > fanout:
            nodes[used], degrees[used] = first_node + rows_T[t], degrees_T[t]
            starts[side, used], places[side, used] = starts_T[t], indptr_T1[t]
            used += 1
        elif t < last:
            for line in range(0, degrees_T[t], 16):
                request(indices, starts_T[t] + line)
        if used == _LANES or (t == last and used > 0):
            _floyd(nodes, degrees, fanout, low, last_word, k0, k1, chosen[side], ranks[side])
            _request_chosen(indices, used, fanout, starts[side], chosen[side])
            side = 1 - side
            _read_chosen(indices, waiting, fanout, starts[side], places[side], chosen[side], ranks[side], out_X)
            waiting, used = used, 0
        if t - _LAG >= first and degrees_T[t - _LAG] <= fanout:
            start, place = starts_T[t - _LAG], indptr_T1[t - _LAG]
            for k in range(degrees_T[t - _LAG]):
                out_X[place + k] = indices[start + k]
    side = 1 - side
    _read_chosen(indices, waiting, fanout, starts[side], places[side], chosen[side], ranks[side], out_X)


@numba.njit(inline="always")
def _request_chosen(indices, used, fanout, starts, chosen):
    for k in range(fanout):
        for lane in range(used):
            request(indices, starts[lane] + chosen[k * _LANES + lane])


@numba.njit(inline="always")
def _read_chosen(indices, used, fanout, starts, places, chosen, ranks, out_X):
    for k in range(fanout):
        for lane in range(used):
            at = k * _LANES + lane
            out_X[places[lane] + ranks[at]] = indices[starts[lane] + chosen[at]]


@intrinsic
def _floyd(typing, nodes, degrees, count, low, last, k0, k1, chosen, ranks):
    """Floyd's sample of `count` of 0 .. degree-1 in each lane, and the ranks of its members: [k * _LANES + lane] of both."""
    word = types.uint32
    signature = types.void(nodes, degrees, types.int64, word, word, word, word, chosen, ranks)

    def emit(context, builder, signature, args):
        pointers = [_vectors(context, builder, signature, args, at) for at in (0, 1, 7, 8)]
        node, degree, chosen, ranks = builder.load(pointers[0], align=4), builder.load(pointers[1], align=4), *pointers[2:]
        count, low, last, k0, k1 = args[2:7]
        least = builder.sub(degree, _splat(builder, builder.trunc(count, ir.IntType(32))))
        one, two = (ir.Constant(ir.IntType(64), number) for number in (1, 2))
        pairs = builder.udiv(builder.add(count, one), two)
        with cgutils.for_range(builder, pairs) as loop:
            pair = _splat(builder, builder.trunc(loop.index, ir.IntType(32)))
            words = _philox(builder, [node, pair, _splat(builder, low), _splat(builder, last)], [k0, k1])
            first = builder.mul(loop.index, two)
            for half in (0, 1):  # of an odd count, the last draw is not used
                at = builder.add(first, ir.Constant(ir.IntType(64), half))
                top = builder.add(least, _splat(builder, builder.trunc(at, ir.IntType(32))))
                _choose(builder, chosen, at, top, words[2 * half], words[2 * half + 1])
        _rank(builder, chosen, ranks, count)
        return context.get_dummy_value()

    return signature, emit


def _choose(builder, chosen, at, top, high, low):
    """chosen[at] = the draw in 0 .. top, or `top` where an earlier draw is the same."""
    many = builder.zext(builder.add(top, ir.Constant(_WORD, [1] * _LANES)), _LONG)
    word = ir.Constant(_LONG, [32] * _LANES)
    carry = builder.lshr(builder.mul(builder.zext(low, _LONG), many), word)
    draw = builder.trunc(builder.lshr(builder.add(builder.mul(builder.zext(high, _LONG), many), carry), word), _WORD)
    none = ir.Constant(ir.VectorType(ir.IntType(1), _LANES), [0] * _LANES)
    taken = cgutils.alloca_once_value(builder, none)
    builder.store(none, taken)
    with cgutils.for_range(builder, at) as loop:
        same = builder.icmp_signed("==", builder.load(builder.gep(chosen, [loop.index]), align=4), draw)
        builder.store(builder.or_(builder.load(taken), same), taken)
    builder.store(builder.select(builder.load(taken), top, draw), builder.gep(chosen, [at]), align=4)


def _rank(builder, chosen, ranks, count):
    """ranks[k] = how many of the `count` chosen are smaller than chosen[k]."""
    zero = ir.Constant(_WORD, [0] * _LANES)
    with cgutils.for_range(builder, count) as outer:
        own = builder.load(builder.gep(chosen, [outer.index]), align=4)
        rank = cgutils.alloca_once_value(builder, zero)
        builder.store(zero, rank)
        with cgutils.for_range(builder, count) as inner:
            less = builder.icmp_signed("<", builder.load(builder.gep(chosen, [inner.index]), align=4), own)
            builder.store(builder.add(builder.load(rank), builder.zext(less, _WORD)), rank)
        builder.store(builder.load(rank), builder.gep(ranks, [outer.index]), align=4)


def _philox(builder, counter, key):
    """The ten rounds of gcnrec.random.philox4x32 on vectors of counters and one key."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        (high0, low0), (high1, low1) = _product(builder, c0, 0xD2511F53), _product(builder, c2, 0xCD9E8D57)
        c0 = builder.xor(builder.xor(high1, c1), _splat(builder, k0))
        c2 = builder.xor(builder.xor(high0, c3), _splat(builder, k1))
        c1, c3 = low1, low0
        k0 = builder.add(k0, ir.Constant(ir.IntType(32), 0x9E3779B9))
        k1 = builder.add(k1, ir.Constant(ir.IntType(32), 0xBB67AE85))
    return c0, c1, c2, c3


def _product(builder, word, factor):
    """High and low words of word * factor."""
    product = builder.mul(builder.zext(word, _LONG), ir.Constant(_LONG, [factor] * _LANES))
    return builder.trunc(builder.lshr(product, ir.Constant(_LONG, [32] * _LANES)), _WORD), builder.trunc(product, _WORD)


def _vectors(context, builder, signature, args, position):
    data = context.make_array(signature.args[position])(context, builder, value=args[position]).data
    return builder.bitcast(data, _WORD.as_pointer())


def _splat(builder, value):
    single = builder.insert_element(ir.Constant(_WORD, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(single, single, ir.Constant(_WORD, [0] * _LANES))
