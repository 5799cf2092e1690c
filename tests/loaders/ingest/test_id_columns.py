"""Ids of every type, from several files, partitions and inputs, against what the files hold."""

from __future__ import annotations

import datetime
from decimal import Decimal
from itertools import permutations
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gcnrec.config import Data
from gcnrec.errors import DataError
from gcnrec.loaders.ingest.inputs import open_input
from gcnrec.loaders.parquet import ingest


@pytest.fixture
def made(tmp_path):
    """Write files below a folder `in` (name -> columns) and ingest what `train` names; returns the dataset."""

    def call(files, train="in", **settings):
        for name, columns in files.items():
            path = tmp_path / "in" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.table(columns), path)
        base = {"train": train, "user": "user", "item": "item", "valid_size": 0.0, "test_size": 0.0}
        data = Data(**{**base, **({} if "test" in settings else {"split": "random"}), **settings})
        return ingest(data, tmp_path / "out", data_root=tmp_path, name="x", force=True)

    return call


def users(dataset):
    return sorted(dataset.user_ids.ids.to_pylist()), dataset.user_ids.type


def ints(*values, kind=None):
    return pa.array(values, kind or pa.int64())


def test_partition_ids_are_text(made):
    files = {f"user={key}/x.parquet": {"item": ints(1, 2)} for key in ("007", "7", "a%20b", "+7")}
    assert users(made(files)) == (["+7", "007", "7", "a b"], pa.string())
    assert users(made({}, train="in/*/x.parquet")) == (["+7", "007", "7", "a b"], pa.string())
    assert users(made({}, train="in/user=007/x.parquet", user="item", item="item")) == ([1, 2], pa.int64())


def test_partition_ids_have_the_declared_type(made):
    made({f"user={key}/x.parquet": {"item": ints(1, 2)} for key in ("007", "7", "8")})
    assert users(made({}, partition_type={"user": "int64"})) == ([7, 8], pa.int64())
    with pytest.raises(DataError, match=r"partition_type names 'usr', the partition keys are 'user'; did you mean 'user'"):
        made({}, partition_type={"usr": "int64"})
    with pytest.raises(
        DataError, match=r"'user' must hold values of type int8, the path has '900'; declare --partition-type user="
    ):
        made({"user=900/x.parquet": {"item": ints(1)}}, partition_type={"user": "int8"})
    with pytest.raises(DataError, match="must hold values of type int64, the path has '0x10'"):  # which Arrow reads as 16
        made({"user=0x10/x.parquet": {"item": ints(1)}}, partition_type={"user": "int64"})


def test_a_partition_id_may_be_any_integer_of_64_bits(made):
    files = {f"user={one}/x.parquet": {"item": ints(1)} for one in (5, 2**64 - 1)}
    assert users(made(files, partition_type={"user": "uint64"})) == ([5, 2**64 - 1], pa.uint64())


def test_times_and_weights_of_a_path_say_how_they_are_declared(made):
    days = ("2024-01-02", "2024-01-01", "1970-01-02")
    made({f"w=0.5/day={day}/x.parquet": {"user": ints(at), "item": ints(1)} for at, day in enumerate(days)})
    with pytest.raises(DataError, match="it holds string; declare --partition-type day=date32"):
        made({}, time="day")
    with pytest.raises(DataError, match="it holds string; declare --partition-type w=float64"):
        made({}, weight="w")
    dataset = made({}, time="day", weight="w", partition_type={"day": "date32", "w": "float64"})
    assert sorted(dataset.times_E.tolist()) == [86400, 1704067200, 1704153600] and set(dataset.weights_E.tolist()) == {0.5}


def test_an_absent_partition_id_is_a_null(made):
    files = {f"user={key}/x.parquet": {"item": ints(1, 2)} for key in ("7", "__HIVE_DEFAULT_PARTITION__")}
    with pytest.raises(DataError, match=r"column 'user' holds nulls, first in row 0 of .*__HIVE"):
        made(files)


@pytest.mark.parametrize("train", ["in/user=9/raw", "in/user=9/raw/x.parquet", "in/user=9/raw/*.parquet"])
def test_keys_above_what_the_user_named_mean_nothing(made, train):
    assert users(made({"user=9/raw/x.parquet": {"user": ints(1, 2), "item": ints(1, 2)}}, train=train)) == ([1, 2], pa.int64())
    with pytest.raises(DataError, match="has no column 'user'"):
        made({"user=9/raw/x.parquet": {"item": ints(1, 2)}}, train=train)


