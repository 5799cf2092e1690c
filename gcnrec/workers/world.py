"""The world of one worker: rows to and from every other, and commands of worker 0, which leads. Only this file imports
torch.distributed.

`Alone` is the world of a run in one process. `Group` sends to workers of its host through memory (`gcnrec.workers.near`), and to
others by gloo: `all_to_all_single` is its fastest collective by far, so each exchange is one. Rows of GPUs travel by NCCL where
all workers have it, else through memory of the host. Commands go through a store that worker 0 hosts, not through collectives,
which have a timeout.
A group comes from whoever started the processes: a process group that is initialised already (Ray, SLURM), torchrun's
environment, or `gcnrec.workers.launch`. Letters: W workers, S rows sent, C rows that come.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
import threading
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from math import prod
from queue import Empty, SimpleQueue
from typing import Any, NoReturn, Protocol, cast

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch.distributed import PrefixStore, TCPStore, rendezvous  # type: ignore[attr-defined]  # the stub does not say so

from gcnrec.errors import PeerLostError, UsageError, first_line, shown
from gcnrec.ops.gather import gather
from gcnrec.system.signals import end_with_parent
from gcnrec.workers.board import END, Board, Store
from gcnrec.workers.heart import LATE_SECONDS, Heart
from gcnrec.workers.near import Message, Neighbour, message_of, neighbours, swapped
from gcnrec.workers.orders import Orders

STORE, LEADER, MINUTES = "GCNREC_STORE", "GCNREC_LEADER", "GCNREC_MINUTES"
"""In the environment of a launched worker: the address of the store, the number of the process that leads, its timeout."""
_NAMING_SECONDS = LATE_SECONDS + 3.0
"""How long a worker looks for the cause of a failure: a beat of a killed worker is late by then."""
_START = timedelta(minutes=2)
"""What processes may need to start, however short the timeout of a collective."""
_LATER = timedelta(seconds=5)
"""From the end of torch's time to meet to the end of ours."""
_PARTING_SECONDS = 10.0
"""How long the leader waits until every worker has read the last command."""
_REPORT_SECONDS = 0.005
"""Between two looks for reports of workers, which take tenths of a second and more for what they report."""
_AGES = timedelta(days=20)
"""For the next command. Torch counts milliseconds in 31 bits, which is 24 days."""
_MOST_MINUTES = 525600  # a year
DIRECT = {"cuda": "nccl"}
"""Which backend of torch exchanges memory of a type of device. Counts, ids, votes and what is dealt out go as rows of CPUs do."""
_POLL_SECONDS, _LOOK_SECONDS = 0.0001, 0.5
"""Between looks at an exchange of devices, and at the board meanwhile."""
_LOOPBACK = "127.0.0.1"
_INTERFACE = "lo" if sys.platform == "linux" else "lo0"
"""Where gloo and NCCL listen among workers of one machine. By default others may reach the address."""
_ADDRESS_BYTES = 300
"""Room for the name of a host, which has at most 253 letters, and a port."""
_REMEDY = "start the same command again, a training with --resume"


