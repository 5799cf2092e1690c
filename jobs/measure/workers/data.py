"""Small datasets for runs of several workers: plain pairs; a shop with behaviours and features; ratings and weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gcnrec.config import Data
from gcnrec.loaders.parquet import ingest
from gcnrec.loaders.schema import Dataset
from gcnrec.loaders.synthetic import World, write_world
from gcnrec.loaders.worlds.shop import EVENTS, ITEMS, Shop, write_shop


def made(kind: str, folder: Path, scale: int = 1) -> Dataset:
    """The dataset of a kind ("plain", "shop" or "rated"), ingested into `folder`; nodes and events grow with `scale`."""
    source = folder.with_name(f"{folder.name}.source")
    keys: dict[str, Any] = {"user": "user", "item": "item", "valid_size": 0.1}
    if kind == "shop":
        write_shop(Shop(users=150 * scale, items=90 * scale, events=5000 * scale, categories=6), source)
        keys |= {"train": str(source / EVENTS), "time": "time", "behaviour": "event", "target": "buy", "split": "temporal"}
        keys |= {"item_features": str(source / ITEMS)}
    elif kind == "rated":
        pq.write_table(_rated(scale), source)
        keys |= {"train": str(source), "rating": "rating", "min_rating": 4, "negative_below": 3, "weight": "weight"}
    else:
        write_world(World(users=150 * scale, items=90 * scale, edges=3000 * scale, blocks=4), source)
        keys |= {"train": str(source)}
    return ingest(Data.model_validate(keys), folder, data_root=None, name=kind)


def _rated(scale: int) -> pa.Table:
    """Ratings 1 to 5 with weights, popular items first."""
    draw, rows = np.random.default_rng(0), 4000 * scale
    users = draw.integers(150 * scale, size=rows)
    items = (90 * scale * draw.random(rows) ** 2).astype(np.int64)
    columns = {"user": users, "item": items, "rating": draw.integers(1, 6, rows), "weight": draw.random(rows) + 0.5}
    return pa.table(columns)
