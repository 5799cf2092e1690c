"""An index of usearch, opened as a server opens it."""

from __future__ import annotations

import json
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
from usearch.index import Index

from gcnrec.errors import DataError, UsageError
from gcnrec.results.export import export
from gcnrec.results.exports.vectors import queries_of


def test_searches_have_the_measured_recall(run, tmp_path):
    facts = export(run, "usearch", tmp_path / "index", k=5)
    assert sorted(path.name for path in (tmp_path / "index").iterdir()) == ["index.json", "items.parquet", "items.usearch"]
    written = json.loads((tmp_path / "index" / "index.json").read_text())
    assert (written["format"], written["index"], written["items"], written["width"]) == (1, "usearch", 60, 9)
    index, scorer = Index.restore(str(tmp_path / "index" / "items.usearch")), run.scorer()
    index.expansion_search = facts["expansion_search"]
    found = index.search(queries_of(scorer, np.arange(120, dtype=np.int32)), 5)
    exact = scorer.users_UD.double() @ scorer.items_ID.double().T + scorer.column_I
    best = np.argsort(-exact.numpy(), axis=1, kind="stable")[:, :5]
    hits = [len({*a.tolist()} & {*b.tolist()}) / 5 for a, b in zip(best, found.keys, strict=True)]
    assert facts["recall@5"] == pytest.approx(np.mean(hits), abs=1e-3) and facts["recall@5"] >= 0.99
    scores = np.take_along_axis(exact.numpy(), found.keys.astype(np.int64), axis=1)
    assert 1 - found.distances == pytest.approx(scores - float(scorer.column_I.mean()), abs=1e-5)
    ids = pq.read_table(tmp_path / "index" / "items.parquet")
    assert ids.column("id").to_pylist() == run.dataset.item_ids.ids.to_pylist()


def test_force_replaces_an_index_alone(run, tmp_path):
    export(run, "usearch", tmp_path / "index")
    export(run, "usearch", tmp_path / "index", force=True)
    whole = (tmp_path / "index" / "items.usearch").read_bytes()
    (tmp_path / "index" / "items.usearch").write_bytes(whole[:60])
    with pytest.raises(UsageError, match=r"it holds items.usearch, which is no part of an export, or is damaged"):
        export(run, "usearch", tmp_path / "index", force=True)
    (tmp_path / "index" / "items.usearch").write_bytes(b"mine")
    with pytest.raises(UsageError, match=r"it holds items.usearch"):
        export(run, "usearch", tmp_path / "index", force=True)


def test_a_failed_write_leaves_nothing(run, tmp_path, monkeypatch):
    def fail(*arguments):
        raise RuntimeError("no space left")

    monkeypatch.setattr(Index, "save", fail)
    with pytest.raises(DataError, match=r"cannot write .*no space left"):
        export(run, "usearch", tmp_path / "index")
    assert list(tmp_path.iterdir()) == []


def test_without_the_extra(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "usearch.index", None)
    with pytest.raises(UsageError, match=r"needs usearch, which is not installed; pip install '\.\[usearch\]' in a checkout"):
        export(run, "usearch", tmp_path / "index")
