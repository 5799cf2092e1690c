"""How a process ends after SIGTERM or Ctrl-C, wherever that finds it, and what it says."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gcnrec.errors import Terminated
from gcnrec.storage import files
from gcnrec.storage.files import abandon_all, work_path
from gcnrec.system.signals import stops

ROOT = Path(__file__).parents[2]
PROGRAM = """
import ctypes, os, signal, sys, time
from pathlib import Path
from gcnrec.system import signals
from gcnrec.system.signals import stopped, stops, unhurried, watch, working
signals._GRACE_SECONDS = {}
signal.signal(signal.SIGINT, signal.default_int_handler)
watch()
def stop(number=signal.SIGTERM):
    os.kill(os.getpid(), number)
def blocked():
    "Waits in native code that no signal interrupts."
    mutex, libc = ctypes.create_string_buffer(64), ctypes.CDLL(None)
    while True:
        libc.pthread_mutex_lock(mutex)
def forever():
    while True:
        time.sleep(0.01)
class Deleted:
    def __del__(self):
        stop()
        sum(range(100))
try:
    {}
except BaseException as problem:
    print("caught", type(problem).__name__, stopped(), file=sys.stderr, flush=True)
    os._exit(7)
"""
AGAIN = "nothing half-written stays; start the same command again"


def ended(folder, *lines, grace=30.0):
    """Exit code and stderr of a process with these lines in its `try`."""
    program = PROGRAM.format(grace, "\n    ".join(lines))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=folder, env=environment, timeout=60
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize(("number", "code", "name"), [("SIGTERM", 143, "SIGTERM"), ("SIGINT", 130, "Ctrl-C")])
def test_a_signal_ends_at_once_what_can_leave_nothing_half_written(tmp_path, number, code, name):
    assert ended(tmp_path, f"stop(signal.{number})", "forever()") == (code, f"gcnrec: stopped by {name}, {AGAIN}\n")


@pytest.mark.parametrize(
    "lines",
    [
        ["stop()", "forever()"],
        ["Deleted()", "forever()"],
        ["callback = ctypes.CFUNCTYPE(None)(stop)", "callback()", "forever()"],
    ],
)
def test_at_work_a_signal_raises_also_where_python_drops_exceptions(tmp_path, lines):
    assert ended(tmp_path, "with working():", *(f"    {line}" for line in lines)) == (
        7,
        f"caught Terminated stopped by SIGTERM, {AGAIN}\n",
    )


def test_a_signal_never_raises_inside_an_import(tmp_path):
    """A module that makes another error of it: the command ends at once, or after the import where a file is unfinished."""
    noisy = [
        "import os",
        "try:",
        "    os.kill(os.getpid(), 15)",
        "    sum(range(9))",
        "except BaseException:",
        "    raise ImportError",
    ]
    (tmp_path / "noisy.py").write_text("\n".join(noisy))
    lines = ["from gcnrec.storage.files import work_path", "with working():", "    import noisy", "    forever()"]
    assert ended(tmp_path, *lines) == (143, f"gcnrec: stopped by SIGTERM, {AGAIN}\n")
    lines[1] = "with working(), work_path(Path('file')):"
    assert ended(tmp_path, *lines) == (7, f"caught Terminated stopped by SIGTERM, {AGAIN}\n")


def test_a_signal_never_raises_inside_a_compiler(tmp_path):
    """Half-made objects of LLVM are freed twice: the command ends at once, or behind the compiler where a file is unfinished."""
    compiling = "    exec('stop(); sum(range(9)); print(5)', {'__name__': 'llvmlite.binding.ffi', 'stop': stop})"
    lines = ["from gcnrec.storage.files import work_path", "with working():", compiling, "    forever()"]
    assert ended(tmp_path, *lines) == (143, f"gcnrec: stopped by SIGTERM, {AGAIN}\n")
    lines[1] = "with working(), work_path(Path('file')):"
    assert ended(tmp_path, *lines) == (7, f"caught Terminated stopped by SIGTERM, {AGAIN}\n")


def test_half_made_objects_complain_before_a_signal_only(tmp_path):
    program = ["class HalfMade:", "    def __del__(self):", "        raise AttributeError('half-made')"]
    code, said = ended(tmp_path, *program, "HalfMade()", "with working():", "    stop()", "    forever()")
    assert (code, said.count("half-made\n")) == (7, 1)
    raised = ["with working():", "    try:", "        stop()", "        forever()", "    finally:", "        HalfMade()"]
    assert ended(tmp_path, *program, *raised) == (7, f"caught Terminated stopped by SIGTERM, {AGAIN}\n")


def test_what_swallows_everything_or_blocks_in_native_code_is_ended(tmp_path):
    swallowing = ["with working():", "    while True:", "        try:", "            stop()"]
    swallowing += ["            forever()", "        except BaseException:", "            blocked()"]
    assert ended(tmp_path, *swallowing, grace=0.2) == (143, f"gcnrec: stopped by SIGTERM, {AGAIN}\n")


def test_unfinished_files_go_and_a_folder_that_was_moved_aside_comes_back(tmp_path):
    lines = ["from gcnrec.storage.files import work_path", "from gcnrec.storage.locks import locked"]
    lines += ["os.mkdir('data')", "Path('data/old').touch()", "lock = locked(Path('lock'), Path('data'))"]
    lines += ["with working(), lock, work_path(Path('data'), 'old') as old, work_path(Path('data')) as new:"]
    lines += ["    os.rename('data', old)", "    new.mkdir()", "    Path(new, 'half').touch()"]
    lines += ["    import threading", "    threading.Timer(0.1, stop).start()", "    blocked()"]
    assert ended(tmp_path, *lines, grace=0.2)[0] == 143
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == ["data", "data/old"]


def test_a_second_signal_ends_what_is_waited_for(tmp_path):
    code, said = ended(
        tmp_path, "with stops(Path('run')) as run, working(), run.deferred():", "    stop()", "    stop()", "    forever()"
    )
    assert (code, said) == (143, "gcnrec: stopped by SIGTERM before run was begun; start the same command again\n")


def test_a_first_signal_waits_for_the_end_of_a_step(tmp_path):
    lines = ["os.mkdir('run')", "with working(), stops(Path('run')) as run:", "    with run.deferred():", "        stop()"]
    lines += ["        time.sleep(0.8)", "        print('saved', run.asked.name, file=sys.stderr)", "    forever()"]
    said = "saved SIGTERM\ncaught Terminated stopped by SIGTERM; continue run with --resume (from Python: resume=True)\n"
    assert ended(tmp_path, *lines) == (7, said)


def test_a_signal_after_the_work_says_that_it_is_done(tmp_path):
    code, said = ended(tmp_path, "with working():", "    pass", "stop()", "forever()")
    assert (code, said) == (143, "gcnrec: stopped by SIGTERM when all that had begun was done; what was written is whole\n")


def test_what_was_dropped_is_not_raised_again_while_the_end_is_reported(tmp_path):
    """The sentence takes a while to say, and the thread that raises again what Python dropped leaves it alone."""
    lines = ["plain = stopped", "def stopped():", "    problem = plain()", "    time.sleep(0.3)", "    return problem"]
    code, said = ended(tmp_path, *lines, "with working():", "    Deleted()")
    assert (code, said) == (7, f"caught Terminated stopped by SIGTERM, {AGAIN}\n")


def test_a_run_that_has_not_begun_is_not_to_be_resumed(tmp_path):
    for expected in ("before .* was begun; start the same command again", "continue .* with --resume"):
        with pytest.raises(Terminated, match=expected), stops(tmp_path / "run"):
            signal.raise_signal(signal.SIGTERM)
        (tmp_path / "run").mkdir(exist_ok=True)


def test_what_is_abandoned_never_becomes_the_folder(tmp_path):
    with work_path(tmp_path / "data") as work, work_path(tmp_path / "file") as part:
        work.mkdir()
        (work / "half").touch()
        part.touch()
        abandon_all()
        with pytest.raises(FileNotFoundError):
            work.rename(tmp_path / "data")
    assert list(tmp_path.iterdir()) == [] and not files._mine


def test_a_signal_while_the_main_thread_ends_the_process_waits_for_nothing(tmp_path):
    """The handler interrupts the very thread that ends the process: it ends it, too, where it once waited for itself."""
    lines = [
        "from gcnrec.storage import files",
        "plain, again = files.abandon_all, []",
        "files.abandon_all = lambda: again or (again.append(1), stop(), time.sleep(0.2), plain())",
        "signals._watch._leave()",
    ]
    code, said = ended(tmp_path, *lines)
    assert code == 143 and said == f"gcnrec: stopped by SIGTERM, {AGAIN}\n"
