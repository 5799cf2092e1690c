"""Tables in memory in place of files of ids: `recommend`, `similar` and `score` return what the same rows in a file give."""

from __future__ import annotations

import tempfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import gcnrec
from gcnrec.errors import DataError, UsageError
from gcnrec.results.relisting import Relisting
from gcnrec.results.score import NewNodes
from gcnrec.results.similar import SimilarFiles
from tests.api.test_tables_in import of_duckdb, of_pandas, of_polars

HALVES = pa.table({"item": [f"i{n:02d}" for n in range(30)], "half": [n // 15 for n in range(30)]})


class Lazy:
    """What Polars calls LazyFrame: a query whose rows `collect` makes."""

    def collect(self):
        return None


def recommended(world, given, events):
    lists = {"users": events.slice(0, 30), "items": events.slice(40, 90), "candidates": events, "exclude": events.slice(0, 2)}
    return gcnrec.recommend(world / "run", 3, seen="none", **{name: given(name, table) for name, table in lists.items()})


def with_new_nodes(world, given, events):
    more = pa.table({"user": ["x1", "x1", "x2"], "item": ["i01", "i02", "i20"]})
    relisting = Relisting({"half": 1}, given("attributes", HALVES))
    return gcnrec.recommend(world / "run", 3, new_users=given("new_users", more), relisting=relisting)


def alike(world, given, events):
    items = events.select(["item"])
    files = {"of": items.slice(0, 5), "among": items.slice(0, 60), "exclude": items.slice(7, 1)}
    return gcnrec.similar(
        world / "run", "item", 2, files=SimilarFiles(**{name: given(name, each) for name, each in files.items()})
    )


def scored(world, given, events):
    more = pa.table({"user": ["x1", "x1"], "item": ["i01", "i02"]})
    pairs = pa.concat_tables([events.slice(0, 7), more.slice(0, 1)])
    return gcnrec.score(world / "run", given("pairs", pairs), new=NewNodes(users=given("new", more)))


CALLS = {"recommend": recommended, "new nodes": with_new_nodes, "similar": alike, "score": scored}


@pytest.mark.parametrize("name", CALLS)
def test_a_table_gives_what_its_file_gives(name, world, events, tmp_path):
    def as_file(name, table):
        pq.write_table(table, tmp_path / f"{name}.parquet")
        return tmp_path / f"{name}.parquet"

    of_tables, of_files = (CALLS[name](world, given, events) for given in (lambda _, table: table, as_file))
    assert of_tables == of_files and of_tables.num_rows > 0
    assert of_tables.schema.metadata == of_files.schema.metadata


@pytest.mark.parametrize("convert", [of_polars, of_pandas, of_duckdb, lambda table: table["user"]])
def test_of_any_library_and_a_column_alone(convert, world):
    asked = pa.table({"user": ["u03", "u01"]})
    assert gcnrec.recommend(world / "run", 2, users=convert(asked))["user"].to_pylist() == ["u03", "u03", "u01", "u01"]


def test_nothing_is_left_of_a_table(world, events, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    gcnrec.score(world / "run", events.slice(0, 3))
    with pytest.raises(DataError):
        gcnrec.score(world / "run", events.slice(0, 0))
    assert list(tmp_path.iterdir()) == []


def test_errors_name_the_parameter(world, events):
    with pytest.raises(DataError, match=r"^memory://users must name users of events, none of its 2 ids is one"):
        gcnrec.recommend(world / "run", 2, users=pa.table({"user": ["nobody", "noone"]}))
    with pytest.raises(DataError, match=r"^memory://pairs must have two columns, 'user' and 'item', it has only 'item'"):
        gcnrec.score(world / "run", events.select(["item"]))
    union = pa.table({"user": pa.UnionArray.from_sparse(pa.array([0], pa.int8()), [pa.array(["b"])])})
    with pytest.raises(DataError, match=r"^users must be a table that Arrow can read and Parquet can hold"):
        gcnrec.recommend(world / "run", 2, users=union)


def test_what_is_no_table_is_a_sentence_with_a_remedy(world):
    with pytest.raises(UsageError, match=r"^users expects a path, .* got Lazy; pass what its \.collect\(\) returns$"):
        gcnrec.recommend(world / "run", 2, users=Lazy())
    with pytest.raises(UsageError, match=r"^of expects a path, .* got list; make it one by pyarrow\.table\({'name': values"):
        gcnrec.similar(world / "run", "item", 2, files=SimilarFiles(of=["i01"]))
    with pytest.raises(ValueError, match=r"train expects a path, .* got Lazy; pass what its \.collect\(\) returns"):
        gcnrec.Data(train=Lazy())
