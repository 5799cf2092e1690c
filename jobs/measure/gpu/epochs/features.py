"""Steps of GraphSAGE whose features lie in host memory, by every way of bringing them, and on the device.

A row of features has 100, 300, 602 or 1,024 columns. gcnrec's own tables align it to lines of 128 bytes; adopted tables have no
gaps, so that rows of the first three start anywhere in a line. Batches are drawn and placed before any clock starts, and the
model is the same code for all ways. Products of matrices stretch compute until transfers take a quarter of its time to four
times it; compute is a step of the peer that has all features on the device.
Letters: N nodes, R rows of a step, F features.
"""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass, field
from statistics import mean, median

import torch

from gcnrec.bench.contenders.epoch_task import SERIAL
from gcnrec.graph import BipartiteGraph
from gcnrec.queues import Device
from gcnrec.tables.features.pipelined import PipelinedFeatures
from gcnrec.tables.features.table import FeatureTable, pitch_of
from jobs.measure.gpu.bed import Bed, fill, report_timings, rounds
from jobs.measure.gpu.epochs.curve import MATRIX, STEPS, Compute, compute_alone
from jobs.measure.gpu.epochs.epoch import require_alike
from jobs.measure.gpu.epochs.feature_tables import table_of
from jobs.measure.gpu.epochs.feature_ways import ByDgl, ByGraphBolt, LoaderGather, OnDevice, SerialGather, Way
from jobs.measure.gpu.epochs.sage import RATE, Drawn, Sage, batches
from jobs.measure.gpu.epochs.tasks import task_on
from jobs.measure.gpu.epochs.transfers import products_for
from jobs.measure.gpu.summary import OVERLAP, RESIDENT

COLUMNS = (602, 100, 1024, 300)
RATIOS, ADOPTED_RATIOS = (0.25, 0.7, 0.95, 2.0, 4.0), (0.25, 0.95, 4.0)
SERIAL_GATHER, LOADER_GATHER = "cpu-gather-serial", "cpu-gather-loader"
EARLY = (OVERLAP, LOADER_GATHER)
"""Ways to which features are announced."""
TOLERANCE = 1e-3
"""Losses of all ways may differ by this share in the first stretch, since products of torch may add in any order."""
ROWS_A_PAIR = 120
"""Rows that a pair of the batch reads, about: its two nodes, ten neighbours of each, ten of each of these, less repetitions."""


@dataclass
class Training:
    """A model of its own over a way's features. `early`: features are announced one step before. A call is an epoch."""

    bed: Bed
    way: Way
    batches: list[Drawn]
    model: Sage
    compute: Compute
    early: bool
    losses: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._optimizer = torch.optim.Adam(self.model.parameters(), RATE, fused=self.bed.device.type == "cuda")

    def __call__(self, run: int) -> None:
        losses = []
        if self.early:
            self._announce(0)
        for index, drawn in enumerate(self.batches):
            if self.early and index + 1 < len(self.batches):
                self._announce(index + 1)
            features_RF = self.way.read(drawn.ticket, drawn.ticket.rows_R)
            self._optimizer.zero_grad()
            loss = self.model(features_RF, drawn)
            loss.backward()
            self.compute()
            self._optimizer.step()
            losses.append(loss.detach())
        self.bed.finish()
        self.losses = self.losses or torch.stack(losses).tolist()  # of the first epoch

    def _announce(self, index: int) -> None:
        drawn = self.batches[index]
        self.way.prefetch(drawn.ticket, drawn.ticket.rows_R, drawn.index_R)


