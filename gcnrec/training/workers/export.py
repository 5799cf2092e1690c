"""The export of sampled LightGCN by several machines: each propagates blocks of columns over the whole graph, which it maps.

Blocks are those of the leader alone, so that each column has the same bits whoever propagates it. Columns of the table go from
the leader to one worker of each machine, and come back propagated.
Letters: N nodes, D width, C columns of a block, E edges, L layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from gcnrec.config import Model
from gcnrec.errors import UsageError
from gcnrec.graph import BipartiteGraph
from gcnrec.models.encoder import Encoder
from gcnrec.models.hops import Matrix, MeanExport, MeanOfHops, export_blocks
from gcnrec.models.lightgcn import LightGcn
from gcnrec.models.lightgcn_sampled import SampledLightGcn
from gcnrec.ranking.machines.asked import sizes_of
from gcnrec.steps.columns import GatheredEncoder
from gcnrec.steps.protocol import TrainingStep
from gcnrec.storage.blocks import ColumnBlocks, Report
from gcnrec.tables.dealt.spans import bring, fetched, give, stretches, taken
from gcnrec.workers.world import World

LEAST_READS = 64
"""Rows that hops read for each row that travels, E L / N, from which machines share an export: about as much slower a network is
than memory. By arithmetic: 100 GB/s of memory, 1 to 5 GB/s of a network."""
Exporter = Callable[[TrainingStep, Path, Report], ColumnBlocks]
"""Gives the embeddings of all nodes of a step's table, in scratch of a folder."""


def exporter_of(world: World, threads: int | None, model: Model, graph: BipartiteGraph, width: int) -> Exporter:
    """Who propagates the exports of a job: the leader of `world`, or a worker of each machine on `threads`, None for all cores.

    Machines share exports of sampled LightGCN with several blocks of columns, where hops read far more than travels.
    """
    rankers = sorted(set(world.machines))
    sampled = (model.name, model.propagation) == ("lightgcn", "sampled")
    reads = graph.num_edges * model.layers / max(graph.num_nodes, 1)
    if len(rankers) > 1 and sampled and reads >= LEAST_READS and len(export_blocks(graph, model.layers, width)) > 1:
        return partial(by_machines, world, tuple(rankers), threads)
    return by_leader


def by_leader(step: TrainingStep, folder: Path, report: Report) -> ColumnBlocks:
    """The leader propagates all columns, in blocks where the model treats columns alike."""
    table, encoder, width = step.table.drained(), _whole(step.encoder), step.encoder.export_width
    if isinstance(encoder, (LightGcn, SampledLightGcn)):
        out = ColumnBlocks(folder, table.num_rows, encoder.by_columns.blocks(width), report)
        encoder.by_columns.write(table, out)
        return out
    out = ColumnBlocks(folder, table.num_rows, [(0, width)])
    rows_NF = out.whole()
    encoder.export(table, rows_NF)
    out.total = float(rows_NF.sum())
    return out


def by_machines(
    world: World, rankers: Sequence[int], threads: int | None, step: TrainingStep, folder: Path, report: Report
) -> ColumnBlocks:
    """The workers `rankers`, the leader first, propagate a block each at a time."""
    table, by_columns = step.table.drained(), _by_columns(step.encoder)
    out = ColumnBlocks(folder, table.num_rows, by_columns.blocks(table.width), report)
    mean = by_columns.mean(max(last - first for first, last in out.blocks))
    world.publish({"do": "export", "rankers": [*rankers], "threads": threads})
    for start in range(0, len(out.blocks), len(rankers)):
        blocks = [*enumerate(out.blocks)][start : start + len(rankers)]
        (block, (first, last)), *others = blocks
        ranked = list(zip(rankers[1:], others, strict=False))  # of the last blocks there may be fewer
        world.publish({"do": "block", "widths": [last - first for _, (first, last) in others]})
        for ranker, (_, columns) in ranked:
            _give(world, ranker, partial(table.columns, *columns), table.num_rows, columns[1] - columns[0])
        mean.of(partial(table.columns, first, last), last - first, partial(out.put, block))
        world.await_reports(len(others))  # synchronize: the workers that propagate
        world.publish({"do": "propagated"})
        for ranker, (other, _) in ranked:
            _put_brought(world, ranker, out, other)
    world.publish({"do": "exported"})
    return out


