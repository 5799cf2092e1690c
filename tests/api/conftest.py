"""One small world for all tests of this folder: a dataset, a finished and evaluated run, and files that calls read."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import gcnrec

JOB = """
[model]
width = 8
[train]
epochs = 2
batch_size = 64
[evaluate]
k = [5]
bootstrap = 20
baselines = []
"""
USERS, ITEMS = 40, 30


@pytest.fixture(scope="package")
def events():
    """400 pairs of 40 users, each in one half of 30 items."""
    draw = np.random.default_rng(0)
    users = np.repeat(np.arange(USERS), 10)
    items = users % 2 * 15 + draw.integers(0, 15, len(users))
    return pa.table({"user": [f"u{user:02d}" for user in users], "item": [f"i{item:02d}" for item in items]})


@pytest.fixture(scope="package")
def world(tmp_path_factory, events):
    """A folder with files that calls read, the dataset `shop` of `events.parquet`, and its evaluated run `run`."""
    folder = tmp_path_factory.mktemp("world")
    pq.write_table(events, folder / "events.parquet")
    pq.write_table(events.slice(0, 7), folder / "pairs.parquet")
    pq.write_table(events.select(["item"]).slice(0, 7), folder / "items.parquet")
    (folder / "job.toml").write_text(JOB)
    (folder / "halves.csv").write_text("item,half\n" + "".join(f"i{item:02d},{item // 15}\n" for item in range(ITEMS)))
    (folder / "segments.csv").write_text("user,segment\nu00,even\nu01,odd\n")
    data = gcnrec.Data(train="events.parquet", user="user", item="item", split="random")
    dataset = gcnrec.ingest(data, folder / "shop", data_root=folder)
    run = gcnrec.train(gcnrec.Job.load(folder / "job.toml"), dataset, folder / "run")
    gcnrec.evaluate(run)
    return folder
