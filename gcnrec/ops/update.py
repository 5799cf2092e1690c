"""Update rules on the CPU, fused and in place: one pass over the touched rows reads and writes weights and state.

A public function takes `Rows` and `RowGrad`; the kernel below it takes their arrays. A gradient whose `bad` is not 0 changes
nothing.
Rows lie anywhere in flat planes, dense or packed as slots: row r's values are weights[at[r] : at[r] + count[r]], their
gradient starts at grad[grad_at[r]] and their state at state[state_at[r]], moment after moment. `rows_R` (int64, unique)
are row numbers, for `last_N` int32, the step of a row's last update; steps count from 1. Random rounding is keyed by the
row's node, rows_R[r] * stride + first.
Weights are float32, or bfloat16 as uint16; everything else is float32.
Scalars are float32 and slices are taken once a row: then LLVM keeps the inner loops in float32 vectors.

Letters: N rows of the table, R touched rows.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"
# (numba's decorators carry no types)

from __future__ import annotations

import numba
import numpy as np

from gcnrec.ops.values import load, store_update
from gcnrec.rows import AdamSettings, RowGrad, Rows

PLACES = 256
"""Values of a row that are rounded at random each by a draw of its own: (step, node, place), wherever the row lies."""


@numba.njit(inline="always")
def _squares(g):
    """The sum of the squares of a row, in eight lanes and an order that no compiler may change (see `ops.softmax`)."""
    zero = np.float32(0.0)
    a, b, c, d, e, f, h, i = zero, zero, zero, zero, zero, zero, zero, zero
    whole = len(g) - len(g) % 8
    for k in range(0, whole, 8):
        a += g[k] * g[k]
        b += g[k + 1] * g[k + 1]
        c += g[k + 2] * g[k + 2]
        d += g[k + 3] * g[k + 3]
        e += g[k + 4] * g[k + 4]
        f += g[k + 5] * g[k + 5]
        h += g[k + 6] * g[k + 6]
        i += g[k + 7] * g[k + 7]
    total = ((a + b) + (c + d)) + ((e + f) + (h + i))
    for k in range(whole, len(g)):
        total += g[k] * g[k]
    return total


def sgd(rows: Rows, grad: RowGrad, step: int, rate: float) -> None:
    """w -= rate * g."""
    if _is_good(grad):
        _sgd(*_weights(rows), *_gradient(grad), step, np.float32(rate))


@numba.njit(parallel=True, cache=True, error_model="numpy")
def _sgd(weights, at_R, count_R, rows_R, stride, first_node, grad, grad_at_R, step, rate):
    for r in numba.prange(len(at_R)):
        count = count_R[r]
        w, g = weights[at_R[r] : at_R[r] + count], grad[grad_at_R[r] : grad_at_R[r] + count]
        node = rows_R[r] * stride + first_node
        for d in range(count):
            store_update(w, d, load(w, d) - rate * g[d], step, node * PLACES + d)


def adagrad_row(rows: Rows, grad: RowGrad, step: int, rate: float, epsilon: float) -> None:
    """s += mean(g^2); w -= rate * g / (sqrt(s) + epsilon): one scalar of state per row (Duchi et al. 2011, row-wise)."""
    if _is_good(grad):
        _adagrad_row(*_weights(rows), *_state(rows), *_gradient(grad), step, np.float32(rate), np.float32(epsilon))


@numba.njit(parallel=True, cache=True, error_model="numpy")
def _adagrad_row(weights, at_R, count_R, rows_R, stride, first_node, state, state_at_R, grad, grad_at_R, step, rate, epsilon):
    for r in numba.prange(len(at_R)):
        count = count_R[r]
        if count == 0:
            continue
        w, g = weights[at_R[r] : at_R[r] + count], grad[grad_at_R[r] : grad_at_R[r] + count]
        square = _squares(g)
        state[state_at_R[r]] += square / np.float32(count)
        scale = rate / (np.sqrt(state[state_at_R[r]]) + epsilon)
        node = rows_R[r] * stride + first_node
        for d in range(count):
            store_update(w, d, load(w, d) - scale * g[d], step, node * PLACES + d)


def adam(rows: Rows, grad: RowGrad, step: int, rate: float, settings: AdamSettings) -> None:
    """Adam (Kingma & Ba 2015) on touched rows only: m and v decay by beta^gap since the row's last update.

    State of a row: [m | v]. Bias correction uses the global step; untouched weights do not move.
    """
    if _is_good(grad):
        _adam(*_weights(rows), *_state(rows), _last(rows), *_gradient(grad), step, np.float32(rate), *_numbers(settings))


@numba.njit(parallel=True, cache=True, error_model="numpy")
def _adam(
    weights, at_R, count_R, rows_R, stride, first_node, state, state_at_R, last_N, grad, grad_at_R, step, rate, beta1, beta2,
    epsilon,
):  # fmt: skip
    scaled, root = corrections(step, rate, beta1, beta2)
    new1, new2 = np.float32(1.0) - beta1, np.float32(1.0) - beta2
    for r in numba.prange(len(at_R)):
        gap = step - last_N[rows_R[r]]
        decay1, decay2 = np.float32(beta1**gap), np.float32(beta2**gap)
        node = rows_R[r] * stride + first_node
        _adam_one(
            weights, at_R[r], count_R[r], node, state, state_at_R[r], grad, grad_at_R[r], step, scaled, root,
            decay1, decay2, new1, new2, epsilon,
        )  # fmt: skip
        last_N[rows_R[r]] = step


def adam_row(rows: Rows, grad: RowGrad, step: int, rate: float, settings: AdamSettings) -> None:
    """Adam with one second moment per row, the mean of g^2; state of a row: [m | v], count + 1 wide. Lazy like `adam`."""
    if _is_good(grad):
        _adam_row(*_weights(rows), *_state(rows), _last(rows), *_gradient(grad), step, np.float32(rate), *_numbers(settings))


@numba.njit(parallel=True, cache=True, error_model="numpy")
def _adam_row(
    weights, at_R, count_R, rows_R, stride, first_node, state, state_at_R, last_N, grad, grad_at_R, step, rate, beta1, beta2,
    epsilon,
):  # fmt: skip
    scaled, root = corrections(step, rate, beta1, beta2)
    new1, new2 = np.float32(1.0) - beta1, np.float32(1.0) - beta2
    for r in numba.prange(len(at_R)):
        count = count_R[r]
        gap = step - last_N[rows_R[r]]
        last_N[rows_R[r]] = step
        if count == 0:
            continue
        decay1, decay2 = np.float32(beta1**gap), np.float32(beta2**gap)
        w, g = weights[at_R[r] : at_R[r] + count], grad[grad_at_R[r] : grad_at_R[r] + count]
        m, place = state[state_at_R[r] : state_at_R[r] + count], state_at_R[r] + count
        square = _squares(g)
        state[place] = decay2 * state[place] + new2 * square / np.float32(count)
        scale = scaled / (np.sqrt(state[place]) * root + epsilon)
        node = rows_R[r] * stride + first_node
        for d in range(count):
            first = decay1 * m[d] + new1 * g[d]
            m[d] = first
            store_update(w, d, load(w, d) - scale * first, step, node * PLACES + d)


def adam_dense(rows: Rows, grad: RowGrad, step: int, rate: float, settings: AdamSettings) -> None:
    """Adam on the given rows, touched or not: what torch.optim.Adam does to a dense table. State of a row: [m | v]."""
    if _is_good(grad):
        _adam_dense(*_weights(rows), *_state(rows), *_gradient(grad), step, np.float32(rate), *_numbers(settings))


@numba.njit(parallel=True, cache=True, error_model="numpy")
def _adam_dense(
    weights, at_R, count_R, rows_R, stride, first_node, state, state_at_R, grad, grad_at_R, step, rate, beta1, beta2, epsilon
):
    scaled, root = corrections(step, rate, beta1, beta2)
    new1, new2 = np.float32(1.0) - beta1, np.float32(1.0) - beta2
    for r in numba.prange(len(at_R)):
        node = rows_R[r] * stride + first_node
        _adam_one(
            weights, at_R[r], count_R[r], node, state, state_at_R[r], grad, grad_at_R[r], step, scaled, root,
            beta1, beta2, new1, new2, epsilon,
        )  # fmt: skip


@numba.njit(inline="always", error_model="numpy")
def _adam_one(weights, at, count, node, state, state_at, grad, grad_at, step, scaled, root, decay1, decay2, new1, new2, epsilon):
    w, g = weights[at : at + count], grad[grad_at : grad_at + count]
    m, v = state[state_at : state_at + count], state[state_at + count : state_at + 2 * count]
    for d in range(count):
        first = decay1 * m[d] + new1 * g[d]
        second = decay2 * v[d] + new2 * g[d] * g[d]
        m[d] = first
        v[d] = second
        store_update(w, d, load(w, d) - scaled * first / (np.sqrt(second) * root + epsilon), step, node * PLACES + d)


@numba.njit(error_model="numpy")
def corrections(step, rate, beta1, beta2):
    """Rate over (1 - beta1^t), and 1 / sqrt(1 - beta2^t): the bias corrections, computed in float64."""
    scaled = np.float64(rate) / (1.0 - np.float64(beta1) ** step)
    root = 1.0 / np.sqrt(1.0 - np.float64(beta2) ** step)
    return np.float32(scaled), np.float32(root)


def _is_good(grad):
    return grad.bad is None or grad.bad.numpy()[0] == 0


def _weights(rows):
    return rows.weights.numpy(), rows.at_R.numpy(), rows.count_R.numpy(), rows.index_R.numpy(), *rows.numbers


def _state(rows):
    state = rows.require_state()
    return state.values.numpy(), state.at_R.numpy()


def _last(rows):
    return rows.require_state().last_N.numpy()


def _gradient(grad):
    return grad.values_X.numpy(), grad.at_R.numpy()


def _numbers(settings):
    return np.float32(settings.beta1), np.float32(settings.beta2), np.float32(settings.epsilon)