def _give(world: World, ranker: int, columns: Callable[[slice], torch.Tensor], num_rows: int, width: int) -> None:
    for rows in _stretches(num_rows, width):
        piece = columns(rows).reshape(-1)  # copy: a span of the block
        give(world, [piece], sizes_of(world, [ranker], [len(piece)]))


def _put_brought(world: World, ranker: int, out: ColumnBlocks, block: int) -> None:
    first, last = out.blocks[block]
    width = last - first
    for rows in _stretches(out.num_rows, width):
        sizes = sizes_of(world, [ranker], [(rows.stop - rows.start) * width])
        out.put(block, rows.start, fetched(world, torch.empty(0), sizes)[ranker].view(-1, width))


def follow_export(world: World, rankers: Sequence[int], encoder: Encoder) -> dict[str, Any]:
    """Take part in the export that the leader begins, until it publishes what is no part of one, which is returned."""
    own = _Block(world, rankers, _by_columns(encoder))
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

    def __init__(self, world: World, rankers: Sequence[int], by_columns: MeanExport) -> None:
        self._world, self._others, self._by_columns = world, rankers[1:], by_columns
        self._widths: list[tuple[int, int]] = []
        self._mean: MeanOfHops | None = None
        self._total_NC = torch.empty(0, 0)

    def propagate(self, widths: Sequence[int]) -> None:
        """Take the columns of a block, and propagate them; `widths`: of the blocks of other machines, in their order."""
        self._widths = list(zip(self._others, widths, strict=False))
        for ranker, width in self._widths:
            source_NC = self._taken(width, mine=ranker == self._world.rank)
            if len(source_NC):
                self._mean = self._mean or self._by_columns.mean(width)  # no later block is wider
                self._total_NC = torch.empty(len(source_NC), width)
                self._mean.of(source_NC.__getitem__, width, partial(Matrix(self._total_NC, [(0, width)]).put, 0))
                self._world.report()

    def bring(self) -> None:
        """Send the leader what was propagated."""
        for ranker, width in self._widths:
            for rows in _stretches(self._by_columns.num_nodes, width):
                piece = self._total_NC[rows] if ranker == self._world.rank else self._total_NC[:0]
                bring(self._world, piece.reshape(-1))  # copy: a span of the block

    def _taken(self, width: int, mine: bool) -> torch.Tensor:
        """The columns of a block where they are this worker's, else nothing; all rows are exchanged either way."""
        block_NC = torch.empty(self._by_columns.num_nodes if mine else 0, width)
        for rows in _stretches(self._by_columns.num_nodes, width):
            size = (rows.stop - rows.start) * width if mine else 0
            came = taken(self._world, torch.empty(0), size)
            if mine:
                block_NC[rows] = came.view(-1, width)  # copy: a span, into the block
        return block_NC


def _stretches(num_nodes: int, width: int) -> list[slice]:
    return stretches(num_nodes, 4 * width)


def _by_columns(encoder: Encoder) -> MeanExport:
    """The export of an encoder that treats columns alike. UsageError for another."""
    whole = _whole(encoder)
    if not isinstance(whole, SampledLightGcn):
        raise UsageError(f"machines share exports of sampled LightGCN, got {type(whole).__name__}; export with one")
    return whole.by_columns


def _whole(encoder: Encoder) -> Encoder:
    """The encoder of all columns, where workers share them."""
    return encoder.encoder if isinstance(encoder, GatheredEncoder) else encoder
