"""New users and items of a finished run: their embeddings by hand, their lists, and what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors import safe_open

from gcnrec.api.lists import recommend, score, similar
from gcnrec.config import Job, Model, Sampler
from gcnrec.errors import DataError, UsageError
from gcnrec.loaders.parquet import ingest
from gcnrec.results.bundle import item_arrays
from gcnrec.results.fold_in import with_new_nodes
from gcnrec.results.relisting import Relisting
from gcnrec.results.score import NewNodes
from gcnrec.results.similar import SimilarFiles
from gcnrec.runs.folder import final_tensors, open_run
from gcnrec.training.train import train

SIZE = 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fold-in")


@pytest.fixture(scope="module")
def dataset(folder):
    """Users and items of two kinds that do not mix; an item's feature tells its kind, and a little of itself."""
    pairs = [(f"u{user}", 100 + item) for user in range(SIZE) for item in range(SIZE) if (user - item) % 2 == 0]
    users, items = zip(*pairs, strict=True)
    pq.write_table(pa.table({"user": users, "item": pa.array(items, pa.int64())}), folder / "pairs.parquet")
    pq.write_table(features_of(range(SIZE)), folder / "features.parquet")
    sections = {
        "train": str(folder / "pairs.parquet"), "user": "user", "item": "item", "split": "random", "test_size": 0.1,
        "valid_size": 0.1, "item_features": str(folder / "features.parquet"),
    }  # fmt: skip
    data = Job.parse({"data": sections}, [], "test").data
    return ingest(data, folder / "data", data_root=None, name="kinds")


def features_of(items):
    vectors = [[1.0 if item % 2 else -1.0, 0.1 * np.sin(item), 0.1 * np.cos(item)] for item in items]
    return pa.table(
        {"item": pa.array([100 + item for item in items], pa.int64()), "vector": pa.array(vectors, pa.list_(pa.float32(), 3))}
    )


def trained(folder, dataset, name, **model):
    sections = {
        "model": {"name": name, "layers": 1, "width": 8, "start": "normal", **model},
        "optimizer": {"rule": "adam", "learning_rate": 0.05},
        "train": {"epochs": 5, "batch_size": 32},
        "evaluate": {"baselines": [], "bootstrap": 0},
    }
    return train(Job.parse(sections, [], "test"), dataset, folder / f"run-{name}-{len(model)}")


@pytest.fixture(scope="module")
def sage(folder, dataset):
    return trained(folder, dataset, "graphsage", layers=2, id_dropout=0.5)


@pytest.fixture(scope="module")
def sage_of_codes(folder, dataset):
    return trained(folder, dataset, "graphsage", layers=2, id_dropout=0.5, feature_dtype="int8")


def as_stored(run, rows):
    """What features are in a run: the nearest of each column's 255 values, which its file has."""
    if run.job.model.feature_dtype == "float32":
        return rows
    with safe_open(run.folder / "features.safetensors", "np") as file:
        low, step, high = (file.get_tensor(f"items.{name}").astype(float) for name in ("low", "step", "high"))
    points = np.concatenate([low + np.arange(254)[:, None] * step, high[None]])
    return points[np.abs(points[:, None] - rows).argmin(0), np.arange(rows.shape[1])].astype(np.float32)


@pytest.fixture(scope="module")
def lightgcn(folder, dataset):
    return trained(folder, dataset, "lightgcn")


def new_users(folder, pairs):
    path = folder / "new-users.parquet"
    users, items = zip(*pairs, strict=True)
    pq.write_table(pa.table({"user": users, "item": pa.array(items, pa.int64())}), path)
    return path


def new_items(folder, items=(SIZE, SIZE + 1)):
    path = folder / "new-items.parquet"
    pq.write_table(features_of([0, *items]), path)
    return path


