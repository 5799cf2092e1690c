"""The ingest bench at a small size: both ways give the same edges and ids."""

from __future__ import annotations

import pytest

from gcnrec.bench.ingest import run


@pytest.mark.slow
def test_both_agree(tmp_path):
    rows = list(run(rows=5000, users=400, items=150, memory_limit="256MB", runs=1, folder=tmp_path))
    assert [row.get("variant") for row in rows] == ["gcnrec", "duckdb-sql", None]
    assert all(row["seconds"] > 0 and row["peak_bytes"] > 0 and row["difference"] == 0 for row in rows[:2])
    assert rows[2]["summary"] and rows[2]["best_peer"] == "duckdb-sql" and not list(tmp_path.iterdir())
