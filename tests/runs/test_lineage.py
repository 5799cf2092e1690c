"""A finished run's job.toml runs again, alone and from anywhere, to the same metrics; lineage.json says what it was made with."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gcnrec import __version__
from gcnrec.config import Data, Job
from gcnrec.loaders.recipe import absolute, recipe_of
from gcnrec.runs import lineage
from gcnrec.testing import checkerboard, write_dataset

pytestmark = pytest.mark.usefixtures("charts_take_no_time")
TRAINS = """
[model]
width = 8

[optimizer]
learning_rate = 0.01

[train]
epochs = 2
batch_size = 64
threads = 1

[evaluate]
k = [5]
bootstrap = 20
metric = "recall@5"
"""
COLUMNS = 'user = "user_id"\nitem = "item_id"\n'
CARD = """
[card]
name = "clicks"
title = "Made up"
licence = "none"
origin = "this test"

[data]
train = "clicks.parquet"
user = "user_id"
item = "item_id"
valid_size = 0.2

[[file]]
path = "clicks.parquet"
[[file.source]]
root = "files/clicks.parquet"
sha256 = "{sha256}"
"""


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """60 users, each with 10 of the 20 items of their half; jobs that name them in every way."""
    folder = tmp_path_factory.mktemp("workplace")
    rng = np.random.default_rng(0)
    pairs = [(user, 20 * (user % 2) + item) for user in range(60) for item in rng.permutation(20)[:10]]
    users, items = zip(*pairs, strict=True)
    for name in ("root/files", "cards", "jobs", "elsewhere"):
        (folder / name).mkdir(parents=True)
    clicks = folder / "root" / "files" / "clicks.parquet"
    pq.write_table(pa.table({"user_id": [f"u{n}" for n in users], "item_id": pa.array(items, pa.int64())}), clicks)
    (folder / "cards" / "clicks.toml").write_text(CARD.format(sha256=hashlib.sha256(clicks.read_bytes()).hexdigest()))
    sections = {
        "card": '[data]\ncard = "../cards/clicks.toml"\n',
        "root": f'[data]\ntrain = "files/clicks.parquet"\n{COLUMNS}',
        "path": f'[data]\ntrain = "root/files/clicks.parquet"\n{COLUMNS}',
        "folder": f'[data]\ntrain = "root/files/clicks.parquet"\nfolder = "kept"\n{COLUMNS}',
        "made": '[data]\nfolder = "ready"\n',
        "none": "",
    }
    for name, section in sections.items():
        (folder / "jobs" / f"{name}.toml").write_text(section + TRAINS)
    write_dataset(checkerboard(), folder / "ready")
    return folder


WAYS = {
    "card": ["--data-root", "root"],
    "root": ["--data-root", "root"],
    "path": ["--set", "train.refit=train+valid", "--set", "model.width=4"],
    "folder": ["--set", "data.seed=5"],
    "made": [],
    "none": ["--data", "ready"],
}


@pytest.mark.parametrize("name", WAYS)
def test_a_finished_runs_job_file_reproduces_it(gcnrec, workplace, monkeypatch, name):
    code, out, err = gcnrec("run", f"jobs/{name}.toml", *WAYS[name], "--out", f"runs/{name}", "--json")
    assert code == 0, err
    first = json.loads(out)
    monkeypatch.chdir(workplace / "elsewhere")
    code, out, err = gcnrec("run", f"../runs/{name}/job.toml", "--out", f"{name}-again", "--json")
    assert code == 0, err
    again = json.loads(out)
    assert {**first, "run": ""} == {**again, "run": ""} and "recall@5" in again
    assert not Path("data").exists()  # nothing was ingested again
    for side in ("users", "items"):
        files = [Path(folder) / "embeddings" / f"{side}.parquet" for folder in (f"../runs/{name}", f"{name}-again")]
        assert pq.read_table(files[0]).equals(pq.read_table(files[1]))
    assert Job.load(Path(f"{name}-again/job.toml")) == Job.load(Path(f"../runs/{name}/job.toml"))


def test_a_dataset_that_is_gone_is_made_again(gcnrec, workplace, monkeypatch):
    assert gcnrec("run", "jobs/path.toml", "--set", "data.folder=brief", "--out", "runs/brief")[0] == 0
    first = json.loads(Path("runs/brief/metrics.json").read_text())
    Path("brief").rename("brief-before")
    monkeypatch.chdir(workplace / "elsewhere")
    assert gcnrec("run", "../runs/brief/job.toml", "--out", "brief-again")[0] == 0
    assert json.loads(Path("brief-again/metrics.json").read_text()) == first and Path("../brief/dataset.json").is_file()


def test_other_data_in_its_place_are_refused(gcnrec, workplace):
    assert gcnrec("run", "jobs/none.toml", "--data", "ready", "--out", "runs/before")[0] == 0
    job = Path("runs/before/job.toml").read_text()
    digest = Job.load(Path("runs/before/job.toml")).data.digest
    Path("changed.toml").write_text(job.replace(digest, "0" * 64))
    code, _, err = gcnrec("run", "changed.toml", "--out", "runs/after")
    assert code == 3 and "data.digest = '000000000000'" in err and digest[:12] in err and not Path("runs/after").exists()
    assert gcnrec("run", "changed.toml", "--data", "ready", "--out", "runs/after")[0] == 0  # told to use these


def test_an_earlier_run_is_found_from_anywhere(gcnrec, workplace, monkeypatch):
    assert gcnrec("run", "jobs/made.toml", "--out", "runs/yesterday")[0] == 0
    given = ["--set", "train.init_from=runs/yesterday", "--out", "runs/today"]
    assert gcnrec("run", "jobs/made.toml", *given)[0] == 0
    assert gcnrec("run", "jobs/made.toml", *given, "--resume")[0] == 0  # the same place, named as before
    monkeypatch.chdir(workplace / "elsewhere")
    assert gcnrec("run", "../runs/today/job.toml", "--out", "today-again")[0] == 0
    both = [json.loads(path.read_text()) for path in (Path("../runs/today/metrics.json"), Path("today-again/metrics.json"))]
    assert both[0] == both[1]


def test_lineage_names_what_a_run_was_made_with(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setenv("SECRET_TOKEN", "never written")
    monkeypatch.setattr("sys.argv", ["/some/bin/gcnrec", "run", "my job.toml", "--set", "train.seed=3"])
    dataset = write_dataset(checkerboard(), tmp_path / "data")
    document = lineage.lineage_of(dataset, 3, "cpu")
    assert document["command"] == "gcnrec run 'my job.toml' --set train.seed=3"
    assert document["threads"] == 3 and document["device"] == "cpu" and document["gcnrec"]["version"] == __version__
    assert document["environment"]["OMP_NUM_THREADS"] == "2" and "never written" not in json.dumps(document)
    assert document["data"] == {"name": dataset.name, "folder": str(dataset.folder), "digest": dataset.digest}
    assert document["machine"]["torch"] and document["created"].endswith("+00:00")


def test_what_may_change_bits_is_named():
    before = {
        "created": "then",
        "gcnrec": {"version": "1", "commit": "a"},
        "machine": {"cpu": "A", "cores": 2, "memory_gib": 4.0, "torch": "2.0"},
        "libraries": {"llvmlite": "1"},
        "threads": 1,
        "device": "cpu",
        "environment": {"OMP_NUM_THREADS": "1", "MKL_CBWR": "AVX2"},
    }
    assert (
        lineage.changes(before, {**before, "created": "now", "machine": {**before["machine"], "cores": 64, "memory_gib": 9.0}})
        == []
    )
    now = {
        "gcnrec": {"version": "1", "commit": "b"},
        "machine": {"cpu": "B", "torch": "2.1"},
        "libraries": {"llvmlite": "1", "cupy-cuda13x": "14"},
        "threads": 2,
        "device": "cuda",
        "environment": {"OMP_NUM_THREADS": "2"},
    }
    assert set(lineage.changes(before, now)) == {
        "commit a (now b)", "cpu A (now B)", "torch 2.0 (now 2.1)", "cupy-cuda13x absent (now 14)", "threads 1 (now 2)",
        "device cpu (now cuda)", "OMP_NUM_THREADS 1 (now 2)", "MKL_CBWR AVX2 (now absent)",
    }  # fmt: skip
    assert lineage.changes({"threads": 1}, {"threads": 1}) == []  # a lineage that lacks the rest


def test_the_commit_of_a_checkout(tmp_path):
    assert lineage._checkout(tmp_path) == {}
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / ".git").write_text("nothing that git knows")
    assert lineage._checkout(tmp_path / "broken") == {}
    folder = tmp_path / "checkout"
    folder.mkdir()
    (folder / "file").write_text("1")
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for arguments in (["init", "-q"], ["add", "file"], [*who, "commit", "-q", "-m", "first"]):
        assert lineage._git(folder, *arguments) is not None
    found = lineage._checkout(folder)
    assert len(found["commit"]) == 40 and found["changed"] is False
    (folder / "file").write_text("2")
    lineage._checkout.cache_clear()
    assert lineage._checkout(folder)["changed"] is True


def test_a_recipe_holds_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = Data(train="a/*.parquet", user="u", item="i", item_features="s3://bucket/f.parquet", folder="kept", digest="abc")
    recipe = recipe_of(data, Path("root"))
    assert recipe["train"] == str(tmp_path / "root" / "a" / "*.parquet") and recipe["item_features"] == "s3://bucket/f.parquet"
    assert {"folder", "digest", "card"}.isdisjoint(recipe) and recipe["user"] == "u"
    assert absolute("/x/y.parquet", Path("root")) == "/x/y.parquet" and absolute("x", None) == str(tmp_path / "x")