def test_users_of_lightgcn_are_one_hop_from_their_items(folder, lightgcn):
    path = new_users(folder, [("u0", 100), ("new", 100), ("new", 102), ("other", 101), ("other", 999)])
    wider = with_new_nodes(lightgcn, path, None)
    known = lightgcn.scorer()
    assert wider.unknown_items == 1 and wider.dataset.user_ids.ids[SIZE:].to_pylist() == ["new", "other"]
    numbers = lightgcn.dataset.item_ids.numbers(pa.array([100, 102]))
    degrees = lightgcn.dataset.graph.item_users.degrees[numbers]
    table = pq.read_table(lightgcn.folder / "embeddings" / "items.parquet")
    lengths = table.column("length").to_pylist()
    hop = sum(known.items_ID[n] * lengths[n] / degree**0.5 for n, degree in zip(numbers.tolist(), degrees, strict=True)) / 2**0.5
    assert torch.allclose(wider.scorer.users_UD[SIZE], hop / hop.norm(), atol=1e-6)
    assert torch.equal(wider.scorer.column_I, known.column_I)
    assert torch.equal(wider.scorer.users_UD[:SIZE], known.users_UD) and torch.equal(wider.scorer.items_ID, known.items_ID)


@pytest.mark.parametrize("run", ["sage", "sage_of_codes"])
def test_nodes_of_graphsage_are_encoded_by_hand(folder, run, request):
    """Two layers on paper: a new item from its features, a new user from its items, which do not see the user."""
    sage = request.getfixturevalue(run)
    path = new_users(folder, [("new", 100), ("new", 102), ("new", 116)])
    wider = with_new_nodes(sage, path, new_items(folder))
    known = sage.scorer()
    rows_ND, layers = final_tensors(sage)
    graph = sage.dataset.graph
    features = torch.from_numpy(as_stored(sage, np.array(wider.dataset.item_features)))
    start = [layers["inputs.biases.0"].expand(SIZE, -1) + rows_ND[:SIZE]]
    start.append(layers["inputs.biases.1"] + features @ layers["inputs.projections.1.weight"].T)
    start[1][:SIZE] += rows_ND[SIZE:]
    dense = torch.zeros(SIZE, SIZE)
    for user in range(SIZE):
        dense[user, torch.from_numpy(graph.user_items.row(user).astype(np.int64))] = 1.0

    def layer(number, own, pooled):
        own_map, left, bias = (layers[f"convolutions.{number}.{name}"] for name in ("lin_r.weight", "lin_l.weight", "lin_l.bias"))
        made = own @ own_map.T + pooled @ left.T + bias
        return torch.relu(made) if number == 0 else made

    mean = (dense.T / dense.T.sum(1, keepdim=True)) @ start[0]
    items = layer(0, start[1], torch.cat([mean, torch.zeros(2, 8)]))
    numbers = wider.dataset.item_ids.numbers(pa.array([100, 102, 116])).astype(np.int64)
    user = layer(0, layers["inputs.biases.0"], start[1][numbers].mean(0))
    user = layer(1, user, items[numbers].mean(0))
    new_items_CD = layer(1, items[SIZE:], torch.zeros(2, 8))
    assert torch.allclose(wider.scorer.users_UD[SIZE], user / user.norm(), atol=1e-5)
    assert torch.allclose(wider.scorer.items_ID[SIZE:], new_items_CD / new_items_CD.norm(dim=1, keepdim=True), atol=1e-5)
    degrees = graph.item_users.degrees
    typical = np.exp(np.log(degrees).mean())  # every known item has train edges
    expected = sage.job.loss.temperature * np.log(np.append(degrees, [typical, typical]) / degrees.sum())
    assert wider.scorer.column_I.numpy() == pytest.approx(expected, rel=1e-5)
    assert torch.equal(wider.scorer.users_UD[:SIZE], known.users_UD) and torch.equal(wider.scorer.items_ID[:SIZE], known.items_ID)


