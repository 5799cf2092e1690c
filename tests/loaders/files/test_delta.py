"""Delta tables as inputs, against deltalake's own reader; what their log says and files do not show is refused."""

from __future__ import annotations

import json
import sys
from datetime import date

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake

from gcnrec.config import Job
from gcnrec.errors import DataError
from gcnrec.loaders.ingest.inputs import open_files
from gcnrec.loaders.ingest.listing import listed
from gcnrec.loaders.parquet import ingest

ROWS = pa.table({
    "user": ["a", "b", "c", "d"], "item": pa.array([1, 2, 3, 1], pa.int64()),
    "shop": pa.array([7, 7, None, 8], pa.int64()), "day": [date(2026, 1, 1), date(2026, 1, 2), None, date(2026, 1, 1)],
})  # fmt: skip


def rows_of(text, base=None):
    source = open_files(text, base)
    columns = {name: source.expression(name) for name in source.dataset.schema.names}
    return pa.Table.from_batches(source.batches(columns, list(columns), 100), source.schema_of(columns))


def same_rows(place, base=None):
    """Whether the rows and types of a table are what deltalake reads, in whatever order."""
    ours = rows_of(place, base)
    theirs = DeltaTable(base / place if base else place).to_pyarrow_table().select(ours.column_names).cast(ours.schema)
    order = [(name, "ascending") for name in sorted(ours.column_names)]  # files have random names
    return ours.sort_by(order).equals(theirs.sort_by(order))


def changed(table, change):
    """Rewrite the first entry of a log: `change` gets each action."""
    log = table / "_delta_log" / "00000000000000000000.json"
    actions = [json.loads(line) for line in log.read_text().splitlines()]
    for action in actions:
        change(action)
    log.write_text("\n".join(map(json.dumps, actions)))


def features(*names):
    def change(action):
        if "protocol" in action:
            action["protocol"] = {
                "minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": names, "writerFeatures": names
            }  # fmt: skip

    return change


def test_the_current_version_counts(tmp_path):
    place = str(tmp_path / "t")
    write_deltalake(place, ROWS)
    write_deltalake(place, ROWS.slice(0, 2), mode="overwrite")
    write_deltalake(place, ROWS.slice(2, 1), mode="append")
    DeltaTable(place).delete("user = 'b'")
    assert sorted(rows_of("t", tmp_path).column("user").to_pylist()) == ["a", "c"] and same_rows("t", tmp_path)
    assert len(listed(place).files) < len(list((tmp_path / "t").glob("*.parquet")))
    assert same_rows(place) and rows_of((tmp_path / "t").as_uri()).num_rows == 2
    DeltaTable(place).create_checkpoint()
    assert same_rows(place)


@pytest.mark.parametrize("keys", [["shop"], ["day"], ["shop", "day"], ["user"]])
def test_partitions_have_the_types_of_the_log(tmp_path, keys):
    place = str(tmp_path / "t")
    write_deltalake(place, ROWS, partition_by=keys)
    assert same_rows(place)
    assert [rows_of(place).schema.field(key).type for key in keys] == [ROWS.schema.field(key).type for key in keys]


def test_columns_that_came_later_are_null_before(tmp_path):
    place = str(tmp_path / "t")
    write_deltalake(place, ROWS.select(["user", "item"]))
    write_deltalake(place, ROWS.slice(0, 1), mode="append", schema_mode="merge")
    assert same_rows(place) and rows_of(place).column("shop").null_count == 4


def test_a_dataset_from_a_table(tmp_path):
    users, items = [f"u{n % 9}" for n in range(60)], [n * 7 % 11 for n in range(60)]
    write_deltalake(str(tmp_path / "t"), pa.table({"user": users, "item": pa.array(items, pa.int64())}))
    write_deltalake(str(tmp_path / "t"), pa.table({"user": ["new"], "item": [99]}), mode="append")
    DeltaTable(tmp_path / "t").delete("user = 'new'")
    data = {"train": str(tmp_path / "t"), "user": "user", "item": "item", "split": "random"}
    made = ingest(Job.parse({"data": data}, [], "test").data, tmp_path / "data", data_root=None, name="t")
    assert sorted(made.user_ids.ids.to_pylist()) == sorted({*users})


def mapped(action):
    if "metaData" in action:
        action["metaData"]["configuration"] = {"delta.columnMapping.mode": "name"}


def marked(action):
    features("deletionVectors")(action)
    if "add" in action:
        action["add"]["deletionVector"] = {
            "storageType": "u", "pathOrInlineDv": "vBn[lx{q8@P<9BNH/isA", "offset": 1, "sizeInBytes": 36, "cardinality": 2
        }  # fmt: skip


