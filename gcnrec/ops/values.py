"""Stored values, read and written one at a time inside compiled kernels: float32, or bfloat16 as uint16.

A bfloat16 is the upper half of a float32. Updates round it at random, up as often as the part cut off says, because steps
smaller than half its last place would otherwise always be lost (Gupta et al. 2015, "Deep Learning with Limited Numerical
Precision"); the draw is a hash of its place and the step, so that runs repeat.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, import-untyped"
# (numba's decorators and overloads carry no types)

from __future__ import annotations

import numba
import numpy as np
from numba import types
from numba.extending import overload


def load(values, at):
    """One stored value as float32. In compiled code the overload decides by the type of `values`, at no cost."""
    return values[at] if values.dtype == np.float32 else np.uint32(int(values[at]) << 16).view(np.float32)


def store(values, at, value):
    """Store `value`, rounded to the nearest, ties to even."""
    values[at] = value if values.dtype == np.float32 else _upper_half(value, 0x7FFF + (_bits(value) >> 16 & 1))


def store_update(values, at, value, step, place):
    """Store `value`, rounded at random by (step, place) where it must be rounded."""
    values[at] = value if values.dtype == np.float32 else _upper_half(value, int(_hash(step, place)) & 0xFFFF)


def _bits(value):
    return int(np.float32(value).view(np.uint32))


def _upper_half(value, added):
    return np.uint16((_bits(value) + added >> 16) & 0xFFFF)


@overload(load, inline="always")
def _load(values, at):
    if values.dtype == types.uint16:

        def of_bfloat16(values, at):
            return np.uint32(np.uint32(values[at]) << np.uint32(16)).view(np.float32)

        return of_bfloat16

    def of_float32(values, at):
        return values[at]

    return of_float32


@overload(store, inline="always")
def _store(values, at, value):
    if values.dtype == types.uint16:

        def as_bfloat16(values, at, value):
            bits = np.float32(value).view(np.uint32)
            values[at] = np.uint16(
                np.uint32(bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
            )

        return as_bfloat16

    def as_float32(values, at, value):
        values[at] = value

    return as_float32


@overload(store_update, inline="always")
def _store_update(values, at, value, step, place):
    if values.dtype == types.uint16:

        def dithered(values, at, value, step, place):
            noise = np.uint32(_hash(step, place) & np.uint32(0xFFFF))
            bits = np.float32(value).view(np.uint32)
            values[at] = np.uint16(np.uint32(bits + noise) >> np.uint32(16))

        return dithered

    def as_float32(values, at, value, step, place):
        values[at] = value

    return as_float32


@numba.njit(inline="always")
def _hash(step, place):
    """32 well mixed bits of two integers (the finaliser of MurmurHash3)."""
    bits = np.uint32(np.uint32(place) * np.uint32(0x9E3779B1) ^ np.uint32(step) * np.uint32(0x85EBCA77))
    bits = np.uint32((bits ^ (bits >> np.uint32(16))) * np.uint32(0x85EBCA6B))
    bits = np.uint32((bits ^ (bits >> np.uint32(13))) * np.uint32(0xC2B2AE35))
    return np.uint32(bits ^ (bits >> np.uint32(16)))
