"""Where a job's table is trained: in RAM, on disk, or behind a GPU that reads host memory in place; and what crossed the bus."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, TypeVar

import torch

from gcnrec.device import cores_of, gpu, pinnable, pipeline_of, take_gpu
from gcnrec.errors import DataError
from gcnrec.graph import BipartiteGraph
from gcnrec.system.affinity import bound
from gcnrec.system.limits import read_limits
from gcnrec.system.observer import SILENT, Observer
from gcnrec.system.pages import scratch_rows, scratch_values
from gcnrec.tables.dealt.table import DealtTable
from gcnrec.tables.dense import Allocate, StepTable, in_ram
from gcnrec.tables.features.homes import feature_window
from gcnrec.tables.features.pipelined import PipelinedFeatures
from gcnrec.tables.features.sides import FeatureSides
from gcnrec.tables.features.table import FeatureTable
from gcnrec.tables.hot_rows import Prefixes, hottest, rows_among
from gcnrec.tables.pipelined import HostTable, PipelinedTable, Traffic
from gcnrec.tables.slots import SlotTable
from gcnrec.tables.unread import UnreadTable
from gcnrec.tables.window import Window, place_bytes
from gcnrec.workers.world import World

Placed = TypeVar("Placed", bound=StepTable | DealtTable)
WINDOW_SHARE = 4
"""One part in so many of the available memory is pinned for the rows of a table on disk; the rest may cache its file."""
_ASIDE_SHARE = 8
"""Of the available memory, a trained table in RAM takes one part in so many at least where it is set aside."""


@dataclass(frozen=True)
class Placement:
    """Where a table is trained: behind a GPU or not; `kind`, `cache_bytes` and `transfer_blocks` as the job file has them."""

    on_gpu: bool
    kind: Literal["device", "host", "disk"] = "host"
    cache_bytes: int = 0
    transfer_blocks: int | None = None

    @property
    def on_disk(self) -> bool:
        return self.kind == "disk"

    @property
    def device(self) -> torch.device:
        """Where steps run."""
        return gpu() if self.on_gpu else torch.device("cpu")

    @contextmanager
    def taken(self, world: World) -> Iterator[None]:
        """Within the block each worker of a host has a GPU of its own, and its threads run on the cores near it.

        DeviceError where a worker finds none. A process without other workers keeps torch's current GPU, and all cores.
        """
        if not self.on_gpu or world.size == 1:
            yield
            return
        with bound(cores_of(take_gpu(world.local_rank, world.local_size))):
            yield

    def require(self) -> None:
        """DeviceError where a GPU is asked for, and none is here."""
        if self.on_gpu:
            gpu()

    def memory(self, folder: Path) -> Allocate:
        """RAM, or nameless files in the run folder: scratch, never the checkpoint."""
        if self.on_disk:
            return lambda length: scratch_rows(folder, 1, length)[0]
        return pinnable if self.on_gpu else in_ram

    def pinned_bytes(self, table_bytes: int) -> int:
        """Host memory that a GPU keeps in RAM for a table: all of it, or a window onto one on disk."""
        if not self.on_gpu:
            return 0
        return min(table_bytes, read_limits().available // WINDOW_SHARE) if self.on_disk else table_bytes

    @property
    def device_name(self) -> str:
        """The device as lineage.json names it."""
        if not self.on_gpu:
            return "cpu"
        return torch.cuda.get_device_name() if torch.cuda.is_available() else "cuda"


def uses_gpu(device: Literal["auto", "cpu", "cuda"], able: bool) -> bool:
    """Whether training uses the GPU: always for "cuda", and for "auto" where the job is `able` to and a GPU and CuPy are here."""
    return device == "cuda" or (device == "auto" and able and torch.cuda.is_available() and find_spec("cupy") is not None)


def placed(
    placement: Placement, graph: BipartiteGraph, table: HostTable, observer: Observer = SILENT,
    features: FeatureSides | None = None, reads_rows: bool = True,
) -> StepTable:  # fmt: skip
    """The table behind the GPU's queues, or itself where the CPU trains. A note says why rows are not read in place.

    A GPU reads no mapped file that is written to in place; its rows come through a window in RAM. `features` share the cache;
    without `reads_rows` they have it alone. The table may have some nodes of the graph, as its `numbers` say: a worker's share.
    """
    if not placement.on_gpu:
        return table
    queues = pipeline_of(gpu(), placement.transfer_blocks, placement.on_disk, observer.note)

    def bytes_of(rows: range) -> int:
        """What the cache holds of some nodes."""
        own = table.extent(rows_among(rows, table.numbers)).nbytes if reads_rows else 0
        return own + (0 if features is None else features.bytes_of(rows))

    hot = Prefixes(graph.num_users, graph.num_users, graph.num_items)
    if placement.kind != "device":
        hot = hottest(graph, bytes_of, placement.cache_bytes)
    hot = hot.among(table.numbers)
    if not reads_rows:
        return UnreadTable(table, queues, hot)
    if not placement.on_disk:
        return PipelinedTable(table, queues, hot)
    places = placement.pinned_bytes(table.num_rows * place_bytes(table)) // place_bytes(table)
    return PipelinedTable(table, queues, hot, Window(table, queues, places, pinnable))


def placed_features(placement: Placement, table: StepTable, features: FeatureSides) -> FeatureSides:
    """Features behind the queues of a table, with as many nodes in its device's memory; unchanged for a table of the CPU.

    Rows of features on disk come through windows in RAM, which share what a table on disk of their size would have.
    """
    if not isinstance(table, (PipelinedTable, UnreadTable)):
        return features
    counts = (0, 0) if table.hot is None else (table.hot.users, table.hot.items)
    hosts = [None if side is None else side.host for side in features.sides]
    total = sum(host.stored.values.nbytes for host in hosts if host is not None)
    kept, queues = placement.pinned_bytes(total), table.queues

    def behind(host: FeatureTable, hot: int) -> PipelinedFeatures:
        if not placement.on_disk:
            return PipelinedFeatures(host, queues, hot)
        share = kept * host.stored.values.nbytes // max(1, total)
        return PipelinedFeatures(host, queues, hot, feature_window(host, queues, share, pinnable))

    users, items = (None if host is None else behind(host, hot) for host, hot in zip(hosts, counts, strict=True))
    return FeatureSides(features.num_users, users, items)


@contextmanager
def shared_features(placement: Placement, features: FeatureSides, observer: Observer = SILENT) -> Iterator[FeatureSides]:
    """Features that a worker reads, behind queues of their own until the end of the block; unchanged where the CPU trains.

    Each worker's GPU keeps all rows where tables lie in the device, else none: `cache_bytes` is for rows of the table.
    """
    if not placement.on_gpu or features.widths == (None, None):
        yield features
        return
    queues = pipeline_of(gpu(), placement.transfer_blocks, placement.on_disk, observer.note)
    with _closed(queues.close):
        hosts = [None if side is None else side.host for side in features.sides]
        hot = [host.num_rows if host is not None and placement.kind == "device" else 0 for host in hosts]
        own = (None if host is None else PipelinedFeatures(host, queues, rows) for host, rows in zip(hosts, hot, strict=True))
        yield FeatureSides(features.num_users, *own)


def aside_bytes(placement: Placement, table: StepTable) -> int:
    """What `set_aside` takes from RAM: all of a large sparse table, 0 of any other."""
    if placement.on_gpu or placement.on_disk or not isinstance(table, SlotTable):
        return 0
    size = table.value_bytes + table.index_bytes + table.state_bytes
    return size if size * _ASIDE_SHARE > read_limits().available else 0


def set_aside(placement: Placement, table: StepTable, folder: Path) -> None:
    """Move a large trained table to scratch of a folder: exports read it in order, and their planes want the RAM.

    It stays where the disk has no room for it.
    """
    if isinstance(table, SlotTable) and aside_bytes(placement, table):
        with suppress(DataError):
            table.move(partial(scratch_values, folder))


@contextmanager
def released(table: Placed) -> Iterator[Placed]:
    """Give back the host memory that a GPU reads, and the streams, at the end of the block: the next table needs the room."""
    with _closed(table.close) if isinstance(table, (PipelinedTable, UnreadTable, DealtTable)) else nullcontext():
        yield table


@contextmanager
def _closed(close: Callable[[], None]) -> Iterator[None]:
    """Call `close` at the end of the block."""
    try:
        yield
    except BaseException:
        with suppress(Exception):  # the GPU may be lost, and what was raised says why
            close()
        raise
    close()


def traffic_of(table: StepTable, features: FeatureSides | None) -> Traffic | None:
    """What crossed the bus so far, of rows and of features; None where both are read in place."""
    parts = [table, *(() if features is None else features.sides)]
    moved = [asdict(part.traffic()) for part in parts if isinstance(part, (PipelinedTable, PipelinedFeatures))]
    return Traffic(**{name: sum(part[name] for part in moved) for name in moved[0]}) if moved else None


def traffic_since(after: Traffic | None, before: Traffic | None, earlier: Traffic | None) -> Traffic | None:
    """What crossed the bus between `before` and `after`, added to `earlier`; None where nothing crosses one."""
    if before is None or after is None:
        return None
    sums = {name: value - asdict(before)[name] for name, value in asdict(after).items()}
    return Traffic(**{name: value + (asdict(earlier)[name] if earlier else 0) for name, value in sums.items()})


def moved(traffic: Traffic | None, seconds: float) -> dict[str, float]:
    """Traffic of so many seconds, for metrics.jsonl. Rows and bytes count reads; rows of the table are also written, as many."""
    if traffic is None:
        return {}
    return {
        "rows_read": traffic.rows, "bytes_read": traffic.bytes, "lines_read": traffic.lines,
        "gigabytes_per_second": traffic.bytes / seconds / 1e9, "cache_hits": traffic.cached_rows / max(traffic.rows, 1),
    }  # fmt: skip
