"""Matrix factorisation (Koren et al. 2009): a node's embedding is its table row."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.device import Ops
from gcnrec.models.encoder import Encoded
from gcnrec.rows import RowGrad
from gcnrec.sampling.sampler import Batch
from gcnrec.tables.dense import StepTable, Table


class MatrixFactorisation:
    """No propagation at all: a step touches the batch's rows only."""

    layers = None
    every_node = False

    def __init__(self, width: int) -> None:
        self.export_width = width

    def prepare(self, batch: Batch, ops: Ops) -> None:
        """Nothing is taken from the host."""

    def encode(self, table: StepTable, batch: Batch, given: None) -> Encoded:
        rows_VD = table.decode(table.read(batch.ticket, with_state=False))

        def pull(grad_VD: torch.Tensor, grad_ego_VD: torch.Tensor) -> RowGrad:
            return table.stored(batch.ticket, grad_VD + grad_ego_VD)

        def pull_whole(grad_VD: torch.Tensor, grad_ego_VD: torch.Tensor, rows_R: NDArray[np.int64], out_RD: torch.Tensor) -> None:
            out_RD.index_add_(0, torch.from_numpy(np.searchsorted(rows_R, batch.nodes_V)), (grad_VD + grad_ego_VD).cpu())

        return Encoded(rows_VD, rows_VD, pull, pull_whole)

    def export(self, table: Table, out_NF: torch.Tensor) -> None:
        out_NF.copy_(table.columns(0, table.width))  # copy: ranking reads contiguous embeddings
