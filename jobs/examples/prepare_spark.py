"""Numbers the pairs of interactions with Spark, on as many machines as it has, for `gcnrec ingest --numbered OUT`.

    spark-submit jobs/examples/prepare_spark.py --train EVENTS --test LATER --out OUT [--parts 200]

EVENTS and LATER are Parquet with the columns user, item and perhaps time, in whole seconds. What `gcnrec ingest` does is
done here by the engine: the latest row of a pair stays, and a test pair goes that train has, or whose user or item train lacks.
Numbers go by falling train degree, ties by id: a sort and zipWithIndex, as row_number over all rows would run in one partition.
"""

import argparse
import json

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as f
from pyspark.sql.types import LongType, StructField, StructType

KEYS = ["user", "item"]


def merged(spark: SparkSession, path: str) -> DataFrame:
    """One row a pair, with its latest time where there are times."""
    rows = spark.read.parquet(path)
    return rows.groupBy(*KEYS).agg(f.max("time").alias("time")) if "time" in rows.columns else rows.select(*KEYS).distinct()


def numbered(spark: SparkSession, pairs: DataFrame, side: str) -> DataFrame:
    """Ids of a side with their numbers."""
    ids = pairs.groupBy(side).count().orderBy(f.desc("count"), f.asc(side))
    fields = StructType([StructField("id", pairs.schema[side].dataType), StructField("number", LongType())])
    return spark.createDataFrame(ids.rdd.zipWithIndex().map(lambda row: (row[0][0], row[1])), fields).cache()


def by_number(pairs: DataFrame, users: DataFrame, items: DataFrame) -> DataFrame:
    """The pairs whose user and item have a number, by their numbers."""
    for side, nodes in (("user", users), ("item", items)):
        pairs = pairs.join(nodes.select(f.col("id").alias(side), f.col("number").alias(f"{side}_number")), side)
    rest = ["time"] if "time" in pairs.columns else []
    return pairs.select(*(f.col(f"{side}_number").alias(side) for side in KEYS), *rest)


def write(rows: DataFrame, by: list[str], parts: int, path: str) -> int:
    """Write ranges of the first of the columns `by`, each in one file, sorted by all of them; returns how many rows there are."""
    rows.repartitionByRange(parts, by[0]).sortWithinPartitions(*by).write.parquet(path)
    return rows.sparkSession.read.schema(rows.schema).parquet(path).count()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    for name in ("train", "test", "out"):
        parser.add_argument(f"--{name}", required=name != "test")
    parser.add_argument("--parts", type=int, default=200)
    given = parser.parse_args()
    spark = SparkSession.builder.appName("gcnrec-numbered").getOrCreate()
    train = merged(spark, given.train).cache()
    users, items = (numbered(spark, train, side) for side in KEYS)
    counts = {
        name: write(ids, ["number"], given.parts, f"{given.out}/{name}") for name, ids in (("users", users), ("items", items))
    }
    counts["train"] = write(by_number(train, users, items), KEYS, given.parts, f"{given.out}/train")
    if given.test:
        test = merged(spark, given.test).join(train, KEYS, "left_anti")
        counts["test"] = write(by_number(test, users, items), KEYS, given.parts, f"{given.out}/test")
    # Last: it says that all is there. Hadoop's file system, so that OUT may lie where Spark writes.
    path = spark._jvm.org.apache.hadoop.fs.Path(f"{given.out}/numbered.json")
    stream = path.getFileSystem(spark._jsc.hadoopConfiguration()).create(path, False)
    stream.write(bytearray(json.dumps({"format": 1, **counts}).encode()))
    stream.close()
    spark.stop()


if __name__ == "__main__":
    main()
