"""Bench `update`: the optimizer's step on the rows of a batch, for every rule that torch has or can express.

Two forms of a table: dense rows of 64 values, and records of 16 values at a pitch of 20 floats, as slots at a quarter of the
values lie. The 16 are every fourth column of the dense rows, start equal and get equal gradients, so that rules which look at
one value at a time must agree on them; rules with a scalar for the row run on dense rows only.
Every variant applies the same gradients to a table and state of its own. The weights of the rows must agree after the first
step, within rounding. With a GPU a part has the gradient on it and the table in pinned host memory.
Letters: N rows of the table, R rows of the batch, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from gcnrec.bench.gather import device_or_none
from gcnrec.bench.harness import Row, Variant, in_parts, measure, rest, use_threads
from gcnrec.device import pipeline_of
from gcnrec.random import Stage, generator
from gcnrec.rows import RowGrad, Rows, State, Ticket
from gcnrec.tables.dense import aligned
from gcnrec.tables.rules import AdagradRow, Adam, AdamRow, Rule, Sgd

WIDTH, STRIDE, PITCH = 64, 4, 20
"""Columns of dense rows; one in `STRIDE` of them is stored in records, `PITCH` floats apart."""
RATE, BETA1, BETA2, EPSILON = 1e-3, 0.9, 0.999, 1e-12
"""Epsilon is next to nothing, so that it does not show that SparseAdam adds it elsewhere."""
TOLERANCE = 1e-6
ADAM = BETA1, BETA2, EPSILON
RULES: dict[str, Rule] = {"sgd": Sgd(), "adagrad_row": AdagradRow(EPSILON), "adam": Adam(*ADAM), "adam_row": AdamRow(*ADAM)}
MOMENTS = {"sgd": (0, 0), "adagrad_row": (0, 1), "adam": (2, 0), "adam_row": (1, 1)}
"""State of every rule: floats per value, floats per row."""
BY_VALUE = ("sgd", "adam")
HOST = torch.device("cpu")


@dataclass(frozen=True)
class Task:
    """The rule, the first weights of the whole table, and the batch: rows that differ, ascending, and their gradient."""

    rule: str
    weights_ND: torch.Tensor
    rows_R: torch.Tensor
    grad_RD: torch.Tensor


def run(threads: int | None = None, runs: int = 15, num_rows: int = 500_000, batch: int = 1 << 17) -> Iterator[Row]:
    """Rows for every rule, and one closing row, the smallest speedup; units are rows updated."""
    use_threads(threads)
    device = device_or_none()

    def parts() -> Iterator[Iterator[Row]]:
        for rule in MOMENTS:
            task = task_of(rule, num_rows, batch)
            yield measure(f"update-{rule}", variants(task), len(task.rows_R), difference, TOLERANCE, runs=runs)
            if device is not None:
                name, there = f"update-from-device-{rule}", variants(task, device)
                yield measure(name, there, len(task.rows_R), difference, TOLERANCE, runs=runs)

    yield from in_parts("update", parts())


def task_of(rule: str, num_rows: int, batch: int) -> Task:
    """A table of normal rows and a gradient of `batch` distinct ones, drawn by a fixed seed."""
    draws = generator(0, Stage.INIT)
    weights_ND = torch.from_numpy(draws.standard_normal((num_rows, WIDTH), np.float32))
    rows_R = torch.from_numpy(np.sort(draws.choice(num_rows, min(batch, num_rows), replace=False)))
    return Task(rule, weights_ND, rows_R, torch.from_numpy(draws.standard_normal((len(rows_R), WIDTH), np.float32)))


def variants(task: Task, device: torch.device = HOST) -> list[Variant]:
    """The gradient is on `device`, the table in host memory: updated from there, or by torch after the gradient's way back."""
    builds: dict[str, Callable[[Task, torch.device], Contender]] = {"gcnrec": partial(Ours, stride=1)}
    if task.rule in BY_VALUE:
        builds["gcnrec-slots"] = partial(Ours, stride=STRIDE)
        builds["torch-sparse-optimizer"] = TorchSparse
    builds["torch-rows"] = TorchRows
    return [Variant(name, partial(build, task, device), _stepped, rest) for name, build in builds.items()]


