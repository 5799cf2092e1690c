"""Ingestion of tiny worlds whose result is worked out by hand."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from gcnrec.config import Data
from gcnrec.errors import DataError, UsageError
from gcnrec.graph import transpose
from gcnrec.loaders.parquet import ingest
from gcnrec.loaders.schema import open_dataset

DEFAULTS = {"train": "train.parquet", "user": "user", "item": "item", "valid_size": 0.0}


def table(*rows, names=("user", "item")):
    return pa.table({name: [row[at] for row in rows] for at, name in enumerate(names)})


@pytest.fixture
def make(tmp_path):
    """Write files (name = table) and ingest; returns the dataset."""

    def call(files, **settings):
        for name, content in files.items():
            pq.write_table(content, tmp_path / f"{name}.parquet")
        return ingest(Data(**{**DEFAULTS, **settings}), tmp_path / "out", data_root=tmp_path, name="tiny", force=True)

    return call


def edges(dataset, part="train"):
    """Pairs of a part as original ids, sorted."""
    if part == "train":
        users, items = dataset.graph.user_items.row_numbers(), dataset.graph.user_items.indices
    else:
        users, items = getattr(dataset, part).users_E, getattr(dataset, part).items_E
    left, right = dataset.user_ids.decode(users).to_pylist(), dataset.item_ids.decode(items).to_pylist()
    return sorted(zip(left, right, strict=True))


TRAIN = table(("a", "x"), ("b", "x"), ("a", "y"), ("a", "x"))
TEST = table(("a", "z"), ("b", "y"), ("a", "x"), ("c", "x"), ("b", "y"))


def test_given(make):
    dataset = make({"train": TRAIN, "test": TEST}, test="test.parquet")
    assert dataset.user_ids.ids.to_pylist() == ["a", "b"] and dataset.item_ids.ids.to_pylist() == ["x", "y"]
    assert edges(dataset) == [("a", "x"), ("a", "y"), ("b", "x")] and edges(dataset, "test") == [("b", "y")]
    report = dataset.info["report"]
    assert (report["duplicates_train"], report["duplicates_test"], report["repeats_test"]) == (1, 1, 1)
    assert (report["cold_test"], report["cold_users_test"], report["cold_items_test"]) == (2, 1, 1)
    assert (dataset.info["split"], dataset.info["num_train"], dataset.info["num_test"]) == ("given", 3, 1)
    assert transpose(dataset.graph.user_items).indices.tolist() == dataset.graph.item_users.indices.tolist()
    assert open_dataset(dataset.folder, verify=True).digest == dataset.digest


def test_cold_nodes_and_repeats_can_be_kept(make):
    dataset = make({"train": TRAIN, "test": TEST}, test="test.parquet", keep_cold=True, repeats="keep")
    assert dataset.user_ids.ids.to_pylist() == ["a", "b", "c"] and dataset.item_ids.ids.to_pylist() == ["x", "y", "z"]
    assert edges(dataset, "test") == [("a", "x"), ("a", "z"), ("b", "y"), ("c", "x")]
    assert dataset.graph.user_items.degrees.tolist() == [2, 1, 0] and dataset.graph.item_users.degrees.tolist() == [2, 1, 0]


def test_given_validation(make):
    valid = table(("b", "y"), ("a", "x"))
    test = table(("b", "y"), ("a", "y"), ("b", "x"))
    dataset = make(
        {"train": table(("a", "x"), ("b", "x"), ("c", "y")), "valid": valid, "test": test},
        test="test.parquet",
        valid="valid.parquet",
    )
    assert edges(dataset, "valid") == [("b", "y")]
    assert edges(dataset, "test") == [("a", "y")], "a test pair that validation holds could never be ranked"


def test_numbers_fall_by_degree_then_by_id(make):
    rows = [(3, 10), (1, 10), (2, 10), (2, 20), (1, 20), (1, 5)]
    dataset = make({"train": table(*rows)}, split="random", test_size=0.0)
    assert dataset.user_ids.ids.to_pylist() == [1, 2, 3] and dataset.item_ids.ids.to_pylist() == [10, 20, 5]
    dataset = make({"train": table(*reversed(rows), (3, 20), (3, 5))}, split="random", test_size=0.0)
    assert dataset.user_ids.ids.to_pylist() == [1, 3, 2] and dataset.item_ids.ids.to_pylist() == [10, 20, 5]


def temporal_world(kind):
    rows = [(time % 2, time) for time in range(10)]
    return table(*rows).append_column("time", pa.array(range(10), pa.int64()).cast(kind))


@pytest.mark.parametrize("kind", [pa.int64(), pa.int32(), pa.timestamp("s"), pa.float64()])
def test_temporal(make, kind):
    dataset = make({"train": temporal_world(kind)}, time="time", test_size=0.2, valid_size=0.25, keep_cold=True)
    assert dataset.info["split"] == "temporal"
    assert sorted(dataset.times_E) == [0, 1, 2, 3, 4, 5]
    assert sorted(dataset.valid.times_E) == [6, 7] and sorted(dataset.test.times_E) == [8, 9]
    assert dataset.info["report"]["leakage_train_after_first_test"] == 0


@pytest.mark.parametrize(
    ("test_from", "unit"), [(4, "s"), ("4", "s"), (4000, "ms"), ("1970-01-01T00:00:04", "s"), ("1970-01-01T01:00:04+01:00", "s")]
)
def test_temporal_from_a_moment(make, test_from, unit):
    dataset = make(
        {"train": temporal_world(pa.timestamp("ms"))}, time="time", test_from=test_from, time_unit=unit, keep_cold=True
    )
    # The column is read as ticks of a millisecond: moments 0 .. 9 ms; asked for 4 s they are all train.
    assert dataset.info["num_test"] == 0
    world = temporal_world(pa.int64())
    stamps = pa.array([datetime.fromtimestamp(time, UTC) for time in range(10)], pa.timestamp("us", tz="UTC"))
    world = world.set_column(2, "time", stamps)
    dataset = make({"train": world}, time="time", test_from=test_from, time_unit=unit, keep_cold=True)
    assert sorted(dataset.test.times_E) == [4, 5, 6, 7, 8, 9]


def test_time_unit(make):
    dataset = make({"train": temporal_world(pa.int64())}, time="time", time_unit="ms", keep_cold=True)
    assert set(dataset.times_E) == {0}, "times are stored in whole seconds"


def test_leave_last(make):
    rows = [("u", "a", 1), ("u", "b", 3), ("u", "c", 2), ("v", "a", 9), ("v", "b", 8), ("w", "a", 5), ("u", "d", 0)]
    world = {"train": table(*rows, names=("user", "item", "time"))}
    dataset = make(world, time="time", split="leave_last", valid_size=0.1, keep_cold=True)
    assert edges(dataset, "test") == [("u", "b"), ("v", "a")] and edges(dataset, "valid") == [("u", "c")]
    assert edges(dataset) == [("u", "a"), ("u", "d"), ("v", "b"), ("w", "a")]
    # v's last interaction (9) is test, its train (8) lies after u's test (3): that is the leak of this split.
    assert dataset.info["report"]["leakage_test_before_any_train"] == pytest.approx(0.5)
    dataset = make(world, time="time", split="leave_last", valid_size=0.0, keep_cold=True)
    assert len(dataset.valid) == 0 and edges(dataset, "test") == [("u", "b"), ("v", "a")]


def test_cold_items(make):
    rows = [(user, item) for user in range(6) for item in range(10)]
    dataset = make({"train": table(*rows)}, split="cold_items", test_size=0.2, valid_size=0.1)
    assert (dataset.info["num_items"], dataset.info["num_test"], dataset.info["num_valid"]) == (10, 12, 6)
    assert dataset.graph.item_users.degrees.tolist() == [6] * 7 + [0] * 3
    held = {item for _, item in edges(dataset, "test")}, {item for _, item in edges(dataset, "valid")}
    assert len(held[0]) == 2 and len(held[1]) == 1 and not held[0] & held[1]
    assert {item for _, item in edges(dataset)} == set(range(10)) - held[0] - held[1]


def test_cold_items_with_warm_pairs_held_out_too(make):
    rows = [(user, item) for user in range(40) for item in range(20)]
    dataset = make({"train": table(*rows)}, split="cold_items", test_size=0.2, valid_size=0.25, warm_size=0.2)
    cold = {name: {item for _, item in edges(dataset, name)} - {item for _, item in edges(dataset)} for name in ("valid", "test")}
    assert [len(items) for items in cold.values()] == [4, 4] and not cold["valid"] & cold["test"]
    warm = {name: [pair for pair in edges(dataset, name) if pair[1] not in cold[name]] for name in cold}
    # 480 pairs of 12 warm items, a fifth each: three standard deviations are 26.
    assert abs(len(warm["test"]) - 96) < 27 and abs(len(warm["valid"]) - 96) < 27
    assert sorted([*edges(dataset), *edges(dataset, "valid"), *edges(dataset, "test")]) == rows
    assert len({user for user, _ in edges(dataset)}) == 40


def test_random_takes_a_share_of_every_user(make):
    rows = [(user, item) for user in range(8) for item in range(user + 3)]
    dataset = make({"train": table(*rows)}, split="random", test_size=0.4, keep_cold=True)
    taken = np.bincount([user for user, _ in edges(dataset, "test")], minlength=8)
    assert taken.tolist() == [int(0.4 * n + 0.5) for n in range(3, 11)]
    assert sorted(edges(dataset) + edges(dataset, "test")) == sorted(rows)
    other = make({"train": table(*rows)}, split="random", test_size=0.4, keep_cold=True, seed=1)
    assert edges(other, "test") != edges(dataset, "test")


def test_k_core_before_a_random_split(make):
    rows = [("u1", "a"), ("u1", "b"), ("u2", "a"), ("u2", "b"), ("u3", "a"), ("u3", "c"), ("u4", "a"), ("u4", "a")]
    # c has one user and falls; then u3 has one item and falls; u4 has one distinct item, twice, and falls.
    dataset = make({"train": table(*rows)}, split="random", test_size=0.0, k_core=2)
    assert edges(dataset) == [("u1", "a"), ("u1", "b"), ("u2", "a"), ("u2", "b")]
    report = dataset.info["report"]
    assert (report["k_core_interactions"], report["k_core_users"], report["k_core_items"]) == (4, 2, 1)


def test_k_core_looks_at_train_only_after_a_temporal_split(make):
    rows = [(1, 1, 0), (1, 2, 0), (2, 1, 0), (2, 2, 0), (3, 1, 0), (3, 2, 9), (1, 3, 9), (2, 1, 9)]
    dataset = make({"train": table(*rows, names=("user", "item", "time"))}, time="time", test_from=9, k_core=2)
    assert edges(dataset) == [(1, 1), (1, 2), (2, 1), (2, 2)], "user 3 has two items only with the test period"
    assert len(dataset.test) == 0 and dataset.info["report"]["cold_test"] == 2 and dataset.info["report"]["repeats_test"] == 1


@pytest.mark.parametrize(("duplicates", "expected"), [("latest", [4.0, 8.0]), ("sum", [7.0, 8.0])])
def test_duplicates(make, duplicates, expected):
    rows = [("a", "x", 4.0, 30), ("a", "x", 1.0, 10), ("a", "y", 8.0, 5), ("a", "x", 2.0, 20)]
    world = table(*rows, names=("user", "item", "weight", "time"))
    dataset = make({"train": world}, weight="weight", time="time", split="random", test_size=0.0, duplicates=duplicates)
    assert dataset.weights_E.tolist() == expected and dataset.times_E.tolist() == [30, 5]


def test_splits_come_before_merging(make):
    rows = [("a", "x", 0), ("b", "x", 1), ("a", "y", 2), ("a", "x", 9)]
    world = {"train": table(*rows, names=("user", "item", "time"))}
    dataset = make(world, time="time", test_from=9)
    assert len(dataset.test) == 0 and dataset.info["report"]["repeats_test"] == 1
    dataset = make(world, time="time", test_from=9, repeats="keep")
    assert edges(dataset, "test") == [("a", "x")] and len(edges(dataset)) == 3


def test_where_and_rating(make):
    rows = [("a", "x", 5.0, 1), ("a", "y", 2.0, 1), ("b", "x", 4.0, 1), ("b", "y", 4.0, 0), ("b", "z", None, 1)]
    world = table(*rows, names=("user", "item", "stars", "ok"))
    dataset = make({"train": world}, split="random", test_size=0.0, rating="stars", min_rating=4, where="ok = 1")
    assert edges(dataset) == [("a", "x"), ("b", "x")] and dataset.info["report"]["filtered_train"] == 3


def test_where_may_drop_nulls(make):
    rows = [("a", "x"), (None, "x"), ("b", None)]
    dataset = make({"train": table(*rows)}, split="random", test_size=0.0, where='"user" IS NOT NULL AND item IS NOT NULL')
    assert edges(dataset) == [("a", "x")]


def test_folders_globs_partitions_and_uris(tmp_path):
    rows = table(*[(time % 3, time % 4, time // 6) for time in range(12)], names=("user", "item", "day"))
    ds.write_dataset(
        rows,
        tmp_path / "hive",
        format="parquet",
        partitioning=ds.partitioning(flavor="hive", schema=pa.schema([rows.schema.field("day")])),
    )
    (tmp_path / "hive" / "README.txt").write_text("not Parquet")
    pq.write_table(rows, tmp_path / "one.parquet")
    found = {}
    for name, train in [
        ("file", "one.parquet"),
        ("folder", "hive"),
        ("glob", "hive/*/*.parquet"),
        ("folders", "hive/day=*"),
        ("uri", (tmp_path / "hive").as_uri()),
    ]:
        data = Data(**{**DEFAULTS, "train": train}, split="random", test_size=0.0)
        found[name] = edges(ingest(data, tmp_path / name, data_root=tmp_path, name=name))
    assert all(pairs == found["file"] for pairs in found.values()) and len(found["file"]) == 12
    data = Data(**{**DEFAULTS, "train": "hive"}, split="random", test_size=0.0, where="day = 1")
    assert len(edges(ingest(data, tmp_path / "window", data_root=tmp_path, name="window"))) == 6
    data = Data(**{**DEFAULTS, "train": "hive", "user": "day"}, split="random", test_size=0.0)
    assert ingest(data, tmp_path / "days", data_root=tmp_path, name="days").info["num_users"] == 2


ID_TYPES = [
    (pa.array([3, 1, 3, -2], pa.int8()), pa.int8()),
    (pa.array([2**63 + 5, 1, 2**63 + 5, 2**64 - 1], pa.uint64()), pa.uint64()),
    (pa.array([70000, 1, 70000, -5], pa.int32()), pa.int32()),
    (pa.array(["é", "a", "é", ""], pa.string()), pa.string()),
    (pa.array(["b", "a", "b", "c"], pa.large_string()), pa.large_string()),
    (pa.array(["b", "a", "b", "c"]).dictionary_encode(), pa.string()),
    (pa.array([9, 8, 9, 7], pa.int16()).dictionary_encode(), pa.int16()),
    (pa.array([b"\x00\xff", b"ab", b"\x00\xff", b"zz"], pa.binary(2)), pa.binary(2)),
]


@pytest.mark.parametrize(("ids", "stored"), ID_TYPES, ids=lambda value: str(getattr(value, "type", value)))
def test_ids_keep_their_type(make, ids, stored):
    world = pa.table({"user": ids, "item": ids})
    dataset = make({"train": world}, split="random", test_size=0.0)
    assert dataset.user_ids.ids.type == stored == dataset.item_ids.ids.type
    values = ids.cast(stored) if ids.type != stored else ids
    assert edges(dataset) == sorted({(value, value) for value in values.to_pylist()})
    numbers = dataset.user_ids.numbers(values)
    assert dataset.user_ids.decode(numbers).equals(values)


def test_ids_have_the_widest_type_of_all_inputs(make):
    train = pa.table({"user": pa.array([1, 2], pa.int32()), "item": ["x", "x"]})
    test = pa.table({"user": pa.array([2, 2], pa.int64()), "item": pa.array(["x", "x"], pa.large_string())})
    dataset = make({"train": train, "test": test}, test="test.parquet", repeats="keep")
    assert edges(dataset, "test") == [(2, "x")] and dataset.user_ids.ids.type == pa.int64()
    assert dataset.item_ids.ids.type == pa.large_string()


def test_struct_fields(make):
    world = pa.table({"event": [{"who": "a", "what": {"id": 1}}, {"who": "b", "what": {"id": 1}}], "dotted.name": ["p", "q"]})
    dataset = make({"train": world}, user="event.who", item="event.what.id", split="random", test_size=0.0)
    assert edges(dataset) == [("a", 1), ("b", 1)]
    dataset = make({"train": world}, user="event.who", item="dotted.name", split="random", test_size=0.0)
    assert edges(dataset) == [("a", "p"), ("b", "q")]


def test_row_order_and_memory_limit_do_not_matter(make):
    generator = np.random.default_rng(0)
    users, items = generator.integers(0, 40, 600), generator.integers(0, 30, 600)
    order = generator.permutation(600)
    settings = {"split": "random", "test_size": 0.3, "valid_size": 0.2, "k_core": 3}
    first = make({"train": pa.table({"user": users, "item": items})}, **settings)
    second = make({"train": pa.table({"user": users[order], "item": items[order]})}, **settings, memory_limit="64MB")
    assert first.digest == second.digest


def test_split_and_files_must_fit():
    with pytest.raises(UsageError, match="needs test"):
        make_data(split="given")
    with pytest.raises(UsageError, match="needs time"):
        make_data(split="leave_last")


def test_a_moment_needs_a_temporal_split(make):
    with pytest.raises(UsageError, match="test_from needs split = 'temporal' and time, the split is 'random'"):
        make({"train": TRAIN}, test_from=3)


def make_data(**settings):
    from gcnrec.config.toml import validated

    return validated(Data, {**DEFAULTS, **settings}, "ingest")


def test_an_existing_folder_is_never_overwritten(make, tmp_path):
    dataset = make({"train": TRAIN}, split="random", test_size=0.0)
    before = (dataset.folder / "dataset.json").read_bytes()
    with pytest.raises(DataError, match=r"exists and is never overwritten.*--force") as caught:
        ingest(Data(**DEFAULTS, split="random"), dataset.folder, data_root=tmp_path, name="tiny")
    assert caught.value.exit_code == 3 and (dataset.folder / "dataset.json").read_bytes() == before