def test_rows_of_known_users_are_added_to_what_they_have(folder, lightgcn, tmp_path):
    """Users and their lists: the graph has the union of both, other embeddings stay, and nothing of either is recommended."""
    rng = np.random.default_rng(0)
    rows = [(f"u{user}", 100 + item) for user, item in rng.integers(0, SIZE, (60, 2)).tolist()] + [("new", 103), ("new", 101)]
    path = new_users(folder, [*rows, rows[0], ("u1", 999)])
    wider = with_new_nodes(lightgcn, path, None)
    data = lightgcn.dataset
    users, items = wider.dataset.user_ids.ids.to_pylist(), data.item_ids.ids.to_pylist()
    edges = zip(data.graph.user_items.row_numbers().tolist(), data.graph.user_items.indices.tolist(), strict=True)
    owned = {(users[user], items[item]) for user, item in edges} | set(rows)
    for number, user in enumerate(users):
        expected = sorted(items.index(item) for each, item in owned if each == user)
        assert wider.dataset.graph.user_items.row(number).tolist() == expected
    assert torch.equal(wider.scorer.users_UD[:SIZE], lightgcn.scorer().users_UD)
    made = recommend(lightgcn, SIZE, tmp_path / "recs.parquet", new_users=path, seen="train")
    asked = {user for user, _ in rows}
    lists = {(row["user"], row["item"]) for row in pq.read_table(tmp_path / "recs.parquet").to_pylist()}
    assert lists == {(user, item) for user in asked for item in items} - owned
    distinct = len(set(rows))
    assert made.dropped == {"new_users": {"rows": len(rows) + 2, "unknown_item": 1, "repeated": len(rows) + 1 - distinct}}


def test_a_known_user_without_train_items_is_embedded_as_a_new_one(folder, dataset, tmp_path):
    """The only pair of `cold` is held out: training gave it no embedding of worth."""
    pairs = [(f"u{user}", item) for user in range(8) for item in range(8) if (user - item) % 2 == 0]
    for name, rows in (("train", pairs), ("test", [("u0", 1), ("cold", 2)])):
        pq.write_table(pa.table(list(zip(*rows, strict=True)), names=["user", "item"]), tmp_path / f"{name}.parquet")
    keys = {"train": str(tmp_path / "train.parquet"), "test": str(tmp_path / "test.parquet"), "user": "user", "item": "item"}
    data = Job.parse({"data": {**keys, "keep_cold": True}}, [], "test").data
    made = ingest(data, tmp_path / "data", data_root=None, name="cold")
    path = new_users(tmp_path, [(user, item) for user in ("cold", "new") for item in (2, 4)])
    for name in ("lightgcn", "graphsage"):
        wider = with_new_nodes(trained(tmp_path, made, name), path, None)
        cold, new = wider.dataset.user_ids.numbers(pa.array(["cold", "new"])).tolist()
        assert torch.equal(wider.scorer.users_UD[cold], wider.scorer.users_UD[new]) and wider.scorer.users_UD[new].any()


def test_lists(folder, sage, tmp_path):
    path = new_users(folder, [("new", 100), ("new", 102), ("new", 104)])
    made = recommend(sage, 5, tmp_path / "users.parquet", new_users=path)
    lists = pq.read_table(tmp_path / "users.parquet")
    assert made.users == 1 and set(lists.column("user").to_pylist()) == {"new"}
    assert not {100, 102, 104} & {*lists.column("item").to_pylist()}
    assert all(item % 2 == 0 for item in lists.column("item").to_pylist())
    recommend(sage, SIZE + 2, tmp_path / "items.parquet", new_items=new_items(folder), seen="train")
    lists = pq.read_table(tmp_path / "items.parquet")
    ranks = {(row["user"], row["item"]): row["rank"] for row in lists.to_pylist()}
    # Every user gets the new item of their own kind before that of the other.
    assert all((ranks[f"u{user}", 116] < ranks[f"u{user}", 117]) == (user % 2 == 0) for user in range(SIZE))


def test_new_items_are_like_items_of_their_kind(folder, sage, tmp_path):
    path = new_items(folder)
    made = similar(sage, "item", 3, tmp_path / "items.parquet", SimilarFiles(new=path))
    lists = pq.read_table(tmp_path / "items.parquet").to_pydict()
    assert lists["item"] == [116] * 3 + [117] * 3 and made.untrained == 0
    assert [other % 2 for other in lists["similar"]] == [0] * 3 + [1] * 3
    similar(sage, "item", 2, tmp_path / "all.parquet", SimilarFiles(new=path, every=True))
    assert set(pq.read_table(tmp_path / "all.parquet")["item"].to_pylist()) == {100 + item for item in range(SIZE + 2)}
    users = new_users(folder, [("new", 100), ("new", 102)])
    similar(sage, "user", 4, tmp_path / "users.parquet", SimilarFiles(new=users))
    lists = pq.read_table(tmp_path / "users.parquet").to_pydict()
    assert lists["user"] == ["new"] * 4 and all(int(user[1:]) % 2 == 0 for user in lists["similar"])