class World(Protocol):
    """Worker `rank` of `size`, of which `local_size` run on this machine; of these it is number `local_rank` (0, 1, ...).

    All workers make the same calls in the same order. `machines` names, for each worker in turn, the first worker of its machine.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int
    machines: tuple[int, ...]

    def start(self) -> None:
        """Have workers start that this process is to start, and has not. Waits for nobody: the first other call does."""
        ...

    def exchange(self, sent: torch.Tensor, outs: Sequence[int], ins: Sequence[int]) -> torch.Tensor:
        """Send the first outs[0] of the rows sent_S... to worker 0, the next outs[1] to worker 1, and so on.

        Returns came_C...: ins[0] rows of worker 0, then ins[1] of worker 1, and so on, on the device of `sent`. Any dtype and
        any number of further axes, which all workers agree on. Gradients do not pass. Raises ValueError where the numbers
        do not fit `sent`, PeerLostError where a worker is lost.
        """
        ...

    def borrow(self, rows: Sequence[Sequence[RowsOf]], width: int, ins: Sequence[int]) -> Sequence[torch.Tensor]:
        """Send each worker w the rows[w] of float32 planes of this width on the CPU, one piece after another. Returns what came
        of each worker, float32 (ins[w], D).

        It is to be read before the next exchange, and not to be changed: it may lie in memory that its sender then fills again.
        """
        ...

    def counts(self, outs: Sequence[int]) -> list[int]:
        """Send the integer outs[w] to worker w; return what each worker sent, in order of workers."""
        ...

    def connect(self, device: torch.device) -> None:
        """From now on rows of `device`, a GPU or the CPU, are exchanged without the host where all workers can."""
        ...

    def publish(self, command: Mapping[str, Any]) -> None:
        """Leave a command, which JSON can hold, for all others; worker 0 only. Waits for nobody."""
        ...

    def awaited(self) -> dict[str, Any]:
        """The next command of worker 0, however long it takes while that worker lives; any other worker only."""
        ...

    def report(self) -> None:
        """Say that this worker has done what the latest command asks; any other worker only."""
        ...

    def await_reports(self, count: int) -> None:
        """Wait until `count` more workers report, however long it takes while all workers live; worker 0 only."""
        ...

    def close(self) -> None:
        """Leave in peace: worker 0 publishes the last command and waits, within bounds, until all have read it."""
        ...


RowsOf = tuple[torch.Tensor, NDArray[np.int64]]
"""A plane, float32 (P, D) on the CPU, and numbers of its rows."""


def gathered(pieces: Sequence[RowsOf], width: int) -> torch.Tensor:
    """The rows of all pieces, one after another, float32 (R, D)."""
    out_RD = torch.empty(sum(len(rows_R) for _, rows_R in pieces), width)
    _gather_into(pieces, out_RD)
    return out_RD


def _gather_into(pieces: Sequence[RowsOf], out_RD: torch.Tensor) -> None:
    first = 0
    for plane_PD, rows_R in pieces:
        gather(plane_PD, rows_R, out_RD[first : first + len(rows_R)])  # copy: rows that are sent
        first += len(rows_R)


def _rows_message(pieces: Sequence[RowsOf], width: int) -> Message:
    """Rows that are gathered where they are to lie."""
    length = 4 * width * sum(len(rows_R) for _, rows_R in pieces)
    return Message(length, lambda out: _gather_into(pieces, out.view(torch.float32).view(-1, width)))


def check_splits(sent: torch.Tensor, outs: Sequence[int], ins: Sequence[int], size: int) -> None:
    """Raise ValueError unless `outs` and `ins` have one number of rows for each worker and `outs` add up to the rows sent."""
    if not (len(outs) == len(ins) == size) or min(*outs, *ins, 0) < 0:
        raise ValueError(f"an exchange of {size} workers needs {size} numbers of rows each way, got {outs} and {ins}")
    if sent.ndim == 0 or sum(outs) != len(sent):
        raise ValueError(f"an exchange was to send {sum(outs)} rows of a tensor of shape {tuple(sent.shape)}")


class Alone:
    """The world of a run in one process: what is sent comes, without a copy."""

    rank = 0
    size = 1
    local_rank = 0
    local_size = 1
    machines: tuple[int, ...] = (0,)

    def start(self) -> None:
        pass

    def exchange(self, sent: torch.Tensor, outs: Sequence[int], ins: Sequence[int]) -> torch.Tensor:
        return sent

    def borrow(self, rows: Sequence[Sequence[RowsOf]], width: int, ins: Sequence[int]) -> Sequence[torch.Tensor]:
        return [gathered(rows[0], width)]

    def counts(self, outs: Sequence[int]) -> list[int]:
        return list(outs)

    def connect(self, device: torch.device) -> None:
        pass

    def publish(self, command: Mapping[str, Any]) -> None:
        pass

    def awaited(self) -> NoReturn:
        raise ValueError("a run in one process has no worker that waits for commands")

    def report(self) -> None:
        pass

    def await_reports(self, count: int) -> None:
        pass

    def close(self) -> None:
        pass


@dataclass(frozen=True, slots=True)
class _Seat:
    """A place among the workers: `group` is torch's, None for its default. `timeout` is that of its collectives."""

    rank: int
    size: int
    group: dist.ProcessGroup | None
    timeout: timedelta


