"""Tables in memory as the input of an ingestion: the dataset that Parquet of the same rows gives, and no claim of a file."""

from __future__ import annotations

import hashlib
import json

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import gcnrec
from gcnrec.errors import DataError
from gcnrec.loaders.files import in_memory


class Stream:
    """What a library shows of a table: its Arrow stream, and nothing else."""

    def __init__(self, table):
        self._table = table

    def __arrow_c_stream__(self, requested_schema=None):
        return self._table.__arrow_c_stream__(requested_schema)


def of_polars(table):
    """Text as views."""
    return Stream(table.cast(pa.schema([(name, pa.string_view()) for name in table.column_names])))


def of_pandas(table):
    """A selection of rows: its index comes as a column, and text is large."""
    plain = table.cast(pa.schema([(name, pa.large_string()) for name in table.column_names]))
    return Stream(plain.append_column("__index_level_0__", pa.array(np.arange(5, 5 + len(table)))))


def in_pieces(table):
    """Batches of odd lengths, one of them empty."""
    parts = [table.slice(0, 3), table.slice(3, 0), table.slice(3, 130), table.slice(133)]
    return pa.Table.from_batches([batch for part in parts for batch in part.combine_chunks().to_batches()], table.schema)


def of_duckdb(table):
    """A relation, whose query runs when it is read."""
    return duckdb.sql("SELECT * FROM rows", connection=duckdb.connect().register("rows", table))


LIBRARIES = {"arrow": lambda table: table, "pieces": in_pieces, "polars": of_polars, "pandas": of_pandas, "duckdb": of_duckdb}
NAMES = {"user": "user", "item": "item", "split": "random"}


def words(count=30):
    """Features of items: words and a number."""
    return pa.table({"item": [f"i{n:02d}" for n in range(count)], "word": [["ab", "cd"][n % 2 :] for n in range(count)]})


def arrays(dataset):
    """What a dataset folder says of its pairs and ids, whatever type the ids have."""
    graph = dataset.graph.user_items
    held_out = [each.tolist() for part in (dataset.valid, dataset.test) for each in (part.users_E, part.items_E)]
    ids = dataset.user_ids.ids.to_pylist(), dataset.item_ids.ids.to_pylist()
    features = None if dataset.item_features is None else dataset.item_features.tolist()
    return graph.indptr.tolist(), graph.indices.tolist(), held_out, ids, features


@pytest.mark.parametrize("library", LIBRARIES)
def test_rows_are_those_of_a_file(library, tmp_path, events):
    pq.write_table(events, tmp_path / "events.parquet")
    pq.write_table(words(), tmp_path / "words.parquet")
    files = gcnrec.Data(train=tmp_path / "events.parquet", item_features=tmp_path / "words.parquet", **NAMES)
    convert = LIBRARIES[library]
    tables = gcnrec.Data(train=convert(events), item_features=words(), **NAMES)
    of_files, of_tables = gcnrec.ingest(files, tmp_path / "files"), gcnrec.ingest(tables, tmp_path / "tables")
    assert arrays(of_tables) == arrays(of_files)
    if library in ("arrow", "pieces", "duckdb"):  # the others hold text in another type
        assert of_tables.digest == of_files.digest


def test_the_recipe_claims_no_file(tmp_path, events):
    whole = events
    dataset = gcnrec.ingest(
        gcnrec.Data(train=in_pieces(whole), test=whole.slice(0, 9), user="user", item="item"), tmp_path / "shop"
    )
    pq.write_table(whole, tmp_path / "whole.parquet", compression="zstd")
    digest = hashlib.sha256((tmp_path / "whole.parquet").read_bytes()).hexdigest()
    entry = {"rows": len(whole), "schema": {"user": "string", "item": "string"}, "sha256": digest}
    assert dataset.info["tables"]["train"] == entry and dataset.info["tables"]["test"]["rows"] == 9
    assert (dataset.info["inputs"], dataset.info["data"]["train"], dataset.name) == ({}, "memory://train", "shop")
    assert str(tmp_path) not in json.dumps(dataset.info)
    assert {path.suffix for path in (tmp_path / "shop").iterdir()} == {".json", ".npy", ".parquet"}
    assert not (tmp_path / "shop" / "train.parquet").exists()


