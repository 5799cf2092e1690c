"""The programs that number pairs with an engine, where it is installed: the digest is the one of plain ingestion."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

EXAMPLES = Path(__file__).parents[2] / "jobs" / "examples"


@pytest.fixture
def events(tmp_path):
    """Train in two files, and a test file, with text and integers as ids; pairs come again at other times."""
    draw = np.random.default_rng(0)
    for name, rows in (("train/a", 400), ("train/b", 400), ("test", 100)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        users = [f"u{'é' * (n % 2)}{n}" for n in (draw.zipf(1.4, rows) % 50).tolist()]
        columns = {"user": users, "item": draw.zipf(1.4, rows) % 20 * 7919 % 101, "time": draw.integers(0, 99, rows)}
        pq.write_table(pa.table(columns), tmp_path / f"{name}.parquet")
    return ["--train", f"{tmp_path}/train/*.parquet", "--test", str(tmp_path / "test.parquet")]


def digests(gcnrec, events):
    names = [*events, "--user", "user", "--item", "item", "--time", "time", "--valid-size", "0"]
    for flags, out in ((names, "plain"), (["--numbered", "numbered"], "data")):
        code, told, err = gcnrec("ingest", *flags, "--out", out, "--json")
        assert code == 0, err
        yield json.loads(told)["digest"]


def test_daft(tmp_path, gcnrec, events, monkeypatch):
    pytest.importorskip("daft")
    monkeypatch.setattr(sys, "argv", ["prepare_daft.py", *events, "--out", str(tmp_path / "numbered"), "--parts", "3"])
    runpy.run_path(str(EXAMPLES / "prepare_daft.py"), run_name="__main__")
    assert len(list((tmp_path / "numbered" / "train").iterdir())) == 3
    plain, numbered = digests(gcnrec, events)
    assert numbered == plain
    with pytest.raises(FileExistsError):
        runpy.run_path(str(EXAMPLES / "prepare_daft.py"), run_name="__main__")


@pytest.mark.slow
def test_spark(tmp_path, gcnrec, events):
    pytest.importorskip("pyspark")
    options = [*events, "--out", str(tmp_path / "numbered"), "--parts", "3"]
    done = subprocess.run([sys.executable, EXAMPLES / "prepare_spark.py", *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    plain, numbered = digests(gcnrec, events)
    assert numbered == plain
