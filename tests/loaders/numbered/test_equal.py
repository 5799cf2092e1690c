"""Numbered pairs become the dataset folder that plain ingestion makes of the same rows: each digest is equal."""

from __future__ import annotations

import json
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gcnrec.config import Data
from gcnrec.loaders.numbered import folder
from gcnrec.loaders.numbered.folder import ingest_numbered
from gcnrec.loaders.numbered.layout import settings_of
from gcnrec.loaders.parquet import ingest
from gcnrec.system.observer import SILENT
from gcnrec.system.scratch import scratch_in
from jobs.measure.numbered.writer import write_files, write_numbered

KINDS = {
    "int64": lambda n: pa.array(n * 7919 % 10_007 - 5000, pa.int64()),
    "uint64": lambda n: pa.array(n.astype(np.uint64) + np.uint64(2**63 - 50)),
    "int16": lambda n: pa.array(n * 17 % 1009, pa.int16()),
    "text": lambda n: pa.array([f"{'é' * (k % 3)}{k}" for k in n.tolist()]),
    "bytes": lambda n: pa.array([k.to_bytes(k % 3 + 2, "little") for k in n.tolist()], pa.binary()),
    "dates": lambda n: pa.array(n, pa.int32()).cast(pa.date32()),
    "decimals": lambda n: pa.array([Decimal(k - 90) for k in n.tolist()], pa.decimal128(9, 0)),
}


def world(rows, seed, users="int64", items="text", time=True, weight=False, most=(150, 60)):
    """Rows with repeated pairs; a few users and items have most of them."""
    draw = np.random.default_rng(seed)
    columns = {"user": KINDS[users](draw.zipf(1.3, rows) % most[0]), "item": KINDS[items](draw.zipf(1.3, rows) % most[1])}
    columns |= {"time": draw.integers(0, 50, rows)} if time else {}
    columns |= {"weight": draw.random(rows).astype(np.float32)} if weight else {}
    return pa.table(columns)


@pytest.fixture
def digests(tmp_path):
    """Digest of plain ingestion of two tables, and of the numbered pairs that the reference writer makes of them."""

    def call(train, test, *, files=3, keep_cold=False, features=False):
        pq.write_table(train, tmp_path / "train.parquet")
        pq.write_table(test, tmp_path / "test.parquet")
        names = {name: name for name in ("time", "weight") if name in train.column_names}
        common = {"item_features": str(tmp_path / "features.parquet")} if features else {}
        paths = {role: str(tmp_path / f"{role}.parquet") for role in ("train", "test")}
        data = Data(**paths, **names, **common, user="user", item="item", valid_size=0.0, keep_cold=keep_cold)
        plain = ingest(data, tmp_path / "plain", data_root=None, name="plain")
        write_numbered(tmp_path / "numbered", train, test, files=files, keep_cold=keep_cold)
        return plain, numbered(tmp_path, **common)

    return call


def numbered(folder, **given):
    return ingest_numbered(
        str(folder / "numbered"), settings_of(given), folder / "out", data_root=None, force=True, observer=SILENT
    )


@pytest.mark.parametrize(
    ("users", "items", "columns", "options"),
    [
        ("int64", "text", {"time": False}, {"files": 1}),
        ("text", "int16", {}, {"keep_cold": True}),
        ("uint64", "bytes", {"weight": True}, {"files": 9}),
        ("dates", "decimals", {"weight": True, "time": False}, {"keep_cold": True}),
    ],
)
def test_digests_are_equal(digests, users, items, columns, options):
    train, test = (world(rows, seed, users, items, **columns) for rows, seed in ((3000, 0), (400, 1)))
    plain, made = digests(train, test, **options)
    assert made.digest == plain.digest and len(made.test) > 0
    counts = {key: plain.info[key] for key in ("num_users", "num_items", "num_train", "num_valid", "num_test", "split")}
    assert {key: made.info[key] for key in counts} == counts
    if columns.get("time", True):
        leaks = {key: value for key, value in plain.info["report"].items() if key.startswith("leakage")}
        assert leaks.items() <= made.info["report"].items() and len(leaks) == 3


def test_digests_are_equal_where_memory_is_short(tmp_path, digests, monkeypatch):
    """At a limit of 100 kB, the transpose is made in several ranges of items, ids are coded in several stretches."""
    train, test = (world(rows, seed, "text", "text", weight=True, most=(4000, 900)) for rows, seed in ((12_000, 2), (1000, 3)))
    monkeypatch.setattr(folder, "scratch_in", lambda place, limit: scratch_in(place, 100_000))
    plain, made = digests(train, test, files=4)
    assert made.digest == plain.digest and made.info["num_train"] > 5000


