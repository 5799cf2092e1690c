"""Ingest, evaluate and recommend on more data than they may hold: the system itself refuses them what is beyond the limit.

jobs/measure/memory/limits.py says which limit of the system that is and why; its whole run takes minutes and is in jobs/records.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.serial
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="RLIMIT_DATA and /proc/self/status are Linux's")
@pytest.mark.parametrize(
    ("cases", "times"), [("ingest-edges", 10), ("ingest-wide-features", 2), ("ingest-many-words", 2), ("evaluate,recommend", 10)]
)
def test_memory_stays_below_the_limit(tmp_path, cases, times):
    command = [
        sys.executable,
        "-m",
        "jobs.measure.memory.limits",
        "--limit",
        "64MB",
        "--times",
        str(times),
        "--cases",
        cases,
        "--folder",
        str(tmp_path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0 and [row["case"] for row in rows] == cases.split(","), done.stderr + done.stdout
    for row in rows:
        assert row["input_bytes"] == times * 64_000_000 and 0 < row["rssanon_rise_bytes"] <= row["limit_bytes"], row
