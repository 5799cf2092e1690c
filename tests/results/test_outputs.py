"""Tables as Parquet, CSV and JSON lines: read back, and read as files of ids."""

from __future__ import annotations

import csv
import datetime
import json
from decimal import Decimal
from uuid import UUID

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gcnrec.errors import DataError, UsageError
from gcnrec.ids.id_types import as_ids
from gcnrec.interactions import MemoryVocabulary
from gcnrec.results.given.id_files import IdColumn, open_ids
from gcnrec.results.outputs import Output

UUIDS = [UUID(int=number) for number in (1, 2, 3)]
IDS = {
    "int64": pa.array([1, -5, 2**62]),
    "uint64": pa.array([1, 2, 2**64 - 1], pa.uint64()),
    "decimal": pa.array([Decimal(1), Decimal(10**30), Decimal(-7)], pa.decimal128(38, 0)),
    "text": pa.array(["a", 'q"uo,te', "é\u202e"]),
    "view": pa.array(["a", "b", "c"], pa.string_view()),
    "dictionary": pa.array(["a", "b", "a"]).dictionary_encode(),
    "dates": pa.array([datetime.date(2024, 2, 29), datetime.date(1969, 1, 1), datetime.date(2100, 1, 1)]),
    "bytes": pa.array([b"a", b"bc", b""]),
    "fixed": pa.array([b"aa", b"bc", b"dd"], pa.binary(2)),
    "uuid": pa.array([one.bytes for one in UUIDS], pa.uuid()),
}
SCORES = pa.array(np.array([0.1, -1e-30, 16777217.0], np.float32))


def table_of(ids):
    return pa.table({"user": ids, "rank": pa.array([1, 2, None], pa.int32()), "score": SCORES})


def written(path, *tables, force=False):
    with Output(path, force).opened(tables[0].schema) as write:
        for table in tables:
            write(table)
    return path


@pytest.mark.parametrize("name", IDS)
@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_ids_come_back_where_files_of_ids_are_read(tmp_path, name, ending):
    ids = IDS[name]
    path = written(tmp_path / f"out{ending}", table_of(ids).slice(0, 2), table_of(ids).slice(2))
    with open_ids(path) as table:
        found = table.ids(IdColumn(("user",), MemoryVocabulary(ids), others=()))
    assert found.combine_chunks().equals(as_ids(ids, ids.type))


def test_csv_by_the_module_of_python(tmp_path):
    path = written(tmp_path / "out.CSV", table_of(IDS["text"]))
    with path.open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["user", "rank", "score"]
    assert [row[:2] for row in rows] == [["a", "1"], ['q"uo,te', "2"], ["é\u202e", ""]]
    assert [np.float32(row[2]) for row in rows] == SCORES.to_pylist()


@pytest.mark.parametrize("name", IDS)
def test_json_lines_by_the_module_of_python(tmp_path, name):
    path = written(tmp_path / "out.jsonl", table_of(IDS[name]).slice(0, 1), table_of(IDS[name]).slice(1))
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    ids = [row["user"] for row in rows]
    if pa.types.is_integer(IDS[name].type):
        assert ids == IDS[name].to_pylist()
    else:
        plain = [one.decode() if isinstance(one, bytes) else str(one) for one in IDS[name].to_pylist()]
        assert ids == plain
    assert [row["rank"] for row in rows] == [1, 2, None]
    assert [np.float32(row["score"]) for row in rows] == SCORES.to_pylist()
    assert '"score": 0.1}' in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("ending", [".csv", ".jsonl"])
def test_bytes_that_are_no_text_need_parquet_and_leave_nothing(tmp_path, ending):
    with pytest.raises(DataError, match=r"column 'user' holds bytes that are no text; write Parquet: end --out in \.parquet"):
        written(tmp_path / f"out{ending}", table_of(pa.array([b"a", b"\xff", b"c"])))
    assert list(tmp_path.iterdir()) == []


def test_line_breaks_are_refused_where_files_of_ids_could_not_be_read(tmp_path):
    ids = pa.array(["a", "b\nc", "d"])
    with pytest.raises(DataError, match=r"column 'user' holds a line break, .* end --out in \.parquet or \.jsonl"):
        written(tmp_path / "out.csv", table_of(ids))
    path = written(tmp_path / "out.jsonl", table_of(ids))
    assert [json.loads(line)["user"] for line in path.read_text().splitlines()] == ids.to_pylist()


@pytest.mark.parametrize("owner", ["dataset.json", "lineage.json"])
def test_files_of_runs_and_datasets_are_never_replaced(tmp_path, owner):
    folder = tmp_path / "owner"
    own = ["metrics.jsonl", "per_user.parquet", "embeddings/items.parquet", "job.toml"]
    for name in (owner, *own):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("mine")
    for name in own:
        with pytest.raises(UsageError, match=r"is a file of .*owner, which is never overwritten; choose another --out"):
            Output(folder / name, force=True)
    with pytest.raises(UsageError, match="is a file of"):
        Output(folder / "run.lock")
    (folder / "lists.parquet").write_text("lists")
    if owner == "lineage.json":
        assert written(folder / "lists.parquet", table_of(IDS["text"]), force=True).stat().st_size > 100
    assert Output(folder / "new.csv").kind == "csv"


def test_parquet_for_any_other_name_but_those_of_other_formats(tmp_path):
    for name in ("out", "out.parquet", "lists.v2"):
        assert pq.read_table(written(tmp_path / name, table_of(IDS["int64"]))).equals(table_of(IDS["int64"]))
    for name in ("out.json", "out.tsv", "out.csv.gz", "out.XLSX"):
        with pytest.raises(UsageError, match=r"must end in \.parquet, \.csv or \.jsonl"):
            Output(tmp_path / name)


def test_a_file_is_replaced_by_force_only_and_a_folder_never(tmp_path):
    path = tmp_path / "out.csv"
    path.write_text("mine")
    with pytest.raises(UsageError, match=r"out\.csv exists and is never overwritten; choose another --out, or add --force"):
        Output(path)
    with pytest.raises(RuntimeError), Output(path, force=True).opened(table_of(IDS["text"]).schema):
        raise RuntimeError
    assert path.read_text() == "mine"
    written(path, table_of(IDS["text"]), force=True)
    assert path.read_text().startswith("user,rank") or path.read_text().startswith('"user"')
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError, match="folder exists and is never overwritten; choose another --out"):
        Output(tmp_path / "folder", force=True)
