"""The way between two workers of one host: a Unix socket for small messages, and memory that both map for large ones.

Each worker has two pieces of memory for each neighbour and fills them in turn. A word through the socket says that a message is
there, both ways at once: a worker that has the word of large message n + 1 knows that its neighbour has read message n, whose
memory message n + 2 fills. Gloo wakes threads for each message, and copies a large one through the system.
Memory is anonymous (Linux's memfd): no file stays, and a container's small /dev/shm does not matter. Workers that cannot reach
each other so, as from containers with networks of their own, go on with gloo. Letters: W workers, C columns.
"""

from __future__ import annotations

import mmap
import os
import secrets
import select
import socket
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from datetime import timedelta
from itertools import chain
from typing import NamedTuple

import torch

from gcnrec.errors import DeviceError, first_line, os_remedy

LARGE_BYTES = 1 << 14
"""Larger messages and their answers go through memory. A socket holds several small ones: no worker waits to send."""
_ROOM = 4 * LARGE_BYTES
"""Of a socket, and of memory at first: what a neighbour takes of the process's descriptors is taken when the two meet."""
_PIECES = 2
_WORD = struct.Struct("=q")
"""Of a large message: the length of the memory in which it is. Of a greeting: the worker's key."""
_CREDENTIALS = struct.Struct("3i")
"""Linux's ucred: process, user, group."""
_MEET_SECONDS = 10.0
"""For the memory of a worker that has been greeted."""
_MOST = timedelta(days=20)
"""To wait in a socket: Python counts the milliseconds in 31 bits, and a longer time may end at once."""
Swap = Callable[[torch.Tensor], torch.Tensor]
"""Row w of an int64 matrix goes to worker w; row w of what comes is of worker w. All workers call it together."""


class Message(NamedTuple):
    """So many bytes, which `write` writes into memory for them, uint8."""

    length: int
    write: Callable[[torch.Tensor], object]


def message_of(content: torch.Tensor) -> Message:
    """Bytes that lie somewhere, uint8."""
    return Message(len(content), lambda out: out.copy_(content))  # copy: into shared memory, or for a socket