def test_a_column_of_the_file_wins_over_its_path(made):
    for kind in (pa.int32(), pa.int64(), pa.string()):
        files = {f"user={key}/x.parquet": {"user": ints(key).cast(kind), "item": ints(1)} for key in (1, 2)}
        assert users(made(files)) == ([1, 2] if kind != pa.string() else ["1", "2"], kind)
    assert users(made({"user=5/x.parquet": {"user": ["6"], "item": ints(1)}})) == (["1", "2", "6"], pa.string())


def test_text_in_a_path_and_integers_in_a_file_are_refused_until_declared(made):
    made({"user=3/a.parquet": {"item": ints(1)}})
    with pytest.raises(
        DataError, match=r"is int64 in .*b.parquet and string in the path of .*a.parquet; declare --partition-type"
    ):
        made({"b.parquet": {"user": ints(4), "item": ints(1)}})
    assert users(made({}, partition_type={"user": "int16"})) == ([3, 4], pa.int64())


WIDTHS = {
    "wider": ([pa.int8(), pa.int64(), pa.int16()], pa.int64()),
    "signs": ([pa.uint32(), pa.int8(), pa.int16()], pa.int64()),
    "unsigned": ([pa.uint8(), pa.uint64(), pa.uint16()], pa.uint64()),
    "texts": ([pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())], pa.large_string()),
}


@pytest.mark.parametrize("name", WIDTHS)
def test_widths_go_to_the_widest_in_any_order_of_files(tmp_path, name):
    kinds, widest = WIDTHS[name]
    for order in permutations(kinds):
        values = [2 ** (kind.bit_width - 1) - 1 if pa.types.is_integer(kind) else str(kind) for kind in order]
        for at, (value, kind) in enumerate(zip(values, order, strict=True)):
            pq.write_table(pa.table({"user": pa.array([value], kind)}), tmp_path / f"{at}.parquet")
        source = open_input(str(tmp_path / "*"))
        batches = list(source.batches({"user": source.expression("user")}, ["user"], 10))
        assert pa.Table.from_batches(batches)["user"].to_pylist() == values
        assert {source.field("user").type, *(batch.schema.field("user").type for batch in batches)} == {widest}


@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")])
def test_decimals_and_integers_get_a_decimal_that_holds_both(made, order):
    least = -(2**63)
    columns = {"a": pa.array([Decimal(12345), Decimal(7)], pa.decimal128(5, 0)), "b": ints(least, 7)}
    dataset = made({f"{at}.parquet": {"user": columns[name], "item": ints(1, 2)} for at, name in enumerate(order)})
    assert users(dataset) == ([least, 7, 12345], pa.decimal128(20, 0))


@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")])
def test_text_in_one_file_and_integers_in_another_are_refused_by_name(made, order):
    files = {f"{order[0]}.parquet": {"user": ["007"], "item": ints(1)}, f"{order[1]}.parquet": {"user": ints(7), "item": ints(1)}}
    with pytest.raises(
        DataError, match=r"'user' must have one type in all files, it is .*a.parquet and .*b.parquet; cast it in one"
    ):
        made(files)


def test_a_column_that_nothing_reads_may_have_any_types(made):
    files = {"a.parquet": {"user": [1], "item": [1], "note": ["x"]}, "b.parquet": {"user": [2], "item": [1], "note": [1.5]}}
    assert users(made(files)) == ([1, 2], pa.int64())
    with pytest.raises(DataError, match="'note' must have one type in all files"):
        made(files, where="note IS NOT NULL")


def test_a_wider_test_file_widens_the_ids(made, tmp_path):
    pq.write_table(pa.table({"user": ints(1, 2**40), "item": ints(2, 1)}), tmp_path / "test.parquet")
    train = {"x.parquet": {"user": ints(1, 2, kind=pa.int8()), "item": ints(1, 2)}}
    dataset = made(train, test="test.parquet", keep_cold=True)
    assert users(dataset) == ([1, 2, 2**40], pa.int64())
    assert made({}, test="test.parquet").info["report"]["cold_test"] == 1


def test_text_and_integers_in_two_inputs_are_refused_by_name(made, tmp_path):
    pq.write_table(pa.table({"user": ["1"], "item": ints(1)}), tmp_path / "test.parquet")
    with pytest.raises(
        DataError, match=r"'user' must hold ids of one type in all inputs, it is int64 in in and string in test.parquet"
    ):
        made({"x.parquet": {"user": ints(1, 2), "item": ints(1, 2)}}, test="test.parquet")
    pq.write_table(pa.table({"item": ["1"], "price": [0.5]}), tmp_path / "features.parquet")
    with pytest.raises(DataError, match=r"features.parquet: column 'item': ids of type string cannot be read as int64"):
        made({}, item_features="features.parquet")


