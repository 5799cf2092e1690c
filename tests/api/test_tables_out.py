"""Without a file, lists and scores are Arrow tables: the rows that a file has, with the file's summary."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import asdict
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import gcnrec
from gcnrec.api.lists import SUMMARY
from gcnrec.errors import DataError, UsageError
from gcnrec.results.outputs import Gathered

CALLS = {
    "recommend": lambda world, out: gcnrec.recommend(world / "run", 3, out, fallback="popularity"),
    "similar": lambda world, out: gcnrec.similar(world / "run", "item", 3, out),
    "score": lambda world, out: gcnrec.score(world / "run", world / "pairs.parquet", out),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_table_has_the_rows_and_the_summary_of_a_file(name, world, tmp_path):
    table, summary = CALLS[name](world, None), CALLS[name](world, tmp_path / "out.parquet")
    assert table.replace_schema_metadata(None) == pq.read_table(tmp_path / "out.parquet")
    told = asdict(summary)
    assert told.pop("out") == tmp_path / "out.parquet"
    assert json.loads(table.schema.metadata[SUMMARY]) == told
    assert table.num_rows == summary.rows > 0


def test_nothing_is_left_in_the_run_folder(world):
    before = sorted(path.name for path in (world / "run").rglob("*"))
    CALLS["recommend"](world, None)
    assert sorted(path.name for path in (world / "run").rglob("*")) == before


def test_scratch_lies_where_it_can_be_written(tmp_path, monkeypatch):
    assert Gathered(tmp_path).scratch == tmp_path
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert Gathered(tmp_path).scratch == Path(tempfile.gettempdir())


def test_errors_are_those_of_files(world, tmp_path):
    with pytest.raises(DataError, match="no such file"):
        gcnrec.score(world / "run", tmp_path / "absent.parquet")
    with pytest.raises(UsageError, match="k must be"):
        gcnrec.recommend(world / "run", 0)
