"""When followers start, and that none outlives a leader that ends meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextlib import nullcontext
from pathlib import Path

import psutil
import pytest
import torch

from gcnrec.commands import workers as commands
from gcnrec.errors import DataError, UsageError
from gcnrec.testing import checkerboard, write_dataset
from gcnrec.workers import launch
from gcnrec.workers.launch import led_later

OBEYING = "worker_programs.obeying"
LEADING = """
import os, subprocess, sys
command = ["-m", "gcnrec.workers.started", str(os.getpid()), "worker_programs.loading"]
subprocess.Popen([sys.executable, *command], start_new_session=True)
sys.stdin.read()
"""


@pytest.fixture
def nobody_starts(monkeypatch):
    """What was asked to start; starting anybody fails."""
    asked = []
    monkeypatch.setattr(launch, "_started", lambda meeting, rank, module: asked.append(rank) or 1 / 0)
    return asked


def test_workers_that_nobody_needs_do_not_start(nobody_starts):
    before = threading.enumerate()
    with led_later(2, module=OBEYING) as world:
        assert (world.rank, world.size, world.local_size) == (0, 2, 2)
        assert threading.enumerate() == before
    assert nobody_starts == [] and not torch.distributed.is_initialized()
    with pytest.raises(ZeroDivisionError), led_later(2, module=OBEYING) as world:
        world.start()
    assert nobody_starts == [1]
    for refused in ((0, 1.0), (2, 0.0)):
        with pytest.raises(UsageError), led_later(*refused):
            pass


@pytest.mark.parametrize("command", ["train", "run"])
def test_what_is_refused_starts_no_worker(gcnrec, tmp_path, nobody_starts, command):
    """A job that workers cannot share, then a run folder of another job."""
    write_dataset(checkerboard(), tmp_path / "data")
    (tmp_path / "job.toml").write_text('[model]\nname = "ngcf"\npropagation = "full"\n[optimizer]\nrule = "adam"\n')
    code, out, err = gcnrec(command, "job.toml", "--data", "data", "--out", "run", "--workers", 2)
    assert (code, out) == (2, "") and "2 workers cannot share this job: ngcf mixes the columns" in err
    assert nobody_starts == [] and not (tmp_path / "run").exists()


@pytest.mark.slow
def test_workers_that_only_started_end_in_peace():
    """The last command reaches them."""
    with led_later(2, 1.0, OBEYING) as world:
        world.start()
        (follower,) = [each for each in psutil.Process().children() if OBEYING in each.cmdline()]
    assert world.connected()._board.has_departed(1) and not follower.is_running()


def test_a_follower_that_still_loads_ends_with_its_leader():
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    leader = subprocess.Popen([sys.executable, "-c", LEADING], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
    follower = psutil.Process(int(leader.stdout.readline()))
    try:
        assert "worker_programs.loading" in follower.cmdline()
        leader.send_signal(signal.SIGKILL)
        leader.communicate(timeout=20)  # both have closed their stdout
    finally:
        if follower.is_running():
            follower.kill()


def test_a_follower_leaves_its_error_to_the_leader(monkeypatch, capfd):
    """Whose command may report as JSON."""

    def fails(world):
        raise DataError("this machine has other data")

    monkeypatch.setattr(commands, "joined", nullcontext)
    monkeypatch.setattr("gcnrec.training.workers.follower.follow", fails)
    monkeypatch.setattr(commands, "leave", lambda code: sys.exit(code))
    with pytest.raises(SystemExit) as ended:
        commands.main()
    assert ended.value.code == DataError.exit_code and capfd.readouterr() == ("", "")


def test_started_imports_nothing_large():
    program = "import sys, gcnrec.workers.started; print({'torch', 'numpy', 'numba'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr
