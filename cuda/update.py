"""Update rules on the GPU: the names, arguments and formulas of `gcnrec.ops.update`.

Index vectors are int64 on the device, `last_N` int32, state and gradients float32, weights float32 or bfloat16 (which may be
called uint16); planes may lie in pinned host memory. The device reads `grad.bad`; no call waits for it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from gcnrec.cuda import module
from gcnrec.cuda.arguments import BLOCK, address, blocks_for
from gcnrec.cuda.slots import STORED
from gcnrec.rows import AdamSettings, RowGrad, Rows

Arguments = tuple[np.generic, ...]


@dataclass(frozen=True, slots=True)
class Grid:
    """`lanes` threads share a row: a power of two, by default `lanes_of` the rows. `max_blocks` caps the grid, for updates over
    the bus during other work."""

    lanes: int | None = None
    max_blocks: int | None = None


FREE = Grid()


def sgd(rows: Rows, grad: RowGrad, step: int, rate: float, grid: Grid = FREE) -> None:
    """w -= rate * g."""
    _launch("sgd", rows, grad, (*_spans(rows, grad), np.int64(step), np.float32(rate)), grid)


def adagrad_row(rows: Rows, grad: RowGrad, step: int, rate: float, epsilon: float, grid: Grid = FREE) -> None:
    """s += mean(g^2); w -= rate * g / (sqrt(s) + epsilon)."""
    numbers = np.int64(step), np.float32(rate), np.float32(epsilon)
    _launch("adagrad_row", rows, grad, (*_spans(rows, grad), *_state(rows), *numbers), grid)


def adam(rows: Rows, grad: RowGrad, step: int, rate: float, settings: AdamSettings, grid: Grid = FREE) -> None:
    """Adam on touched rows only: m and v decay by beta^gap since the row's last update."""
    _launch("adam", rows, grad, (*_spans(rows, grad), *_state(rows), _last(rows), *_adam(step, rate, settings)), grid)


def adam_row(rows: Rows, grad: RowGrad, step: int, rate: float, settings: AdamSettings, grid: Grid = FREE) -> None:
    """`adam` with one second moment per row, the mean of g^2; state of a row: [m | v], count + 1 wide."""
    _launch("adam_row", rows, grad, (*_spans(rows, grad), *_state(rows), _last(rows), *_adam(step, rate, settings)), grid)


def adam_dense(rows: Rows, grad: RowGrad, step: int, rate: float, settings: AdamSettings, grid: Grid = FREE) -> None:
    """Adam on the given rows, touched or not, as torch.optim.Adam moves a dense table."""
    _launch("adam", rows, grad, (*_spans(rows, grad), *_state(rows), np.uint64(0), *_adam(step, rate, settings)), grid)


def lanes_of(values: int, rows: int) -> int:
    """Threads that share a row of an update: the power of two nearest to the rows' mean length, at most a warp."""
    return 1 << round(np.log2(np.clip(values / max(rows, 1), 1, 32)))


def _spans(rows: Rows, grad: RowGrad) -> Arguments:
    bad = np.uint64(0) if grad.bad is None else address("grad.bad", grad.bad, torch.int32)
    return (
        address("weights", rows.weights, *STORED), address("at_R", rows.at_R, torch.int64),
        address("count_R", rows.count_R, torch.int64), address("index_R", rows.index_R, torch.int64),
        *map(np.int64, (*rows.numbers, len(rows.at_R))),
        address("grad.values_X", grad.values_X, torch.float32), address("grad.at_R", grad.at_R, torch.int64), bad,
    )  # fmt: skip


def _state(rows: Rows) -> Arguments:
    state = rows.require_state()
    return address("state.values", state.values, torch.float32), address("state.at_R", state.at_R, torch.int64)


def _last(rows: Rows) -> np.uint64:
    return address("last_N", rows.require_state().last_N, torch.int32)


def _adam(step: int, rate: float, settings: AdamSettings) -> Arguments:
    """Step, then rate over (1 - beta1^t) and 1 / sqrt(1 - beta2^t): the bias corrections, computed in float64."""
    rate, beta1, beta2 = (float(np.float32(number)) for number in (rate, settings.beta1, settings.beta2))
    scaled, root = rate / (1.0 - beta1**step), 1.0 / np.sqrt(1.0 - beta2**step)
    return np.int64(step), *(np.float32(number) for number in (scaled, root, beta1, beta2, settings.epsilon))


def _launch(rule: str, rows: Rows, grad: RowGrad, arguments: Arguments, grid: Grid) -> None:
    count = len(rows.at_R)
    if count:
        # The gradient has exactly the rows' values, so its size gives their mean length without a wait for the device.
        lanes = grid.lanes or lanes_of(grad.values_X.numel(), count)
        kernel = f"gcnrec_{rule}_{'float32' if rows.weights.dtype == torch.float32 else 'bfloat16'}"
        blocks = blocks_for(count * lanes, BLOCK, grid.max_blocks)
        module.launch("update.cu", kernel, blocks, BLOCK, (*arguments, np.int32(lanes)), rows.at_R.device)
