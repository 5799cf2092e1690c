"""All interleavings of transfers and training at once: what a pipelined table asks of its device, judged by happens-before.

A recorder stands in for the device. It notes each piece of work with the work that must be over before it: earlier work of its
queue, what the queue waits for, and what the host had waited for. Where that leaves open which of two writers of a
value comes last before a reader, some run of a GPU goes wrong; where it does not, none does, however long transfers take.

* Each value that training reads, and each that comes home, has a single possible writer: that of a serial run.
* Memory that is let go is reused by work of the queue that made it. All uses come before that work.
* What a queue makes, others use after it is made.

Programs are all sequences of some batches of few rows. No step waits on the host.

Run from the root of a checkout: python -m jobs.measure.gpu.order [--batches 4]. It needs no GPU.
"""

from __future__ import annotations

import argparse
import itertools
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils._python_dispatch import TorchDispatchMode

from gcnrec.queues import Device, Pair, Spans
from gcnrec.rows import Rows, Ticket
from gcnrec.tables.arena import SlotBlock
from gcnrec.tables.dense import DenseTable
from gcnrec.tables.hot_rows import Prefixes
from gcnrec.tables.pipelined import PipelinedTable
from gcnrec.tables.slots import SlotTable
from gcnrec.tables.window import Window

Cell = tuple[int, int]
"""A value: the address of its memory, and its place there."""
Reading = tuple[int, dict[Cell, set[int | Cell]]]
"""A piece of work, and who may have made each value that it reads."""
ROWS = 4


@dataclass
class Work:
    """`before`: bits of all work that is over when this begins. `moved`: target -> source; `made`: values that are new."""

    queue: str
    before: int
    moved: dict[Cell, Cell]
    made: frozenset[Cell]


@dataclass
class Memory:
    """Memory of tensors that come and go: the queue that made it, its maker, and the work that used it."""

    queue: str
    maker: int
    users: list[int] = field(default_factory=list)
    let_go_at: int | None = None


@dataclass
class Mark:
    """A point in a queue: what was given to it before."""

    recorder: Recorder
    before: int

    def finish(self) -> None:
        self.recorder.host |= self.before


@dataclass
class Queue:
    """Work in order; its name says whose."""

    recorder: Recorder
    name: str
    before: int = 0

    def mark(self) -> Mark:
        return Mark(self.recorder, self.before)

    def after(self, mark: Mark) -> None:
        self.before |= mark.before


