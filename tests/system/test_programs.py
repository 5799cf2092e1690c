"""Processes of this package that start others: a user's files of common names do not come into their way."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import gcnrec
from gcnrec.system.programs import import_paths, program
from gcnrec.system.signals import child_environment

PACKAGE = Path(gcnrec.__file__).parent


def test_files_of_the_working_directory_are_not_imported(tmp_path, monkeypatch):
    """But where this process imports from there, a program does so, too."""
    for name in ("runpy.py", "signal.py", "numbers.py"):
        (tmp_path / name).write_text("raise RuntimeError('a file of the user')")
    (tmp_path / "mine.py").write_text("print('run')")
    monkeypatch.chdir(tmp_path)

    def run(module):
        command = program("gcnrec.workers.started", str(os.getpid()), module)
        return subprocess.run(command, env={**os.environ, **import_paths()}, capture_output=True, text=True)

    done = run("gcnrec.workers.board")
    assert (done.returncode, done.stderr) == (0, "")
    assert "No module named mine" in run("mine").stderr
    for name in ("runpy.py", "signal.py"):
        (tmp_path / name).unlink()
    monkeypatch.syspath_prepend("")
    assert run("mine").stdout == "run\n"


def test_a_run_of_a_sweep_is_no_worker_of_the_sweep(monkeypatch):
    """Under torchrun it would wait for a run of another process."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    environment = child_environment()
    assert "WORLD_SIZE" not in environment and environment["GCNREC_PARENT"] == str(os.getpid())
    assert os.environ["WORLD_SIZE"] == "2"


def test_no_program_starts_otherwise():
    sources = {str(path.relative_to(PACKAGE)): path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")}
    assert sorted(name for name, source in sources.items() if "sys.executable" in source) == [
        "console/encoding.py",  # this command again
        "system/programs.py",
    ]
