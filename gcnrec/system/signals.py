"""SIGTERM and Ctrl-C: every command ends within seconds, whatever it does then; a run that trains finishes and saves its step.

The command line has a `Watch`. A signal ends the process at once while nothing can be half-written. Within `working` it raises
in the main thread, so that unfinished files go. Python drops what is raised in finalizers and callbacks, and raises nothing while
native code runs: a thread raises again what was dropped, and ends the process some seconds later, or at a second signal.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from gcnrec.errors import Terminated

if TYPE_CHECKING:
    from pathlib import Path
    from types import FrameType

_PARENT = "GCNREC_PARENT"
"""In the environment of a command: the number of the process that it is to end with."""
_GRACE_SECONDS = 3.5
"""From a first signal, or the end of a step that was to be saved, to the end of the process."""
_POLL_SECONDS = 0.05
_WRITE_SECONDS = 0.5
"""How long the last sentence waits for a reader."""
_COMPILERS = ("llvmlite", "numba")
"""Their objects belong to LLVM: half-made ones are freed twice, or never."""
_BOTH = (signal.SIGINT, signal.SIGTERM)
_watch: Watch | None = None


class Stop:
    """What was asked of a run that trains. Outside of `deferred`, a signal raises where it finds the main thread.

    KeyboardInterrupt for Ctrl-C, Terminated for SIGTERM: each says how the run in `folder` continues, or that it has not begun.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._deferred = 0
        self.asked: signal.Signals | None = None
        self.at_once = False

    def handle(self, number: int, frame: FrameType | None) -> None:
        """The handler of both signals where no `Watch` is."""
        self.at_once = self.asked is not None
        self.ask(signal.Signals(number))
        if self.at_once or self.raises:
            raise self.problem()

    def ask(self, number: signal.Signals) -> None:
        self.asked = self.asked or number

    @property
    def raises(self) -> bool:
        """Whether a signal raises at once."""
        return not self._deferred

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """A first signal raises at the end of the block, however long it takes; `asked` has it before."""
        self._deferred += 1
        try:
            with unhurried():
                yield
        finally:
            self._deferred -= 1
        if self.asked is not None and not self._deferred:
            raise self.problem()

    def problem(self) -> BaseException:
        name = _name(self.asked)
        text = f"stopped by {name}; continue {self._folder} with --resume (from Python: resume=True)"
        if not self._folder.exists():
            text = f"stopped by {name} before {self._folder} was begun; start the same command again"
        return _problem(self.asked, text)


@contextmanager
def stops(folder: Path) -> Iterator[Stop]:
    """Catches both signals while the run in `folder` trains, and restores the previous handlers.

    Only the main thread can; a signal that was ignored stays ignored.
    """
    stop, earlier = Stop(folder), {}
    in_main = threading.current_thread() is threading.main_thread()
    watch = _watch if in_main else None
    try:
        if watch:
            watch.push(stop)
        elif in_main:
            for number in _BOTH:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    earlier[number] = signal.signal(number, stop.handle)
        yield stop
    finally:
        if watch:
            watch.pop(stop)
        for number, handler in earlier.items():
            signal.signal(number, handler)


class Watch:
    """Both signals, for the whole life of a command line; made in the main thread, once.

    `line` makes bytes of the last sentence and the exit code. SIGINT that was ignored stays ignored.
    """

    def __init__(self) -> None:
        self.line: Callable[[str, int], bytes] = lambda text, _: f"gcnrec: {text}\n".encode()
        self.asked: signal.Signals | None = None
        self._has_said = False
        self._stops: list[Stop] = []
        self._text = ""
        self._working = self._unhurried = 0
        self._is_done = self._handled = False
        self._lost = False  # the exception was dropped
        self._kicked = False  # our own thread has sent a signal, which `_handle` has not met
        self._own = 0  # such signals that the thread itself will read
        self._leaving = threading.RLock()  # a signal may come while the main thread leaves: its handler leaves, too
        self._reader, writer = os.pipe()
        os.set_blocking(writer, False)
        for number in _BOTH:
            if number is signal.SIGTERM or signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._handle)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))
        self._unraisable, sys.unraisablehook = sys.unraisablehook, self._dropped
        threading.Thread(target=self._guard, name="gcnrec signals", daemon=True).start()

    def problem(self) -> BaseException | None:
        """What ends the command, with its sentence; None before a signal. Who asks reports it: the thread then says nothing."""
        if self.asked is None:
            return None
        self._has_said = True
        return _problem(self.asked, self._sentence())

    def push(self, stop: Stop) -> None:
        """Signals are for `stop` from now on, also a signal that has come."""
        if self.asked:
            stop.ask(self.asked)
        self._stops.append(stop)

    def pop(self, stop: Stop) -> None:
        if self.asked and not self._text:
            self._text = str(stop.problem())
        self._stops.remove(stop)

    @contextmanager
    def working(self) -> Iterator[None]:
        self._working, self._is_done = self._working + 1, False
        try:
            yield
        finally:
            self._working -= 1
        if self.asked:  # whatever became of the exception
            raise _problem(self.asked, self._sentence())
        self._is_done = not self._working

    @contextmanager
    def unhurried(self) -> Iterator[None]:
        self._unhurried += 1
        try:
            yield
        finally:
            self._unhurried -= 1

    def _handle(self, number: int, frame: FrameType | None) -> None:
        again, self._lost, self._kicked = self._kicked, False, False
        if again and self._has_said:  # who reports it has met it
            return
        second, self._handled = self._handled and not again, True
        self.asked = self.asked or signal.Signals(number)
        if second or not self._working:
            self._leave()
        if self._stops:
            self._stops[-1].ask(self.asked)
            if not self._stops[-1].raises:
                return
        if _is_fragile(frame):
            if not (self._stops or _is_writing()):
                self._leave()
            self._lost = True
            return
        self._text = self._sentence()
        raise _problem(self.asked, self._text)

    def _dropped(self, about: sys.UnraisableHookArgs) -> None:
        """Note that our exception was raised where Python drops it. After a signal, half-made objects say nothing, too."""
        if self.asked is None:
            self._unraisable(about)
        elif isinstance(about.exc_value, (KeyboardInterrupt, Terminated)):
            self._lost = True

    def _guard(self) -> None:
        """Wait for signals; after the first one, for the end of the command or of the grace."""
        poll, deadline = select.poll(), None
        poll.register(self._reader, select.POLLIN)
        while True:
            if poll.poll(None if deadline is None else 1000 * _POLL_SECONDS):
                for number in os.read(self._reader, 64):
                    if number not in _BOTH:
                        continue
                    if self._own:
                        self._own -= 1
                        continue
                    self.asked = self.asked or signal.Signals(number)
                    if deadline is not None or not (self._working or self._handled):  # or raised, and out of `working` since
                        self._leave()
                    deadline = time.monotonic() + _GRACE_SECONDS
            elif self._unhurried:
                deadline = time.monotonic() + _GRACE_SECONDS
            elif deadline is not None and time.monotonic() > deadline:
                self._leave()
            elif self._lost and not (self._kicked or self._has_said) and self.asked:
                self._kicked, self._own = True, self._own + 1
                signal.pthread_kill(threading.main_thread().ident or 0, self.asked)

    def _leave(self) -> None:
        """End the process, from whichever thread comes first; unfinished files go, and a sentence says so."""
        if not self._leaving.acquire(blocking=False):
            while True:
                time.sleep(_GRACE_SECONDS)
        code = _code(self.asked)
        try:
            if files := _loaded("files"):
                files.abandon_all()
            if locks := _loaded("locks"):
                locks.abandon_locks()
            if not self._has_said:
                _write(2, self.line(self._sentence(), code))
        finally:
            os._exit(code)

    def _sentence(self) -> str:
        if self._stops:
            return str(self._stops[-1].problem())
        if self._is_done:
            return f"stopped by {_name(self.asked)} when all that had begun was done; what was written is whole"
        return self._text or f"stopped by {_name(self.asked)}, nothing half-written stays; start the same command again"


def watch() -> Watch:
    """The watch of this process, made by the first call, which must come from the main thread."""
    global _watch
    _watch = _watch or Watch()
    return _watch


def end_line(line: Callable[[str, int], bytes]) -> None:
    """Have the watch of this process, if there is one, say its last sentence by `line`."""
    if _watch:
        _watch.line = line


def stopped() -> BaseException | None:
    """KeyboardInterrupt or Terminated, with a sentence, when a signal came to a watched command."""
    return _watch.problem() if _watch else None


def working() -> AbstractContextManager[None]:
    """Something may be half-written within the block: a signal raises, where it would have ended the process."""
    return _watch.working() if _watch else nullcontext()


def unhurried() -> AbstractContextManager[None]:
    """The end of the block is waited for, also after a first signal."""
    return _watch.unhurried() if _watch else nullcontext()


def child_environment() -> dict[str, str]:
    """The environment of a command that is to end, as by SIGTERM, when this process has ended. Where this process is one of
    several workers (torchrun), the command is none of them."""
    environment = {**os.environ, _PARENT: str(os.getpid())}
    environment.pop("WORLD_SIZE", None)
    return environment


def follow_parent() -> None:
    """End with the parent that started this command with a `child_environment`; children of this command do not."""
    parent = os.environ.pop(_PARENT, "")
    if parent.isdecimal():
        end_with_parent(int(parent), signal.SIGTERM)


def end_with_parent(parent: int, number: signal.Signals) -> None:
    """Send this process the signal `number` when its `parent` has ended, however that ended."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, int(number), 0, 0, 0)  # PR_SET_PDEATHSIG
    else:
        threading.Thread(target=_follow, args=(parent, number), daemon=True).start()
    if os.getppid() != parent:  # it ended before
        os.kill(os.getpid(), number)


def _follow(parent: int, number: signal.Signals) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    os.kill(os.getpid(), number)


def _name(number: signal.Signals | None) -> str:
    return "Ctrl-C" if number is signal.SIGINT else "SIGTERM"


def _code(number: signal.Signals | None) -> int:
    return 128 + (number or signal.SIGTERM)


def _problem(number: signal.Signals | None, text: str) -> BaseException:
    return KeyboardInterrupt(text) if number is signal.SIGINT else Terminated(text)


def _is_writing() -> bool:
    files = _loaded("files")
    return files is not None and files.is_writing()


def _loaded(name: str) -> Any:
    """A module of the storage, if the command has got so far: an import could wait for one of the main thread."""
    return sys.modules.get(f"gcnrec.storage.{name}")


def _is_fragile(frame: FrameType | None) -> bool:
    """Whether a module is being imported, or a kernel compiled or loaded: what raises there becomes another error, or a crash."""
    while frame is not None:
        package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if package in _COMPILERS or frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _write(descriptor: int, line: bytes) -> None:
    """Write `line` if its reader takes it soon: the lock of a stream may be held by a thread that waits for that reader."""
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLOUT)
        if poll.poll(1000 * _WRITE_SECONDS):
            os.write(descriptor, line)
    except OSError:
        pass
