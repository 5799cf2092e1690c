"""Update rules on the GPU: the names, argument order and formulas of `gcnrec.ops.update`, on tensors.

Index vectors (`at_R`, `count_R`, `rows_R`, `grad_at_R`, `state_at_R`) are int64 on the device, `last_N` int32, state and
gradients float32, weights float32 or bfloat16 (which may be called uint16); planes may lie in pinned host memory. `lanes`
threads share a row: a power of two, best about the number of its values. `max_blocks` caps the grid, for updates over the bus
beside other work.

Letters: N rows of the table, R touched rows.
"""

from __future__ import annotations

import numpy as np
import torch

from gcnrec.cuda import module
from gcnrec.cuda.arguments import BLOCK, address, blocks_for
from gcnrec.cuda.slots import STORED

Arguments = tuple[np.generic, ...]


def sgd(
    weights: torch.Tensor, at_R: torch.Tensor, count_R: torch.Tensor, rows_R: torch.Tensor,
    grad: torch.Tensor, grad_at_R: torch.Tensor, step: int, rate: float, lanes: int = 32, max_blocks: int | None = None,
) -> None:  # fmt: skip
    """w -= rate * g."""
    _launch(
        "sgd",
        weights,
        at_R,
        (*_spans(weights, at_R, count_R, rows_R, grad, grad_at_R), np.int64(step), np.float32(rate)),
        lanes,
        max_blocks,
    )


def adagrad_row(
    weights: torch.Tensor, at_R: torch.Tensor, count_R: torch.Tensor, rows_R: torch.Tensor,
    state: torch.Tensor, state_at_R: torch.Tensor, grad: torch.Tensor, grad_at_R: torch.Tensor,
    step: int, rate: float, epsilon: float, lanes: int = 32,
    max_blocks: int | None = None,
) -> None:  # fmt: skip
    """s += mean(g^2); w -= rate * g / (sqrt(s) + epsilon)."""
    planes = (*_spans(weights, at_R, count_R, rows_R, grad, grad_at_R), *_state(state, state_at_R))
    _launch("adagrad_row", weights, at_R, (*planes, np.int64(step), np.float32(rate), np.float32(epsilon)), lanes, max_blocks)


def adam(
    weights: torch.Tensor, at_R: torch.Tensor, count_R: torch.Tensor, rows_R: torch.Tensor,
    state: torch.Tensor, state_at_R: torch.Tensor, last_N: torch.Tensor, grad: torch.Tensor, grad_at_R: torch.Tensor,
    step: int, rate: float, beta1: float, beta2: float, epsilon: float, lanes: int = 32,
    max_blocks: int | None = None,
) -> None:  # fmt: skip
    """Adam on touched rows only: m and v decay by beta^gap since the row's last update."""
    planes = (*_spans(weights, at_R, count_R, rows_R, grad, grad_at_R), *_state(state, state_at_R), _last(last_N))
    _launch("adam", weights, at_R, (*planes, *_adam(step, rate, beta1, beta2, epsilon)), lanes, max_blocks)


def adam_row(
    weights: torch.Tensor, at_R: torch.Tensor, count_R: torch.Tensor, rows_R: torch.Tensor,
    state: torch.Tensor, state_at_R: torch.Tensor, last_N: torch.Tensor, grad: torch.Tensor, grad_at_R: torch.Tensor,
    step: int, rate: float, beta1: float, beta2: float, epsilon: float, lanes: int = 32,
    max_blocks: int | None = None,
) -> None:  # fmt: skip
    """`adam` with one second moment per row, the mean of g^2; state of a row: [m | v], count + 1 wide."""
    planes = (*_spans(weights, at_R, count_R, rows_R, grad, grad_at_R), *_state(state, state_at_R), _last(last_N))
    _launch("adam_row", weights, at_R, (*planes, *_adam(step, rate, beta1, beta2, epsilon)), lanes, max_blocks)


def adam_dense(
    weights: torch.Tensor, at_R: torch.Tensor, count_R: torch.Tensor, rows_R: torch.Tensor,
    state: torch.Tensor, state_at_R: torch.Tensor, grad: torch.Tensor, grad_at_R: torch.Tensor,
    step: int, rate: float, beta1: float, beta2: float, epsilon: float, lanes: int = 32,
    max_blocks: int | None = None,
) -> None:  # fmt: skip
    """Adam on the given rows, touched or not, as torch.optim.Adam moves a dense table."""
    planes = (*_spans(weights, at_R, count_R, rows_R, grad, grad_at_R), *_state(state, state_at_R), np.uint64(0))
    _launch("adam", weights, at_R, (*planes, *_adam(step, rate, beta1, beta2, epsilon)), lanes, max_blocks)


def _spans(
    weights: torch.Tensor, at_R: torch.Tensor, count_R: torch.Tensor, rows_R: torch.Tensor, grad: torch.Tensor,
    grad_at_R: torch.Tensor,
) -> Arguments:  # fmt: skip
    return (
        address("weights", weights, *STORED), address("at_R", at_R, torch.int64), address("count_R", count_R, torch.int64),
        address("rows_R", rows_R, torch.int64), np.int64(len(at_R)), address("grad", grad, torch.float32),
        address("grad_at_R", grad_at_R, torch.int64),
    )  # fmt: skip


def _state(state: torch.Tensor, state_at_R: torch.Tensor) -> Arguments:
    return address("state", state, torch.float32), address("state_at_R", state_at_R, torch.int64)


def _last(last_N: torch.Tensor) -> np.uint64:
    return address("last_N", last_N, torch.int32)


def _adam(step: int, rate: float, beta1: float, beta2: float, epsilon: float) -> Arguments:
    """Step, then rate over (1 - beta1^t) and 1 / sqrt(1 - beta2^t): the bias corrections, computed in float64."""
    rate, beta1, beta2 = (float(np.float32(number)) for number in (rate, beta1, beta2))
    scaled, root = rate / (1.0 - beta1**step), 1.0 / np.sqrt(1.0 - beta2**step)
    return np.int64(step), *(np.float32(number) for number in (scaled, root, beta1, beta2, epsilon))


def _launch(
    rule: str, weights: torch.Tensor, at_R: torch.Tensor, arguments: Arguments, lanes: int, max_blocks: int | None
) -> None:
    if len(at_R):
        kernel = f"gcnrec_{rule}_{'float32' if weights.dtype == torch.float32 else 'bfloat16'}"
        grid = blocks_for(len(at_R) * lanes, BLOCK, max_blocks)
        module.launch("update.cu", kernel, grid, BLOCK, (*arguments, np.int32(lanes)), at_R.device)
