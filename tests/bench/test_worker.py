"""A worker answers, passes exceptions on, and is gone when its block ends or its process dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from gcnrec.bench.worker import Worker
from gcnrec.errors import DeviceError

_state: list[int] = []


def remember(value):
    _state.append(value)
    return os.getpid(), _state


def import_what_is_not_there():
    raise ImportError("no module named peer")


def sleep_for_long():
    time.sleep(600)


def test_calls_share_one_other_process():
    with Worker() as worker:
        first, second = worker(remember, 1), worker(remember, 2)
    assert first[0] == second[0] != os.getpid() and second[1] == [1, 2] and _state == []
    assert not psutil.pid_exists(first[0])


def test_an_exception_is_raised_here_and_the_worker_continues():
    with Worker() as worker:
        with pytest.raises(ImportError, match="no module named peer"):
            worker(import_what_is_not_there)
        assert worker(max, 1, 2) == 2


@pytest.mark.serial
def test_a_worker_that_was_killed_while_it_waited_is_reported():
    with Worker() as worker:
        os.kill(worker(os.getpid), signal.SIGTERM)
        with pytest.raises(DeviceError, match=r"run abs ended by itself \(exit code -15\)"):
            worker(abs, 1)


@pytest.mark.serial
def test_a_busy_worker_ends_with_its_block():
    def alarm(number, frame):
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, alarm)
    try:
        with Worker() as worker, pytest.raises(TimeoutError):
            pid = worker(os.getpid)
            signal.setitimer(signal.ITIMER_REAL, 0.5)
            worker(sleep_for_long)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert not psutil.pid_exists(pid)


PARENT = """
import os, time
from gcnrec.bench.worker import Worker
with Worker() as worker:
    print(worker(os.getpid), flush=True)
    worker(time.sleep, 600)
"""


@pytest.mark.serial
def test_a_busy_worker_ends_with_a_parent_that_was_killed():
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        worker = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    assert worker.wait(60) is None or not worker.is_running()
