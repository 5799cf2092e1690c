"""Encoders that turn a node's inputs and its neighbours' into an embedding, layer by layer, and so embed new nodes as well.

In training the nodes of a batch are encoded from drawn neighbourhoods. A share `dropout` of them is treated as new, each step
others: a node whose side has features is then encoded from these alone, any other without its row from its neighbours.
Exports run each layer over all nodes in ranges of rows, between planes that may lie on disk.
Letters: N nodes, V nodes of the batch, C of them treated as cold, R rows read, T targets and S sources of a layer, D width.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec import random
from gcnrec.device import Ops
from gcnrec.models.encoder import Encoded
from gcnrec.models.node_inputs import NodeInputs
from gcnrec.models.pooling import DrawnEdges, Neighbourhoods, NoEdges
from gcnrec.rows import Array, RowGrad, Ticket
from gcnrec.sampling.blocks import Block
from gcnrec.sampling.sampler import Batch
from gcnrec.tables.dense import Allocate, StepTable, Table
from gcnrec.tables.features.sides import FeatureSides, Tiles

ROWS = 8192
"""Nodes that an export encodes at a time."""


class DrawnLayer(NamedTuple, Generic[Array]):
    """A layer of a batch: places of its targets among its sources, int64, and its edges."""

    own_T: Array
    edges: DrawnEdges[Array]


class Cold(NamedTuple, Generic[Array]):
    """Nodes that are encoded from features alone: places in the batch, and among the users or the items that it reads; int64."""

    places_C: Array
    users: Array
    items: Array


class NodesGiven(NamedTuple, Generic[Array]):
    """What `encode` takes from the host: of the rows read, users first, how many each side has, where the batch's nodes stand,
    and which are read (bool); where the sources of the last hop stand, None for all rows in their order; layers, outermost first.
    """

    sizes: tuple[int, int]
    own_V: Array
    keep_R: Array
    cold: Cold[Array] | None
    outermost_S: Array | None
    layers: tuple[DrawnLayer[Array], ...]


@dataclass(frozen=True, slots=True)
class IdDropout:
    """The share of a batch's nodes that each step treats as new, and the seed of their draws."""

    share: float
    seed: int


class NodeLayers(torch.nn.Module):
    """The trained parameters: `convolutions[l]`, of (own_TD, sources_SD, edges), is layer l; `head` comes last."""

    def __init__(self, inputs: NodeInputs, convolutions: torch.nn.ModuleList, head: torch.nn.Module) -> None:
        super().__init__()
        self.inputs, self.convolutions, self.head = inputs, convolutions, head

    def cold(self, sizes: tuple[int, int], tiles: Tiles) -> torch.Tensor:
        """Embeddings of nodes with features `tiles` and neither row nor neighbours, so many of each side, float32 (C, D)."""
        current = self.inputs(sizes, tiles)
        for convolution in self.convolutions:
            current = convolution(current, current, NoEdges())
        embedded: torch.Tensor = self.head(current)
        return embedded


