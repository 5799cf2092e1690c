"""Small files under the names that README.md and docs/ use: events of a shop, lists of ids, jobs, and cards that draw less."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).parents[3]
USERS, ITEMS, ROWS, DAYS = 60, 30, 1500, 60
FIRST = datetime(2026, 10, 1)
DRAWN = {"users": 60, "items": 30, "edges": 1200, "blocks": 2, "events": 2000, "days": 30, "categories": 4}
"""Sizes of cards that are drawn from a seed."""
JOB = """
[data]
train = "events.parquet"
user = "user_id"
item = "sku"
time = "ts"

[model]
width = 8

[train]
epochs = 1
"""


def users(numbers: np.ndarray) -> list[str]:
    """Ids of users; the first one has the name that pages use for any user."""
    return ["USER" if number == 0 else f"u{number:02}" for number in numbers.tolist()]


def skus(numbers: np.ndarray) -> list[str]:
    return [f"sku-{number:02}" for number in numbers.tolist()]


def events(rows: int, seed: int, in_ms: bool) -> pa.Table:
    """Users mostly take items of their half. `ts` is a timestamp, or with `in_ms` a number of milliseconds."""
    draw = np.random.default_rng(seed)
    who = draw.integers(0, USERS, rows)
    what = who % 2 * (ITEMS // 2) + np.minimum(draw.geometric(0.15, rows), ITEMS // 2) - 1
    moments = [FIRST + timedelta(seconds=int(each)) for each in np.sort(draw.integers(0, DAYS * 86_400, rows))]
    times = pa.array(moments, pa.timestamp("ms"))
    columns = {
        "user_id": users(who),
        "sku": skus(what),
        "product": [{"sku": sku} for sku in skus(what)],
        "event": draw.choice(["view", "cart", "buy"], rows),
        "stars": draw.integers(1, 6, rows),
        "ts": times.cast(pa.int64()) if in_ms else times,
    }
    return pa.table(columns)


def write(path: Path, table: pa.Table) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


def write_events(folder: Path, in_ms: bool) -> None:
    """`events.parquet`, the same rows by day below `events`, and `ratings`."""
    table = events(ROWS, 0, in_ms)
    write(folder / "events.parquet", table)
    write(folder / "ratings" / "part-0.parquet", table)
    for day in range(3):
        part = table.slice(day * ROWS // 3, ROWS // 3)
        write(folder / "events" / f"day={FIRST + timedelta(days=20 * day):%Y-%m-%d}" / "part-0.parquet", part)


def features(items: int) -> pa.Table:
    numbers = np.arange(items)
    return pa.table({"sku": skus(numbers), "price": numbers * 1.5, "category": [f"c{number % 3}" for number in numbers]})


def write_requests(folder: Path) -> None:
    """Files of users, items and pairs that commands take, and a job."""
    (folder / "JOB.toml").write_text(JOB, encoding="utf-8")
    (folder / "events.csv").write_text("user_id,sku\nUSER,sku-01\nu01,sku-02\n", encoding="utf-8")
    (folder / "USERS.csv").write_text("user_id\nUSER\nu01\nnobody\n", encoding="utf-8")
    (folder / "SOLD-OUT.csv").write_text("sku\nsku-01\n", encoding="utf-8")
    (folder / "BLOCKED.csv").write_text("user\nu03\n", encoding="utf-8")
    (folder / "PAIRS.csv").write_text("user,item\nUSER,sku-02\nu01,sku-29\n", encoding="utf-8")
    rows = ["sku,category,price", *(f"sku-{n:02},c{n % 3},{n * 1.5}" for n in range(ITEMS))]
    (folder / "ITEMS.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    everyone, ranks = np.divmod(np.arange(USERS * 20), 20)
    lists = {"user": users(everyone), "item": skus((everyone + ranks) % ITEMS), "rank": ranks + 1}
    write(folder / "theirs.parquet", pa.table(lists))
    write(folder / "LIKES.parquet", pa.table({"user_id": ["new", "new"], "sku": ["sku-01", "sku-03"]}))
    write(folder / "F.parquet", features(ITEMS + 2).slice(ITEMS))


def write_sources(folder: Path) -> None:
    """Drawn interactions where cards look for Gowalla and CiteULike-t."""
    draw = np.random.default_rng(0)
    for name, rows in (("train", 800), ("test", 100)):
        pairs = {"user_id": draw.integers(0, USERS, rows), "venue_id": draw.integers(0, ITEMS, rows)}
        write(folder / "gowalla" / f"{name}.parquet", pa.table(pairs))
    likes = {"user": draw.integers(0, USERS, 800), "article": draw.integers(0, ITEMS, 800)}
    write(folder / "citeulike-t" / "likes.parquet", pa.table(likes))
    words = [sorted(set(draw.integers(0, 50, 8).tolist())) for _ in range(ITEMS)]
    articles = {
        "article": np.arange(ITEMS),
        "words": pa.array(words, pa.list_(pa.int32())),
        "counts": pa.array([[1] * len(each) for each in words], pa.list_(pa.int32())),
    }
    write(folder / "citeulike-t" / "articles.parquet", pa.table(articles))


def write_cards(folder: Path, sources: Path) -> None:
    """`datasets` and `jobs` as they are, but cards draw little or take the drawn sources, and the grid has two runs."""
    shutil.copytree(ROOT / "datasets", folder / "datasets")
    shutil.copytree(ROOT / "jobs", folder / "jobs", ignore=shutil.ignore_patterns("records", "measure", "__pycache__"))
    for card in (folder / "datasets").glob("*.toml"):
        text = card.read_text(encoding="utf-8")
        if re.search(r"^\[(synthetic|shop)\]$", text, re.MULTILINE):
            for key, value in DRAWN.items():
                text = re.sub(rf"^{key} = [\d_]+$", f"{key} = {value}", text, flags=re.MULTILINE)
            text = re.sub(r"^test_from = .*$", "test_size = 0.1", text, flags=re.MULTILINE)
        for root in re.findall(r'root = "([^"]+)"', text):
            if (sources / root).exists():
                digest = hashlib.sha256((sources / root).read_bytes()).hexdigest()
                text = re.sub(rf'(root = "{root}", sha256 = ")\w+', rf"\g<1>{digest}", text)
        card.write_text(text, encoding="utf-8")
    grid = folder / "jobs" / "sparsity-gowalla.toml"
    text = re.sub(
        r"\n\[variants\.thin-long\].*(?=\n\[variants\.dynamic\])", "", grid.read_text(encoding="utf-8"), flags=re.DOTALL
    )
    text = text.replace("[0.5, 0.25, 0.125]", "[0.25]").replace("[0, 1, 2]", "[0]").replace("epochs = 6", "epochs = 1")
    grid.write_text("\n".join(line for line in text.splitlines() if '"table.budget=' not in line), encoding="utf-8")


def write_numbered(folder: Path) -> None:
    """What an engine leaves for `gcnrec ingest --numbered`: each user has item 0 and one by its remainder."""
    pairs = sorted({(user, 0) for user in range(6)} | {(user, 1 + user % 3) for user in range(6)})
    write(folder / "users" / "0.parquet", pa.table({"number": range(6), "id": [f"u{n}" for n in range(6)]}))
    write(folder / "items" / "0.parquet", pa.table({"number": range(4), "id": [f"i{n}" for n in range(4)]}))
    write(folder / "train" / "0.parquet", pa.table(dict(zip(("user", "item"), map(list, zip(*pairs, strict=True)), strict=True))))
    counts = {"format": 1, "users": 6, "items": 4, "train": len(pairs)}
    (folder / "numbered.json").write_text(json.dumps(counts), encoding="utf-8")
