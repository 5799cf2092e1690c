"""A step that workers share by columns: each propagates its columns of all rows, and all compute the whole loss.

    every worker | draw the batch | propagate its columns | gather the batch's embeddings | loss | pull its columns | update them

Propagation treats every column alike, and the loss is the single process's own code on the same bits: so are the numbers of a
run, whatever the number of workers. Embeddings and table rows of the batch's nodes are all that is sent.
Letters: V nodes of the batch, D width, C columns of a worker, R rows, W workers.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.device import Ops
from gcnrec.models.encoder import Encoded, Encoder
from gcnrec.rows import RowGrad
from gcnrec.sampling.minibatches import Waits
from gcnrec.sampling.sampler import Batch, EdgeSampler
from gcnrec.steps.follower import SharedStep
from gcnrec.steps.guards import Gradients, Loss, finite
from gcnrec.steps.step import Step, Uploaded
from gcnrec.tables.dealt.columns import ColumnsTable
from gcnrec.tables.dense import StepTable, Table
from gcnrec.workers.world import World


@dataclass(frozen=True)
class GatheredEncoder:
    """An encoder without layers whose steps embed this worker's columns alone, and gather those of all workers."""

    encoder: Encoder
    columns: ColumnsTable
    world: World

    layers = None

    @property
    def every_node(self) -> bool:
        return self.encoder.every_node

    @property
    def export_width(self) -> int:
        return self.columns.whole_width

    def prepare(self, batch: Batch, ops: Ops) -> Any:
        return self.encoder.prepare(batch, ops)

    def encode(self, table: StepTable, batch: Batch, given: Any) -> Encoded:
        own, columns = self.encoder.encode(self.columns.local, batch, given), self.columns.columns
        final_VD, ego_VD = gathered(self.world, self.columns.widths, (own.final_VD, own.ego_VD))

        def pull(grad_VD: torch.Tensor, grad_ego_VD: torch.Tensor) -> RowGrad:
            # copy: of the batch's nodes, as kernels read rows in one piece
            return own.pull(grad_VD[:, columns].contiguous(), grad_ego_VD[:, columns].contiguous())

        return Encoded(final_VD, ego_VD, pull, _not_explored)

    def export(self, table: Table, out_NF: torch.Tensor) -> None:
        self.encoder.export(table, out_NF)


def gathered(world: World, widths: list[int], tiles: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """Tiles with the columns of all workers, float32 (V, D), from those with this worker's, (V, C); `widths`: C of each."""
    rows, size = len(tiles[0]), world.size
    own = torch.stack(tiles)
    counts = [len(tiles) * rows * width for width in widths]
    came = world.exchange(own.reshape(-1).repeat(size), [own.numel()] * size, counts)  # copy: of the tiles, for each worker
    pieces = [piece.view(len(tiles), rows, width) for piece, width in zip(torch.split(came, counts), widths, strict=True)]
    return tuple(torch.cat([piece[tile] for piece in pieces], 1) for tile in range(len(tiles)))


@dataclass(frozen=True)
class Agreed:
    """The check of all workers: a step whose loss or gradient is not finite on one of them updates nothing on any."""

    world: World

    bad = None

    def judge(self, step: int, loss: torch.Tensor, gradients: Gradients) -> list[Loss]:
        size = self.world.size
        sums = [tensor.detach().sum() for tensor in chain.from_iterable(gradients.values())]
        own = torch.stack([loss.detach(), *sums])
        came = self.world.exchange(own.repeat(size, 1), [1] * size, [1] * size)
        name = next(name for name, tensors in gradients.items() if tensors)  # there are no layers
        return [Loss(step, finite(step, came[0, 0], {name: [came[:, 1:]]}))]

    def settled(self) -> list[Loss]:
        """None are left."""
        return []


class ColumnsStep(SharedStep):
    """The step of all workers: `step` works on this worker's columns, `table`, by an encoder and a check of the whole world."""

    sampler: EdgeSampler
    table: ColumnsTable
    layer_optimizer = None

    def __init__(self, step: Step, table: ColumnsTable, world: World) -> None:
        encoder, check = GatheredEncoder(step.encoder, table, world), Agreed(world)
        self._step = replace(step, encoder=encoder, check=check)
        self.sampler, self.encoder, self.check = step.sampler, encoder, check
        self.table, self.world = table, world

    def __call__(self, batch: Batch, rate: float) -> float:
        """Train at one learning rate on a batch that was not announced; returns its loss. For a leader whom nobody follows."""
        self._agree()
        return self._step(batch, rate)

    def deal(self) -> None:
        self.table.deal()

    def announced(self, epoch: int, waits: Waits, first: int) -> Generator[Uploaded]:
        return self._step.batches(epoch, waits, first)

    def trained(self, uploaded: Uploaded, rate: float) -> Loss:
        return self._step.train(uploaded, rate)[-1]

    def drawn_with_rows(self, epoch: int, index: int) -> NoReturn:
        _not_explored()

    def whole_gradient(self, batch: Any) -> tuple[NDArray[np.int64], torch.Tensor]:
        _not_explored()


def _not_explored(*given: object) -> NoReturn:
    raise TypeError("a table by columns is dense, and nothing explores it")