class Group:
    """One of several workers, connected by gloo and with its neighbours. Made by `joined` and `Meeting.led`."""

    def __init__(self, seat: _Seat, board: Board, heart: Heart, orders: Orders | None) -> None:
        self.rank, self.size, self._seat = seat.rank, seat.size, seat
        self._board, self._heart, self._orders = board, heart, orders
        self._published = self._reported = 0
        self._loss: PeerLostError | None = None
        self._is_closed = False
        self._near: dict[int, Neighbour] = {}
        self._has_far = True
        self._direct: dist.ProcessGroup | None = None
        self._direct_type = ""
        self.local_rank, self.local_size, self.machines = 0, seat.size, (0,) * seat.size

    def meet(self) -> None:
        """Find out which workers are of this host, and connect to them. Before any other call; the heart beats already, so that
        a worker which is lost meanwhile is named."""
        host = zlib.crc32(socket.gethostname().encode())
        hosts = self.counts([host] * self.size)  # connects all to all, before anyone waits for one
        self.local_rank = _number("LOCAL_RANK", hosts[: self.rank].count(host))
        self.local_size, self.machines = hosts.count(host), tuple(map(hosts.index, hosts))
        if sys.platform == "linux" and len(set(hosts)) < self.size:
            near = [worker for worker, other in enumerate(hosts) if other == host and worker != self.rank]
            found = neighbours(self._swapped, self.rank, self.size, near, self._seat.timeout)
            try:
                self._has_far = any(self.counts([int(len(found) + 1 < self.size)] * self.size))
            finally:
                self._near = found

    def start(self) -> None:
        pass

    def _swapped(self, rows_WC: torch.Tensor) -> torch.Tensor:
        ones = [1] * self.size
        return self.exchange(rows_WC, ones, ones)

    def exchange(self, sent: torch.Tensor, outs: Sequence[int], ins: Sequence[int]) -> torch.Tensor:
        check_splits(sent, outs, ins, self.size)
        row_bytes = sent.element_size() * prod(sent.shape[1:])
        splits = [int(rows) * row_bytes for rows in ins], [int(rows) * row_bytes for rows in outs]
        is_direct = sent.device.type == self._direct_type
        place = sent.device if is_direct else torch.device("cpu")
        source = sent.detach().to(place).contiguous()  # copy: from a GPU, or where rows do not lie together; synchronize: a GPU
        came = torch.empty((sum(ins), *sent.shape[1:]), dtype=sent.dtype, device=place)
        to, of = _bytes(came), _bytes(source)
        with self._naming():
            # synchronize: all workers
            if is_direct:
                self._await(dist.all_to_all_single(to, of, *splits, group=self._direct, async_op=True))
            elif self._near:
                self._with_neighbours(to, of, *splits)
            else:
                dist.all_to_all_single(to, of, *splits, group=self._seat.group)
        return came.to(sent.device)  # copy: to a GPU

    def borrow(self, rows: Sequence[Sequence[RowsOf]], width: int, ins: Sequence[int]) -> Sequence[torch.Tensor]:
        if self._has_far:
            tiles = [gathered(pieces, width) for pieces in rows]
            came = self.exchange(torch.cat(tiles), [len(tile) for tile in tiles], ins)  # copy: for gloo
            return torch.split(came, list(ins))
        messages = [_rows_message(pieces, width) for pieces in rows]
        with self._naming():
            found = swapped(self._near, messages, [4 * width * count for count in ins], self._seat.timeout)
        tiles_W = {worker: content.view(torch.float32).view(-1, width) for worker, content in found.items()}
        return [gathered(rows[worker], width) if worker == self.rank else tiles_W[worker] for worker in range(self.size)]

    def _with_neighbours(self, to: torch.Tensor, of: torch.Tensor, ins: list[int], outs: list[int]) -> None:
        """Exchange bytes: with neighbours their own way, with workers of other hosts by gloo."""
        pieces, targets = torch.split(of, outs), torch.split(to, ins)
        for worker, piece in swapped(self._near, [message_of(piece) for piece in pieces], ins, self._seat.timeout).items():
            targets[worker].copy_(piece)  # copy: from shared memory
        targets[self.rank].copy_(pieces[self.rank])  # copy: what a worker sends itself
        if self._has_far:
            self._far(pieces, targets)

    def _far(self, pieces: Sequence[torch.Tensor], targets: Sequence[torch.Tensor]) -> None:
        """Exchange bytes with workers of other hosts, whose pieces and targets are not those of neighbours."""
        is_far = [worker not in self._near and worker != self.rank for worker in range(self.size)]
        outs, ins = ([len(each) * far for each, far in zip(all_W, is_far, strict=True)] for all_W in (pieces, targets))
        sent = torch.cat([*[piece for piece, far in zip(pieces, is_far, strict=True) if far], pieces[0][:0]])  # copy: it travels
        came = targets[0].new_empty(sum(ins))
        dist.all_to_all_single(came, sent, ins, outs, group=self._seat.group)  # synchronize: all workers
        for target, piece, far in zip(targets, torch.split(came, ins), is_far, strict=True):
            if far:
                target.copy_(piece)  # copy: what came from another host

    def connect(self, device: torch.device) -> None:
        backend = DIRECT.get(device.type, "")
        able = self.counts([int(dist.is_backend_available(backend))] * self.size)  # also fails at once where a worker is lost
        if self._direct is None and all(able):
            # by default torch ends the process where NCCL meets an error, and nobody is named; so `wait` raises it
            with self._naming(), _unless_set("TORCH_NCCL_BLOCKING_WAIT", "1"):
                self._direct = dist.new_group(backend=backend, timeout=self._seat.timeout + _START)
            self._direct_type = device.type

    def _await(self, work: dist.Work) -> None:
        """Wait for an exchange of devices; after a loss they do not wait for it any more either."""
        try:
            self._answered(work)
        except RuntimeError:
            self._abort()
            raise

    def _answered(self, work: dist.Work) -> None:
        """NCCL waits for a lost worker in a way that nothing interrupts: this thread looks out for a loss meanwhile."""
        begun = looked = time.monotonic()
        while not work.is_completed():
            now = time.monotonic()
            if now - begun > self._seat.timeout.total_seconds():
                raise RuntimeError("no worker has answered in time")
            if now - looked > _LOOK_SECONDS:
                looked = now
                if self._board.loss():
                    raise RuntimeError("a worker was lost")
            time.sleep(_POLL_SECONDS)
        work.wait()

    def _abort(self) -> None:
        """End the group of devices, if there is one, without a wait for anybody."""
        with suppress(RuntimeError, AttributeError):  # a torch that cannot
            if self._direct is not None:
                self._direct.abort()

    def counts(self, outs: Sequence[int]) -> list[int]:
        return self._swapped(torch.tensor(outs, dtype=torch.int64)).tolist()

    def publish(self, command: Mapping[str, Any]) -> None:
        if self.rank:
            raise ValueError(f"worker 0 publishes commands, worker {self.rank} was to")
        with self._naming():
            if self._board.loss():
                raise RuntimeError("a worker was lost")
            self._board.publish(self._published, command)
        self._published += 1

    def awaited(self) -> dict[str, Any]:
        if self._orders is None:
            raise ValueError("worker 0 publishes commands, and was to wait for one")
        with self._naming():
            while (command := self._orders.next(LATE_SECONDS)) is None:  # fails at once where the store's host, the leader, ends
                rank, age = self._heart.silent()
                if rank == 0 and age > self._seat.timeout.total_seconds():
                    raise RuntimeError("no command")
        return command

    def report(self) -> None:
        with self._naming():
            self._board.report()

    def await_reports(self, count: int) -> None:
        self._reported += count
        with self._naming():
            while self._board.reports() < self._reported:
                if self._board.loss() or self._heart.silent()[1] > self._seat.timeout.total_seconds():
                    raise RuntimeError("no report")
                time.sleep(_REPORT_SECONDS)

    def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        self._abort()
        if self.rank:
            with suppress(RuntimeError):  # the leader has not waited
                self._board.depart(self.rank)
            return
        self.publish(END)
        others, deadline = range(1, self.size), time.monotonic() + _PARTING_SECONDS
        while not all(map(self._board.has_departed, others)) and not self._board.loss() and time.monotonic() < deadline:
            time.sleep(0.005)

    def let_go(self) -> None:
        """Close what is shared with other workers."""
        for neighbour in self._near.values():
            neighbour.close()
        self._near = {}

    def give_up(self, problem: BaseException) -> None:
        """Say to the others why this worker ends."""
        if not isinstance(problem, PeerLostError):
            with suppress(RuntimeError):
                self._board.lose(self.rank, f"{type(problem).__name__}: {first_line(problem)}")

    @contextmanager
    def _naming(self) -> Iterator[None]:
        """A RuntimeError of a collective or of the store becomes a PeerLostError."""
        if self._loss:
            raise self._loss
        try:
            yield
        except RuntimeError as problem:
            self._loss = self._lost(problem)
            raise self._loss from problem

    def _lost(self, problem: RuntimeError) -> PeerLostError:
        """Who is lost: whoever somebody says is, or the worker whose beat is late; nobody by name where all beat on."""
        deadline = time.monotonic() + _NAMING_SECONDS
        while time.monotonic() < deadline:
            rank, age = self._heart.silent()
            is_late = age > LATE_SECONDS
            if is_late and rank == 0:  # its store would not answer
                return _named(0, f"it has not answered for {age:.0f} s")
            try:
                if is_late:
                    self._board.lose(rank, f"it has not answered for {age:.0f} s")
                if loss := self._board.loss():
                    return _named(*loss)
            except RuntimeError:
                return _named(0, "its process has ended, or its machine cannot be reached")
            time.sleep(0.02)
        return PeerLostError(
            f"an exchange of {self.size} workers failed ({_reason(problem)}) while each worker still answers; {_REMEDY}"
        )


