"""Exports of real, small runs: what is read back from them is what `gcnrec recommend` and the run folder hold."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from datetime import date
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from uuid import UUID

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from gcnrec.api.lists import recommend
from gcnrec.config import Job
from gcnrec.errors import DataError, UsageError
from gcnrec.graph import csr_from_edges
from gcnrec.interactions import MemoryVocabulary
from gcnrec.ranking.export_rules import Exported, ExportRule
from gcnrec.ranking.scorer import EmbeddingScorer
from gcnrec.results import export as module
from gcnrec.results.bundle import known_items, write_bundle
from gcnrec.results.export import ItemIndex, export, open_index, ranked
from gcnrec.results.exports.vectors import queries_of
from gcnrec.testing import World, checkerboard, empty_rows, halves, write_dataset
from gcnrec.training.train import train

SERVE = Path(__file__).parents[2] / "jobs" / "examples" / "serve.py"


def crowd() -> World:
    """700 users, more than one chunk of them, and 90 items, numbered by falling degree; some users like 50 items, most a few."""
    rng = np.random.default_rng(5)
    likes = [rng.permutation(90)[: 50 if user < 20 else rng.integers(2, 9)].tolist() for user in range(700)]
    likes.sort(key=len, reverse=True)
    order = np.argsort(-np.bincount(np.concatenate(likes), minlength=90), kind="stable").argsort()
    edges = [(user, int(order[item])) for user, items in enumerate(likes) for item in items]
    held = {edge for edge in edges if rng.random() < 0.1}
    graph_edges = [edge for edge in edges if edge not in held]
    return World("crowd", 700, 90, graph_edges, [], sorted(held))


def trained(world: World, folder: Path, **model):
    sections = {
        "model": {"width": 8, **model},
        "optimizer": {"learning_rate": 0.02},
        "train": {"epochs": 2, "batch_size": 256, "threads": 2},
        "evaluate": {"baselines": [], "patience": 0},
    }
    return train(Job.parse(sections, [], "test"), write_dataset(world, folder / "data"), folder / "run")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained(crowd(), tmp_path_factory.mktemp("crowd"))


def served(index: ItemIndex, run, k: int) -> pa.Table:
    """The lists of every user from an index, as the table that `gcnrec recommend` writes."""
    users = np.arange(len(run.dataset.user_ids), dtype=np.int32)
    parts = list(ranked(index, run.scorer(), users, k, known_items(run.dataset)))
    items, scores = (np.concatenate([getattr(part, name) for part in parts]) for name in ("items_BK", "scores_BK"))
    at, slots = np.nonzero(items >= 0)
    columns = [run.dataset.user_ids.decode(users[at]), index.ids.take(pa.array(items[at, slots]))]
    return pa.table([*columns, pa.array((slots + 1).astype(np.int32)), pa.array(scores[at, slots])], names=NAMES)


NAMES = ["user", "item", "rank", "score"]


@pytest.mark.parametrize("model", [{"name": "lightgcn"}, {"name": "mf", "propagation": "none"}])
@pytest.mark.parametrize("world", [crowd, checkerboard, halves, empty_rows])
def test_the_flat_index_gives_the_lists_of_recommend(tmp_path, world, model):
    run = trained(world(), tmp_path, **model)
    export(run, "faiss", tmp_path / "index")
    recommend(run, 20, tmp_path / "recs.parquet")
    expected = pq.read_table(tmp_path / "recs.parquet")
    assert len(expected) and served(open_index(tmp_path / "index"), run, 20).equals(expected)


def test_an_index_folder(run, tmp_path):
    facts = export(run, "faiss", tmp_path / "index", k=10)
    assert sorted(path.name for path in (tmp_path / "index").iterdir()) == ["index.json", "items.faiss", "items.parquet"]
    written = json.loads((tmp_path / "index" / "index.json").read_text())
    assert (written["format"], written["index"], written["items"], written["width"]) == (1, "flat", 90, 9)
    assert written["recall@10"] == facts["recall@10"] > 0.999 and written["data"] == run.dataset.digest
    ids = pq.read_table(tmp_path / "index" / "items.parquet")
    assert ids.column("id").to_pylist() == run.dataset.item_ids.ids.to_pylist()
    assert ids.column("number").to_pylist() == list(range(90))
    index = open_index(tmp_path / "index").index
    scorer = run.scorer()
    vectors = index.reconstruct_n(0, 90)
    assert np.array_equal(vectors[:, :8], scorer.items_ID.numpy()) and written["query"] == "embedding of the user, then 1"
    assert vectors[:, 8] == pytest.approx((scorer.column_I - scorer.column_I.mean()).numpy(), abs=1e-6)


def test_hnsw_is_measured(run, tmp_path):
    facts = export(run, "faiss", tmp_path / "index", index="hnsw", k=5)
    opened = open_index(tmp_path / "index")
    users = np.linspace(0, 699, 700).round().astype(int)
    scorer = run.scorer()
    rows = scorer.users_UD.numpy()[users]
    scores = rows.astype(np.float64) @ scorer.items_ID.numpy().astype(np.float64).T + scorer.column_I.numpy()
    found = opened.index.search(queries_of(scorer, users.astype(np.int32)), 5)[1]
    hits = [len({*np.argsort(-score)[:5].tolist()} & {*line.tolist()}) for score, line in zip(scores, found, strict=True)]
    assert opened.index.hnsw.efSearch == facts["ef_search"] == opened.facts["ef_search"]
    assert facts["recall@5"] == pytest.approx(np.mean(hits) / 5, abs=1e-3)
    assert facts["recall@5"] > 0.9
    lists, seen = served(opened, run, 5), known_items(run.dataset)
    known = zip(run.dataset.user_ids.decode(seen.row_numbers()), run.dataset.item_ids.decode(seen.indices), strict=True)
    assert len(lists) > 0.9 * 700 * 5
    assert not {*known} & {*zip(lists.column("user"), lists.column("item"), strict=True)}


class Rounded:
    """An index that scores in float32 by another order of summation, and lists ties by falling item number."""

    def __init__(self, items_IF):
        self._items = items_IF
        self.widest = 0

    def search(self, rows_BF, width):
        self.widest = max(self.widest, width)
        scores = sum(rows_BF[:, d, None] * self._items[None, :, d] for d in reversed(range(self._items.shape[1])))
        order = np.lexsort((np.broadcast_to(-np.arange(len(self._items)), scores.shape), -scores))[:, :width]
        return np.take_along_axis(scores, order, axis=1), order.astype(np.int64)


@given(st.integers(0, 2**32), st.integers(1, 60), st.integers(1, 12), st.sampled_from([0, 1, 3]))
def test_candidates_are_added_until_rounding_and_ties_cannot_matter(seed, num_items, k, decimals):
    rng = np.random.default_rng(seed)
    users, items = (rng.standard_normal((n, 6)).round(decimals).astype(np.float32) for n in (9, num_items))
    edges = rng.integers(0, [[9], [num_items]], (2, 40)).astype(np.int32)
    seen = csr_from_edges(edges[0], edges[1], 9, num_items)
    scorer = EmbeddingScorer(torch.from_numpy(users), torch.from_numpy(items))
    (lists,) = ranked(ItemIndex(Rounded(items), None, {}), scorer, np.arange(9, dtype=np.int32), k, seen)
    scores = (scorer.users_UD @ scorer.items_ID.T).numpy()
    for user in range(9):
        best = [item for item in np.argsort(-scores[user], kind="stable").tolist() if item not in seen.row(user)][:k]
        assert lists.items_BK[user].tolist() == best + [-1] * (k - len(best))


def test_a_few_candidates_are_enough_where_scores_differ():
    items = np.linspace(1, 2, 500, dtype=np.float32)[:, None] * np.ones((1, 4), np.float32)
    scorer = EmbeddingScorer(torch.ones(3, 4), torch.from_numpy(items))
    index = Rounded(items)
    seen = csr_from_edges(np.array([0, 0], np.int32), np.array([499, 3], np.int32), 3, 500)
    (lists,) = ranked(ItemIndex(index, None, {}), scorer, np.arange(3, dtype=np.int32), 2, seen)
    assert lists.items_BK.tolist() == [[498, 497], [499, 498], [499, 498]]
    assert index.widest == 2 + 2 + 16


def test_embeddings_are_those_of_the_run(run, tmp_path):
    facts = export(run, "parquet", tmp_path / "embeddings")
    assert facts == {"out": str(tmp_path / "embeddings"), "users": 700, "items": 90, "width": 8, "format": "parquet"}
    table = pq.read_table(tmp_path / "embeddings" / "items.parquet")
    assert table.column("id").to_pylist() == run.dataset.item_ids.ids.to_pylist()
    assert np.array_equal(np.array(table.column("embedding").to_pylist(), np.float32), run.scorer().items_ID.numpy())


def test_a_bundle_serves_what_recommend_writes(run, tmp_path):
    export(run, "bundle", tmp_path / "shop.safetensors")
    recommend(run, 5, tmp_path / "recs.parquet")
    expected = pq.read_table(tmp_path / "recs.parquet").to_pydict()
    serve = {"__name__": "serve"}
    exec(SERVE.read_text(), serve)
    bundle = serve["open_bundle"](tmp_path / "shop.safetensors")
    users, items = (np.array(serve["ids_of"](bundle, name)) for name in ("user_ids", "item_ids"))
    lists = [serve["recommend"](bundle, user, 5) for user in range(700)]
    assert np.repeat(users, [len(each) for each in lists]).tolist() == expected["user"]
    column = bundle["popularity_factor"] * bundle["popularity"]
    found = np.concatenate([bundle["items"][each] @ bundle["users"][user] + column[each] for user, each in enumerate(lists)])
    # NumPy rounds otherwise than torch: the scores must agree, and the items wherever scores are further apart than that.
    assert found == pytest.approx(np.array(expected["score"]), abs=1e-5)
    assert np.mean(items[np.concatenate(lists)].astype(int) == np.array(expected["item"])) > 0.999


def test_the_example_needs_numpy_alone(run, tmp_path):
    export(run, "bundle", tmp_path / "shop.safetensors")
    program = "import sys, runpy; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__'); "
    program += "print(sorted({'torch', 'safetensors', 'pyarrow', 'gcnrec'} & set(sys.modules)))"
    command = [sys.executable, "-c", program, str(SERVE), str(tmp_path / "shop.safetensors"), "u3", "4"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split("\n")
    assert len(lines) == 6 and lines[4] == "[]"
    assert {int(line) for line in lines[:4]} <= {*run.dataset.item_ids.ids.to_pylist()}


def test_what_a_bundle_says_of_itself(run, tmp_path):
    export(run, "bundle", tmp_path / "shop.safetensors")
    with safe_open(tmp_path / "shop.safetensors", "np") as file:
        header = file.metadata()
    assert (header["format"], header["version"], header["model"]) == ("gcnrec-bundle", "2", "lightgcn")
    assert (header["digest"], header["trained_on"]) == (run.dataset.digest, "train")
    assert (header["user_id_type"], header["item_id_type"]) == ("string", "int64")
    assert "inner product" in json.loads(header["conventions"])["score"]
    assert json.loads(header["metrics"]) == {}  # never evaluated


IDS = [
    (pa.array([7, 0, 255], pa.uint8()), ["7", "0", "255"]),
    (pa.array([2**64 - 1, 1, 2], pa.uint64()), [str(2**64 - 1), "1", "2"]),
    (pa.array([-5, 1, 2], pa.int16()), ["-5", "1", "2"]),
    (pa.array(["ä", "", "xyz"]), ["ä", "", "xyz"]),
    (pa.array(["skipped", "ä", "", "xyz"], pa.large_string())[1:], ["ä", "", "xyz"]),
    (pa.array(["b", "a", "c"]).dictionary_encode(), ["b", "a", "c"]),
    (pa.array([b"ab", b"cd", b"ef"], pa.binary(2)), ["ab", "cd", "ef"]),
    (pa.array([9, 8, 7], pa.int32()).dictionary_encode(), ["9", "8", "7"]),
    (pa.array([date(2024, 2, day) for day in (1, 2, 29)]), ["2024-02-01", "2024-02-02", "2024-02-29"]),
    (pa.array([Decimal(10**37), Decimal(-1), Decimal(0)], pa.decimal128(38, 0)), ["1" + 37 * "0", "-1", "0"]),
    (pa.array([UUID(int=n).bytes for n in (0, 1, 2**128 - 1)], pa.uuid()), [str(UUID(int=n)) for n in (0, 1, 2**128 - 1)]),
]


@pytest.mark.parametrize(("ids", "text"), IDS)
def test_ids_of_every_type_come_back(tmp_path, ids, text):
    world = World("tiny", 3, 3, [(0, 0), (1, 0), (2, 1), (0, 2)], [], [])
    dataset = replace(write_dataset(world, tmp_path / "data"), item_ids=MemoryVocabulary(ids))
    run = SimpleNamespace(dataset=dataset, folder=tmp_path, job=Job(), refitted=False, mixture=None)
    write_bundle(run, Exported(ExportRule("inner"), torch.rand(3, 2), torch.rand(3, 2)), tmp_path / "b")
    serve = {"__name__": "serve"}
    exec(SERVE.read_text(), serve)
    assert serve["ids_of"](serve["open_bundle"](tmp_path / "b"), "item_ids") == text
    assert load_file(tmp_path / "b")["seen.indptr"].tolist() == [0, 2, 3, 4]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"kind": "hdf5"}, "--format must be one of faiss, bundle, parquet, int8, onnx, usearch, got 'hdf5'"),
        ({"kind": "bundle", "k": 5}, "--k belongs to --format faiss, int8, usearch, got --format bundle; leave it out"),
        ({"kind": "int8", "index": "flat"}, "--index belongs to --format faiss, got --format int8; leave it out"),
        ({"kind": "faiss", "index": "ivf"}, "--index must be flat or hnsw, got 'ivf'"),
        ({"kind": "faiss", "k": 0}, "--k must be at least 1, got 0"),
    ],
)
def test_what_cannot_be_asked(run, tmp_path, arguments, sentence):
    with pytest.raises(UsageError, match=sentence):
        export(run, out=tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", module.FORMATS)
def test_nothing_is_overwritten(run, tmp_path, kind):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(UsageError, match="exists and is never overwritten"):
        export(run, kind, tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"


@pytest.mark.parametrize("kind", [kind for kind in module.FORMATS if kind != "onnx"])
def test_force_replaces_an_export_alone(run, tmp_path, kind):
    export(run, kind, tmp_path / "out")
    with pytest.raises(UsageError, match="out exists and is never overwritten; choose another --out, or add --force"):
        export(run, kind, tmp_path / "out")
    whole = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} if kind != "bundle" else {}
    before = (tmp_path / "out").read_bytes() if kind == "bundle" else b""
    export(run, kind, tmp_path / "out", force=True)
    # links of the index depend on the timing of threads, and with them the recall of its lists
    made_by_threads = {"items.usearch", "export.json"} if kind == "usearch" else set()
    assert {*whole} == {path.name for path in (tmp_path / "out").iterdir()} if whole else kind == "bundle"
    assert all(whole[name] == (tmp_path / "out" / name).read_bytes() for name in whole.keys() - made_by_threads)
    if kind == "bundle":
        assert (tmp_path / "out").read_bytes() == before
        return
    export(
        run, {"faiss": "usearch", "usearch": "int8", "int8": "parquet", "parquet": "faiss"}[kind], tmp_path / "out", force=True
    )
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"as it holds notes.txt, which is no part of an export, or is damaged; choose another"):
        export(run, kind, tmp_path / "out", force=True)
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"


def shop_s_own(folder: Path, name: str, content: object) -> Path:
    """A file of a shop under the name of a file of an export: a table, with metadata or without, or text."""
    folder.mkdir(exist_ok=True)
    if isinstance(content, pa.Table):
        pq.write_table(content, folder / name)
    else:
        (folder / name).write_bytes(content)
    return folder / name


OWN = pa.table({"id": [1, 2], "name": ["a", "b"]})


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("users.parquet", OWN),
        ("items.parquet", OWN),
        ("users.parquet", OWN.replace_schema_metadata({"gcnrec": "lists"})),  # as of lists that were judged
        ("items.parquet", pa.table({"number": [1], "id": [1]})),
        ("items.faiss", b"IxFI"),
        ("index.json", b"{}"),
        ("index.json", b'{"format": 1, "index": [1]}'),
        ("users.parquet", b"damaged"),
    ],
)
@pytest.mark.parametrize("kind", ["parquet", "faiss"])
def test_force_replaces_no_folder_of_a_shop(run, tmp_path, kind, name, content):
    own = shop_s_own(tmp_path / "shop", name, content)
    before = own.read_bytes()
    with pytest.raises(UsageError, match=rf"never overwritten, as it holds {name}, which is no part of an export, or is damaged"):
        export(run, kind, tmp_path / "shop", force=True)
    assert own.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "content"),
    [("items.faiss", b"IHNf"), ("items.parquet", OWN), ("items.parquet", OWN.rename_columns(["number", "id"]))],
)
def test_force_replaces_no_index_with_files_of_a_shop(run, tmp_path, name, content):
    export(run, "faiss", tmp_path / "index")
    own = shop_s_own(tmp_path / "index", name, content)
    with pytest.raises(UsageError, match=f"as it holds {name}, which is no part of an export"):
        export(run, "faiss", tmp_path / "index", force=True)
    assert own.exists() and (tmp_path / "index" / "index.json").exists()


@pytest.mark.parametrize("kind", ["parquet", "csv", "empty", "tensors"])
def test_force_replaces_no_file_that_is_no_bundle(run, tmp_path, kind):
    own = tmp_path / f"events.{kind}"
    match kind:
        case "parquet":
            pq.write_table(OWN, own)
        case "csv":
            own.write_text("user,item\n1,2\n")
        case "empty":
            own.touch()
        case "tensors":
            save_file({"users": np.ones((2, 2), np.float32)}, own)
    before = own.read_bytes()
    with pytest.raises(UsageError, match="is never overwritten, as it is no bundle, or a damaged one; choose another --out"):
        export(run, "bundle", own, force=True)
    assert own.read_bytes() == before


@pytest.mark.parametrize("kind", ["bundle", "parquet"])
def test_force_replaces_no_part_of_a_run_or_a_dataset(run, tmp_path, kind):
    own = {"bundle": run.folder / "job.toml", "parquet": run.folder / "embeddings"}[kind]
    with pytest.raises(UsageError, match=f"{own.name} exists and belongs to .*, which is never overwritten"):
        export(run, kind, own, force=True)
    taken = {"bundle": run.dataset.folder, "parquet": run.dataset.folder / "users.parquet"}[kind]
    with pytest.raises(UsageError, match="is never overwritten"):
        export(run, kind, taken, force=True)
    with pytest.raises(UsageError, match="is no part of an export"):
        export(run, "faiss", run.dataset.folder, force=True)
    assert own.exists() and taken.exists()


def test_closed_form_models_have_no_embeddings(tmp_path):
    run = trained(halves(), tmp_path, name="popularity")
    with pytest.raises(UsageError, match=r"closed-form model \(popularity\), which has no embeddings"):
        export(run, "bundle", tmp_path / "out")


def test_without_faiss(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(UsageError, match=r"pip install '\.\[faiss\]' in a checkout"):
        export(run, "faiss", tmp_path / "out")


def test_a_damaged_index_folder(run, tmp_path):
    export(run, "faiss", tmp_path / "index")
    (tmp_path / "index" / "items.faiss").write_bytes(b"IxFI")
    with pytest.raises(DataError, match="cannot be opened as an exported index"):
        open_index(tmp_path / "index")


def test_a_failed_write_leaves_nothing(run, tmp_path, monkeypatch):
    import faiss

    def fail(*arguments):
        raise RuntimeError("no space left")

    monkeypatch.setattr(faiss, "write_index", fail)
    with pytest.raises(DataError, match=r"cannot write .*no space left"):
        export(run, "faiss", tmp_path / "index")
    assert list(tmp_path.iterdir()) == []


def test_the_command(run, gcnrec, tmp_path):
    code, out, err = gcnrec("export", run.folder, "--format", "faiss", "--out", tmp_path / "index", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["recall@20"] > 0.999
    code, _, err = gcnrec("export", run.folder, "--format", "faiss", "--out", tmp_path / "index")
    assert code == 2 and err.count("\n") == 1