class Recorder(TorchDispatchMode):
    """`gcnrec.queues.Device`, and what torch is asked for while it is entered. Values are not copied; row numbers are real."""

    def __init__(self) -> None:
        super().__init__()
        self.works: list[Work] = []
        self.host = 0
        self.compute, self.reads, self.writes = (Queue(self, name) for name in ("compute", "reads", "writes"))
        self._current = [self.compute]
        self._kept: list[torch.Tensor] = []
        self._live: dict[int, Memory] = {}
        self.memories: list[Memory] = []

    def adopt(self, memory: torch.Tensor, length: int) -> None:
        """Return: all memory is the host's."""

    def close(self) -> None:
        """Return: nothing is held."""

    @contextmanager
    def within(self, queue: Queue) -> Iterator[None]:
        self._current.append(queue)
        yield
        self._current.pop()

    def place(self, values: NDArray[np.int64]) -> torch.Tensor:
        return self._tracked(values, self._given(self._current[-1], []))

    def empty(self, length: int, like: torch.Tensor) -> torch.Tensor:
        return self._keep(torch.from_numpy(np.zeros(max(length, 1), np.float32))[:length])

    def resident(self, values: torch.Tensor) -> torch.Tensor:
        return self._keep(torch.from_numpy(values.numpy().copy()))

    def copy(self, queue: Queue, pairs: Sequence[Pair]) -> None:
        used = [tensor for pair in pairs for side in pair for tensor in numbers(side)]
        moved = {to: at for source, target in pairs for at, to in zip(cells(source), cells(target), strict=True)}
        self._given(queue, used, moved)

    def patch(self, earlier_E: torch.Tensor, later_L: torch.Tensor, pairs: Sequence[Pair]) -> None:
        places = {row: place for place, row in enumerate(earlier_E.tolist())}
        common = [(places[row], place) for place, row in enumerate(later_L.tolist()) if row in places]
        moved: dict[Cell, Cell] = {}
        for source, target in pairs:
            old, new = by_piece(source), by_piece(target)
            moved |= {to: at for one, other in common for at, to in zip(old[one], new[other], strict=True)}
        used = [tensor for pair in pairs for side in pair for tensor in numbers(side)]
        self._given(self.compute, [earlier_E, later_L, *used], moved)

    def train(self, rows: Rows, uploaded: torch.Tensor | None = None) -> int:
        """An update of all values of `rows` and of their state, as work of compute, which reads what was `uploaded`."""
        state = rows.require_state()
        made = frozenset(cell for memory in (rows.weights, state.values) for cell in all_cells(memory))
        used = [rows.index_R, rows.at_R, rows.count_R, state.at_R, *([] if uploaded is None else [uploaded])]
        return self._given(self.compute, used, {}, made)

    def use(self, tensors: Iterable[torch.Tensor]) -> int:
        """Work of compute that reads tensors."""
        return self._given(self.compute, tensors)

    def write_on_host(self, memories: Iterable[torch.Tensor]) -> int:
        """Whole-table work that writes everything."""
        made = frozenset(cell for memory in memories for cell in all_cells(memory))
        self.works.append(Work("host", self.host, {}, made))
        self.host |= 1 << (len(self.works) - 1)
        return len(self.works) - 1

    def copy_on_host(self, moved: dict[Cell, Cell]) -> None:
        """Target -> source; what is given from now on comes after it."""
        self.works.append(Work("host", self.host, moved, frozenset()))
        self.host |= 1 << (len(self.works) - 1)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = [each for each in tree(args) if isinstance(each, torch.Tensor)]
        addresses = {each.untyped_storage().data_ptr() for each in given}
        if not isinstance(out, torch.Tensor) or out.untyped_storage().data_ptr() in addresses or not out.numel():
            if func._schema.is_mutable:
                self._given(self._current[-1], given)
            return out
        return self._tracked(out.numpy(), self._given(self._current[-1], given))

    def _given(
        self, queue: Queue, used: Iterable[torch.Tensor], moved: dict[Cell, Cell] | None = None,
        made: frozenset[Cell] = frozenset(),
    ) -> int:  # fmt: skip
        number = len(self.works)
        queue.before |= self.host
        self.works.append(Work(queue.name, queue.before, moved or {}, made))
        queue.before |= 1 << number
        for tensor in used:
            memory = self._live.get(tensor.untyped_storage().data_ptr())
            if memory is not None:
                memory.users.append(number)
        return number

    def _tracked(self, values: NDArray[Any], maker: int) -> torch.Tensor:
        """A copy whose end is seen: the tensor's memory lives as long as the array."""
        array = values.copy()
        address = array.ctypes.data
        memory = self._live[address] = Memory(self.works[maker].queue, maker)
        self.memories.append(memory)
        weakref.finalize(array, self._let_go, address)
        return torch.from_numpy(array)

    def _let_go(self, address: int) -> None:
        self._live.pop(address).let_go_at = len(self.works)

    def _keep(self, tensor: torch.Tensor) -> torch.Tensor:
        self._kept.append(tensor)  # so that no other memory has its address
        return tensor


def tree(value: Any) -> Iterator[Any]:
    """The leaves of nested lists and tuples."""
    if isinstance(value, list | tuple):
        for each in value:
            yield from tree(each)
    else:
        yield value


def numbers(spans: Spans) -> list[torch.Tensor]:
    """The tensors that say where the pieces are."""
    return [each for each in (spans.at_R, spans.length_R) if isinstance(each, torch.Tensor)]


