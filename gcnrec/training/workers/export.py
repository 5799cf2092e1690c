"""The export of sampled LightGCN by several machines: each propagates blocks of columns over the whole graph, which it maps.

Blocks are those of the leader alone, so that each column has the same bits whoever propagates it. Columns of the table go from
the leader to one worker of each machine, and come back propagated.
Letters: N nodes, D width, C columns of a block, E edges, L layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from gcnrec.config import Model
from gcnrec.errors import UsageError
from gcnrec.graph import BipartiteGraph
from gcnrec.models.encoder import Encoder
from gcnrec.models.hops import MeanOfHops, export_blocks, write_block
from gcnrec.models.lightgcn_sampled import SampledLightGcn
from gcnrec.ranking.machines.asked import sizes_of
from gcnrec.steps.protocol import TrainingStep
from gcnrec.tables.dealt.spans import bring, fetched, give, stretches, taken
from gcnrec.workers.world import World

LEAST_READS = 64
"""Rows that hops read for each row that travels, E L / N, from which machines share an export: about as much slower a network is
than memory. By arithmetic: 100 GB/s of memory, 1 to 5 GB/s of a network."""
Exporter = Callable[[TrainingStep, torch.Tensor], None]
"""Writes the embeddings of all nodes of a step's table, float32 (N, D)."""


def exporter_of(world: World, threads: int | None, model: Model, graph: BipartiteGraph, width: int) -> Exporter:
    """Who propagates the exports of a job: the leader of `world`, or a worker of each machine on `threads`, None for all cores.

    Machines share exports of sampled LightGCN with several blocks of columns, where hops read far more than travels.
    """
    rankers = sorted(set(world.machines))
    sampled = (model.name, model.propagation) == ("lightgcn", "sampled")
    reads = graph.num_edges * model.layers / max(graph.num_nodes, 1)
    if len(rankers) > 1 and sampled and reads >= LEAST_READS and len(export_blocks(graph.num_nodes, width)) > 1:
        return partial(by_machines, world, tuple(rankers), threads)
    return by_leader


def by_leader(step: TrainingStep, out_NF: torch.Tensor) -> None:
    """The leader propagates all columns."""
    step.encoder.export(step.table.drained(), out_NF)


def by_machines(world: World, rankers: Sequence[int], threads: int | None, step: TrainingStep, out_NF: torch.Tensor) -> None:
    """The workers `rankers`, the leader first, propagate a block each at a time."""
    table = step.table.drained()
    blocks = export_blocks(table.num_rows, table.width)
    mean = _of_columns(step.encoder).exported(blocks[0][1])
    world.publish({"do": "export", "rankers": [*rankers], "threads": threads})
    for start in range(0, len(blocks), len(rankers)):
        own, *others = blocks[start : start + len(rankers)]
        ranked = list(zip(rankers[1:], others, strict=False))  # of the last blocks there may be fewer
        world.publish({"do": "block", "widths": [last - first for first, last in others]})
        for ranker, block in ranked:
            _give(world, ranker, table.columns(*block))
        write_block(mean.of(table.columns(*own)), out_NF, *own)
        world.await_reports(len(others))  # synchronize: the workers that propagate
        world.publish({"do": "propagated"})
        for ranker, block in ranked:
            _write_brought(world, ranker, out_NF, *block)
    world.publish({"do": "exported"})


def _give(world: World, ranker: int, columns_NC: torch.Tensor) -> None:
    for rows in _stretches(*columns_NC.shape):
        piece = columns_NC[rows].reshape(-1)  # copy: a span of the block
        give(world, [piece], sizes_of(world, [ranker], [len(piece)]))


def _write_brought(world: World, ranker: int, out_NF: torch.Tensor, first: int, last: int) -> None:
    width = last - first
    for rows in _stretches(len(out_NF), width):
        sizes = sizes_of(world, [ranker], [(rows.stop - rows.start) * width])
        write_block(fetched(world, torch.empty(0), sizes)[ranker].view(-1, width), out_NF[rows], first, last)


def follow_export(world: World, rankers: Sequence[int], encoder: Encoder) -> dict[str, Any]:
    """Take part in the export that the leader begins, until it publishes what is no part of one, which is returned."""
    own = _Block(world, rankers, _of_columns(encoder))
    while True:
        command = world.awaited()
        match command["do"]:
            case "block":
                own.propagate(command["widths"])
            case "propagated":
                own.bring()
            case _:
                return command


class _Block:
    """The block of columns that this worker propagates, if it is one of `rankers`; all take part in exchanges."""

    def __init__(self, world: World, rankers: Sequence[int], encoder: SampledLightGcn) -> None:
        self._world, self._others, self._encoder = world, rankers[1:], encoder
        self._widths: list[tuple[int, int]] = []
        self._mean: MeanOfHops | None = None
        self._total_NC = torch.empty(0, 0)

    def propagate(self, widths: Sequence[int]) -> None:
        """Take the columns of a block, and propagate them; `widths`: of the blocks of other machines, in their order."""
        self._widths = list(zip(self._others, widths, strict=False))
        for ranker, width in self._widths:
            source_NC = self._taken(width, mine=ranker == self._world.rank)
            if len(source_NC):
                self._mean = self._mean or self._encoder.exported(width)  # no later block is wider
                self._total_NC = self._mean.of(source_NC)
                self._world.report()

    def bring(self) -> None:
        """Send the leader what was propagated."""
        for ranker, width in self._widths:
            for rows in _stretches(self._encoder.num_nodes, width):
                piece = self._total_NC[rows] if ranker == self._world.rank else self._total_NC[:0]
                bring(self._world, piece.reshape(-1))  # copy: a span of the block

    def _taken(self, width: int, mine: bool) -> torch.Tensor:
        """The columns of a block where they are this worker's, else nothing; all rows are exchanged either way."""
        block_NC = torch.empty(self._encoder.num_nodes if mine else 0, width)
        for rows in _stretches(self._encoder.num_nodes, width):
            size = (rows.stop - rows.start) * width if mine else 0
            came = taken(self._world, torch.empty(0), size)
            if mine:
                block_NC[rows] = came.view(-1, width)  # copy: a span, into the block
        return block_NC


def _stretches(num_nodes: int, width: int) -> list[slice]:
    return stretches(num_nodes, 4 * width)


def _of_columns(encoder: Encoder) -> SampledLightGcn:
    """The encoder, which treats columns alike. UsageError for another."""
    if not isinstance(encoder, SampledLightGcn):
        raise UsageError(f"machines share exports of sampled LightGCN, got {type(encoder).__name__}; export with one")
    return encoder
