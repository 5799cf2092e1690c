"""Update rules: how a row gradient changes rows and their state. Kernels and formulas are in `gcnrec.ops.update`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from gcnrec.device import ops_for
from gcnrec.rows import AdamSettings, RowGrad, Rows, Rules

if TYPE_CHECKING:
    from gcnrec.config import Optimizer


class Rule(Protocol):
    """`update` returns the rows with new weights and state; on the CPU these are the same planes, changed in place."""

    @property
    def every_row(self) -> bool:
        """Whether rows without a gradient move too, so that `grad.rows_R` must name every row."""
        ...

    def state_width(self, width: int) -> int:
        """Floats of state per row of `width` values."""
        ...

    def update(self, rows: Rows, grad: RowGrad, step: int, rate: float) -> Rows: ...


@dataclass(frozen=True)
class Sgd:
    """w -= rate * g."""

    every_row = False

    def state_width(self, width: int) -> int:
        return 0

    def update(self, rows: Rows, grad: RowGrad, step: int, rate: float) -> Rows:
        _rules(rows).sgd(rows, grad, step, rate)
        return rows


@dataclass(frozen=True)
class AdagradRow:
    """Adagrad with one accumulator per row."""

    epsilon: float
    every_row = False

    def state_width(self, width: int) -> int:
        return 1

    def update(self, rows: Rows, grad: RowGrad, step: int, rate: float) -> Rows:
        _rules(rows).adagrad_row(rows, grad, step, rate, self.epsilon)
        return rows


@dataclass(frozen=True)
class Adam(AdamSettings):
    """Adam on touched rows; moments decay by the steps since a row's last update."""

    every_row = False

    def state_width(self, width: int) -> int:
        return 2 * width

    def update(self, rows: Rows, grad: RowGrad, step: int, rate: float) -> Rows:
        _rules(rows).adam(rows, grad, step, rate, self)
        return rows


@dataclass(frozen=True)
class AdamRow(AdamSettings):
    """`Adam` with one second moment per row."""

    every_row = False

    def state_width(self, width: int) -> int:
        return width + 1

    def update(self, rows: Rows, grad: RowGrad, step: int, rate: float) -> Rows:
        _rules(rows).adam_row(rows, grad, step, rate, self)
        return rows


@dataclass(frozen=True)
class AdamDense(AdamSettings):
    """Adam on every row at every step, as published recipes run it."""

    every_row = True

    def state_width(self, width: int) -> int:
        return 2 * width

    def update(self, rows: Rows, grad: RowGrad, step: int, rate: float) -> Rows:
        _rules(rows).adam_dense(rows, grad, step, rate, self)
        return rows


@dataclass(frozen=True)
class LateAdam(Adam):
    """`AdamDense` for a table that catches up the rows that it reads (`gcnrec.tables.late`): `Adam` with a gap of one step."""


def rule_of(settings: Optimizer) -> Rule:
    """The rule that a job's `optimizer` section names."""
    betas = (settings.beta1, settings.beta2, settings.epsilon)
    match settings.rule:
        case "sgd":
            return Sgd()
        case "adagrad_row":
            return AdagradRow(settings.epsilon)
        case "adam":
            return Adam(*betas)
        case "adam_row":
            return AdamRow(*betas)
        case "adam_dense":
            return AdamDense(*betas)


def learning_rate(settings: Optimizer, step: int, total_steps: int) -> float:
    """The rate of `step` (1 ..): a linear warm-up, then constant, linear or cosine towards `final_rate` of itself."""
    warmup = min(1.0, step / settings.warmup_steps) if settings.warmup_steps else 1.0
    progress = min(1.0, (step - 1) / max(1, total_steps))
    match settings.schedule:
        case "constant":
            share = 1.0
        case "linear":
            share = 1.0 - progress
        case "cosine":
            share = 0.5 * (1.0 + math.cos(math.pi * progress))
    return settings.learning_rate * warmup * (settings.final_rate + (1.0 - settings.final_rate) * share)


def _rules(rows: Rows) -> Rules:
    return ops_for(rows.index_R.device).rules  # weights may lie in host memory that the device reads
