"""Steps of Adam without a gradient, made up for when a row is next read: m and v decay, and m still moves weights.

A row that was last at step l and is needed at step t misses, for each step s = l+1 .. t (`gcnrec.ops.update`, with g = 0),

    m = beta1 m    v = beta2 v    w -= scaled[s] m / (sqrt(v) root[s] + epsilon)

Replayed steps are these float32 operations in this order. Their moves are summed, and a weight is rounded once instead of once
a step: closer to exact arithmetic than a table whose rows all move.

Of a row's state |m| <= B sqrt(v), by Cauchy-Schwarz, so the moves shrink at least by rho = beta1 / sqrt(beta2) a step, and
epsilon only shrinks them further. Those after the first K together are at most rate * B * rho^K / (1 - rho), where `rate` has its
bias corrections. `reach` is the least K that makes this at most 2^-24 of the rate; after K steps only m and v change.

Longer gaps need no replay. From step l on, all moves of a value together are m F_l(sqrt(v)), where

    F_l(q) = sum over j = 1 .. K of a_j / (b_j q + epsilon)    a_j = scaled[l+j] beta1^j    b_j = root[l+j] beta2^(j/2)

and those up to t are m F_l(sqrt(v)) - m' F_t(sqrt(v')), with the decayed m' and v'. F_l is an integral of 1 / (b q + epsilon)
over the positive measure a at b, so Gauss quadrature of three nodes gives it (Golub & Welsch 1969), made once a step in float64.
Its error is largest at epsilon = 0, where it is known exactly: |sum a/b - sum w/x| over q. A step is `smooth` where B times it is
at most 2^-24 of the largest rate that F has. The first steps, whose bias corrections change fast, are not, and are replayed.

Letters: N rows of the table, R rows, T steps from 0, L steps of a block, K the reach, C columns.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"
# (numba's decorators carry no types)

from __future__ import annotations

import math
from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from gcnrec.ops.update import corrections
from gcnrec.rows import AdamSettings, Rows

SHORT = 4
"""Gaps up to this are replayed: quadrature takes about as long as so many steps."""
PRECISION = 2.0**-24
"""Of what is dropped, in learning rates: half the distance of float32 numbers from 1 on."""
MOST_REACH = 1 << 14
"""Decays that reach further are replayed in full: their quadrature would cost a step more than it saves."""
NODES = 3


class Moves(NamedTuple):
    """What the steps 0 .. T-1 of a run do to a row without a gradient: float32, `smooth_T` bool. `reach` is K.

    F of a step is the sum over its nodes of shares_T3 / (nodes_T3 * q + epsilon).
    """

    scaled_T: NDArray[np.float32]
    root_T: NDArray[np.float32]
    nodes_T3: NDArray[np.float32]
    shares_T3: NDArray[np.float32]
    smooth_T: NDArray[np.bool_]
    reach: int


def reach(settings: AdamSettings) -> int | None:
    """K: the steps after which what m still moves is below `PRECISION` learning rates; None where it does not fade so."""
    beta1, beta2 = _rounded(settings)
    if beta1 * beta1 >= beta2:
        return None
    rho, bound = beta1 / math.sqrt(beta2), most_ratio(settings)
    if bound * rho / (1.0 - rho) <= PRECISION:
        return 1
    steps = math.ceil(math.log(PRECISION * (1.0 - rho) / bound) / math.log(rho))
    return steps if steps <= MOST_REACH else None


def most_ratio(settings: AdamSettings) -> float:
    """B: no gradients make |m| / sqrt(v) larger, where beta1^2 < beta2."""
    beta1, beta2 = _rounded(settings)
    return (1.0 - beta1) / math.sqrt((1.0 - beta2) * (1.0 - beta1 * beta1 / beta2))


def _rounded(settings: AdamSettings) -> tuple[float, float]:
    """The decays as the kernels have them, in float32."""
    return float(np.float32(settings.beta1)), float(np.float32(settings.beta2))


def factors(first: int, rates_L: NDArray[np.float32], settings: AdamSettings) -> tuple[NDArray[np.float32], ...]:
    """`scaled` and `root` of the steps from `first` (1 ..) on, with these learning rates; to the bits of an update."""
    scaled_L, root_L = np.empty_like(rates_L), np.empty_like(rates_L)
    _factors(first, rates_L, np.float32(settings.beta1), np.float32(settings.beta2), scaled_L, root_L)
    return scaled_L, root_L


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _factors(first, rates_L, beta1, beta2, scaled_L, root_L):
    for place in range(len(rates_L)):
        scaled_L[place], root_L[place] = corrections(first + place, rates_L[place], beta1, beta2)


def quadrature(
    scaled_X: NDArray[np.float32], root_X: NDArray[np.float32], count: int, settings: AdamSettings
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Nodes and shares of F at `count` steps, float64 (L, 3), and the errors of F at epsilon = 0 and q = 1, float64 (L).

    The arrays have the factors of the steps after the first of them: X = count + K - 1.
    """
    beta1, beta2 = _rounded(settings)
    powers_K = np.arange(1, len(scaled_X) - count + 2)
    a_LK, b_LK = (np.lib.stride_tricks.sliding_window_view(each.astype(np.float64), len(powers_K)) for each in (scaled_X, root_X))
    a_LK, b_LK = a_LK * beta1**powers_K, b_LK * np.sqrt(beta2) ** powers_K
    # Lanczos: polynomials p that are orthogonal under the measure a at b, and the numbers of their recurrence.
    jacobi_L33 = np.zeros((count, NODES, NODES))
    before_LK, p_LK, norm_L, ratio_L = np.zeros_like(b_LK), np.ones_like(b_LK), np.ones(count), np.zeros(count)
    for place in range(NODES):
        own_LK = a_LK * p_LK * p_LK
        new_L = own_LK.sum(1)
        centre_L = _ratio((own_LK * b_LK).sum(1), new_L, b_LK[:, 0])
        jacobi_L33[:, place, place] = centre_L
        if place:
            ratio_L = _ratio(new_L, norm_L, np.zeros(count))
            jacobi_L33[:, place, place - 1] = jacobi_L33[:, place - 1, place] = np.sqrt(ratio_L)
        before_LK, p_LK = p_LK, (b_LK - centre_L[:, None]) * p_LK - ratio_L[:, None] * before_LK
        norm_L = new_L
    nodes_L3, vectors_L33 = np.linalg.eigh(jacobi_L33)
    shares_L3 = a_LK.sum(1)[:, None] * vectors_L33[:, 0, :] ** 2
    errors_L = np.abs((a_LK / b_LK).sum(1) - (shares_L3 / nodes_L3).sum(1))
    return nodes_L3, shares_L3, errors_L