def test_a_validation_part_counts_like_a_file(tmp_path, digests):
    """The test pairs as validation: what plain ingestion makes of --valid."""
    train, held_out = world(2000, 4), world(300, 5)
    plain, _ = digests(train, held_out)
    place = tmp_path / "numbered"
    (place / "test").rename(place / "valid")
    document = json.loads((place / "numbered.json").read_text())
    document |= {"valid": document["test"], "test": 0}
    (place / "numbered.json").write_text(json.dumps(document))
    made = numbered(tmp_path)
    assert (
        made.valid.users_E.tolist() == plain.test.users_E.tolist() and made.valid.times_E.tolist() == plain.test.times_E.tolist()
    )
    assert len(made.test) == 0 and made.test.times_E.tolist() == []


def test_an_engine_may_change_types(tmp_path, digests):
    """Decimals for unsigned integers, dictionaries of large texts, foreign columns: the document says what the ids are."""
    plain, _ = digests(world(1000, 6, "uint64", "text"), world(100, 7, "uint64", "text"))
    place = tmp_path / "numbered"
    for side, kind in (("users", pa.decimal128(20, 0)), ("items", pa.large_string())):
        table = pa.concat_tables(pq.read_table(path) for path in sorted((place / side).iterdir(), reverse=True))
        ids = table["id"].cast(kind)
        columns = {"degree": table["number"], "id": ids if side == "users" else ids.dictionary_encode()}
        for path in (place / side).iterdir():
            path.unlink()
        (place / side).rmdir()
        write_files(place / side, pa.table({**columns, "number": table["number"].cast(pa.int32())}), 2)
    document = json.loads((place / "numbered.json").read_text())
    (place / "numbered.json").write_text(json.dumps(document | {"types": {"user": "uint64", "item": "string"}}))
    made = numbered(tmp_path)
    assert made.digest == plain.digest
    assert (made.user_ids.type, made.item_ids.type) == (pa.uint64(), pa.string())


def test_features_come_by_id(tmp_path, digests):
    train, test = world(1000, 8, items="int64"), world(100, 9, items="int64")
    items = sorted({*train["item"].to_pylist()})
    pq.write_table(pa.table({"item": items, "price": np.arange(len(items), dtype=np.float32)}), tmp_path / "features.parquet")
    plain, made = digests(train, test, features=True)
    assert made.digest == plain.digest and made.item_features.shape == (len(items), 1)


def test_hive_folders_and_addresses(tmp_path, digests):
    plain, _ = digests(world(500, 10), world(50, 11))
    place = tmp_path / "numbered"
    for path in sorted((place / "train").iterdir()):
        path.rename((place / "train" / f"part={path.stem}").with_suffix(""))
    for number, path in enumerate(sorted((place / "train").iterdir())):
        (place / "train" / f"range={number}").mkdir()
        path.rename(place / "train" / f"range={number}" / "rows")
    (place / "train" / "_SUCCESS").touch()
    address = f"file://{place}"
    made = ingest_numbered(address, settings_of({}), tmp_path / "out", data_root=None, force=True, observer=SILENT)
    assert made.digest == plain.digest and made.name == "numbered" and made.info["numbered"] == address


def test_a_run_of_numbered_pairs(tmp_path, gcnrec, digests):
    """The command line, a training, and its repetition: nothing later asks where a dataset folder comes from."""
    plain, _ = digests(world(1500, 12), world(200, 13))
    code, out, err = gcnrec("ingest", "--numbered", "numbered", "--out", "data", "--name", "shop", "--json")
    assert code == 0 and json.loads(out)["digest"] == plain.digest, err
    (tmp_path / "job.toml").write_text("[model]\nwidth = 4\n[train]\nepochs = 1\n[evaluate]\nbootstrap = 0\nbaselines = []\n")
    code, _, err = gcnrec("run", "job.toml", "--data", "data", "--out", "first")
    assert code == 0, err
    code, _, err = gcnrec("run", "first/job.toml", "--out", "second")
    assert code == 0, err
    assert (tmp_path / "first" / "metrics.json").read_text() == (tmp_path / "second" / "metrics.json").read_text()
