"""The machine that parts run on: a GPU with pinned host memory, or the CPU for a dry run, which claims no speed.

A work is a function of the number of the repetition, so that repetitions use different rows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, cast

import torch

from gcnrec.cuda.hostmemory import HostMemory, allocate
from gcnrec.cuda.pinned import PinnedMemory
from gcnrec.cuda.queues import StreamQueue
from gcnrec.device import pipeline_of
from gcnrec.errors import DeviceError
from gcnrec.queues import Device, Queue
from gcnrec.system.limits import read_limits
from jobs.measure.gpu.plain import PlainDevice

Work = Callable[[int], Any]
Report = Callable[[dict[str, Any]], None]
GIB = 1 << 30
FILL_BYTES = 256 << 20
SETS = 4
"""Repetitions use the rows of so many sets in turns, so that no cache helps."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """`table_bytes` of host memory that all tables share, `call_bytes` moved by a repetition, caps of grids in blocks."""

    table_bytes: int
    call_bytes: int
    runs: int
    caps: tuple[int, ...]
    matrix: int
    nodes: int


FULL = Sizes(24 * GIB, 256 << 20, 9, (4, 8, 12, 16, 24, 32, 48, 64, 96, 132, 264, 1056), 4096, 10_000_000)
TINY = Sizes(1 << 20, 4 << 10, 1, (1, 2), 32, 2_000)


@dataclass(frozen=True, slots=True)
class Timing:
    """Medians over `runs`: seconds between two events on the device's stream, and seconds on the clock until all was done."""

    seconds: float
    wall_seconds: float
    fastest: float
    slowest: float
    runs: int


class Bed:
    """The machine of a part; by itself the CPU in place of the GPU: kernels compiled by g++, launched by `launch`, tiny sizes.

    A part reports its rows to `report` and must be over at `until` (time.monotonic).
    """

    def __init__(self, device: torch.device, sizes: Sizes, report: Report) -> None:
        self.device, self.sizes, self.report, self.until = device, sizes, report, time.monotonic()
        self._table: torch.Tensor | None = None

    def table(self) -> torch.Tensor:
        """Flat uint8 in pinned host memory, the same for all parts, with the bytes that the previous part left."""
        if self._table is None:
            self._table = self._allocated(self.sizes.table_bytes)
            fill(self, self._table)
        return self._table

    def _allocated(self, nbytes: int) -> torch.Tensor:
        buffer = torch.empty(nbytes + 4096, dtype=torch.uint8)
        return buffer[-buffer.data_ptr() % 4096 :][:nbytes]

    def host(self, values: torch.Tensor) -> torch.Tensor:
        """A copy of a small CPU tensor in pinned memory."""
        return values.clone()

    def registered(self, memory: HostMemory) -> AbstractContextManager[Any]:
        """Within it the device reads and writes `memory`."""
        return nullcontext()

    def queues(self, warn: Callable[[str], object]) -> Device:
        """Fresh queues of the device, which `close` ends; `warn` receives the reason for memory that cannot be pinned."""
        return PlainDevice()

    def instant(self, queue: Queue) -> Any:
        """A moment in the work of `queue`, for `between`."""
        return time.perf_counter()

    def between(self, first: Any, last: Any) -> float:
        """Seconds from one instant of a queue to another."""
        return float(last - first)

    def both(self, aside: Callable[[], Any], main: Callable[[], Any]) -> None:
        """Run both at once, `aside` on a stream of higher priority. Later work comes after both."""
        aside()
        main()

    def mark(self) -> Callable[[], None]:
        """A function that waits, on the host, for all earlier work of the device."""
        return self.finish

    def clock(self, work: Callable[[], Any]) -> tuple[float, float]:
        """Seconds by the device's events, seconds by the host's clock."""
        begun = time.perf_counter()
        work()
        return (time.perf_counter() - begun,) * 2

    def finish(self) -> None:
        """Wait for the device."""


class CudaBed(Bed):
    """A GPU; the table is as large as free memory allows, `sizes.table_bytes` at most."""

    def __init__(self, device: torch.device, sizes: Sizes, report: Report) -> None:
        super().__init__(device, sizes, report)
        self._aside = torch.cuda.Stream(self.device, priority=-1)
        self._pinned: PinnedMemory | None = None

    def _allocated(self, nbytes: int) -> torch.Tensor:
        self._pinned = _pinned(nbytes)  # the memory stays pinned as long as this object lives
        return torch.from_numpy(self._pinned.content)

    def host(self, values: torch.Tensor) -> torch.Tensor:
        return values.contiguous().pin_memory()

    def registered(self, memory: HostMemory) -> AbstractContextManager[Any]:
        return PinnedMemory(memory)

    def queues(self, warn: Callable[[str], object]) -> Device:
        return pipeline_of(self.device, warn=warn)

    def instant(self, queue: Queue) -> Any:
        event = torch.cuda.Event(enable_timing=True)
        event.record(cast(StreamQueue, queue).stream)  # queues come from `queues`
        return event

    def between(self, first: Any, last: Any) -> float:
        last.synchronize()  # synchronize: the time is asked for
        return float(first.elapsed_time(last)) / 1e3

    def both(self, aside: Callable[[], Any], main: Callable[[], Any]) -> None:
        here = torch.cuda.current_stream(self.device)
        self._aside.wait_stream(here)
        with torch.cuda.stream(self._aside):
            aside()
        main()
        here.wait_stream(self._aside)

    def mark(self) -> Callable[[], None]:
        event = torch.cuda.Event()
        event.record()
        return event.synchronize

    def clock(self, work: Callable[[], Any]) -> tuple[float, float]:
        first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        self.finish()
        begun = time.perf_counter()
        first.record()
        work()
        last.record()
        last.synchronize()
        return first.elapsed_time(last) / 1e3, time.perf_counter() - begun

    def finish(self) -> None:
        torch.cuda.synchronize(self.device)


