"""Update rules on the CPU, fused and in place: one pass over the touched rows reads and writes weights and state.

Letters: P rows of a plane, R touched rows, D width.

Planes come with their padding (`gather.padded`), so that rows are contiguous for LLVM; the gradient's width counts.
Every kernel takes the planes, `index_R` (where row r lies in the planes, int64, unique) and `grad_RD` float32.
`last_P` int32 is the step at which a row was last updated; step numbers start at 1.
Scalars are float32 and the width is read before the parallel loop: then LLVM keeps the inner loops in float32 vectors.
"""

from __future__ import annotations

import numba
import numpy as np

_SUMS = {"reassoc", "nsz"}
"""Lets LLVM add up a row's squares in vector lanes: another order than left to right, but always the same one."""


@numba.njit(parallel=True, cache=True, error_model="numpy")
def sgd(weights_PD, index_R, grad_RD, rate):  # type: ignore[no-untyped-def]
    """w -= rate * g."""
    width = grad_RD.shape[1]
    for r in numba.prange(len(index_R)):
        w, g = weights_PD[index_R[r]], grad_RD[r]
        for d in range(width):
            w[d] -= rate * g[d]


@numba.njit(parallel=True, cache=True, error_model="numpy", fastmath=_SUMS)
def adagrad_row(weights_PD, sums_P, index_R, grad_RD, rate, epsilon):  # type: ignore[no-untyped-def]
    """s += mean(g^2); w -= rate * g / (sqrt(s) + epsilon): one scalar of state per row (Duchi et al. 2011, row-wise)."""
    width = grad_RD.shape[1]
    for r in numba.prange(len(index_R)):
        p = index_R[r]
        w, g = weights_PD[p], grad_RD[r]
        square = np.float32(0.0)
        for d in range(width):
            square += g[d] * g[d]
        sums_P[p] += square / np.float32(width)
        scale = rate / (np.sqrt(sums_P[p]) + epsilon)
        for d in range(width):
            w[d] -= scale * g[d]


@numba.njit(parallel=True, cache=True, error_model="numpy")
def adam(weights_PD, state_PS, last_P, index_R, grad_RD, step, rate, beta1, beta2, epsilon):  # type: ignore[no-untyped-def]
    """Adam (Kingma & Ba 2015) on touched rows only: m and v decay by beta^gap since the row's last update.

    State row: [m | v]. Bias correction uses the global step; untouched weights do not move.
    """
    scaled, root = _corrections(step, rate, beta1, beta2)
    new1, new2 = np.float32(1.0) - beta1, np.float32(1.0) - beta2
    width = grad_RD.shape[1]
    for r in numba.prange(len(index_R)):
        p = index_R[r]
        gap = step - last_P[p]
        decay1, decay2 = np.float32(beta1**gap), np.float32(beta2**gap)
        w, state, g = weights_PD[p], state_PS[p], grad_RD[r]
        for d in range(width):
            first = decay1 * state[d] + new1 * g[d]
            second = decay2 * state[width + d] + new2 * g[d] * g[d]
            state[d] = first
            state[width + d] = second
            w[d] -= scaled * first / (np.sqrt(second) * root + epsilon)
        last_P[p] = step


@numba.njit(parallel=True, cache=True, error_model="numpy", fastmath=_SUMS)
def adam_row(weights_PD, state_PS, last_P, index_R, grad_RD, step, rate, beta1, beta2, epsilon):  # type: ignore[no-untyped-def]
    """Adam with one second moment per row, the mean of g^2; state row: [m | v], D + 1 wide. Lazy like `adam`."""
    scaled, root = _corrections(step, rate, beta1, beta2)
    new1, new2 = np.float32(1.0) - beta1, np.float32(1.0) - beta2
    width = grad_RD.shape[1]
    for r in numba.prange(len(index_R)):
        p = index_R[r]
        gap = step - last_P[p]
        decay1, decay2 = np.float32(beta1**gap), np.float32(beta2**gap)
        w, m, g = weights_PD[p], state_PS[p], grad_RD[r]
        square = np.float32(0.0)
        for d in range(width):
            square += g[d] * g[d]
        m[width] = decay2 * m[width] + new2 * square / np.float32(width)
        scale = scaled / (np.sqrt(m[width]) * root + epsilon)
        for d in range(width):
            first = decay1 * m[d] + new1 * g[d]
            m[d] = first
            w[d] -= scale * first
        last_P[p] = step


@numba.njit(parallel=True, cache=True, error_model="numpy")
def adam_dense(weights_PD, state_PS, grad_PD, step, rate, beta1, beta2, epsilon):  # type: ignore[no-untyped-def]
    """Adam on every row, touched or not: what torch.optim.Adam does to a dense table. State row: [m | v]."""
    scaled, root = _corrections(step, rate, beta1, beta2)
    new1, new2 = np.float32(1.0) - beta1, np.float32(1.0) - beta2
    width = grad_PD.shape[1]
    for p in numba.prange(len(weights_PD)):
        w, state, g = weights_PD[p], state_PS[p], grad_PD[p]
        for d in range(width):
            first = beta1 * state[d] + new1 * g[d]
            second = beta2 * state[width + d] + new2 * g[d] * g[d]
            state[d] = first
            state[width + d] = second
            w[d] -= scaled * first / (np.sqrt(second) * root + epsilon)


@numba.njit(error_model="numpy")
def _corrections(step, rate, beta1, beta2):  # type: ignore[no-untyped-def]
    """Rate over (1 - beta1^t), and 1 / sqrt(1 - beta2^t): the bias corrections, computed in float64."""
    scaled = np.float64(rate) / (1.0 - np.float64(beta1) ** step)
    root = 1.0 / np.sqrt(1.0 - np.float64(beta2) ** step)
    return np.float32(scaled), np.float32(root)