class NodeEncoder:
    """`features` has the sides that `layers` project; `scratch` holds exports' planes.

    Training computes where the layers are; exports run on the CPU. Without rows in the inputs, no row is read or updated.
    """

    every_node = False

    def __init__(
        self, layers: NodeLayers, features: FeatureSides, neighbourhoods: Neighbourhoods, dropout: IdDropout, scratch: Allocate
    ) -> None:
        self.layers, self.features = layers, features
        self._neighbourhoods, self._dropout, self._scratch = neighbourhoods, dropout, scratch
        self.export_width = layers.inputs.width

    def prepare(self, batch: Batch, ops: Ops) -> NodesGiven[NDArray[Any]]:
        inputs, cut = self.layers.inputs, int(np.searchsorted(batch.rows_R, self.features.num_users))
        own_V, new_V = np.searchsorted(batch.rows_R, batch.nodes_V), self._treated_as_new(batch)
        keep_R = inputs.known_N[batch.rows_R]
        keep_R[own_V[new_V]] = False
        cold_C, cold = np.flatnonzero(new_V & inputs.has_features(batch.nodes_V)), None
        if len(cold_C):
            own_C = own_V[cold_C]
            cold = Cold(cold_C, own_C[own_C < cut], own_C[own_C >= cut] - cut)
        outermost_S = batch.blocks[-1].sources_S if batch.blocks else own_V
        # Sources of the last hop are all rows, each once, unless nodes at several dates share one.
        every = len(outermost_S) == len(batch.rows_R)
        layers = tuple(self._drawn(block, ops) for block in reversed(batch.blocks))
        return NodesGiven((cut, len(batch.rows_R) - cut), own_V, keep_R, cold, None if every else outermost_S, layers)

    def encode(self, table: StepTable, batch: Batch, given: NodesGiven[torch.Tensor]) -> Encoded:
        tiles, leaf_RD, own_V = self.features.read(batch.ticket), self._leaf(table, batch.ticket), given.own_V
        final_VD = self._convolved(self.layers.inputs(given.sizes, tiles, leaf_RD, given.keep_R), given)
        if given.cold is not None:
            final_VD = final_VD.index_copy(0, given.cold.places_C, self.layers.cold(*_picked(given.cold, tiles)))
        if leaf_RD is None:
            return _without_rows(final_VD)

        def whole(grad_VD: torch.Tensor, grad_ego_VD: torch.Tensor) -> torch.Tensor:
            final_VD.backward(grad_VD)  # type: ignore[no-untyped-call]
            grad_RD = torch.zeros_like(leaf_RD) if leaf_RD.grad is None else leaf_RD.grad
            grad_RD.index_add_(0, own_V, grad_ego_VD)  # nodes at dates may repeat; on the CPU it sums in the order of the index
            return grad_RD

        def pull(grad_VD: torch.Tensor, grad_ego_VD: torch.Tensor) -> RowGrad:
            return table.stored(batch.ticket, whole(grad_VD, grad_ego_VD))

        def pull_whole(grad_VD: torch.Tensor, grad_ego_VD: torch.Tensor, rows_R: NDArray[np.int64], out_RD: torch.Tensor) -> None:
            at_R = torch.from_numpy(np.searchsorted(rows_R, batch.rows_R))
            out_RD.index_add_(0, at_R, whole(grad_VD, grad_ego_VD).cpu())

        return Encoded(final_VD.detach(), leaf_RD.detach().index_select(0, own_V), pull, pull_whole)

    def export(self, table: Table, out_NF: torch.Tensor) -> None:
        """All nodes from all that they have: a node without edges from its features alone, as `cold` does."""
        layers, features = _on_host(self.layers), self.features.host
        last_layer = len(layers.convolutions) - 1
        planes = [self._scratch(out_NF.numel()).view_as(out_NF) for _ in range(min(len(layers.convolutions), 2))]
        with torch.no_grad():
            source = planes[0] if planes else out_NF
            for here, nodes in self._ranges(len(out_NF)):
                ticket, users = Ticket(nodes), int(np.searchsorted(nodes, features.num_users))
                rows_RD = table.decode(table.read(ticket, with_state=False)) if layers.inputs.read_rows else None
                sizes, keep_R = (users, len(nodes) - users), torch.from_numpy(layers.inputs.known_N[here])
                first = layers.inputs(sizes, features.read(ticket), rows_RD, keep_R)
                source[here] = first if planes else layers.head(first)
            for layer, convolution in enumerate(layers.convolutions):
                target = out_NF if layer == last_layer else planes[(layer + 1) % 2]
                for here, _ in self._ranges(len(out_NF)):
                    rows_SD, edges = self._neighbourhoods.every(layer, here.start, here.stop, source)
                    made = convolution(source[here], rows_SD, edges)
                    target[here] = layers.head(made) if layer == last_layer else made
                source = target

    def _leaf(self, table: StepTable, ticket: Ticket) -> torch.Tensor | None:
        """The table rows of a batch, whose gradient is wanted; None where the model reads none."""
        if not self.layers.inputs.read_rows:
            return None
        return table.decode(table.read(ticket, with_state=False)).requires_grad_()

    def _drawn(self, block: Block, ops: Ops) -> DrawnLayer[NDArray[Any]]:
        own_T = np.searchsorted(block.sources_S, block.targets_T) if block.own_T is None else block.own_T
        return DrawnLayer(own_T, self._neighbourhoods.prepare(block, ops))

    def _convolved(self, first_RD: torch.Tensor, given: NodesGiven[torch.Tensor]) -> torch.Tensor:
        current_SD = first_RD if given.outermost_S is None else first_RD.index_select(0, given.outermost_S)
        for convolution, layer in zip(self.layers.convolutions, given.layers, strict=True):
            current_SD = convolution(current_SD.index_select(0, layer.own_T), current_SD, layer.edges)
        final_VD: torch.Tensor = self.layers.head(current_SD)
        return final_VD

    def _treated_as_new(self, batch: Batch) -> NDArray[np.bool_]:
        stage = int(random.Stage.DROPOUT) | batch.part << 8
        draws_V = random.uniform(self._dropout.seed, stage, batch.step, len(batch.nodes_V))
        first_V = np.searchsorted(batch.nodes_V, batch.nodes_V)  # a node at several dates is new at all of them, or at none
        treated_V: NDArray[np.bool_] = draws_V[first_V] < self._dropout.share
        return treated_V

    def _ranges(self, num_nodes: int) -> Iterator[tuple[slice, NDArray[np.int64]]]:
        """All nodes in ranges that do not cross from users to items."""
        cut = self.features.num_users
        for begin, end in ((0, cut), (cut, num_nodes)):
            for first in range(begin, end, ROWS):
                last = min(first + ROWS, end)
                yield slice(first, last), np.arange(first, last)


def _on_host(layers: NodeLayers) -> NodeLayers:
    """The layers where exports compute: themselves, or a copy of those on a device."""
    on_host = all(parameter.device.type == "cpu" for parameter in layers.parameters())
    return layers if on_host else copy.deepcopy(layers).to("cpu")  # copy: the weights of all layers, once an export


def _picked(cold: Cold[torch.Tensor], tiles: Tiles) -> tuple[tuple[int, int], Tiles]:
    """How many cold nodes each side has, and their features out of the batch's."""
    places = cold.users, cold.items
    users, items = (None if tile_RF is None else tile_RF.index_select(0, at) for tile_RF, at in zip(tiles, places, strict=True))
    return (len(cold.users), len(cold.items)), (users, items)


def _without_rows(final_VD: torch.Tensor) -> Encoded:
    """Embeddings that no table row has a part in: their gradient goes to the layers alone."""
    nothing = Ticket(np.empty(0, np.int64))

    def pull(grad_VD: torch.Tensor, grad_ego_VD: torch.Tensor) -> RowGrad:
        final_VD.backward(grad_VD)  # type: ignore[no-untyped-call]
        return RowGrad(nothing, grad_VD.new_empty(0), grad_VD.new_empty(0, dtype=torch.int64))

    def pull_whole(grad_VD: torch.Tensor, grad_ego_VD: torch.Tensor, rows_R: NDArray[np.int64], out_RD: torch.Tensor) -> None:
        """No row has a gradient."""

    return Encoded(final_VD.detach(), torch.zeros_like(final_VD), pull, pull_whole)