def test_new_items_have_the_likeness_of_their_embeddings(folder, sage, tmp_path):
    """Two new items of equal features are alike in all but their names, so that a spread list holds one of them at first."""
    twins = folder / "twins.parquet"
    rows = features_of([SIZE] * 2).set_column(0, "item", pa.array([900, 901], pa.int64()))
    pq.write_table(rows, twins)
    recommend(sage, 6, tmp_path / "lists.csv", new_items=twins, seen="none", relisting=Relisting(diversity=0.9))
    recommend(sage, 6, tmp_path / "plain.csv", new_items=twins, seen="none")
    spread, plain = (set((tmp_path / name).read_text().splitlines()) for name in ("lists.csv", "plain.csv"))
    assert spread != plain
    of_user: dict = {}
    for line in (tmp_path / "lists.csv").read_text().splitlines()[1:]:
        user, item, *_ = line.replace('"', "").split(",")
        of_user.setdefault(user, []).append(int(item))
    assert all({900, 901} - {*items[:4]} for items in of_user.values())


def test_pairs_of_new_nodes_have_the_scores_of_their_lists(folder, sage, tmp_path):
    new = NewNodes(new_users(folder, [("new", 100), ("new", 102)]), new_items(folder))
    recommend(sage, SIZE + 2, tmp_path / "lists.parquet", new_users=new.users, new_items=new.items, seen="none")
    score(sage, tmp_path / "lists.parquet", tmp_path / "scores.parquet", new=new)
    lists, scored = pq.read_table(tmp_path / "lists.parquet"), pq.read_table(tmp_path / "scores.parquet")
    assert scored["rank"].to_pylist() == lists["rank"].to_pylist() and scored["score"].equals(lists["score"])
    assert {116, 117} <= set(scored["item"].to_pylist())


def test_refusals(folder, dataset, sage, lightgcn, tmp_path):
    with pytest.raises(UsageError, match=r"--new-items needs a model that embeds items by their features, .* holds lightgcn"):
        with_new_nodes(lightgcn, None, new_items(folder))
    with pytest.raises(DataError, match="must hold items that kinds does not know, all of its 2 are known"):
        with_new_nodes(sage, None, new_items(folder, (1,)))
    popular = trained(folder, dataset, "popularity")
    with pytest.raises(UsageError, match=r"need a model with embeddings, and .* holds popularity"):
        with_new_nodes(popular, new_users(folder, [("new", 100)]), None)
    on_weights = replace(lightgcn, job=lightgcn.job.model_copy(update={"model": Model(weighted_graph=True)}))
    with pytest.raises(UsageError, match=r"without weights, and .* propagates by weights; train with model"):
        with_new_nodes(on_weights, new_users(folder, [("new", 100)]), None)
    by_weight = replace(sage, job=sage.job.model_copy(update={"sampler": Sampler(neighbours="weighted")}))
    with pytest.raises(UsageError, match=r"without weights, and .* draws neighbours by weight"):
        with_new_nodes(by_weight, new_users(folder, [("new", 100)]), None)