def test_digests_are_of_rows_whatever_batches_they_come_in(monkeypatch, tmp_path, events):
    monkeypatch.setattr(in_memory, "_GROUP_ROWS", 64)  # several groups
    masked = pa.table({"user": events["user"], "item": events["item"], "weight": [None, 1.5] * 200})
    made = [
        gcnrec.ingest(gcnrec.Data(train=each, **NAMES), tmp_path / str(n)) for n, each in enumerate((masked, in_pieces(masked)))
    ]
    assert made[0].info["tables"] == made[1].info["tables"] and made[0].digest == made[1].digest
    assert made[0].info["tables"]["train"]["rows"] == 400


def test_errors_name_the_key(tmp_path, events):
    with pytest.raises(DataError, match=r"^memory://train has no column 'usr'; did you mean 'user'"):
        gcnrec.ingest(gcnrec.Data(train=events, user="usr", item="item"), tmp_path / "shop")
    nulls = pa.table({"user": ["a", None], "item": ["b", "c"]})
    with pytest.raises(DataError, match="first in row 1 of memory://train"):
        gcnrec.ingest(gcnrec.Data(train=nulls, user="user", item="item"), tmp_path / "shop")
    twice = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["user", "user"])
    with pytest.raises(DataError, match=r"data\.train must be a table that Arrow can read"):
        gcnrec.ingest(gcnrec.Data(train=twice, user="user", item="item"), tmp_path / "shop")
    connection = duckdb.connect()
    failing = connection.sql("SELECT CASE WHEN i < 5 THEN 'a' ELSE error('bad row') END AS user, 'b' AS item FROM range(9) t(i)")
    with pytest.raises(DataError, match=r"data\.train must be a table that Arrow can read .*bad row"):
        gcnrec.ingest(gcnrec.Data(train=failing, user="user", item="item"), tmp_path / "shop")
    union = pa.table({"user": ["a"], "item": pa.UnionArray.from_sparse(pa.array([0], pa.int8()), [pa.array(["b"])])})
    with pytest.raises(DataError, match=r"Parquet can hold"):
        gcnrec.ingest(gcnrec.Data(train=union, user="user", item="item"), tmp_path / "shop")
    assert list(tmp_path.iterdir()) == []


def test_an_object_that_is_no_table_is_a_sentence():
    with pytest.raises(ValueError, match=r"item_features expects a path, or a table .*, got Odd; make it one by pyarrow\.table"):
        gcnrec.Data(item_features=type("Odd", (), {})())
    with pytest.raises(ValueError, match="valid string"):
        gcnrec.Data(train=3)


def test_a_table_that_is_gone_is_a_sentence(tmp_path, events):
    data = gcnrec.Data(train=events, **NAMES)
    assert (repr(data), data.tables["train"].stream.num_rows) == (
        "Data(train='memory://train', user='user', item='item', split='random')", 400,
    )  # fmt: skip
    assert data == data.model_copy() and data != gcnrec.Data(train=events, **NAMES)
    again = gcnrec.Data(**data.model_dump(exclude_unset=True))
    with pytest.raises(DataError, match=r"^memory://train was a table in memory, which is gone; give it again"):
        gcnrec.ingest(again, tmp_path / "shop")


def test_a_run_goes_on_with_the_dataset_of_a_table(tmp_path, events):
    dataset = gcnrec.ingest(gcnrec.Data(train=events, **NAMES), tmp_path / "shop")
    job = gcnrec.Job(model={"name": "popularity"}, evaluate={"k": [5], "bootstrap": 9})
    run = gcnrec.train(job, dataset, tmp_path / "run")
    assert run.job.data.train == "memory://train"
    assert gcnrec.train(tmp_path / "run" / "job.toml", dataset, tmp_path / "run", resume=True).dataset.digest == dataset.digest
