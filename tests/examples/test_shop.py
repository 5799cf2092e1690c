"""jobs/examples/shop.sh on a small shop: each command in turn, and what its files hold."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).parents[2]
JOB = """
[data]
train = "events.parquet"
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
    """60 users, each of one taste among 40 items of 4 categories, view for 12 days and buy some of what they viewed."""
    rng, rows = np.random.default_rng(0), []
    for user in range(60):
        liked = [item for item in range(40) if item % 4 == user % 4]
        for _ in range(30):
            item = int(rng.choice(liked)) if rng.random() < 0.8 else int(rng.integers(40))
            time = int(1_700_006_400 + rng.integers(12 * 86_400 - 7200))
            rows.append((f"u{user}", item, time, "view"))
            if rng.random() < 0.4:
                rows.append((f"u{user}", item, time + 3600, "buy"))
    users, items, times, events = zip(*rows, strict=True)
    pq.write_table(pa.table({"user": users, "item": items, "time": times, "event": events}), folder / "events.parquet")
    pq.write_table(pa.table({"item": range(40), "category": [f"c{item % 8}" for item in range(40)]}), folder / "items.parquet")
    (folder / "job.toml").write_text(JOB)


@pytest.mark.slow
def test_an_evening_at_a_shop(tmp_path):
    open_shop(tmp_path)
    command = tmp_path / "gcnrec"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m gcnrec "$@"\n')
    command.chmod(0o755)
    environment = {**os.environ, "GCNREC": str(command), "PYTHONPATH": str(ROOT)}
    words = ["bash", str(ROOT / "jobs/examples/shop.sh"), "job.toml", "shop", "items.parquet"]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lists, scores = (pq.read_table(tmp_path / f"shop/{name}.parquet") for name in ("lists", "scores"))
    categories = {row["item"]: row["category"] for row in pq.read_table(tmp_path / "items.parquet").to_pylist()}
    caps = Counter((row["user"], categories[row["item"]]) for row in lists.to_pylist())
    assert max(caps.values()) == 3 and lists.num_rows == scores.num_rows
    similar = pq.read_table(tmp_path / "shop/similar.parquet")
    assert similar.num_rows == 40 * 10
    assert len(json.loads((tmp_path / "shop/back/backtest.json").read_text())["cuts"]) == 2
    metrics = json.loads((tmp_path / "shop/run/metrics.json").read_text())
    assert metrics["seen"] == "target" and "new" in metrics["cold_start"]
    assert "pending" in metrics["mixture"]
    assert 'behaviour = "event"' in (tmp_path / "shop/run/job.toml").read_text()
