"""Adam on every row, of which steps touch only those that they read: a dense table whose rows make up for the steps they missed.

A step reads rows, which are first brought to where every-row Adam has them after the step before; then `gcnrec.tables.rules.Adam`
updates them, whose gap is one step. What is not read stays where it was last. At the end of an epoch all rows are settled: so the
checkpoint of a best epoch has the rows that are exported. Within an epoch, exports get caught-up columns and leave the table as
it is, and checkpoints have rows as they are, with the step of each. So neither changes a later bit.

Formulas, and how far the values are from those of every-row Adam, are in `gcnrec.ops.catch_up`.
Letters: N rows of the table, T steps from 0, V chosen rows, D width.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.graph import Csr
from gcnrec.ops.catch_up import NODES, PRECISION, Moves, catch_up, caught_up_columns, factors, most_ratio, quadrature, reach
from gcnrec.ops.propagate import propagate_rows
from gcnrec.rows import AdamSettings, Rows, Ticket
from gcnrec.tables.dense import EVERY_ROW, FILLED_ROWS, DenseTable

BLOCK = 64
"""Steps whose moves are made together, always the same ones: sums have the same bits wherever a run is resumed."""
_ENDLESS = 1 << 31


class Past:
    """The moves of rows without a gradient at each step of a run, made as steps come; `rate` gives a step's learning rate (1 ..).

    33 bytes a step stay in memory.
    """

    def __init__(self, settings: AdamSettings, rate: Callable[[int], float]) -> None:
        self.settings, self._rate = settings, rate
        self._reach = reach(settings)
        self._known = 0
        self._moves = self._room(BLOCK)

    def until(self, step: int) -> Moves:
        """The moves of steps up to `step`, and of some more."""
        while self._known <= step:
            if self._known == len(self._moves.smooth_T):
                grown = self._room(2 * self._known)
                for new, old in zip(grown[:-1], self._moves[:-1], strict=True):
                    new[: self._known] = old  # copy: a run's steps double seldom
                self._moves = grown
            self._add(self._known)
            self._known += BLOCK
        return self._moves

    def _room(self, length: int) -> Moves:
        """Room for so many steps."""
        numbers, triples = (length,), (length, NODES)
        return Moves(
            np.zeros(numbers, np.float32), np.zeros(numbers, np.float32), np.zeros(triples, np.float32),
            np.zeros(triples, np.float32), np.zeros(numbers, np.bool_), _ENDLESS if self._reach is None else self._reach,
        )  # fmt: skip

    def _add(self, first: int) -> None:
        """The moves of the block that begins at step `first`: factors of its steps, quadratures of all that follows each."""
        steps, moves, ahead = slice(first, first + BLOCK), self._moves, self._reach or 0
        rates = np.array([self._rate(max(1, number)) for number in range(first, first + BLOCK + ahead)], np.float32)
        scaled, root = factors(first, rates, self.settings)
        moves.scaled_T[steps], moves.root_T[steps] = scaled[:BLOCK], root[:BLOCK]
        if not ahead:
            return
        nodes, shares, errors = quadrature(scaled[1:], root[1:], BLOCK, self.settings)
        moves.nodes_T3[steps], moves.shares_T3[steps] = nodes, shares
        largest = np.lib.stride_tricks.sliding_window_view(rates[1:], ahead).max(1)
        moves.smooth_T[steps] = most_ratio(self.settings) * errors <= PRECISION * largest


class LateTable(DenseTable):
    """The planes of `table`, which it takes over. Rows are caught up where steps read them, columns in what is handed out."""

    def __init__(self, table: DenseTable, past: Past) -> None:
        self.numbers, self.changes = table.numbers, table.changes
        self._weights, self._state, self._last, self._grad = table._weights, table._state, table._last, None
        self._past, self._step = past, self._latest()

    def read(self, ticket: Ticket, with_state: bool) -> Rows:
        """The rows as they are after the last step. Where they lag behind, they are brought there."""
        catch_up(super().read(ticket, with_state=True), self._step, self._past.until(self._step), self._past.settings)
        return super().read(ticket, with_state)

    def write(self, rows: Rows) -> None:
        """Nothing to copy; the step of an update is that of its rows."""
        if len(rows.rows_R):
            self._step = max(self._step, int(self._last[rows.rows_R[0]]))

    def restore(self, tensors: dict[str, torch.Tensor]) -> None:
        super().restore(tensors)
        self._step = self._latest()

    def settle(self) -> None:
        """Catch up all rows, in place."""
        for first in range(0, self.num_rows, FILLED_ROWS):  # not all row numbers at once
            self.read(Ticket(np.arange(first, min(first + FILLED_ROWS, self.num_rows))), with_state=False)

    def columns(self, first: int, last: int, rows: slice = EVERY_ROW) -> torch.Tensor:
        """Columns `first .. last-1` of `rows` as after the last step: new rows, and the table stays as it is."""
        width = self.width
        weights_RC, state_RS, settings = self._weights[rows, first:last].numpy(), self._state[rows].numpy(), self._past.settings
        m_RC, v_RC = state_RS[:, first:last], state_RS[:, width + first : width + last]
        moves = self._past.until(self._step)
        caught_RC = caught_up_columns(weights_RC, m_RC, v_RC, self._last[rows].numpy(), self._step, moves, settings)
        return torch.from_numpy(caught_RC)

    def propagate_rows(
        self, csr: Csr, first_row: int, row_scale_R: torch.Tensor, column_scale_C: torch.Tensor, rows_V: NDArray[np.int32],
        out_VD: torch.Tensor,
    ) -> None:  # fmt: skip
        """As of a dense table, from rows as they are after the last step."""
        source_CD = self.columns(0, self.width)[first_row : first_row + csr.columns]
        propagate_rows(csr, source_CD, row_scale_R, column_scale_C, rows_V, out_VD)

    def _latest(self) -> int:
        """The step of the last update: each step updates some row."""
        return int(self._last.max()) if len(self._last) else 0
