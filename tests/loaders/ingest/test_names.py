"""Names of columns: whatever a file calls them, each is read as itself, and no name stands for one that gcnrec uses inside."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from gcnrec.config import Data
from gcnrec.errors import DataError
from gcnrec.loaders.parquet import ingest

USERS, ITEMS = np.repeat([1, 2, 3], 4), np.tile([10, 20, 30, 40], 3)
VALUES = np.array([3, 9, 4, 1, 8, 2, 7, 0, 6, 5, 11, 10])
OURS = [
    "gcnrec_user",
    "gcnrec_item",
    "GCNREC_ITEM",
    "gcnrec_time",
    "gcnrec_0",
    "gcnrec_1",
    "gcnrec_in",
    "gcnrec_none",
    "gcnrec_row",
]
ARROWS = ["__filename", "__fragment_index", "__batch_index", "__last_in_fragment", "__row"]
ODD = ["a.b", ".", " ", "a\tb", 'q"u', "it's", "Ü", "\U0001f600", "p", "q", "current_date", "select", "id", "number", "degree"]


@pytest.fixture
def pairs(tmp_path):
    """Ingests a table without a split; returns its pairs of ids."""

    def call(columns, **settings):
        if columns is not None:
            names, values = zip(*columns, strict=True)
            pq.write_table(pa.table(list(map(pa.array, values)), names=list(names)), tmp_path / "train.parquet")
        given = {"train": "train.parquet", "user": "u", "item": "i", "split": "random", "test_size": 0.0, "valid_size": 0.0}
        made = ingest(Data(**{**given, **settings}), tmp_path / "out", data_root=tmp_path, name="x", force=True)
        return pairs_of(made, made.graph.user_items)

    return call


def pairs_of(made, csr):
    users, items = made.user_ids.decode(csr.row_numbers()), made.item_ids.decode(csr.indices)
    return sorted(zip(users.to_pylist(), items.to_pylist(), strict=True))


def kept(rows):
    return sorted(zip(USERS[rows].tolist(), ITEMS[rows].tolist(), strict=True))


def quoted(*names):
    return ".".join('"' + name.replace('"', '""') + '"' for name in names)


NAMES = [*OURS, *ARROWS, *ODD, "Score", "score", "SCORE"]


@pytest.mark.parametrize("names", [NAMES[first : first + 8] for first in range(0, len(NAMES), 8)], ids=str)
def test_a_condition_names_columns_however_they_are_called(pairs, names):
    """Each column excludes another row, and the last one is the rating as well."""
    values = {name: np.roll(VALUES, place) for place, name in enumerate(names)}
    where = " AND ".join(f"{quoted(name)} <> {column[place]}" for place, (name, column) in enumerate(values.items()))
    right = np.arange(12) >= len(names)
    assert pairs([("u", USERS), *values.items(), ("i", ITEMS)], where=where) == kept(right)
    rating = values[names[-1]]
    columns = [*values.items(), ("i", ITEMS), ("u", USERS)]
    assert pairs(columns, where=where, rating=names[-1], min_rating=5.0) == kept(right & (rating >= 5))


@pytest.mark.parametrize("name", ["gcnrec_item", "__filename", ""])
def test_a_column_is_an_id_a_time_or_a_weight_however_it_is_called(pairs, tmp_path, name):
    columns = [(name, VALUES), ("u", USERS), ("i", ITEMS)]
    if name:
        assert pairs(columns, user=name) == sorted(zip(VALUES.tolist(), ITEMS.tolist(), strict=True))
        latest = [VALUES[first : first + 4].argmax() + first for first in (0, 4, 8)]
        assert pairs(columns, time=name, split="leave_last", valid_size=0.0) == kept(np.setdiff1d(np.arange(12), latest))
        pairs(columns, weight=name, duplicates="sum")
        assert sorted(np.load(tmp_path / "out" / "weights.npy")) == sorted(VALUES)
    assert pairs(columns) == kept(np.arange(12)), "a column that is not named does no harm"


def test_a_field_and_a_column_of_one_path_are_two(pairs):
    """`a.b` in quotes is the column; without them it is the field of the struct."""
    events = pa.array([{"b": int(value), "gcnrec_item": int(-value), "B": 99} for value in VALUES])
    columns = [("u", USERS), ("a", events), ("i", ITEMS), ("a.b", VALUES[::-1])]
    assert pairs(columns, where="a.b >= 6") == kept(VALUES >= 6)
    assert pairs(columns, where='"a.b" >= 6') == kept(VALUES[::-1] >= 6)
    assert pairs(columns, where='a.gcnrec_item <= -6 AND "a.b" > 0') == kept((VALUES >= 6) & (VALUES[::-1] > 0))
    assert pairs(columns, rating="a.b", min_rating=6.0) == kept(VALUES[::-1] >= 6), "a column goes before a field"


def test_a_field_of_a_struct_whose_name_has_a_point(pairs):
    events = pa.array([{"c": int(value)} for value in VALUES])
    columns = [("u", USERS), ("a.b", events), ("i", ITEMS)]
    assert pairs(columns, rating="a.b.c", min_rating=6.0) == kept(VALUES >= 6)
    assert pairs(columns, where='"a.b".c >= 6') == kept(VALUES >= 6)
    twice = pa.array([{"b.c": 1, "b": {"c": 2}}] * 12)
    with pytest.raises(DataError, match=r"has 2 fields that 'a\.b\.c' may mean; rename all but one"):
        pairs([("u", USERS), ("a", twice), ("i", ITEMS)], rating="a.b.c", min_rating=1.0)


@pytest.mark.parametrize(("settings", "sentence"), [
    ({"where": "a.b > 1"}, "names the field 'b' of 'a', train.parquet has it twice; rename one"),
    ({"user": "a.b"}, "train.parquet has 2 fields that 'a.b' may mean; rename all but one"),
])  # fmt: skip
def test_a_field_that_comes_twice_is_refused(pairs, settings, sentence):
    fields = [pa.field("b", pa.int64())] * 2
    struct = pa.StructArray.from_arrays([pa.array(VALUES), pa.array(VALUES)], fields=fields)
    columns = [("u", USERS), ("a", struct), ("i", ITEMS)]
    with pytest.raises(DataError, match=sentence):
        pairs(columns, **settings)


@pytest.mark.parametrize("key", ["gcnrec_item", "GCNREC_ROW"])
def test_a_partition_key_is_read_as_itself(pairs, tmp_path, key):
    for value in (1, 2):
        folder = tmp_path / "parts" / f"{key}={value}"
        folder.mkdir(parents=True)
        pq.write_table(pa.table({"u": USERS, "i": ITEMS + value, "gcnrec_row": VALUES}), folder / "x.parquet")
    where = f"{quoted(key)} = 2 AND gcnrec_row >= 6"
    [*users], [*items] = zip(*pairs(None, train="parts", where=where), strict=True)
    assert list(zip(users, [item - 2 for item in items], strict=True)) == kept(VALUES >= 6)
    assert {user for user, _ in pairs(None, train="parts", user=key)} == {"1", "2"}


@pytest.mark.parametrize(
    "names", [["number", "degree"], ["__filename", "gcnrec_row"], ["id", "ID"], ["a.b", "a"], ["x", "x_count"]]
)
def test_features_have_the_names_of_their_columns(pairs, tmp_path, names):
    """Each is standardised, so that its values are -1, 0 and 1 times the same number."""
    table = {"i": [40, 10, 20, 30], names[0]: [3.0, 0.0, 1.0, 2.0], names[1]: [0.0, 3.0, 2.0, 1.0]}
    pq.write_table(pa.table(table), tmp_path / "f.parquet")
    pairs([("u", USERS), ("i", ITEMS)], item_features="f.parquet")
    values = np.load(tmp_path / "out" / "item_features.npy")
    ids = pq.read_table(tmp_path / "out" / "items.parquet")["id"].to_numpy()
    wanted = (ids / 10 - 2.5) / np.sqrt(1.25)
    np.testing.assert_allclose(values, np.stack([wanted, -wanted], 1), rtol=1e-6)


def test_what_dataset_json_cannot_hold_is_refused(pairs, tmp_path):
    """A zero byte, in the name of a column or in a value that gets a feature of its own."""
    rows = [("u", USERS), ("i", ITEMS), ("a\0b", VALUES)]
    assert pairs(rows) == kept(np.arange(12)), "a column that is not named does no harm"
    with pytest.raises(ValidationError, match="expects text without the character NUL"):
        pairs(rows, user="a\0b")
    for name, values in (("a\0b", [1.0, 2.0]), ("x", ["a\0", "b"]), ("x", [["a\0"], ["b"]])):
        pq.write_table(pa.table({"i": [10, 20], name: values}), tmp_path / "f.parquet")
        with pytest.raises(
            DataError, match=rf"f.parquet: feature column {name!r} has a name or a value with a zero byte".replace("\\", "\\\\")
        ):
            pairs(rows, item_features="f.parquet")
