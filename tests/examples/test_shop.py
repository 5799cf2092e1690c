"""jobs/examples/shop.sh on a small shop: each command in turn, and what its files hold."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from gcnrec.loaders.worlds.shop import Shop, write_shop

ROOT = Path(__file__).parents[2]
JOB = """
[data]
train = "made/events"
user = "user"
item = "item"
time = "time"
behaviour = "event"
target = "buy"
[model]
width = 8
[train]
epochs = 2
batch_size = 256
[mixture]
with = ["pending", "itemknn"]
[evaluate]
k = [5, 20]
bootstrap = 20
baselines = []
"""


def open_shop(folder):
    """60 users with tastes among 40 items of 8 categories, for 12 days."""
    write_shop(Shop(users=60, items=40, events=6000, categories=8, days=12, drift=0.0), folder / "made")
    (folder / "job.toml").write_text(JOB)


@pytest.mark.slow
def test_an_evening_at_a_shop(tmp_path):
    open_shop(tmp_path)
    command = tmp_path / "gcnrec"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m gcnrec "$@"\n')
    command.chmod(0o755)
    environment = {**os.environ, "GCNREC": str(command), "PYTHONPATH": str(ROOT)}
    words = ["bash", str(ROOT / "jobs/examples/shop.sh"), "job.toml", "shop", "made/items.parquet"]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lists, scores = (pq.read_table(tmp_path / f"shop/{name}.parquet") for name in ("lists", "scores"))
    categories = {row["item"]: row["category"] for row in pq.read_table(tmp_path / "made/items.parquet").to_pylist()}
    caps = Counter((row["user"], categories[row["item"]]) for row in lists.to_pylist())
    assert max(caps.values()) == 3 and lists.num_rows == scores.num_rows
    similar = pq.read_table(tmp_path / "shop/similar.parquet")
    assert similar.num_rows == 40 * 10
    assert len(json.loads((tmp_path / "shop/back/backtest.json").read_text())["cuts"]) == 2
    metrics = json.loads((tmp_path / "shop/run/metrics.json").read_text())
    assert metrics["seen"] == "target" and "new" in metrics["cold_start"]
    assert "pending" in metrics["mixture"]
    assert 'behaviour = "event"' in (tmp_path / "shop/run/job.toml").read_text()
