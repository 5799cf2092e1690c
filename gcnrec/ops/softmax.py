"""Softmax of a chunk of logits and its gradient, in one pass per row while the row is in the first-level cache.

Letters: C rows of the chunk, J candidates.
"""

from __future__ import annotations

import numba
import numpy as np
import torch
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic
from numpy.typing import NDArray

LOG2E = np.float32(1.4426950408889634)
_FLOOR = np.float32(-126.0)
"""Exponents below this would leave the normal float32 range: exp is 2**-126 there, nothing against the row's 1."""


def softmax_gradient_(logits_CJ: torch.Tensor, goal_C: NDArray[np.int64]) -> NDArray[np.float32]:
    """Turn each row of logits into its softmax minus 1 at `goal`, in place; returns -log softmax[goal], float32 (C).

    That is the gradient of the returned loss with respect to the logits. exp is accurate to 2 units in the last place.
    """
    losses_C = np.empty(len(logits_CJ), np.float32)
    _softmax_gradient(logits_CJ.numpy(), goal_C, losses_C)
    return losses_C


@intrinsic
def _float_of_bits(typing_context, bits):  # type: ignore[no-untyped-def]
    """The float32 whose bit pattern is an int32."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), generate


@numba.njit(inline="always")
def exp2(x):  # type: ignore[no-untyped-def]
    """2**x for x <= 0: a polynomial on [-1/2, 1/2] (the Taylor series of 2**f, error below 2e-8) times a power of two."""
    x = max(x, _FLOOR)
    whole = np.floor(x + np.float32(0.5))
    f = x - whole
    series = np.float32(1.5403530393381608e-4)
    series = series * f + np.float32(1.3333558146428443e-3)
    series = series * f + np.float32(9.6181291076284772e-3)
    series = series * f + np.float32(5.5504108664821580e-2)
    series = series * f + np.float32(2.4022650695910072e-1)
    series = series * f + np.float32(6.9314718055994531e-1)
    series = series * f + np.float32(1.0)
    return series * _float_of_bits((np.int32(whole) + np.int32(127)) << np.int32(23))


@numba.njit(inline="always")
def total(row):  # type: ignore[no-untyped-def]
    """The sum of a row, in sixteen lanes that a compiler may keep in vectors, in an order that it may not change.

    Free to reassociate, LLVM adds up in one order when it compiles and numba loads another from its cache: the first run
    after an installation would then differ from later runs, and a resumed run from the interrupted run.
    """
    s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = np.float32(0.0)
    t0 = t1 = t2 = t3 = t4 = t5 = t6 = t7 = np.float32(0.0)
    whole = len(row) - len(row) % 16
    for j in range(0, whole, 16):
        s0 += row[j]
        s1 += row[j + 1]
        s2 += row[j + 2]
        s3 += row[j + 3]
        s4 += row[j + 4]
        s5 += row[j + 5]
        s6 += row[j + 6]
        s7 += row[j + 7]
        t0 += row[j + 8]
        t1 += row[j + 9]
        t2 += row[j + 10]
        t3 += row[j + 11]
        t4 += row[j + 12]
        t5 += row[j + 13]
        t6 += row[j + 14]
        t7 += row[j + 15]
    first = ((s0 + s1) + (s2 + s3)) + ((s4 + s5) + (s6 + s7))
    total = first + (((t0 + t1) + (t2 + t3)) + ((t4 + t5) + (t6 + t7)))
    for j in range(whole, len(row)):
        total += row[j]
    return total


@numba.njit(parallel=True, cache=True, fastmath={"nsz", "contract"}, error_model="numpy")
def _softmax_gradient(logits_CJ, goal_C, losses_C):  # type: ignore[no-untyped-def]
    width = logits_CJ.shape[1]
    for c in numba.prange(len(logits_CJ)):
        row, goal = logits_CJ[c], goal_C[c]
        top = row[0]
        for j in range(width):
            top = max(top, row[j])
        own = row[goal]
        for j in range(width):
            row[j] = exp2((row[j] - top) * LOG2E)
        mass = total(row)
        share = np.float32(1.0) / mass
        for j in range(width):
            row[j] *= share
        losses_C[c] = np.log(mass) + top - own
        row[goal] -= np.float32(1.0)
