"""Numbers the pairs of interactions with Daft, on one machine or on Ray, for `gcnrec ingest --numbered OUT`.

    python jobs/examples/prepare_daft.py --train EVENTS --test LATER --out OUT [--parts 8]

EVENTS and LATER are Parquet with the columns user, item and perhaps time, in whole seconds. What `gcnrec ingest` does is
done here by the engine: the latest row of a pair stays, and a test pair goes that train has, or whose user or item train lacks.
Numbers go by falling train degree, ties by id. Files of train hold ranges of users with about equally many pairs.
"""

import argparse
import json
from itertools import accumulate
from pathlib import Path

import daft
from daft import DataFrame, col
from daft.functions import monotonically_increasing_id

KEYS = ["user", "item"]
PARTITION = 2**36  # Daft's row numbers begin there again in each partition
BUCKETS = 4096
ARROW_NAMES = {"large_string": "string", "large_binary": "binary"}  # Daft has no others, and Parquet files mostly do


def merged(path: str) -> DataFrame:
    """One row a pair, with its latest time where there are times."""
    rows = daft.read_parquet(path)
    return rows.groupby(*KEYS).agg(col("time").max()) if "time" in rows.column_names else rows.select(*KEYS).distinct()


def numbered(pairs: DataFrame, side: str) -> DataFrame:
    """Ids of a side with their numbers and degrees."""
    ids = pairs.groupby(side).agg(col(KEYS[side == "user"]).count().alias("degree")).sort(["degree", side], desc=[True, False])
    placed = ids.with_column("place", monotonically_increasing_id()).collect()
    placed = placed.with_column("partition", (col("place") / PARTITION).floor().cast("int64"))
    sizes = placed.groupby("partition").agg(col("place").count().alias("rows")).sort("partition").to_pydict()
    starts = daft.from_pydict({"partition": sizes["partition"], "start": [0, *accumulate(sizes["rows"])][:-1]})
    number = (col("start") + col("place") % PARTITION).cast("int64").alias("number")
    return placed.join(starts, on="partition").select(number, col(side).alias("id"), "degree").collect()


def by_number(pairs: DataFrame, users: DataFrame, items: DataFrame) -> DataFrame:
    """The pairs whose user and item have a number, by their numbers."""
    for side, nodes in (("user", users), ("item", items)):
        pairs = pairs.join(nodes.select(col("id").alias(side), col("number").alias(f"{side}_number")), on=side)
    rest = ["time"] if "time" in pairs.column_names else []
    return pairs.select(*(col(f"{side}_number").alias(side) for side in KEYS), *rest)


def in_ranges(train: DataFrame, users: int, parts: int) -> DataFrame:
    """The column `part`: ranges of users, whole buckets of them, with about equally many pairs."""
    train = train.with_column("bucket", (col("user") * BUCKETS / users).floor().cast("int64"))
    sizes = train.groupby("bucket").agg(col("item").count().alias("rows")).sort("bucket").to_pydict()
    ends = list(accumulate(sizes["rows"]))
    part_of = daft.from_pydict({"bucket": sizes["bucket"], "part": [(end - 1) * parts // ends[-1] for end in ends]})
    return train.join(part_of, on="bucket").exclude("bucket")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    for name in ("train", "test", "out"):
        parser.add_argument(f"--{name}", required=name != "test")
    parser.add_argument("--parts", type=int, default=8)
    given = parser.parse_args()
    out = Path(given.out)
    out.mkdir(parents=True)  # what is there already is never mixed with what is written
    train = merged(given.train).collect()
    nodes = {side: numbered(train, side) for side in KEYS}
    counts = {f"{side}s": len(ids) for side, ids in nodes.items()} | {"train": len(train)}
    for side, ids in nodes.items():
        ids.sort("number").select("number", "id").write_parquet(str(out / f"{side}s"))
    ranges = in_ranges(by_number(train, nodes["user"], nodes["item"]), counts["users"], given.parts)
    ranges.sort(KEYS).write_parquet(str(out / "train"), partition_cols=["part"])
    if given.test:
        test = merged(given.test).join(train.select(*KEYS), on=KEYS, how="anti")
        test = by_number(test, nodes["user"], nodes["item"]).sort(KEYS).collect()
        test.write_parquet(str(out / "test"))
        counts["test"] = len(test)
    names = {side: str(train.schema()[side].dtype.to_arrow_dtype()) for side in KEYS}
    types = {side: ARROW_NAMES.get(name, name) for side, name in names.items()}
    document = {"format": 1, **counts, "types": types}
    (out / "numbered.json").write_text(json.dumps(document))  # last: it says that all is there


if __name__ == "__main__":
    main()