def _named(rank: int, why: str) -> PeerLostError:
    leads = ", which leads," if rank == 0 else ""
    return PeerLostError(f"worker {rank}{leads} was lost ({why}), so that all workers stop; {_REMEDY}")


def _reason(problem: BaseException) -> str:
    """Gloo's words, without the place in its source that leads them."""
    return re.sub(r"^\[[^]]*\] ", "", first_line(problem))


def _bytes(rows: torch.Tensor) -> torch.Tensor:
    """A view: gloo knows no uint16, and moves bytes whatever they stand for. Without rows NumPy's strides may be 0, which torch
    views as no other dtype."""
    return rows.reshape(-1).view(torch.uint8) if rows.numel() else rows.new_empty(0, dtype=torch.uint8)


def leave(code: int) -> NoReturn:
    """End this process at once with `code`, after its streams are flushed: the threads of a broken group may abort a usual end,
    and the code would be lost. Nothing that was registered for the end runs."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(code)


def has_gloo() -> bool:
    """Whether this torch can connect workers at all."""
    return dist.is_available() and dist.is_gloo_available()


def given_size() -> int:
    """How many workers whoever started this process has made: of a process group, or by WORLD_SIZE; 1 where nobody has."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_world_size()
    size = _number("WORLD_SIZE", 1)
    if not size:
        raise _unusable("WORLD_SIZE", "at least 1")
    return size