def _ratio(above_L, below_L, otherwise_L):
    """above / below, and `otherwise` where nothing is left: a measure of fewer points than nodes."""
    return np.divide(above_L, below_L, out=otherwise_L.copy(), where=below_L > 0.0)


def catch_up(rows: Rows, step: int, moves: Moves, settings: AdamSettings) -> None:
    """Bring weights, m and v of rows to where they are after `step` without a gradient since their last; `last_N` says so."""
    state = rows.require_state()
    _catch_up(
        rows.weights.numpy(), rows.at_R.numpy(), rows.count_R.numpy(), rows.index_R.numpy(), state.values.numpy(),
        state.at_R.numpy(), state.last_N.numpy(), step, moves, *_numbers(settings),
    )  # fmt: skip


@numba.njit(parallel=True, cache=True, nogil=True, error_model="numpy")
def _catch_up(weights, at_R, count_R, rows_R, state, state_at_R, last_N, step, moves, beta1, beta2, epsilon):
    for r in numba.prange(len(at_R)):
        last, count, at = last_N[rows_R[r]], count_R[r], state_at_R[r]
        last_N[rows_R[r]] = step
        if 0 < last < step:  # before its first gradient a row has no moments
            w, m, v = weights[at_R[r] : at_R[r] + count], state[at : at + count], state[at + count : at + 2 * count]
            _advance(w, m, v, last, step, moves, beta1, beta2, epsilon)