class Memory:
    """Memory under a descriptor, mapped as far as it is used."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor, self._mapped = descriptor, torch.empty(0, dtype=torch.uint8)

    @property
    def size(self) -> int:
        return len(self._mapped)

    def grow(self, length: int) -> None:
        """Have room for so many bytes. Pages take no memory until they are written, so twice the room costs nothing."""
        if length > self.size:
            with _short(2 * length):
                os.ftruncate(self.descriptor, 2 * length)
            self.map(2 * length)

    def map(self, size: int) -> None:
        """Map memory that has this size."""
        if size != self.size:
            self._mapped = torch.empty(0, dtype=torch.uint8)  # the earlier mapping goes first: each holds a descriptor
            with _short(size):
                self._mapped = torch.frombuffer(mmap.mmap(self.descriptor, size), dtype=torch.uint8)

    def part(self, length: int) -> torch.Tensor:
        return self._mapped[:length]


class Neighbour:
    """The way to and from one worker of this host. For each exchange both call `send`, then `receive`.

    RuntimeError where the other has ended, or does not answer within the socket's timeout.
    """

    def __init__(self, line: socket.socket, mine: Sequence[Memory], other: Sequence[Memory]) -> None:
        self._line, self._mine, self._other, self._turn = line, mine, other, 0

    def wait_at_most(self, timeout: timedelta) -> None:
        self._line.settimeout(min(timeout, _MOST).total_seconds())

    def send(self, message: Message, comes: int) -> None:
        """Send a message without a wait; so many bytes are to come back."""
        if max(message.length, comes) > LARGE_BYTES:
            memory = self._mine[self._turn]
            memory.grow(message.length)
            message.write(memory.part(message.length))
            self._say(_WORD.pack(memory.size))
        elif message.length:
            content = torch.empty(message.length, dtype=torch.uint8)
            message.write(content)
            self._say(content.numpy().data)

    def receive(self, length: int, went: int) -> torch.Tensor:
        """So many bytes, uint8, that the other has sent; so many went there. Waits for them.

        Large ones lie in the other's memory, until the next `send`.
        """
        if max(length, went) > LARGE_BYTES:
            memory = self._other[self._turn]
            self._turn = (self._turn + 1) % _PIECES
            memory.map(*_WORD.unpack(self._heard(_WORD.size).numpy().data))
            return memory.part(length)
        return self._heard(length)

    def answers(self, length: int, went: int) -> bool:
        """Whether anything comes through the socket for so many bytes each way."""
        return length > 0 or went > LARGE_BYTES

    def fileno(self) -> int:
        """Of the socket, for `poll`."""
        return self._line.fileno()

    def close(self) -> None:
        self._line.close()
        for memory in (*self._mine, *self._other):
            os.close(memory.descriptor)

    def _say(self, content: bytes | memoryview) -> None:
        with _broken():
            self._line.sendall(content)

    def _heard(self, length: int) -> torch.Tensor:
        heard, count = torch.empty(length, dtype=torch.uint8), 0
        with _broken():
            while count < length:  # synchronize: the neighbour
                more = self._line.recv_into(heard.numpy().data[count:])
                if not more:
                    raise RuntimeError("the connection to a worker of this host has ended")
                count += more
        return heard


def swapped(
    near: Mapping[int, Neighbour], messages: Sequence[Message], ins: Sequence[int], timeout: timedelta
) -> dict[int, torch.Tensor]:
    """Send each neighbour w messages[w], and return what comes of each, ins[w] bytes as uint8, until the next call.

    The first to speak is heard first: a neighbour that ends is noticed while another still computes.
    """
    for worker, neighbour in near.items():
        neighbour.send(messages[worker], ins[worker])
    awaited = {each.fileno(): worker for worker, each in near.items() if each.answers(ins[worker], messages[worker].length)}
    silent = near.keys() - awaited.values()
    return {
        worker: near[worker].receive(ins[worker], messages[worker].length)
        for worker in chain(silent, _speaking(awaited, timeout))
    }


def _speaking(workers: Mapping[int, int], timeout: timedelta) -> Iterator[int]:
    """The workers behind descriptors, as soon as each has sent something, or has ended. RuntimeError where none does in time."""
    poll, left = select.poll(), dict(workers)
    for descriptor in left:
        poll.register(descriptor, select.POLLIN)
    while left:
        ready = poll.poll(min(timeout, _MOST).total_seconds() * 1000)  # synchronize: any neighbour
        if not ready:
            raise RuntimeError("the connection to a worker of this host failed (timed out)")
        for descriptor, _ in ready:
            poll.unregister(descriptor)
            yield left.pop(descriptor)


@contextmanager
def _short(length: int) -> Iterator[None]:
    """What the system says of memory that it does not give becomes a sentence."""
    try:
        yield
    except OSError as problem:
        remedy = os_remedy(problem, "raise the limits that 'ulimit -a' shows, or set a smaller train.batch_size")
        raise DeviceError(
            f"a worker was to share {length} bytes of memory with another of this host, and got none "
            f"({problem.strerror or first_line(problem)}); {remedy}"
        ) from problem


@contextmanager
def _broken() -> Iterator[None]:
    """What a socket says of a lost neighbour becomes the RuntimeError that gloo raises too."""
    try:
        yield
    except OSError as problem:
        raise RuntimeError(f"the connection to a worker of this host failed ({problem})") from problem


def neighbours(swap: Swap, rank: int, size: int, near: Sequence[int], timeout: timedelta) -> dict[int, Neighbour]:
    """The workers out of `near`, all others of this host, to which there is such a way. All workers call it together."""
    listener, name = _listening(len(near))
    key = secrets.randbits(62)
    with listener or nullcontext():
        called = swap(torch.tensor([[*name, key]] * size)).tolist()
        lines = {worker: line for worker in near if worker < rank and (line := _greeted(called[worker][:2], key))}
        calls = swap(torch.tensor([[int(worker in lines)] for worker in range(size)])).flatten()
        lines |= _accepted(listener, {called[worker][2]: worker for worker in near if calls[worker]})
    found = {worker: neighbour for worker, line in lines.items() if (neighbour := _paired(line))}
    try:
        able = swap(torch.tensor([[int(worker in found)] for worker in range(size)])).flatten()
    except BaseException:
        for neighbour in found.values():
            neighbour.close()
        raise
    for worker in [worker for worker in found if not able[worker]]:
        found.pop(worker).close()
    for neighbour in found.values():
        neighbour.wait_at_most(timeout)
    return found


def _listening(count: int) -> tuple[socket.socket | None, list[int]]:
    """Listen for so many neighbours under a name that cannot be guessed, two numbers; zeros where there are no such names."""
    numbers = [secrets.randbits(62) + 1 for _ in range(2)]
    listener = None
    try:
        listener = socket.socket(socket.AF_UNIX)
        listener.setblocking(False)
        listener.bind(_address(numbers))
        listener.listen(count)
    except OSError:
        if listener:
            listener.close()
        return None, [0, 0]
    return listener, numbers


def _address(numbers: Sequence[int]) -> str:
    """In Linux's abstract namespace: it belongs to a network, and no file stays."""
    return "\0gcnrec-{:x}-{:x}".format(*numbers)