def difference(expected: Contender, found: Contender) -> float:
    """Norm of the differences over the norm of the weights, at the columns that `found` stores."""
    exact, weights = expected.weights(), found.weights()
    exact = exact[:, :: exact.shape[1] // weights.shape[1]]
    return float((weights - exact).norm() / exact.norm())


class Ours:
    """Flat planes of weights and state and the kernel of the rule; on a GPU both planes are pinned host memory."""

    def __init__(self, task: Task, device: torch.device, stride: int) -> None:
        rows, width = len(task.rows_R), WIDTH // stride
        pitch = PITCH if stride > 1 else width
        self._rule, self._step = RULES[task.rule], 0
        state_width = self._rule.state_width(width)
        self._weights = aligned(1, len(task.weights_ND) * pitch)[0].zero_()
        self._rows_RD = self._weights.view(-1, pitch)[:, :width]
        self._rows_RD.copy_(task.weights_ND[:, ::stride])
        self._state = aligned(1, max(1, len(task.weights_ND) * state_width))[0].zero_()
        self._device, self._pinned = device, None
        if device.type == "cuda":
            self._pinned = pipeline_of(device)  # the memory stays pinned as long as this object lives
            for plane in (self._weights, self._state):
                self._pinned.adopt(plane, len(plane))
        index_R, at_R = task.rows_R.to(device), (torch.arange(rows) * width).to(device)
        last_N = torch.zeros(len(task.weights_ND), dtype=torch.int32, device=device)
        state, count_R = State(self._state, index_R * state_width, last_N), torch.full_like(index_R, width)
        self._rows = Rows(Ticket(task.rows_R.numpy()), index_R, self._weights, index_R * pitch, count_R, state)
        self._grad = RowGrad(self._rows.ticket, task.grad_RD[:, ::stride].reshape(-1).to(device), at_R)

    def step(self) -> None:
        self._step += 1
        self._rule.update(self._rows, self._grad, self._step, RATE)
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)  # synchronize: the rows must be there when the clock stops

    def weights(self) -> torch.Tensor:
        return self._rows_RD[self._rows.rows_R]


class TorchSparse:
    """A sparse gradient and torch's own optimizer for it: SparseAdam, or SGD."""

    def __init__(self, task: Task, device: torch.device = HOST) -> None:
        self._task, self._weights_ND = task, torch.nn.Parameter(task.weights_ND.clone())
        self._grad_RD = task.grad_RD.to(device)
        self._optimizer: Any = (
            torch.optim.SparseAdam([self._weights_ND], RATE, (BETA1, BETA2), EPSILON)
            if task.rule == "adam"
            else torch.optim.SGD([self._weights_ND], RATE)
        )

    def step(self) -> None:
        shape, index = self._weights_ND.shape, self._task.rows_R[None]
        self._weights_ND.grad = torch.sparse_coo_tensor(
            index, self._grad_RD.cpu(), shape, is_coalesced=True, check_invariants=False
        )
        self._optimizer.step()

    def weights(self) -> torch.Tensor:
        return self._weights_ND.detach()[self._task.rows_R]


class TorchRows:
    """The rule written by a careful user of torch: rows and state read by index, changed as dense tensors, written back."""

    def __init__(self, task: Task, device: torch.device = HOST) -> None:
        moments, scalars = MOMENTS[task.rule]
        self._rule, self._rows_R = getattr(self, f"_{task.rule}"), task.rows_R
        self._weights_ND = task.weights_ND.clone()
        self._moments = [torch.zeros_like(task.weights_ND) for _ in range(moments)]
        self._scalars = [torch.zeros(len(task.weights_ND), 1) for _ in range(scalars)]
        self._grad_RD, self._step = task.grad_RD.to(device), 0

    def step(self) -> None:
        self._step += 1
        self._rule(self._grad_RD.cpu())

    def weights(self) -> torch.Tensor:
        return self._weights_ND[self._rows_R]

    def _sgd(self, grad_RD: torch.Tensor) -> None:
        self._weights_ND.index_add_(0, self._rows_R, grad_RD, alpha=-RATE)

    def _adagrad_row(self, grad_RD: torch.Tensor) -> None:
        self._scalars[0].index_add_(0, self._rows_R, grad_RD.square().mean(1, keepdim=True))
        divisor_R1 = self._scalars[0].index_select(0, self._rows_R).sqrt_().add_(EPSILON)
        self._weights_ND.index_add_(0, self._rows_R, grad_RD / divisor_R1, alpha=-RATE)

    def _adam(self, grad_RD: torch.Tensor) -> None:
        self._move(self._decayed(self._moments[0], BETA1, grad_RD), self._decayed(self._moments[1], BETA2, grad_RD.square()))

    def _adam_row(self, grad_RD: torch.Tensor) -> None:
        mean_R1 = grad_RD.square().mean(1, keepdim=True)
        self._move(self._decayed(self._moments[0], BETA1, grad_RD), self._decayed(self._scalars[0], BETA2, mean_R1))

    def _decayed(self, plane: torch.Tensor, beta: float, new: torch.Tensor) -> torch.Tensor:
        rows = plane.index_select(0, self._rows_R).lerp_(new, 1 - beta)
        plane.index_copy_(0, self._rows_R, rows)
        return rows

    def _move(self, first_RD: torch.Tensor, second_RD: torch.Tensor) -> None:
        divisor_RD = second_RD.div_(1 - BETA2**self._step).sqrt_().add_(EPSILON)
        change_RD = first_RD.div_(divisor_RD)
        self._weights_ND.index_add_(0, self._rows_R, change_RD, alpha=-RATE / (1 - BETA1**self._step))


Contender = Ours | TorchSparse | TorchRows
"""A table that steps; `weights` are the present values of the batch's rows."""


def _stepped(contender: Contender) -> Contender:
    contender.step()
    return contender