def caught_up_columns(
    weights_NC: NDArray[np.float32], m_NC: NDArray[np.float32], v_NC: NDArray[np.float32], last_N: NDArray[np.int32],
    step: int, moves: Moves, settings: AdamSettings,
) -> NDArray[np.float32]:  # fmt: skip
    """The same weights as `catch_up` gives, as new rows (N, C); nothing given is changed."""
    out_NC = np.empty(weights_NC.shape, np.float32)
    _caught_up_columns(weights_NC, m_NC, v_NC, last_N, step, moves, *_numbers(settings), out_NC)
    return out_NC


@numba.njit(parallel=True, cache=True, nogil=True, error_model="numpy")
def _caught_up_columns(weights_NC, m_NC, v_NC, last_N, step, moves, beta1, beta2, epsilon, out_NC):
    for row in numba.prange(len(out_NC)):
        out_NC[row] = weights_NC[row]  # copy: what a row is caught up in
        if 0 < last_N[row] < step:
            moments = np.empty((2, out_NC.shape[1]), np.float32)
            moments[0], moments[1] = m_NC[row], v_NC[row]  # copy: the table keeps its own
            _advance(out_NC[row], moments[0], moments[1], last_N[row], step, moves, beta1, beta2, epsilon)


@numba.njit(error_model="numpy")
def _advance(w, m, v, last, step, moves, beta1, beta2, epsilon):
    """Replay up to a smooth step, or the end; the rest by quadrature. After `reach` steps only m and v change."""
    s, end = np.int64(last), min(np.int64(step), np.int64(last) + moves.reach)
    smooth, moved = moves.smooth_T, np.zeros(len(w), np.float32)
    while s < end and not (smooth[s] and smooth[step] and step - s > SHORT):
        s += 1
        _replay(moved, m, v, moves.scaled_T[s], moves.root_T[s], beta1, beta2, epsilon)
    # Powers in float64: repeated squares in float32 would err by the number of steps.
    decay1, decay2 = np.float32(np.float64(beta1) ** (step - s)), np.float32(np.float64(beta2) ** (step - s))
    if s < end:
        from_s = moves.nodes_T3[s], moves.shares_T3[s]
        from_step = moves.nodes_T3[step], moves.shares_T3[step]
        _jump(moved, m, v, from_s, from_step, decay1, decay2, epsilon)
    elif s < step:
        for d in range(len(w)):
            m[d] *= decay1
            v[d] *= decay2
    for d in range(len(w)):
        w[d] -= moved[d]


@numba.njit(inline="always", error_model="numpy")
def _replay(moved, m, v, scaled, root, beta1, beta2, epsilon):
    """A step of `gcnrec.ops.update.adam_dense` with a gradient of zeros."""
    for d in range(len(moved)):
        first, second = beta1 * m[d], beta2 * v[d]
        moved[d] += scaled * first / (np.sqrt(second) * root + epsilon)
        m[d] = first
        v[d] = second


@numba.njit(inline="always", error_model="numpy")
def _jump(moved, m, v, here, there, decay1, decay2, epsilon):
    """All moves from here on, less all from there on."""
    x0, x1, x2 = here[0][0], here[0][1], here[0][2]
    a0, a1, a2 = here[1][0], here[1][1], here[1][2]
    y0, y1, y2 = there[0][0], there[0][1], there[0][2]
    b0, b1, b2 = there[1][0], there[1][1], there[1][2]
    for d in range(len(moved)):
        first, second = decay1 * m[d], decay2 * v[d]
        q, later = np.sqrt(v[d]), np.sqrt(second)
        total = m[d] * (a0 / (x0 * q + epsilon) + a1 / (x1 * q + epsilon) + a2 / (x2 * q + epsilon))
        rest = first * (b0 / (y0 * later + epsilon) + b1 / (y1 * later + epsilon) + b2 / (y2 * later + epsilon))
        moved[d] += total - rest
        m[d] = first
        v[d] = second


def _numbers(settings):
    return np.float32(settings.beta1), np.float32(settings.beta2), np.float32(settings.epsilon)