def _greeted(numbers: Sequence[int], key: int) -> socket.socket | None:
    """A connection to the worker that listens there, which has got the key of this one; None where it cannot be reached."""
    if not any(numbers):
        return None
    line = None
    try:
        line = socket.socket(socket.AF_UNIX)
        line.settimeout(_MEET_SECONDS)
        line.connect(_address(numbers))
        if _is_ours(line):
            line.sendall(_WORD.pack(key))
            return line
    except OSError:
        pass
    if line:
        line.close()
    return None


def _is_ours(line: socket.socket) -> bool:
    """Whether the other end belongs to the user of this process."""
    _, user, _ = _CREDENTIALS.unpack(line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return bool(user == os.geteuid())


def _accepted(listener: socket.socket | None, callers: dict[int, int]) -> dict[int, socket.socket]:
    """The connections of the workers that have called, by their keys. It does not wait: they have greeted already.

    A stranger that has found the name, which the system shows, knows no key.
    """
    lines: dict[int, socket.socket] = {}
    with suppress(OSError):  # no more calls, or no more descriptors
        while listener and len(lines) < len(callers):
            line = listener.accept()[0]
            caller = callers.get(_key(line))
            if caller is None or caller in lines:
                line.close()
            else:
                line.settimeout(_MEET_SECONDS)
                lines[caller] = line
    return lines


def _key(line: socket.socket) -> int:
    """The key in the greeting that has come; -1, which no worker has, where none has."""
    with suppress(OSError, struct.error):
        line.setblocking(False)
        if _is_ours(line):
            return int(_WORD.unpack(line.recv(_WORD.size))[0])
    return -1


def _paired(line: socket.socket) -> Neighbour | None:
    """The way through a connection, after both have given each other their memory; None where one cannot."""
    mine: list[int] = []
    other: list[int] = []
    try:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _ROOM)
        for _ in range(_PIECES):
            mine.append(os.memfd_create("gcnrec rows"))
            os.ftruncate(mine[-1], _ROOM)
        socket.send_fds(line, [b"m"], mine)
        other += socket.recv_fds(line, 1, _PIECES)[1]
        for descriptor in other:  # `recv_fds` of Python 3.11 ignores its flags
            os.set_inheritable(descriptor, False)
        if len(other) == _PIECES:
            return Neighbour(line, [_mapped(each) for each in mine], [_mapped(each) for each in other])
    except (OSError, AttributeError, DeviceError):  # a system without such memory
        pass
    line.close()
    for descriptor in (*mine, *other):
        os.close(descriptor)
    return None


def _mapped(descriptor: int) -> Memory:
    """Memory that has room for a message already."""
    memory = Memory(descriptor)
    memory.map(_ROOM)
    return memory