def dry_bed(checkout: Path, folder: Path, report: Report) -> Bed:
    """A bed on the CPU; the launcher of the kernel tests is loaded from its file, since tests are no package."""
    from importlib.util import module_from_spec, spec_from_file_location

    from gcnrec.cuda import module

    spec = spec_from_file_location("gcnrec_host_launcher", checkout / "tests" / "cuda" / "host" / "launcher.py")
    launcher = module_from_spec(spec)
    spec.loader.exec_module(launcher)
    module.launch = launcher.HostLauncher(folder).launch
    return Bed(torch.device("cpu"), TINY, report)


def fill(bed: Bed, table_M: torch.Tensor) -> None:
    """Normal floats, drawn on the device: zeros would cross buses and run through kernels unlike real rows."""
    floats = table_M[: len(table_M) // 4 * 4].view(torch.float32)
    for first in range(0, len(floats), FILL_BYTES // 4):
        part = floats[first : first + FILL_BYTES // 4]
        part.copy_(torch.randn(len(part), device=bed.device), non_blocking=True)
    bed.finish()


def race(bed: Bed, works: dict[str, Work], runs: int | None = None) -> dict[str, Timing]:
    """The timings after the last of `rounds`."""
    return list(rounds(bed, works, runs))[-1]


def rounds(bed: Bed, works: dict[str, Work], runs: int | None = None) -> Iterator[dict[str, Timing]]:
    """Timings of all so far after every round, interleaved (A B C, A B C, ...), after a repetition of each that is not timed.

    Long races report each of them, so that a worker that is ended loses no more than a round. A work that fails is reported as
    a row with its error and left out; rounds end early when the part's time is up.
    """
    samples: dict[str, list[tuple[float, float]]] = {}
    for name, work in works.items():
        try:
            work(0)
            bed.finish()
            samples[name] = []
        except Exception as problem:
            bed.report({"variant": name, "error": f"{type(problem).__name__}: {problem}"[:300]})
            bed.finish()  # raises once more where the device itself is lost: the part then ends
    for repetition in range(1, 1 + (runs or bed.sizes.runs)):
        if repetition > 1 and time.monotonic() > bed.until:
            break
        for name in samples:
            samples[name].append(bed.clock(partial(works[name], repetition)))
        yield {name: _timing(pairs) for name, pairs in samples.items()}


def _timing(pairs: list[tuple[float, float]]) -> Timing:
    events, walls = zip(*pairs, strict=True)
    return Timing(median(events), median(walls), min(events), max(events), len(pairs))


def report_timings(bed: Bed, bench: str, timings: dict[str, Timing], units: float, moved_bytes: float, **facts: Any) -> None:
    """Report a row for each timing: `units` of work and `moved_bytes` over the bus in a repetition, and further facts."""
    for name, timing in timings.items():
        rates = {"rate": units / timing.seconds, "bytes": moved_bytes, "gb_per_s": moved_bytes / timing.seconds / 1e9}
        bed.report({"bench": bench, "variant": name, **asdict(timing), "units": units, **rates, **facts})


def row_sets(bed: Bed, total: int, count: int) -> list[torch.Tensor]:
    """`SETS` times `spread_rows` of 0 .. total - 1."""
    return [spread_rows(bed, total, count, seed) for seed in range(SETS)]


def spread_rows(bed: Bed, total: int, count: int, seed: int) -> torch.Tensor:
    """`count` different rows of 0 .. total - 1, ascending and even, int64 on the device."""
    stride = total // count
    draws = torch.Generator(bed.device).manual_seed(seed)
    steps = torch.randint(0, stride, (count,), generator=draws, device=bed.device)
    return torch.arange(count, device=bed.device) * stride + steps


def shuffled(rows_R: torch.Tensor, seed: int) -> torch.Tensor:
    """`rows_R` in an order that the seed draws."""
    draws = torch.Generator(rows_R.device).manual_seed(seed)
    return rows_R[torch.randperm(len(rows_R), generator=draws, device=rows_R.device)]


def _room(wanted: int) -> int:
    """Bytes that may be taken. A virtual machine may be given its memory only as it is used, so some is used and given back."""
    held = []
    with suppress(DeviceError, OSError):
        while read_limits().available // 2 < wanted and len(held) * GIB < wanted:
            held.append(allocate(GIB))
    del held
    return read_limits().available


def _pinned(wanted: int) -> PinnedMemory:
    """`wanted` bytes, or as many as can be had: a machine may have less free than hoped, or show it only when it is used."""
    size = min(wanted, max(GIB, _room(wanted) // 2 // GIB * GIB))
    while True:
        try:
            return PinnedMemory(allocate(size))
        except (DeviceError, OSError):
            if size <= GIB:
                raise
            size //= 2
