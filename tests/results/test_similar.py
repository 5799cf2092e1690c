"""Lists of similar items and users, against cosines by NumPy and by hand."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from gcnrec.api.lists import similar
from gcnrec.config.job import Model
from gcnrec.errors import DataError, UsageError
from gcnrec.graph import BipartiteGraph
from gcnrec.interactions import Interactions, MemoryVocabulary
from gcnrec.loaders.schema import Dataset
from gcnrec.ranking.export_rules import Exported, ExportRule
from gcnrec.results import similar as module
from gcnrec.results.similar import SimilarFiles
from tests.helpers.heard import Heard

# In the plane: a and b point one way, c at right angles to them, d against a; e is zero.
ROWS = np.array([[2, 0], [4, 1], [0, 3], [-1, 0], [0, 0]], np.float32)
ITEMS = ["a", "b", "c", "d", "e"]


def fake_run(rows_IF=ROWS, users_UF=ROWS, item_ids=None, user_ids=None, features=None, model="lightgcn"):
    """Each user has the item of its number, but the last one."""
    items = MemoryVocabulary(pa.array(ITEMS if item_ids is None else item_ids))
    users = MemoryVocabulary(pa.array(range(10, 10 + len(users_UF)), pa.int16()) if user_ids is None else user_ids)
    edges = np.arange(min(len(items), len(users)) - 1, dtype=np.int32)
    empty = np.empty(0, np.int32)
    none = Interactions(empty, empty, None, None, users, items)
    graph = BipartiteGraph.from_edges(edges, edges, len(users), len(items))
    info = {"name": "plane", "digest": "d", "data": {"user": "customer", "item": "product"}}
    dataset = Dataset(Path(), info, graph, users, items, none, none, None, None, item_features=features)
    model = Model(name=model)
    sections = {"evaluate": SimpleNamespace(memory_limit="2GB"), "export": SimpleNamespace(dtype="float32")}

    def embeddings(_):
        rule = ExportRule("theory")
        popularity = torch.arange(len(items), dtype=torch.float32)
        return Exported(rule, torch.tensor(users_UF), torch.tensor(rows_IF), popularity, 100.0, None)

    return SimpleNamespace(
        folder=Path("run"), job=SimpleNamespace(model=model, **sections), dataset=dataset, refitted=False,
        embeddings=embeddings,
    )  # fmt: skip


def lists(path, of="item"):
    table = pq.read_table(path)
    assert table.column_names == [of, "similar", "rank", "score"]
    assert table.schema.types[2:] == [pa.int32(), pa.float32()] and table.schema.types[0] == table.schema.types[1]
    found: dict = {}
    for node, other, rank in zip(*(table.column(name).to_pylist() for name in (of, "similar", "rank")), strict=True):
        found.setdefault(node, []).append(other)
        assert rank == len(found[node])
    return found


def test_by_direction_alone_without_itself_and_without_what_has_none(tmp_path):
    made = similar(fake_run(), "item", 9, tmp_path / "out.parquet")
    assert lists(tmp_path / "out.parquet") == {
        "a": ["b", "c", "d"], "b": ["a", "c", "d"], "c": ["b", "a", "d"], "d": ["c", "b", "a"]
    }  # fmt: skip
    assert (made.nodes, made.rows, made.short, made.untrained, made.unknown) == (4, 12, 4, 0, 0)
    score = dict(zip("bcd", pq.read_table(tmp_path / "out.parquet").column("score").to_pylist(), strict=False))
    assert score["b"] == pytest.approx(4 / np.sqrt(17)) and (score["c"], score["d"]) == (0.0, -1.0)


@pytest.mark.parametrize(("side", "chunk"), [("item", 7), ("item", 512), ("user", 16)])
def test_equal_to_numpy(tmp_path, monkeypatch, side, chunk):
    draw = np.random.default_rng(3)
    rows = {"item": draw.normal(size=(90, 8)).astype(np.float32), "user": draw.normal(size=(70, 8)).astype(np.float32)}
    run = fake_run(rows["item"], rows["user"], item_ids=[f"i{number}" for number in range(90)])
    monkeypatch.setattr(module, "nodes_per_chunk", lambda *_: chunk)
    similar(run, side, 5, tmp_path / "out.parquet")
    names = [f"i{number}" for number in range(90)] if side == "item" else list(range(10, 80))
    unit = rows[side].astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -2)
    order = np.argsort(-cosines, axis=1)[:, :5]
    assert lists(tmp_path / "out.parquet", side) == {
        name: [names[other] for other in order[number]] for number, name in enumerate(names)
    }
    scores = pq.read_table(tmp_path / "out.parquet").column("score").to_numpy().reshape(-1, 5)
    np.testing.assert_allclose(scores, np.take_along_axis(cosines, order, axis=1), atol=1e-6)


def test_lists_of_a_file_come_in_its_order_once(tmp_path):
    (tmp_path / "of.csv").write_text("product\nd\nz\na\nd\n")
    heard = Heard()
    made = similar(fake_run(), "item", 1, tmp_path / "out.parquet", SimilarFiles(of=tmp_path / "of.csv"), observer=heard)
    assert lists(tmp_path / "out.parquet") == {"d": ["c"], "a": ["b"]}
    assert (made.unknown, made.dropped) == (1, {"items": {"rows": 4, "unknown_item": 1, "repeated": 1}})
    assert heard.notes == ["--items: 2 of 4 rows have no effect: 1 of unknown items, 1 repeated"]


def test_among_and_exclude(tmp_path):
    (tmp_path / "among.csv").write_text("item\nb\nd\nx\n")
    made = similar(fake_run(), "item", 9, tmp_path / "a.parquet", SimilarFiles(among=tmp_path / "among.csv"))
    assert lists(tmp_path / "a.parquet") == {"a": ["b", "d"], "b": ["d"], "c": ["b", "d"], "d": ["b"]}
    assert made.dropped == {"among": {"rows": 3, "unknown_item": 1, "repeated": 0}}
    (tmp_path / "not.csv").write_text("item\nb\n")
    similar(fake_run(), "item", 9, tmp_path / "b.parquet", SimilarFiles(exclude=tmp_path / "not.csv"))
    assert lists(tmp_path / "b.parquet") == {"a": ["c", "d"], "b": ["a", "c", "d"], "c": ["a", "d"], "d": ["c", "a"]}
    (tmp_path / "of.csv").write_text("item\na\nc\n")
    (tmp_path / "pairs.csv").write_text("item,similar\na,b\na,b\nc,d\nd,a\nz,a\na,z\n")
    files = SimilarFiles(of=tmp_path / "of.csv", exclude=tmp_path / "pairs.csv")
    made = similar(fake_run(), "item", 9, tmp_path / "c.parquet", files)
    assert lists(tmp_path / "c.parquet") == {"a": ["c", "d"], "c": ["b", "a"]}
    assert made.dropped["exclude"] == {"rows": 6, "unknown_item": 2, "not_asked": 1, "repeated": 1}


def test_nodes_without_interactions_are_warned_of_unless_they_have_features(tmp_path):
    rows, heard = np.array([[1, 0], [1, 1], [0, 1], [1, 2], [2, 1]], np.float32), Heard()
    made = similar(fake_run(rows), "item", 2, tmp_path / "a.parquet", observer=heard)
    assert made.untrained == 1 and heard.warnings == [
        "1 of 5 items have no interaction that run knows, so their lists say nothing of them"
    ]
    features = np.ones((5, 1), np.float32)
    known = fake_run(rows, features=features, model="graphsage")
    assert similar(known, "item", 2, tmp_path / "b.parquet", observer=heard).untrained == 0 and len(heard.warnings) == 1
    unread = fake_run(rows, features=features)
    assert similar(unread, "item", 2, tmp_path / "c.parquet").untrained == 1


def test_what_cannot_be_done_is_refused(tmp_path):
    out, run = tmp_path / "out.parquet", fake_run()
    with pytest.raises(UsageError, match="--k must be at least 1, got 0"):
        similar(run, "item", 0, out)
    with pytest.raises(UsageError, match=r"closed-form model \(ease\), which has no embeddings"):
        similar(fake_run(model="ease"), "item", 1, out)
    (tmp_path / "users.csv").write_text("item\nx\n")
    for files in (SimilarFiles(of=tmp_path / "users.csv"), SimilarFiles(among=tmp_path / "users.csv")):
        with pytest.raises(DataError, match=r"must name products? of plane|must name items? of plane"):
            similar(run, "item", 1, out, files)
    (tmp_path / "pairs.csv").write_text("item,similar\nx,y\n")
    with pytest.raises(DataError, match=r"--exclude must name pairs of items of plane, none of its 1 pairs is one"):
        similar(run, "item", 1, out, SimilarFiles(exclude=tmp_path / "pairs.csv"))
    out.write_bytes(b"mine")
    with pytest.raises(UsageError, match="exists and is never overwritten; choose another --out, or add --force"):
        similar(run, "item", 1, out)
    assert out.read_bytes() == b"mine" and sorted(path.name for path in tmp_path.iterdir()) == [
        "out.parquet", "pairs.csv", "users.csv"
    ]  # fmt: skip