def run(bed: Bed) -> None:
    """Aligned tables first. Each has queues of its own, which release its memory before the next."""
    graph, reasons = task_on(bed).graph, list[str]()
    aligned = [(columns, pitch_of(columns, "float32"), RATIOS) for columns in COLUMNS]
    adopted = [(columns, 4 * columns, ADOPTED_RATIOS) for columns, pitch, _ in aligned if pitch != 4 * columns]
    for columns, pitch, ratios in [*aligned, *adopted]:
        if time.monotonic() > bed.until:
            bed.report({"bench": "features", "columns": columns, "pitch": pitch, "skipped": "the time was up"})
            continue
        drawn = list(batches(bed, graph, _pairs(bed, graph, columns), STEPS))
        with closing(bed.queues(reasons.append)) as queues:
            try:
                _epochs(bed, queues, table_of(graph.num_nodes, columns, pitch), drawn, ratios)
            finally:
                bed.finish()
    if reasons:
        raise RuntimeError(f"the host copied rows, so nothing overlapped: {reasons[0]}")


def _pairs(bed: Bed, graph: BipartiteGraph, columns: int) -> int:
    rows = min(bed.sizes.call_bytes // (4 * columns), graph.num_nodes // 4)
    return max(2, rows // ROWS_A_PAIR)


def _epochs(bed: Bed, queues: Device, table: FeatureTable, drawn: list[Drawn], ratios: tuple[float, ...]) -> None:
    ours = PipelinedFeatures(table, queues)
    values, pitch = torch.from_numpy(table.stored.values), table.stored.pitch
    fill(bed, values.view(torch.uint8))
    rows_NF = values.view(table.num_rows, pitch)[:, : table.width]
    side = min(MATRIX, bed.sizes.matrix)
    compute = Compute(torch.randn(side, side, device=bed.device) / side**0.5)
    trained = {
        name: Training(bed, way, drawn, Sage(table.width).to(bed.device), compute, name in EARLY)
        for name, way in _ways(bed, ours, rows_NF, drawn).items()
    }
    seconds, rows = read_seconds(bed, queues, ours, drawn), mean(len(each.index_R) for each in drawn)
    facts = {"columns": table.width, "pitch": 4 * pitch, "rows_per_step": rows, "steps": STEPS, "read_seconds": seconds}
    for products in products_for(seconds, *compute_alone(bed, trained[RESIDENT], compute), ratios):
        compute.products = products
        for timings in rounds(bed, {name: training.__call__ for name, training in trained.items()}, runs=2):
            ratio = seconds * STEPS / timings[RESIDENT].wall_seconds
            moved = 4 * table.width * rows * STEPS
            report_timings(bed, "features", timings, rows * STEPS, moved, products=products, ratio=ratio, **facts)
    require_alike({name: training.losses for name, training in trained.items()}, TOLERANCE)


def _ways(bed: Bed, ours: PipelinedFeatures, rows_NF: torch.Tensor, drawn: list[Drawn]) -> dict[str, Way]:
    """The peers of a GPU come where they are installed."""
    placed = {each.ticket: each.index_R for each in drawn}
    most = max(len(each.index_R) for each in drawn)
    ways: dict[str, Way] = {
        RESIDENT: OnDevice(bed, rows_NF, placed),
        OVERLAP: ours,
        SERIAL: ours,
        SERIAL_GATHER: SerialGather(bed, rows_NF, most),
        LOADER_GATHER: LoaderGather(bed, rows_NF, most),
    }
    if bed.device.type == "cuda":
        for name, peer in {"dgl-uva": ByDgl, "graphbolt-pinned": ByGraphBolt}.items():
            try:
                ways[name] = peer(rows_NF, placed)
            except Exception as problem:  # absent, or built without CUDA
                bed.report({"bench": "features", "variant": name, "absent": f"{type(problem).__name__}: {problem}"[:200]})
    return ways


def read_seconds(bed: Bed, queues: Device, ours: Way, drawn: list[Drawn]) -> float:
    """Of a step's features on the queue of the reads, with nothing else under way: the median but of the first step."""
    spans = []
    for each in drawn:
        bed.finish()
        begun = bed.instant(queues.reads)
        ours.prefetch(each.ticket, each.ticket.rows_R, each.index_R)
        spans.append((begun, bed.instant(queues.reads)))
        ours.read(each.ticket, each.ticket.rows_R)
    bed.finish()
    return median([bed.between(*span) for span in spans[1:]])
