"""From a Parquet file to a report through the command line alone, on a world of two halves that do not mix."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gcnrec.config import Job
from gcnrec.errors import Terminated
from gcnrec.reports.progress import Lines

JOB = """
[data]
train = "clicks.parquet"
user = "user_id"
item = "item_id"
test_size = 0.25
valid_size = 0.15

[model]
width = 16

[optimizer]
learning_rate = 0.01

[train]
epochs = 4
batch_size = 128

[evaluate]
k = [5, 20]
bootstrap = 50
baselines = ["popularity"]
"""
MEMORY = {
    "budget_values", "values", "values_max_seen", "value_bytes", "index_bytes", "state_bytes", "peak_table_bytes",
    "peak_rss_bytes", "scratch_bytes", "served_bytes", "dense_bytes",
}  # fmt: skip


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """80 users, each with 12 of the 30 items of their half; user ids are text, item ids large integers."""
    folder = tmp_path_factory.mktemp("workplace")
    rng = np.random.default_rng(0)
    pairs = [(user, 30 * (user % 2) + item) for user in range(80) for item in rng.permutation(30)[:12]]
    users, items = zip(*pairs, strict=True)
    table = pa.table({"user_id": [f"u{n}" for n in users], "item_id": pa.array([10**12 + n for n in items], pa.int64())})
    pq.write_table(table, folder / "clicks.parquet")
    (folder / "two.toml").write_text(JOB)
    return folder


@pytest.fixture
def first(gcnrec):
    """The first run of the job, made once."""
    if not Path("runs/two").exists():
        code, _, err = gcnrec("run", "two.toml")
        assert code == 0, err
        assert "fit epoch 4" in err and "Traceback" not in err
    return Path("runs/two")


def test_the_run_folder_is_complete(first):
    for name in ("job.toml", "lineage.json", "metrics.jsonl", "metrics.json", "memory.json", "report.html"):
        assert (first / name).is_file(), name
    assert (first / "checkpoints").is_dir()
    assert json.loads((first / "lineage.json").read_text())["format"] == 1
    assert json.loads((first / "memory.json").read_text()).keys() >= MEMORY
    metrics = json.loads((first / "metrics.json").read_text())
    assert metrics["split"] == "test" and metrics["recall@20"] > 0.9  # half of all items: 0.33 by chance
    events = [json.loads(line) for line in (first / "metrics.jsonl").read_text().splitlines()]
    assert [event["epoch"] for event in events if event["event"] == "epoch"] == [1, 2, 3, 4]
    assert [event["name"] for event in events if event["event"] == "baseline"] == ["popularity"]


def test_exported_embeddings_give_the_reported_recall(first):
    """Naive ranking of the exported Parquet, in float64, with train and validation left out."""
    from gcnrec.loaders.schema import open_dataset

    (folder,) = Path("data").glob("two-*")
    data = open_dataset(folder)
    users, items = (pq.read_table(first / "embeddings" / f"{side}.parquet") for side in ("users", "items"))
    vectors = [np.array(table.column("embedding").to_pylist(), np.float64) for table in (users, items)]
    factor = json.loads(users.schema.metadata[b"gcnrec"])["popularity_factor"]
    column = factor * items.column("popularity").to_numpy()
    order = [table.column(0).to_pylist() for table in (users, items)]
    assert order == [data.user_ids.ids.to_pylist(), data.item_ids.ids.to_pylist()]
    recalls = []
    for user in np.unique(data.test.users_E):
        hidden = {*data.graph.user_items.row(user), *data.valid.items_E[data.valid.users_E == user]}
        wanted = set(data.test.items_E[data.test.users_E == user])
        ranked = sorted((-score, item) for item, score in enumerate(vectors[1] @ vectors[0][user] + column) if item not in hidden)
        recalls.append(len(wanted & {item for _, item in ranked[:5]}) / len(wanted))
    assert json.loads((first / "metrics.json").read_text())["recall@5"] == pytest.approx(np.mean(recalls), abs=1e-9)


@pytest.mark.usefixtures("charts_take_no_time")
def test_a_second_run_is_equal_and_beside_the_first(gcnrec, first):
    code, out, err = gcnrec("run", "two.toml", "--json")
    assert (code, err) == (0, "")
    result = json.loads(out)
    assert result["run"] == "runs/two-2"
    assert result["recall@20"] == json.loads((first / "metrics.json").read_text())["recall@20"]
    for side in ("users", "items"):
        assert pq.read_table(f"runs/two-2/embeddings/{side}.parquet").equals(pq.read_table(first / f"embeddings/{side}.parquet"))
    assert len(list(Path("data").glob("two-*"))) == 1


@pytest.mark.usefixtures("charts_take_no_time")
def test_a_run_that_was_stopped_resumes_to_the_same_end(gcnrec, first, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Lines, "epoch", stop_after_two_epochs)
        code, _, err = gcnrec("run", "two.toml", "--out", "stopped")
    assert code == 143 and "--resume" in err and not Path("stopped/metrics.json").exists()
    assert gcnrec("run", "two.toml", "--out", "stopped")[0] == 2
    assert gcnrec("run", "two.toml", "--out", "stopped", "--resume", "--set", "train.seed=9")[0] == 2
    code, _, err = gcnrec("run", "two.toml", "--out", "stopped", "--resume")
    assert code == 0 and "fit epoch 4" in err and "fit epoch 2" not in err
    for side in ("users", "items"):
        assert pq.read_table(f"stopped/embeddings/{side}.parquet").equals(pq.read_table(first / f"embeddings/{side}.parquet"))


def stop_after_two_epochs(self, record):
    if record["epoch"] == 2:
        raise Terminated("stopped by SIGTERM; it continues with --resume")


def test_check_predicts_and_writes_no_run(gcnrec, first):
    before = sorted(Path("runs").iterdir())
    code, out, _ = gcnrec("check", "two.toml", "--json")
    assert code == 0 and json.loads(out)
    assert sorted(Path("runs").iterdir()) == before


def test_the_resolved_job_runs_as_the_job_does(gcnrec, first):
    code, out, err = gcnrec("check", "two.toml", "--resolved")
    assert code == 0 and "epoch_seconds" not in out
    Path("resolved.toml").write_text(out)
    assert Job.load(Path("resolved.toml")) == Job.load(first / "job.toml")
    code, _, err = gcnrec("check", "two.toml", "--resolved", "--json")
    assert code == 2 and "--resolved prints a job file; leave --json out" in err


def test_without_test_pairs_nothing_is_trained(gcnrec, workplace):
    """One user's held-out items are new ones, which ingest drops."""
    pq.write_table(pa.table({"user_id": ["u"] * 20, "item_id": list(range(20))}), "one.parquet")
    before = sorted(Path("runs").iterdir()) if Path("runs").exists() else []
    code, _, err = gcnrec("run", "two.toml", "--set", "data.train='one.parquet'")
    assert code == 3 and "holds no test pairs" in err and "use 'gcnrec train'" in err
    assert (sorted(Path("runs").iterdir()) if Path("runs").exists() else []) == before


