"""Encoders that turn a node's inputs and its neighbours' into an embedding, layer by layer, and so embed new nodes as well.

In training the nodes of a batch are encoded from drawn neighbourhoods. A share `dropout` of them is treated as new, each step
others: a node whose side has features is then encoded from these alone, any other without its row from its neighbours.
Exports run each layer over all nodes in ranges of rows, between planes that may lie on disk.
Letters: N nodes, V nodes of the batch, C of them treated as cold, R rows read, T targets and S sources of a layer, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec import random
from gcnrec.device import Ops
from gcnrec.models.encoder import Encoded
from gcnrec.models.node_inputs import NodeInputs
from gcnrec.models.pooling import DrawnEdges, Neighbourhoods, NoEdges
from gcnrec.rows import RowGrad, Ticket
from gcnrec.sampling.blocks import Block
from gcnrec.sampling.sampler import Batch
from gcnrec.tables.dense import Allocate, StepTable, Table

ROWS = 8192
"""Nodes that an export encodes at a time."""


@dataclass(frozen=True, slots=True)
class IdDropout:
    """The share of a batch's nodes that each step treats as new, and the seed of their draws."""

    share: float
    seed: int


class NodeEncoder:
    """`convolutions[l]`, of (own_TD, sources_SD, edges), is layer l; `head` comes last; `scratch` holds exports' planes."""

    every_node = False

    def __init__(
        self,
        inputs: NodeInputs,
        convolutions: torch.nn.ModuleList,
        head: torch.nn.Module,
        neighbourhoods: Neighbourhoods,
        dropout: IdDropout,
        scratch: Allocate,
    ) -> None:
        self._inputs, self._convolutions, self._head = inputs, convolutions, head
        self._neighbourhoods, self._dropout, self._scratch = neighbourhoods, dropout, scratch
        self.layers = torch.nn.ModuleDict({"inputs": inputs, "convolutions": convolutions, "head": head})
        self.export_width = inputs.width

    def prepare(self, batch: Batch, ops: Ops) -> tuple[DrawnEdges[NDArray[Any]], ...]:
        return tuple(self._neighbourhoods.prepare(block, ops) for block in batch.blocks)

    def encode(self, table: StepTable, batch: Batch, given: tuple[DrawnEdges[torch.Tensor], ...]) -> Encoded:
        leaf_RD = table.decode(table.read(batch.ticket, with_state=False)).requires_grad_()
        own_V = torch.from_numpy(np.searchsorted(batch.rows_R, batch.nodes_V))
        new_V = self._treated_as_new(batch)
        keep_R = self._inputs.known_N[torch.from_numpy(batch.rows_R)]
        keep_R[own_V[new_V]] = False
        final_VD = self._convolved(self._inputs(batch.rows_R, leaf_RD, keep_R), batch.blocks, given, own_V)
        cold_C = torch.nonzero(new_V & self._inputs.has_features(batch.nodes_V)).squeeze(1)
        if len(cold_C):
            final_VD = final_VD.index_copy(0, cold_C, self.cold(batch.nodes_V[cold_C.numpy()]))

        def whole(grad_VD: torch.Tensor, grad_ego_VD: torch.Tensor) -> torch.Tensor:
            final_VD.backward(grad_VD)  # type: ignore[no-untyped-call]
            grad_RD = torch.zeros_like(leaf_RD) if leaf_RD.grad is None else leaf_RD.grad
            grad_RD.index_add_(0, own_V, grad_ego_VD)  # nodes at dates may repeat; on the CPU it sums in the order of the index
            return grad_RD

        def pull(grad_VD: torch.Tensor, grad_ego_VD: torch.Tensor) -> RowGrad:
            return table.stored(batch.ticket, whole(grad_VD, grad_ego_VD))

        def pull_whole(grad_VD: torch.Tensor, grad_ego_VD: torch.Tensor, rows_R: NDArray[np.int64], out_RD: torch.Tensor) -> None:
            at_R = torch.from_numpy(np.searchsorted(rows_R, batch.rows_R))
            out_RD.index_add_(0, at_R, whole(grad_VD, grad_ego_VD))

        return Encoded(final_VD.detach(), leaf_RD.detach().index_select(0, own_V), pull, pull_whole)

    def cold(self, nodes_C: NDArray[np.int64]) -> torch.Tensor:
        """Embeddings of ascending `nodes_C` as if they had neither row nor neighbours, float32 (C, D), differentiable."""
        nothing_CD = torch.zeros(len(nodes_C), self.export_width)
        current = self._inputs(nodes_C, nothing_CD, torch.zeros(len(nodes_C), dtype=torch.bool))
        for convolution in self._convolutions:
            current = convolution(current, current, NoEdges())
        embedded: torch.Tensor = self._head(current)
        return embedded

    def export(self, table: Table, out_NF: torch.Tensor) -> None:
        """All nodes from all that they have: a node without edges from its features alone, as `cold` does."""
        last_layer = len(self._convolutions) - 1
        planes = [self._scratch(out_NF.numel()).view_as(out_NF) for _ in range(min(len(self._convolutions), 2))]
        with torch.no_grad():
            source = planes[0] if planes else out_NF
            for here, nodes in self._ranges(len(out_NF)):
                rows_RD = table.decode(table.read(Ticket(nodes), with_state=False))
                first = self._inputs(nodes, rows_RD, self._inputs.known_N[here])
                source[here] = first if planes else self._head(first)
            for layer, convolution in enumerate(self._convolutions):
                target = out_NF if layer == last_layer else planes[(layer + 1) % 2]
                for here, _ in self._ranges(len(out_NF)):
                    rows_SD, edges = self._neighbourhoods.every(layer, here.start, here.stop, source)
                    made = convolution(source[here], rows_SD, edges)
                    target[here] = self._head(made) if layer == last_layer else made
                source = target

    def _convolved(
        self, first_RD: torch.Tensor, blocks: tuple[Block, ...], drawn: tuple[DrawnEdges[torch.Tensor], ...], own_V: torch.Tensor
    ) -> torch.Tensor:
        outermost_S = torch.from_numpy(blocks[-1].sources_S) if blocks else own_V
        # Sources of the last hop are all rows, each once, unless nodes at several dates share one.
        current_SD = first_RD if len(outermost_S) == len(first_RD) else first_RD.index_select(0, outermost_S)
        for convolution, block, edges in zip(self._convolutions, reversed(blocks), reversed(drawn), strict=True):
            own_T = np.searchsorted(block.sources_S, block.targets_T) if block.own_T is None else block.own_T
            current_SD = convolution(current_SD.index_select(0, torch.from_numpy(own_T)), current_SD, edges)
        final_VD: torch.Tensor = self._head(current_SD)
        return final_VD

    def _treated_as_new(self, batch: Batch) -> torch.Tensor:
        draws_V = random.uniform(self._dropout.seed, random.Stage.DROPOUT, batch.step, len(batch.nodes_V))
        first_V = np.searchsorted(batch.nodes_V, batch.nodes_V)  # a node at several dates is new at all of them, or at none
        return torch.from_numpy(draws_V[first_V] < self._dropout.share)

    def _ranges(self, num_nodes: int) -> Iterator[tuple[slice, NDArray[np.int64]]]:
        """All nodes in ranges that do not cross from users to items."""
        cut = self._inputs.num_users
        for begin, end in ((0, cut), (cut, num_nodes)):
            for first in range(begin, end, ROWS):
                last = min(first + ROWS, end)
                yield slice(first, last), np.arange(first, last)
