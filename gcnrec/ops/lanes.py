"""Row arithmetic on explicit vector lanes, for kernels whose speed is that of their innermost loop.

Numba keeps a local array in memory, so a sum over the rows of a neighbourhood would load and store its accumulator for
every edge. These intrinsics emit the loop as LLVM vectors of 16 floats that stay in registers for a whole row, and ask
for the rows of later edges ahead of time (measured: 1.4 times faster than without when the rows lie in a shared cache).
All offsets are 64-bit counts of floats into flat vectors.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, import-untyped"
# (llvmlite and numba's intrinsics carry no types)

from __future__ import annotations

import numba
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

_FLOAT = ir.FloatType()
_LONG = ir.IntType(64)
_AHEAD = 32
"""Edges between the request for a row and its use; 24 .. 48 measured alike, 12 slower."""


@numba.njit(inline="always")
def sum_scaled_rows(indices, begin, end, limit, source, pitch, column_scale, row_scale, out, at, width):
    """out[at : at+width] = row_scale * sum over e in begin .. end-1, ascending, of column_scale[c] * source[c * pitch : +width],
    with c = indices[e]. Rows of edges below `limit` (at least `end`) may be requested early."""
    first = 0
    while width - first >= 64:
        _sum_64(indices, begin, end, limit, source, pitch, first, column_scale, row_scale, out, at + first)
        first += 64
    if width - first >= 32:
        _sum_32(indices, begin, end, limit, source, pitch, first, column_scale, row_scale, out, at + first)
        first += 32
    if width - first >= 16:
        _sum_16(indices, begin, end, limit, source, pitch, first, column_scale, row_scale, out, at + first)
        first += 16
    if width - first >= 8:
        _sum_8(indices, begin, end, limit, source, pitch, first, column_scale, row_scale, out, at + first)
        first += 8
    while first < width:
        _sum_1(indices, begin, end, limit, source, pitch, first, column_scale, row_scale, out, at + first)
        first += 1


@numba.njit(inline="always")
def add_scaled_row(source, begin, scale, out, at, width):
    """out[at : at+width] += scale * source[begin : begin+width]; the two must not overlap."""
    first = 0
    while width - first >= 64:
        _add_64(source, begin + first, scale, out, at + first)
        first += 64
    while width - first >= 16:
        _add_16(source, begin + first, scale, out, at + first)
        first += 16
    while first < width:
        out[at + first] += scale * source[begin + first]
        first += 1


@numba.njit(inline="always")
def request_row(out, at, width):
    """Fetch out[at : at+width] towards this core, to be written soon."""
    for line in range(0, width, 16):
        _request_line(out, at + line)


@intrinsic
def _request_line(typing, out, at):
    def emit(context, builder, signature, args):
        _request(builder, _pointer(context, builder, signature, args, 0), args[1], write=1)
        return context.get_dummy_value()

    return types.void(out, types.int64), emit


def _sum_lanes(lanes, vectors):
    """The intrinsic that sums `vectors` vectors of `lanes` floats at column offset `first`."""

    def gcnrec_sum(typing, indices, begin, end, limit, source, pitch, first, column_scale, row_scale, out, at):
        whole = types.int64
        signature = types.void(indices, whole, whole, whole, source, whole, whole, column_scale, types.float32, out, whole)

        def emit(context, builder, signature, args):
            index, scale, rows, target = (_pointer(context, builder, signature, args, at) for at in (0, 7, 4, 9))
            _, begin, end, limit, _, pitch, first, _, row_scale, _, at = args
            last = builder.sub(limit, _LONG(1))
            vector = ir.VectorType(_FLOAT, lanes)
            sums = [cgutils.alloca_once_value(builder, ir.Constant(vector, [0.0] * lanes)) for _ in range(vectors)]
            with cgutils.for_range(builder, end, start=begin) as loop:
                column = builder.load(builder.gep(index, [loop.index]))
                weight = _splat(builder, builder.load(builder.gep(scale, [column])), lanes)
                early = _offset(builder, _later(builder, index, loop.index, last), pitch, first)
                for line in range(0, lanes * vectors, 16):
                    _request(builder, rows, builder.add(early, _LONG(line)))
                offset = _offset(builder, column, pitch, first)
                for part, total in enumerate(sums):
                    row = _load(builder, rows, offset, part * lanes, vector)
                    builder.store(_multiply_add(builder, row, weight, builder.load(total)), total)
            weight = _splat(builder, row_scale, lanes)
            for part, total in enumerate(sums):
                _store(builder, builder.fmul(builder.load(total), weight), target, at, part * lanes)
            return context.get_dummy_value()

        return signature, emit

    return intrinsic(gcnrec_sum)


def _add_lanes(lanes, vectors):
    """The intrinsic that adds `scale` times `vectors` vectors of `lanes` floats."""

    def gcnrec_add(typing, source, begin, scale, out, at):
        signature = types.void(source, types.int64, types.float32, out, types.int64)

        def emit(context, builder, signature, args):
            rows, target = (_pointer(context, builder, signature, args, at) for at in (0, 3))
            _, begin, scale, _, at = args
            vector = ir.VectorType(_FLOAT, lanes)
            weight = _splat(builder, scale, lanes)
            for part in range(vectors):
                row = _load(builder, rows, begin, part * lanes, vector)
                old = _load(builder, target, at, part * lanes, vector)
                _store(builder, _multiply_add(builder, row, weight, old), target, at, part * lanes)
            return context.get_dummy_value()

        return signature, emit

    return intrinsic(gcnrec_add)


def _pointer(context, builder, signature, args, position):
    kind = signature.args[position]
    return context.make_array(kind)(context, builder, value=args[position]).data


def _offset(builder, column, pitch, first):
    return builder.add(builder.mul(builder.sext(column, _LONG), pitch), first)


def _later(builder, index, edge, last):
    """The column of the edge _AHEAD of this one, or of the last."""
    later = builder.add(edge, _LONG(_AHEAD))
    return builder.load(builder.gep(index, [builder.select(builder.icmp_signed("<", later, last), later, last)]))


def _request(builder, base, offset, write=0):
    """Fetch the cache line at `base + offset` into the second-level cache, without waiting."""
    byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), (byte, word, word, word))
    prefetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    place = builder.bitcast(builder.gep(base, [offset]), byte)
    builder.call(prefetch, (place, word(write), word(2), word(1)))


def _splat(builder, value, lanes):
    single = builder.insert_element(
        ir.Constant(ir.VectorType(_FLOAT, lanes), ir.Undefined), value, ir.Constant(ir.IntType(32), 0)
    )
    return builder.shuffle_vector(single, single, ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes))


def _address(builder, base, offset, extra, vector):
    place = builder.add(offset, _LONG(extra))
    return builder.bitcast(builder.gep(base, [place]), vector.as_pointer())


def _load(builder, base, offset, extra, vector):
    return builder.load(_address(builder, base, offset, extra, vector), align=4)


def _store(builder, value, base, offset, extra):
    builder.store(value, _address(builder, base, offset, extra, value.type), align=4)


def _multiply_add(builder, a, b, c):
    # fmuladd: one instruction where the CPU has it, two elsewhere (llvm.fma would call the C library there)
    kind = ir.FunctionType(a.type, (a.type, a.type, a.type))
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fmuladd.v{a.type.count}f32")
    return builder.call(function, (a, b, c))


_sum_64, _sum_32, _sum_16, _sum_8, _sum_1 = (_sum_lanes(*shape) for shape in ((16, 4), (16, 2), (16, 1), (8, 1), (1, 1)))
_add_64, _add_16 = _add_lanes(16, 4), _add_lanes(16, 1)