def test_feature_files_follow_the_same_rules(made, tmp_path):
    for key, price in (("1", 1.0), ("01", 2.0)):
        (tmp_path / f"f/item={key}/_temporary").mkdir(parents=True)
        for name in ("x.parquet", "_temporary/x.parquet"):
            pq.write_table(pa.table({"price": [price]}), tmp_path / f"f/item={key}" / name)
    dataset = made({"x.parquet": {"user": ints(1, 2), "item": ["1", "01"]}}, item_features="f")
    assert dataset.item_features.ravel().tolist() == [1.0, -1.0]  # numbered "01", "1"
    with pytest.raises(DataError, match=r"ids of type string cannot be read as int64"):
        made({"x.parquet": {"user": ints(1, 2), "item": ints(1, 2)}}, item_features="f")
    (tmp_path / "f/item=01").rename(tmp_path / "f/item=2")
    dataset = made({}, item_features="f", partition_type={"item": "int64"})
    assert dataset.item_features.ravel().tolist() == [-1.0, 1.0]


KINDS = {
    "uuid": pa.array([UUID(int=value).bytes for value in (2**100, 7, 2**100, 2**127)], pa.uuid()),
    "decimal": pa.array([Decimal(10**30), Decimal(-5), Decimal(10**30), Decimal(9)], pa.decimal128(38, 0)),
    "narrow decimal": pa.array([Decimal(10), Decimal(9), Decimal(10), Decimal(-99)], pa.decimal128(2, 0)),
    "date": pa.array([datetime.date(2024, 2, day) for day in (29, 1, 29, 3)], pa.date32()),
    "binary": pa.array([b"b", b"", b"b", b"\xff\x00"], pa.binary()),
}


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("where", [None, "keep = 1"])
def test_ids_keep_their_type_and_order(made, name, where):
    ids = KINDS[name]
    table = {"user": ids, "item": ids, "keep": ints(1, 1, 1, 1)}
    dataset = made({"x.parquet": table}, where=where)
    kept, stored = ids.to_pylist(), dataset.user_ids.ids
    assert stored.type == ids.type and stored.to_pylist() == sorted(set(kept))  # all degrees are 1
    assert dataset.user_ids.numbers(ids).tolist() == [sorted(set(kept)).index(one) for one in kept]
    assert dataset.user_ids.decode(dataset.user_ids.numbers(ids)).equals(ids)
    assert dataset.info["num_train"] == 3 and dataset.graph.user_items.indices.tolist() == [0, 1, 2]


def test_uuids_are_uuids_whoever_wrote_the_file(made, tmp_path):
    """Without Arrow's schema, as DuckDB and Spark write, Parquet's own type says it."""
    own = [UUID(int=value) for value in (1, 2, 3)]
    home = tmp_path / "other"
    home.mkdir()
    for name, pair in (("a", own[:2]), ("b", own[1:])):
        ids = pa.array([one.bytes for one in pair], pa.uuid())
        table = pa.table({"user": ids, "in": pa.StructArray.from_arrays([ids], ["item"])})
        pq.write_table(table, home / f"{name}.parquet", store_schema=name == "a")
    dataset = made({}, train="other", item="in.item")
    assert users(dataset) == (own, pa.uuid())
    assert dataset.item_ids.ids.type == pa.uuid()


def test_views_are_read_as_what_they_view(made):
    for view, kind, values in ((pa.string_view(), pa.string(), ["a", "b"]), (pa.binary_view(), pa.binary(), [b"a", b"b"])):
        dataset = made({"x.parquet": {"user": pa.array(values, view), "item": ints(1, 2)}})
        assert users(dataset) == (values, kind)


@pytest.mark.parametrize(
    "ids", [pa.array([1.0, 2.0]), pa.array([True, False]), pa.array([Decimal("1.5"), Decimal("2.5")])], ids=str
)
def test_other_types_are_refused_with_a_remedy(made, ids):
    with pytest.raises(DataError, match=r"ids must be integers, text, .* column 'user' is .*; cast it to integers or text"):
        made({"x.parquet": {"user": ids, "item": ints(1, 2)}})