def by_piece(spans: Spans) -> list[list[Cell]]:
    """The cells of each piece."""
    address, first = spans.memory.untyped_storage().data_ptr(), int(spans.memory.storage_offset())
    starts = ((spans.at_R.numpy() + spans.shift) * spans.pitch).tolist()
    lengths = [spans.length_R] * len(starts) if isinstance(spans.length_R, int) else spans.length_R.tolist()
    return [[(address, first + at + j) for j in range(length)] for at, length in zip(starts, lengths, strict=True)]


def cells(spans: Spans) -> list[Cell]:
    """The cells of all pieces."""
    return [cell for piece in by_piece(spans) for cell in piece]


def all_cells(memory: torch.Tensor) -> list[Cell]:
    """The cells of a whole memory."""
    address, first = memory.untyped_storage().data_ptr(), int(memory.storage_offset())
    return [(address, first + j) for j in range(memory.numel())]


class Judge:
    """Who wrote what a piece of work reads. `home`: addresses of the table's memories, which hold values from the start."""

    def __init__(self, works: list[Work], home: set[int]) -> None:
        self._works, self._home = works, home
        self._writers: dict[Cell, list[int]] = {}
        for number, work in enumerate(works):
            for cell in (*work.moved, *work.made):
                self._writers.setdefault(cell, []).append(number)
        self._known: dict[tuple[Cell, int], int | Cell | None] = {}

    def origin(self, cell: Cell, reader: int) -> int | Cell | None:
        """The number of the work that made the value which `reader` reads in `cell`, or where it was from the start; None: it
        depends on the interleaving."""
        if (cell, reader) not in self._known:
            self._known[cell, reader] = self._origin(cell, reader)
        return self._known[cell, reader]

    def _origin(self, cell: Cell, reader: int) -> int | Cell | None:
        before, done = self._works[reader].before, []
        for writer in self._writers.get(cell, []):
            if before >> writer & 1:
                done.append(writer)
            elif writer != reader and not self._works[writer].before >> reader & 1:
                return None
        last = [one for one in done if not any(self._works[other].before >> one & 1 for other in done)]
        if len(last) > 1:
            return None
        if not last:
            return cell if cell[0] in self._home else None
        work = self._works[last[0]]
        return last[0] if cell in work.made else self.origin(work.moved[cell], last[0])


def lost(recorder: Recorder) -> Iterator[str]:
    """Uses of memory before it is made, or after it may be reused."""
    works = recorder.works
    for memory in recorder.memories:
        for user in memory.users:
            if not works[user].before >> memory.maker & 1:
                yield f"work of {works[user].queue} uses what {memory.queue} may not have made"
        if memory.let_go_at is None:
            continue
        later = (number for number in range(memory.let_go_at, len(works)) if works[number].queue == memory.queue)
        reuser = next(later, None)
        for user in memory.users:
            if reuser is not None and works[user].queue != memory.queue and not works[reuser].before >> user & 1:
                yield f"memory of {memory.queue} is reused while {works[user].queue} reads it"


SUBSETS: tuple[tuple[int, ...], ...] = ((0, 1), (1, 2), (0, 1, 2))
SINGLES: tuple[tuple[int, ...], ...] = ((0,), (1,), (2,), (3,))
"""Rows of a batch."""


@dataclass(frozen=True)
class Program:
    """How a table is used. `ahead`: batches announced before the one that trains; `given`: row numbers come from the caller;
    `window`: places of a window onto a table on disk, 0 without one;
    `drained` and `explored`: after these steps; `unwritten`: steps that only read, as explorations' gradients do."""

    slots: bool = False
    ahead: int = 1
    given: bool = False
    hot: Prefixes | None = None
    window: int = 0
    subsets: tuple[tuple[int, ...], ...] = SUBSETS
    drained: tuple[int, ...] = ()
    explored: tuple[int, ...] = ()
    unwritten: tuple[int, ...] = ()


