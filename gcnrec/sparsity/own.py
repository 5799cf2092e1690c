"""A policy of another package: what share of the values goes, and which cells come. The exchange keeps the budget.

Letters: R rows of a block, D width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gcnrec.errors import UsageError, shown
from gcnrec.extensions.calls import calling
from gcnrec.extensions.load import Own
from gcnrec.extensions.names import PAGE
from gcnrec.sparsity.exchange import Change, exchange_anywhere, nothing_known
from gcnrec.sparsity.policy import Gradients, Moment
from gcnrec.sparsity.published import RandomMask
from gcnrec.tables.slots import SlotTable

_MOST_BATCHES = 10**4


class OwnPolicy(Protocol):
    """What `sparsity.policy = "package.module:Class"` names; the class is made of one dict, `sparsity.settings`.

    It may have an attribute `batches`, default 0: fresh batches whose mean gradient `scores` gets.
    """

    def share(self, moment: Moment) -> float:
        """The share of the stored values, the smallest by magnitude, that an exploration gives up: 0 .. 1."""
        ...

    def scores(self, rows: range, width: int, gradient_RD: NDArray[np.float32] | None, moment: Moment) -> NDArray[np.float32]:
        """What the cells of `rows` are stored by, the larger the better, float32 (R, width); negative ones are never stored.

        Node numbers: users first. A row's scores follow from its number, its gradient and the moment alone, and are asked for
        more than once. `gradient_RD` is None where `batches` is 0. Cells that are given up compete, too.
        """
        ...


@dataclass(frozen=True)
class Foreign(RandomMask):
    """The policy of a class that a job names: a random first support, as many cells in every row, and its exchanges until `stop`.

    Raises UsageError where it gives anything but a share and scores.
    """

    name: str
    made: OwnPolicy
    batches: int
    stop: float

    @classmethod
    def of(cls, own: Own, stop: float) -> Foreign:
        """UsageError where the class cannot be made, or has no such `batches`."""
        made = own.make()
        with calling(own.shown, "batches"):
            batches: Any = getattr(made, "batches", 0)
        if type(batches) is not int or not 0 <= batches <= _MOST_BATCHES:
            raise UsageError(
                f"{own.shown}: batches must be a whole number from 0 to {_MOST_BATCHES:,}, got {shown(batches)}; see {PAGE}"
            )
        return cls(own.shown, made, batches, stop)

    def explore(self, table: SlotTable, moment: Moment, gradients: Gradients | None) -> Change:
        with calling(self.name, "share"):
            share = float(self.made.share(moment))
        if not 0.0 <= share <= 1.0:
            raise UsageError(f"{self.name}: share must be from 0 to 1, got {share:g} at progress {moment.progress:g}; see {PAGE}")

        def scores(first: int, last: int) -> NDArray[np.float32]:
            gradient_RD = None if gradients is None else gradients.tile(first, last)
            with calling(self.name, "scores"):
                given_RD = self.made.scores(range(first, last), table.width, gradient_RD, moment)
            return self._checked(given_RD, (last - first, table.width))

        return exchange_anywhere(table, math.ceil(share * table.num_values), scores, nothing_known)

    def _checked(self, given_RD: Any, shape: tuple[int, int]) -> NDArray[np.float32]:
        """A copy of scores, which the exchange writes to."""
        if not isinstance(given_RD, np.ndarray) or given_RD.shape != shape or given_RD.dtype != np.float32:
            is_array = isinstance(given_RD, np.ndarray)
            came = f"{given_RD.dtype} {given_RD.shape}" if is_array else type(given_RD).__name__
            raise UsageError(f"{self.name}: scores must be a float32 array {shape}, a cell each, got {came}; see {PAGE}")
        if np.isnan(given_RD).any():
            raise UsageError(f"{self.name}: scores must be numbers, got NaN; see {PAGE}")
        return np.array(given_RD, order="C")  # copy: of a block, for the exchange to write to