def elsewhere(path):
    def change(action):
        if "add" in action:
            action["add"]["path"] = path

    return change


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (mapped, r"columns have other names in its files \(delta.columnMapping.mode = name\).*; export its current version"),
        (marked, r"log cannot be read \(.*deletion_vector_.*\); repair it, or export its rows as Parquet"),
        (features("futureThing"), r"log cannot be read \(.*'futureThing' is not supported\); repair it, or export"),
        (elsewhere("/etc/x.parquet"), r"counts the file /etc/x.parquet, which lies elsewhere; export its current version"),
        (elsewhere("%2E%2E/x.parquet"), r"counts the file \.\./x.parquet, which lies elsewhere"),
        (elsewhere("s3://bucket/x.parquet"), r"counts the file s3://bucket/x.parquet, which lies elsewhere"),
        (elsewhere("gone.parquet"), r"counts the file .*gone.parquet, which is not there; restore it"),
    ],
)
def test_what_plain_reading_would_get_wrong_is_refused(tmp_path, change, sentence):
    write_deltalake(str(tmp_path / "t"), ROWS)
    changed(tmp_path / "t", change)
    with pytest.raises(DataError, match=f"t is a Delta table .*{sentence}"):
        listed("t", tmp_path)


def test_deleted_rows_are_refused(tmp_path, monkeypatch):
    write_deltalake(str(tmp_path / "t"), ROWS)
    changed(tmp_path / "t", features("deletionVectors"))
    assert rows_of("t", tmp_path).sort_by("user").equals(ROWS)  # the table may have vectors, and has none
    vectors = pa.table({"filepath": ["x"], "selection_vector": [[True, False]]})
    monkeypatch.setattr(DeltaTable, "deletion_vectors", lambda table: vectors.to_reader())
    with pytest.raises(DataError, match=r"files hold rows that were deleted, .*; purge them \(in Spark: REORG TABLE"):
        listed("t", tmp_path)


def test_partitions_by_times_are_in_utc(tmp_path):
    days = pa.array([0, 10**15, None, 5 * 10**14], pa.timestamp("us", "UTC"))
    write_deltalake(str(tmp_path / "t"), ROWS.set_column(3, "day", days), partition_by=["day"])
    assert same_rows(str(tmp_path / "t"))


def test_a_deletion_vector_that_no_feature_announces_is_not_overlooked(tmp_path):
    write_deltalake(str(tmp_path / "t"), ROWS)
    vector = {"storageType": "u", "pathOrInlineDv": "ab^-aqEH.-t@S}K{vb[*k^", "offset": 1, "sizeInBytes": 36, "cardinality": 2}

    def change(action):
        if "add" in action:
            action["add"]["deletionVector"] = vector

    changed(tmp_path / "t", change)
    with pytest.raises(DataError, match="is a Delta table"):
        listed(str(tmp_path / "t"))


def test_a_partition_that_no_folder_shows_is_refused(tmp_path):
    write_deltalake(str(tmp_path / "t"), ROWS.slice(0, 2), partition_by=["shop"])

    def change(action):
        if "add" in action:
            action["add"]["partitionValues"] = {"shop": "9"}

    changed(tmp_path / "t", change)
    with pytest.raises(DataError, match=r"file shop=7/.* must lie below a folder shop=VALUE with the value of its log"):
        listed("t", tmp_path)


def test_a_table_without_rows_is_refused(tmp_path):
    write_deltalake(str(tmp_path / "t"), ROWS)
    DeltaTable(tmp_path / "t").delete()
    with pytest.raises(DataError, match="t is a Delta table without a file in its current version"):
        listed("t", tmp_path)


def test_without_the_extra(tmp_path, monkeypatch):
    write_deltalake(str(tmp_path / "t"), ROWS)
    monkeypatch.setitem(sys.modules, "deltalake", None)
    with pytest.raises(
        DataError, match=r"deltalake is not installed; pip install '\.\[delta\]' in a checkout of gcnrec, or export"
    ):
        listed("t", tmp_path)


def test_part_of_a_table_is_no_input(tmp_path):
    write_deltalake(str(tmp_path / "lake" / "t"), ROWS, partition_by=["shop"])
    pq.write_table(ROWS, tmp_path / "lake" / "x.parquet")
    for text in ("lake", "lake/t/*", "lake/t/shop=7"):
        with pytest.raises(
            DataError, match=r"t is a Delta table, .*; name the folder of the table itself, or export its current"
        ):
            listed(text, tmp_path)