def from_environment() -> bool:
    """Whether this process is one of several workers already."""
    return given_size() > 1


def started_again() -> bool:
    """Whether torchrun starts this process once more, after a worker was lost: a command then goes on with its run."""
    return _number("TORCHELASTIC_RESTART_COUNT", 0) > 0


def _number(name: str, otherwise: int | None = None) -> int:
    text = os.environ.get(name, "" if otherwise is None else str(otherwise))
    if not re.fullmatch("[0-9]{1,9}", text):
        raise _unusable(name, "a number")
    return int(text)


def _unusable(name: str, what: str) -> UsageError:
    return UsageError(
        f"the environment's {name} must be {what} where workers are started from outside, got {shown(os.environ.get(name, ''))}; "
        "start them with torchrun, or leave WORLD_SIZE unset and use --workers"
    )


@contextmanager
def joined(timeout_minutes: float = 10.0) -> Iterator[Group]:
    """The group that this process is to be in, until the block ends; an error in the block is noted for the others.

    A collective fails after `timeout_minutes` without an answer, and a wait for a command after as long without a beat of the
    leader; where another process started this one, after its minutes. Workers other than 0 ignore Ctrl-C and SIGTERM within
    the block, where it is of the main thread: the leader is asked to stop, and says what they do. Raises PeerLostError where
    workers do not come, UsageError where the environment says nothing of use.
    """
    timeout = span(float(os.environ.pop(MINUTES, timeout_minutes)))
    address = os.environ.pop(STORE, None)
    if address is None:
        with _found(timeout) as seat, _deaf(seat.rank):
            hosted = None if seat.rank else _host("", timeout)  # the store lives as long as this name
            address = _announced(seat, hosted[1] if hosted else 0)
            with _living(seat, _arrived(seat, address), address) as world:
                yield world
        return
    end_with_parent(_number(LEADER), signal.SIGKILL)
    seat = _Seat(_number("RANK"), _number("WORLD_SIZE"), None, timeout)
    with _deaf(seat.rank):
        board = _arrived(seat, address)
        with _connected(seat, board, address), _living(seat, board, address) as world:
            yield world


