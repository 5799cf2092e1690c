"""Ingest, evaluate and recommend on more data than they may hold: the system itself refuses them what is beyond the limit.

Small files that expand are refused by name, or done. jobs/measure/memory/limits.py says which limit of the system it is and why;
its whole run, and that of bombs.py, take minutes and are in jobs/records. Each case is a process of its own, and its limit and
its figures are that process's alone: other tests may run at the same time.
"""

from __future__ import annotations

import json
import re
import sys

import pytest

from jobs.measure.memory.bombs import MOST_GROWTH, step
from jobs.measure.memory.limits import measured


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="RLIMIT_DATA and /proc/self/status are Linux's")
@pytest.mark.parametrize(
    ("cases", "times"), [("ingest-edges", 4), ("ingest-wide-features", 2), ("evaluate,recommend", 4)]
)
def test_memory_stays_below_the_limit(tmp_path, cases, times):
    rows = list(measured(cases.split(","), tmp_path, "64MB", times))
    assert [(row["case"], row["exit_code"]) for row in rows] == [(case, 0) for case in cases.split(",")], rows
    for row in rows:
        assert row["input_bytes"] == times * 64_000_000 and 0 < row["rssanon_rise_bytes"] <= row["limit_bytes"], row


BOMBS = [
    ("long-ids", 150_000_000, "64MB", r"ids in column 'user' may have 4,096 bytes, one of 150,000,\d+ lies in row group 0 of "),
    ("repeated-id-typed", 3_000_000, "64MB", r"ids in column 'user' may have 4,096 bytes, one of 3,000,\d+ lies in row 0 of "),
    ("columns", 8000, "64MB", r"edges.parquet has a footer of [\d,]+ bytes, .* set --memory-limit \d+MB, or write"),
    (
        "feature-repeated",
        3_000_000,
        "64MB",
        r"row 0 of .*features.parquet takes 3,000,\d+ bytes, .* column 'text'; .* set ",
    ),
]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="RLIMIT_DATA and /proc/self/status are Linux's")
def test_small_files_that_expand_are_refused_by_name_within_the_limit(tmp_path):
    done = step([case[:3] for case in BOMBS], str(tmp_path))
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0 and len(rows) == len(BOMBS), done.stderr
    for row, (name, *_, message) in zip(rows, BOMBS, strict=True):
        assert row["outcome"] == "refused" and re.search(message, row["message"]), (name, row)
        assert row["growth"] <= MOST_GROWTH and row["input_bytes"] < 3_000_000, (name, row)