class SeenWindow(Window):
    """A window whose copies are work of the host."""

    def __init__(self, table: DenseTable | SlotTable, recorder: Recorder, places: int) -> None:
        self._recorder = recorder
        super().__init__(table, cast(Device, recorder), places, lambda length: recorder.empty(length, torch.empty(0)))

    def _copy(self, rows_M: NDArray[np.int64], places_M: NDArray[np.int64], home: bool) -> None:
        moved: dict[Cell, Cell] = {}
        own = zip(self._table.memories(), self._table.homes(rows_M), self._planes, self._pitches, strict=True)
        for (memory, _), (at_M, length_M), plane, pitch in own:
            lengths = torch.from_numpy(length_M)
            there = cells(Spans(memory, torch.from_numpy(at_M), lengths))
            here = cells(Spans(plane, torch.from_numpy(places_M), lengths, pitch))
            moved |= dict(zip(there, here, strict=True)) if home else dict(zip(here, there, strict=True))
        self._recorder.copy_on_host(moved)


def host_table(slots: bool) -> DenseTable | SlotTable:
    """A value and a float of state a row; with slots 1, 2, 1, 2 values."""
    if not slots:
        return DenseTable(torch.zeros(ROWS, 1), 1)
    counts = np.array([1, 2] * (ROWS // 2))
    table, size = SlotTable(ROWS, 2, int(counts.sum()), (1, 0)), int(counts.sum())
    columns = np.concatenate([np.arange(count, dtype=np.uint8) for count in counts])
    with table.rebuild() as rebuild:
        rebuild.write(
            SlotBlock(
                0, counts, columns, np.zeros(size, np.float32), np.zeros((1, size), np.float32), np.zeros((ROWS, 0), np.float32)
            )
        )
    return table


def problems(batches: Sequence[Sequence[int]], program: Program, recorder: Recorder | None = None) -> set[str]:
    """What can go wrong when the batches train in this order; empty where nothing can. `recorder`: to look at afterwards."""
    recorder = recorder or Recorder()
    host = host_table(program.slots)
    memories = [memory for memory, _ in host.memories()]
    expected = homes(host)
    read: list[Reading] = []
    with recorder:
        window = SeenWindow(host, recorder, program.window) if program.window else None
        table = PipelinedTable(host, cast(Device, recorder), program.hot, window)
        coming = deque([announced(table, recorder, rows, program) for rows in batches[: program.ahead]])
        for step, rows in enumerate(batches):
            if program.ahead and step + program.ahead < len(batches):
                coming.append(announced(table, recorder, batches[step + program.ahead], program))
            ticket, uploaded = coming.popleft() if program.ahead else (Ticket(np.array(rows)), None)
            staged = table.read(ticket, with_state=True)
            number = recorder.train(staged, uploaded)
            del uploaded
            read.append((number, {cell: expected[rows[place]] for cell, place in places(staged)}))
            if step not in program.unwritten:
                table.write(staged)
                expected |= {row: {number} for row in rows}
            del staged
            if step in program.drained or step in program.explored:
                table.drained()
            if step in program.explored:
                number = recorder.write_on_host(memories)
                expected = {row: {number} for row in range(ROWS)}
                host.restore(host.tensors())
        table.drained()
        for row in range(ROWS):
            last = table.read(Ticket(np.array([row])), with_state=True)
            read.append((recorder.train(last), {cell: expected[row] for cell, _ in places(last)}))
    return misread(recorder, memories, read) | set(lost(recorder))


def homes(host: DenseTable | SlotTable) -> dict[int, set[int | Cell]]:
    """Row -> the values that it has from the start."""
    found: dict[int, set[int | Cell]] = {row: set() for row in range(ROWS)}
    for (memory, _), (at_R, length_R) in zip(host.memories(), host.homes(np.arange(ROWS)), strict=True):
        pieces = by_piece(Spans(memory, torch.from_numpy(at_R), torch.from_numpy(length_R)))
        for row, piece in enumerate(pieces):
            found[row] |= set(piece)
    return found


def misread(recorder: Recorder, memories: Iterable[torch.Tensor], read: Iterable[Reading]) -> set[str]:
    """What is wrong with the values that were read; `memories` hold values from the start."""
    found, judge = set(), Judge(recorder.works, {memory.untyped_storage().data_ptr() for memory in memories})
    for number, right in read:
        for cell, writers in right.items():
            origin = judge.origin(cell, number)
            if origin not in writers:
                found.add("a value depends on the interleaving" if origin is None else "a value is old")
    return found


def announced(
    table: PipelinedTable, recorder: Recorder, rows: Sequence[int], program: Program
) -> tuple[Ticket, torch.Tensor | None]:
    """The ticket, and what was uploaded with the row numbers."""
    rows_R = np.array(rows)
    if not program.given:
        return table.prefetch(rows_R), None
    with recorder.within(recorder.reads):
        slab = recorder.place(np.tile(rows_R, 2))
        return table.prefetch(rows_R, slab[: len(rows_R)]), slab[len(rows_R) :]


def places(rows: Rows) -> Iterator[tuple[Cell, int]]:
    """Every value and float of state, with the place of its row in the batch."""
    state = rows.require_state()
    for memory, at_R in ((rows.weights, rows.at_R), (state.values, state.at_R)):
        starts = at_R.numpy()
        for place, cell in enumerate(all_cells(memory)):
            yield cell, int(np.searchsorted(starts, place, side="right")) - 1


PROGRAMS = {
    "announced": Program(),
    "numbers given": Program(given=True),
    "two ahead": Program(ahead=2, given=True),
    "not announced": Program(ahead=0),
    "cached": Program(hot=Prefixes(2, 1, 1)),
    "all cached": Program(hot=Prefixes(2, 2, 2), given=True),
    "drained": Program(drained=(1, 2), hot=Prefixes(2, 1, 0)),
    "explored": Program(explored=(1,), drained=(3,), hot=Prefixes(2, 1, 1), given=True),
    "read only at times": Program(unwritten=(1, 2), given=True),
    "window": Program(window=3, subsets=SINGLES),
    "window, cached": Program(window=3, subsets=SINGLES, hot=Prefixes(2, 1, 0), given=True, explored=(1,)),
    "window, slots": Program(window=3, subsets=SINGLES, slots=True, unwritten=(1,), drained=(2,)),
    "slots": Program(slots=True, given=True),
    "slots cached": Program(slots=True, hot=Prefixes(2, 1, 1), drained=(2,)),
}


def all_problems(program: Program, length: int, subsets: Sequence[Sequence[int]] = ()) -> set[str]:
    """Of every sequence of `length` batches of these rows, by default as the program has them."""
    sequences = itertools.product(subsets or program.subsets, repeat=length)
    return set().union(*(problems(batches, program) for batches in sequences))


def main() -> None:
    """Judge all programs; the exit code is 1 where something can go wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=4)
    length, wrong = parser.parse_args().batches, 0
    from jobs.measure.gpu import order_features  # which builds on this file

    runs: list[tuple[str, Callable[[], set[str]]]] = [
        (f"features {name}, {length} batches", partial(order_features.all_problems, program, length))
        for name, program in order_features.PROGRAMS.items()
    ]
    for name, program in PROGRAMS.items():
        turns = [program.subsets[step % len(program.subsets)] for step in range(3 * length)]
        runs.append((f"{name}, {len(turns)} batches in turns", partial(problems, turns, program)))
        some = length - 1 if program.slots else length  # places of slots take many operations
        runs.append((f"{name}, {some} batches", partial(all_problems, program, some)))
        if not program.slots:
            kinds = program.subsets[:2]
            runs.append((f"{name}, {2 * length} batches of two kinds", partial(all_problems, program, 2 * length, kinds)))
    for name, run in runs:
        begun = time.perf_counter()
        found = run()
        wrong += len(found)
        print(f"{name}: {'; '.join(sorted(found)) or 'nothing can go wrong'} ({time.perf_counter() - begun:.1f} s)", flush=True)
    raise SystemExit(1 if wrong else 0)


if __name__ == "__main__":
    main()