def test_partners_of_a_mixture_know_new_users_by_their_known_items_and_new_items_not_at_all(folder, dataset, tmp_path):
    sections = {
        "model": {"name": "graphsage", "layers": 1, "width": 8, "factors": 4},
        "train": {"epochs": 1, "batch_size": 32},
        "evaluate": {"bootstrap": 0},
        "mixture": {"with": ["linkprop", "itemknn", "gfcf", "ease"], "weights": 0.5},
    }
    run = train(Job.parse(sections, [], "test"), dataset, tmp_path / "run")
    path = new_users(folder, [("new", 100), ("new", 102), ("new", 116)])
    wider = with_new_nodes(run, path, new_items(folder))
    users = np.arange(SIZE + 1, dtype=np.int32)
    scores = wider.scorer.prepare(users)
    known = run.scorer()
    rows = run.dataset.item_ids.numbers(pa.array([100, 102])).tolist()
    for part, plain in zip(wider.scorer.parts[1:], known.parts[1:], strict=True):
        own, before = torch.empty(SIZE + 1, SIZE + 2), torch.empty(SIZE, SIZE)
        part.scorer.score(part.scorer.prepare(users), 0, SIZE + 2, own)
        plain.scorer.score(plain.scorer.prepare(users[:SIZE]), 0, SIZE, before)
        assert torch.equal(own[:SIZE, :SIZE], before) and not own[:, SIZE:].any()
        arrays = item_arrays(plain.scorer)
        single = arrays["rows"] if "rows" in arrays else dense_rows(arrays)
        expected = single[rows].sum(0)
        if "vectors" in arrays:
            low = (arrays["before"][rows][:, None] * arrays["vectors"][rows]).sum(0) * arrays["gains"]
            expected = expected + arrays["after"] * (arrays["vectors"] @ low)
        assert torch.allclose(own[SIZE, :SIZE], expected, atol=1e-6)
    more = with_new_nodes(run, new_users(folder, [("u0", 101)]), None)
    for place in (1, 2):  # linkprop and itemknn sum over a user's items
        part, plain = more.scorer.parts[place].scorer, known.parts[place].scorer
        own, before = torch.empty(SIZE, SIZE), torch.empty(SIZE, SIZE)
        part.score(part.prepare(users[:SIZE]), 0, SIZE, own)
        plain.score(plain.prepare(users[:SIZE]), 0, SIZE, before)
        user, item = (ids.numbers(pa.array([one])).item() for ids, one in ((dataset.user_ids, "u0"), (dataset.item_ids, 101)))
        before[user] += dense_rows(item_arrays(plain))[item]
        assert torch.allclose(own, before, atol=1e-6)
    path = new_users(folder, [("new", 100), ("new", 102), ("new", 116)])
    shares = torch.softmax(torch.from_numpy(logits(wider.scorer.parts[0].scorer, users)) / run.mixture.temperature, 1)
    assert torch.allclose(scores[:, SIZE:], 0.5 * shares[:, SIZE:], rtol=1e-4)
    recommend(run, 3, tmp_path / "recs.parquet", new_users=path, new_items=new_items(folder))
    assert len(pq.read_table(tmp_path / "recs.parquet")) == 3


def dense_rows(arrays):
    rows = torch.zeros(SIZE, SIZE)
    for item in range(SIZE):
        own = slice(int(arrays["indptr"][item]), int(arrays["indptr"][item + 1]))
        rows[item, arrays["indices"][own].long()] = arrays["values"][own]
    return rows


def logits(scorer, users):
    out = torch.empty(len(users), scorer.num_items)
    scorer.score(scorer.prepare(users), 0, scorer.num_items, out)
    return out.numpy()


def test_codes_of_a_run_are_listed_and_needed(folder, sage_of_codes, tmp_path):
    run = shutil.copytree(sage_of_codes.folder, tmp_path / "run")
    codes = run / "features.safetensors"
    assert "features.safetensors" in json.loads((run / "manifest.json").read_text())["files"]
    codes.write_bytes(codes.read_bytes()[:-4] + b"abcd")
    for damaged in (True, False):
        if not damaged:
            codes.unlink()
        with pytest.raises(DataError, match=r"features.safetensors .*; remove .* then continue with 'gcnrec train"):
            with_new_nodes(open_run(run), None, new_items(folder))


def test_new_items_beyond_the_range_of_float16_are_refused(folder, dataset, tmp_path):
    run = trained(tmp_path, dataset, "graphsage", feature_dtype="float16")
    assert not (run.folder / "features.safetensors").exists()
    rows = features_of([SIZE]).set_column(1, "vector", pa.array([[1e9, 0.0, 0.0]], pa.list_(pa.float32(), 3)))
    pq.write_table(rows, tmp_path / "far.parquet")
    with pytest.raises(DataError, match=r"model.feature_dtype = 'float16' holds values up to 65504, .* 'bfloat16'"):
        with_new_nodes(run, None, tmp_path / "far.parquet")
