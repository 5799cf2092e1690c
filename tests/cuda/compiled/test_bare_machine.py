"""The kernel tests on a machine with torch, CuPy, numba and pytest alone, as many GPU machines are."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
BLOCKS = """
import sys

class Bare:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"pydantic", "duckdb", "typer"}:
            raise ModuleNotFoundError(f"{name} is blocked", name=name)

sys.meta_path.insert(0, Bare())
"""


@pytest.mark.slow
def test_kernel_tests_are_collected_and_run(tmp_path):
    (tmp_path / "bare.py").write_text(BLOCKS, encoding="utf-8")
    paths = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    command = [sys.executable, "-m", "pytest", "-p", "bare", "-p", "no:cacheprovider", "-q", "-rs", "tests/cuda", "-k", "guard"]
    done = subprocess.run(command, cwd=ROOT, env=paths, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    left_out = {line.split(":")[0] for line in done.stdout.splitlines() if "reads jobs" in line}
    steps = (f"steps/test_{name}" for name in ("budget", "deterministic", "shared_budget", "shared_steps"))
    names = ("test_staging", "test_step", "features/test_node_steps", *steps)
    assert left_out == {f"SKIPPED [1] tests/cuda/{name}.py" for name in names}, done.stdout
    assert re.search(r"\d\d passed", done.stdout), done.stdout