class Meeting:
    """The store of a world on this machine, hosted by this process, which will lead it. No other machine can reach it."""

    def __init__(self, size: int, timeout_minutes: float) -> None:
        self._timeout, self.timeout_minutes = span(timeout_minutes), timeout_minutes
        self._store, port = _host(_LOOPBACK, self._timeout)
        self.size = size
        self.address = f"{_LOOPBACK}:{port}"

    def board(self) -> Board:
        """A board for one thread."""
        return Board(_client(self.address, self._timeout), self.size)

    @contextmanager
    def led(self) -> Iterator[Group]:
        """Worker 0, once all have arrived, until the block ends. Raises PeerLostError where a worker does not come."""
        seat, timeout = _Seat(0, self.size, None, self._timeout), self._timeout
        board = _arrived(seat, self.address)
        minutes = max(timeout, _START).total_seconds() / 60
        deadline = time.monotonic() + 60 * minutes
        while missing := board.missing():
            if loss := board.loss():
                raise _named(*loss)
            if time.monotonic() > deadline:
                raise _named(missing[0], f"it did not start within {minutes:g} minutes")
            time.sleep(0.01)
        with _connected(seat, board, self.address), _living(seat, board, self.address) as world:
            yield world


def span(timeout_minutes: float) -> timedelta:
    """Raises UsageError where it is no time to wait for."""
    if not 0 < timeout_minutes < _MOST_MINUTES:
        raise UsageError(
            f"the timeout of workers must be above 0 and below {_MOST_MINUTES} minutes, got {timeout_minutes}; the default is 10"
        )
    return timedelta(minutes=timeout_minutes)


@contextmanager
def _living(seat: _Seat, board: Board, address: str) -> Iterator[Group]:
    """The world of a connected worker, with its heart. It closes after the block, or says why it does not."""
    heart = Heart(Board(_client(address, seat.timeout), seat.size), seat.rank)
    orders = Orders(Board(_client(address, _AGES), seat.size), seat.rank) if seat.rank else None
    world = Group(seat, board, heart, orders)
    try:
        with heart:
            world.meet()
            yield world
            world.close()
    except BaseException as problem:
        world.give_up(problem)
        raise
    finally:
        world.let_go()


@contextmanager
def _found(timeout: timedelta) -> Iterator[_Seat]:
    """The seat in torch's process group, by a gloo group of our own; or in a new one, as torchrun's environment has it."""
    is_adopted = dist.is_initialized()
    try:
        if is_adopted:
            seat = _Seat(dist.get_rank(), dist.get_world_size(), dist.new_group(backend="gloo", timeout=timeout), timeout)
        else:
            seat = _given_seat(timeout)
            store = _met(timeout)
            # torchrun's store lives on when it starts workers once more: addresses of the ones before are not theirs
            store = PrefixStore(f"gcnrec/{_number('TORCHELASTIC_RESTART_COUNT', 0)}", store)
            dist.init_process_group("gloo", store=store, rank=seat.rank, world_size=seat.size, timeout=timeout)
    except RuntimeError as problem:
        raise _unconnected(problem) from problem
    try:
        yield seat
    finally:
        with suppress(RuntimeError):
            dist.destroy_process_group(seat.group)


def _given_seat(timeout: timedelta) -> _Seat:
    """The seat by the environment of whoever started this process. UsageError where that is not whole."""
    seat = _Seat(_number("RANK"), given_size(), None, timeout)
    if seat.rank >= seat.size:
        raise _unusable("RANK", f"below WORLD_SIZE = {seat.size}")
    if not os.environ.get("MASTER_ADDR"):
        raise _unusable("MASTER_ADDR", "the machine of worker 0")
    if not 0 < _number("MASTER_PORT") < 1 << 16:
        raise _unusable("MASTER_PORT", "a port, 1 to 65535,")
    return seat


def _met(timeout: timedelta) -> Any:
    """Torch's store of the environment. Made by a thread: torch waits without end for a server that is no store.

    RuntimeError where none comes in time, UsageError where its port is taken.
    """
    found: SimpleQueue[Any] = SimpleQueue()

    def meet() -> None:
        try:
            found.put(next(rendezvous("env://", timeout=timeout))[0])
        except (RuntimeError, ValueError) as problem:
            found.put(problem)

    threading.Thread(target=meet, name="gcnrec rendezvous", daemon=True).start()
    place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    try:
        store = found.get(timeout=(timeout + _LATER).total_seconds())
    except Empty:
        raise RuntimeError(f"no store of workers has answered at {place}") from None
    if isinstance(store, Exception):
        if "EADDRINUSE" in str(store):
            raise UsageError(f"MASTER_PORT must be free where worker 0 runs, {place} is taken; set another one for all workers")
        raise store
    return store


@contextmanager
def _connected(seat: _Seat, board: Board, address: str) -> Iterator[None]:
    """Torch's default group, among workers of this machine alone."""
    hook, store = sys.excepthook, PrefixStore("gloo", _tcp_client(address, max(seat.timeout, _START)))
    try:
        with _unless_set("GLOO_SOCKET_IFNAME", _INTERFACE):
            dist.init_process_group("gloo", store=store, rank=seat.rank, world_size=seat.size, timeout=seat.timeout)
    except RuntimeError as problem:
        with suppress(RuntimeError):
            if loss := board.loss():
                raise _named(*loss) from problem
        raise _unconnected(problem) from problem
    try:
        with _unless_set("NCCL_SOCKET_IFNAME", _INTERFACE):  # it connects when rows of GPUs travel first
            yield
    finally:
        sys.excepthook = hook  # torch's own puts the rank before each line of a traceback
        with suppress(RuntimeError):
            dist.destroy_process_group()


@contextmanager
def _unless_set(variable: str, value: str) -> Iterator[None]:
    """The environment's `variable` has this value within the block, unless it has another."""
    earlier = os.environ.get(variable)
    os.environ[variable] = earlier or value
    try:
        yield
    finally:
        if earlier is None:
            del os.environ[variable]


def _unconnected(problem: Exception) -> PeerLostError:
    return PeerLostError(f"the workers could not connect ({_reason(problem)}); start all of them again, a training with --resume")


def _announced(seat: _Seat, port: int) -> str:
    """The address of the store that worker 0 hosts at `port`, on each worker."""
    room = torch.zeros(_ADDRESS_BYTES, dtype=torch.uint8)
    if port:
        name = f"{os.environ.get('MASTER_ADDR') or socket.gethostname()}:{port}".encode()
        room[: len(name)] = torch.tensor(list(name), dtype=torch.uint8)
    try:
        dist.broadcast(room, 0, group=seat.group)  # synchronize: workers
    except RuntimeError as problem:
        raise _unconnected(problem) from problem
    return bytes(room.tolist()).rstrip(b"\0").decode()


def _arrived(seat: _Seat, address: str) -> Board:
    """The board of a worker's main thread, after its arrival."""
    try:
        board = Board(_client(address, seat.timeout), seat.size)
        board.arrive(seat.rank)
    except RuntimeError as problem:
        raise _unconnected(problem) from problem
    return board


def _host(interface: str, timeout: timedelta) -> tuple[TCPStore, int]:
    """A store hosted by this process at a free port of `interface` (all of them: ""), and the port."""
    both = not interface and socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    listener = socket.create_server((interface, 0), family=family, dualstack_ipv6=both)
    port = listener.getsockname()[1]
    place, descriptor = interface or "localhost", listener.detach()
    try:
        store = TCPStore(place, port, None, True, timeout, wait_for_workers=False, master_listen_fd=descriptor)
    except RuntimeError as problem:  # a machine without a loopback interface, or descriptors that run out
        raise _unconnected(problem) from problem
    return store, port


def _client(address: str, timeout: timedelta) -> Store:
    return cast(Store, _tcp_client(address, timeout))  # torch's stub lacks `multi_set`


def _tcp_client(address: str, timeout: timedelta) -> TCPStore:
    """Raises PeerLostError where no store answers there."""
    host, _, port = address.rpartition(":")
    try:
        return TCPStore(host, int(port), None, False, timeout, wait_for_workers=False)
    except RuntimeError as problem:
        raise _unconnected(problem) from problem


@contextmanager
def _deaf(rank: int) -> Iterator[None]:
    """Ctrl-C and SIGTERM do nothing within the block, unless this is worker 0 or another thread than the main one."""
    hears = rank == 0 or threading.current_thread() is not threading.main_thread()
    earlier = {} if hears else {each: signal.signal(each, signal.SIG_IGN) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for each, handler in earlier.items():
            signal.signal(each, handler)
