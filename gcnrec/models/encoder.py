"""What a trained model does: turn table rows into embeddings, and gradients of embeddings into gradients of rows.

Letters: N nodes, U users, I items, V nodes of the batch, R touched rows, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.device import Ops
from gcnrec.rows import RowGrad, Ticket
from gcnrec.sampling.sampler import Batch
from gcnrec.tables.dense import StepTable, Table


@dataclass(frozen=True, slots=True)
class Encoded:
    """Embeddings `final_VD` and table rows `ego_VD` of a batch's nodes; `pull` turns gradients of both into row gradients.

    `pull_whole(grad_VD, grad_ego_VD, rows_R, out_RD)` adds gradients of every cell, stored or not, of rows `rows_R` to `out_RD`.
    """

    final_VD: torch.Tensor
    ego_VD: torch.Tensor
    pull: Callable[[torch.Tensor, torch.Tensor], RowGrad]
    pull_whole: Callable[[torch.Tensor, torch.Tensor, NDArray[np.int64], torch.Tensor], None]


class Encoder(Protocol):
    """A model that is trained: `prepare` and `encode` for a step, `export` for ranking."""

    def prepare(self, batch: Batch, ops: Ops) -> Any:
        """What `encode` takes from the host, for a device with `ops`: arrays in tuples, some named, as `device.uploaded` has it.

        A thread asks for it while earlier batches train, so it reads nothing that training changes.
        """
        ...

    def encode(self, table: StepTable, batch: Batch, given: Any) -> Encoded:
        """The embeddings of the batch's nodes; `given` is what `prepare` gave, its arrays uploaded."""
        ...

    def export(self, table: Table, out_NF: torch.Tensor) -> None:
        """Write the embeddings of all nodes, users first, into `out_NF` float32 (N, `export_width`)."""
        ...

    @property
    def export_width(self) -> int: ...

    @property
    def every_node(self) -> bool:
        """Whether a batch has a gradient for every node of the graph, not only for its own."""
        ...

    @property
    def layers(self) -> torch.nn.Module | None:
        """Trained parameters outside the table, or None."""
        ...


def column_blocks(width: int, block: int) -> list[tuple[int, int]]:
    """[0, width) cut into ranges of at most `block` columns."""
    return [(first, min(first + block, width)) for first in range(0, width, block)]


def every_row(grad: RowGrad, num_rows: int, width: int) -> RowGrad:
    """The same gradient over all rows, zero where it had none (for rules that move every row); rows hold `width` or fewer."""
    if len(grad.rows_R) == num_rows:
        return grad
    values_X = torch.cat([grad.values_X, torch.zeros(width)])  # copy: the touched rows, with one stretch of zeros behind them
    at_N = torch.full((num_rows,), len(grad.values_X))
    at_N[torch.from_numpy(grad.rows_R)] = grad.at_R
    return RowGrad(Ticket(np.arange(num_rows)), values_X, at_N)