def test_train_refuses_an_existing_folder(gcnrec, first):
    data = json.loads((first / "lineage.json").read_text())["data"]["folder"]
    before = (first / "metrics.jsonl").read_bytes()
    code, _, err = gcnrec("train", "two.toml", "--data", data, "--out", first)
    assert code == 2 and "never overwritten" in err and (first / "metrics.jsonl").read_bytes() == before


def test_evaluate_writes_the_validation_metrics(gcnrec, first):
    code, out, _ = gcnrec("evaluate", first, "--split", "valid", "--k", "3", "--json")
    assert code == 0 and json.loads(out)["split"] == "valid" and "recall@3" in json.loads(out)
    assert json.loads((first / "metrics.valid.json").read_text()) == json.loads(out)
    assert json.loads((first / "metrics.json").read_text())["split"] == "test"


def test_recommend(gcnrec, first):
    pq.write_table(pa.table({"user_id": ["u3", "u4"]}), "some.parquet")
    code, _, err = gcnrec("recommend", first, "--k", 4, "--users", "some.parquet", "--out", "recs.parquet")
    assert code == 0, err
    lists = pq.read_table("recs.parquet")
    assert lists.column("rank").to_pylist() == [1, 2, 3, 4] * 2
    assert lists.column(0).to_pylist() == ["u3"] * 4 + ["u4"] * 4 and lists.schema.field(1).type == pa.int64()
    halves = [(item - 10**12) // 30 for item in lists.column(1).to_pylist()]
    assert halves == [1] * 4 + [0] * 4


def test_similar_and_score(gcnrec, first):
    code, _, err = gcnrec("similar", first, "--items", "all", "--k", 3, "--out", "similar.parquet")
    assert code == 0, err
    lists = pq.read_table("similar.parquet").to_pydict()
    halves = {name: [(item - 10**12) // 30 for item in lists[name]] for name in ("item", "similar")}
    assert halves["item"] == halves["similar"] and len(lists["item"]) == 3 * 60
    pq.write_table(pa.table({"user_id": ["u3", "u4"]}), "some.parquet")
    code, out, err = gcnrec("similar", first, "--users", "some.parquet", "--k", 5, "--out", "users.parquet", "--json")
    assert code == 0 and json.loads(out)["nodes"] == 2, err
    assert [int(user[1:]) % 2 for user in pq.read_table("users.parquet")["similar"].to_pylist()] == [1] * 5 + [0] * 5
    code, _, err = gcnrec("similar", first, "--users", "all", "--items", "all", "--out", "both.parquet")
    assert code == 2 and "items of items, or users of users" in err
    assert gcnrec("recommend", first, "--k", 4, "--seen", "none", "--out", "four.parquet")[0] == 0
    code, out, err = gcnrec("score", first, "--pairs", "four.parquet", "--out", "scores.parquet", "--json")
    assert code == 0 and json.loads(out)["scored"] == json.loads(out)["rows"], err
    lists, scored = pq.read_table("four.parquet"), pq.read_table("scores.parquet")
    assert scored["rank"].to_pylist() == lists["rank"].to_pylist() and scored["score"].equals(lists["score"])


def test_lists_of_few_items_of_a_kind_and_unlike_each_other(gcnrec, first):
    kinds = [{"item": 10**12 + item, "kind": item % 30 % 5} for item in range(60)]
    pq.write_table(pa.Table.from_pylist(kinds), "kinds.parquet")
    capped = ["--max-per", "kind=1", "--attributes", "kinds.parquet"]
    code, _, err = gcnrec("recommend", first, "--k", 5, *capped, "--out", "capped.jsonl")
    assert code == 0, err
    rows = [json.loads(line) for line in Path("capped.jsonl").read_text().splitlines()]
    for user in {row["user"] for row in rows}:
        of_user = [(row["item"] - 10**12) % 30 % 5 for row in rows if row["user"] == user]
        assert len(of_user) == 5 == len(set(of_user))
    assert gcnrec("recommend", first, "--k", 5, "--out", "plain.csv")[0] == 0
    code, _, err = gcnrec("recommend", first, "--k", 5, "--diversity", "0.5", "--out", "plain.csv")
    assert code == 2 and "add --force" in err
    plain = Path("plain.csv").read_text()
    code, _, err = gcnrec("recommend", first, "--k", 5, "--diversity", "0.5", "--out", "plain.csv", "--force")
    assert code == 0 and Path("plain.csv").read_text() != plain, err
    assert gcnrec("recommend", first, "--max-per", "kind", "--out", "x.csv")[0] == 2


def test_compare_and_info(gcnrec, first):
    data = json.loads((first / "lineage.json").read_text())["data"]["folder"]
    code, out, err = gcnrec("train", "two.toml", "--data", data, "--out", "short", "--set", "train.epochs=1")
    assert code == 0 and Path("short/embeddings/users.parquet").is_file(), err
    assert gcnrec("evaluate", "short")[0] == 0
    code, out, err = gcnrec("compare", first, "short")
    assert code == 0 and "recall@20" in out, err
    assert json.loads(gcnrec("compare", first, "short", "--json")[1])
    code, out, err = gcnrec("compare", first, "short", "--out", "both.html")
    assert code == 0 and "both.html" in out and "Lists of 20" in Path("both.html").read_text(encoding="utf-8"), err
    assert "add --force" in gcnrec("compare", first, "short", "--out", "both.html")[2]
    assert "--force belongs to --out" in gcnrec("compare", first, "short", "--force")[2]
    code, out, _ = gcnrec("info", first, "--json")
    assert code == 0 and json.loads(out)["metrics"]["split"] == "test" and json.loads(out)["warnings"] == []
    Path("short/metrics.json").write_text("junk")
    code, _, err = gcnrec("info", "short")
    assert code == 3 and "it is damaged, run 'gcnrec evaluate short' again" in err
    assert gcnrec("evaluate", "short")[0] == 0 and gcnrec("info", "short")[0] == 0
    Path("short/job.toml").unlink()
    code, _, err = gcnrec("info", "short")
    assert code == 2 and "short/job.toml" in err


def test_a_bad_job_stops_before_anything_is_written(gcnrec, first):
    before = sorted(Path("runs").iterdir())
    code, _, err = gcnrec("run", "two.toml", "--set", "model.layerz=2")
    assert code == 2 and "did you mean 'layers'?" in err and sorted(Path("runs").iterdir()) == before
