"""Each public function takes paths as text and as `Path`, to the same result."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

import gcnrec
from gcnrec.errors import DataError, UsageError
from gcnrec.results.given.details import Details
from gcnrec.results.relisting import Relisting
from gcnrec.results.score import NewNodes
from gcnrec.results.similar import SimilarFiles
from gcnrec.storage.places import place, place_if_any


def ingest(world, at, out):
    data = gcnrec.Data(train=at("events.parquet"), user="user", item="item", split="random")
    dataset = gcnrec.ingest(data, at(out / "data"), data_root=at(world), name="shop")
    return dataset.folder, dataset.digest


def lists(world, at, out):
    files = {"users": at(world / "pairs.parquet"), "items": at(world / "items.parquet"), "exclude": at(world / "pairs.parquet")}
    made = gcnrec.recommend(at(world / "run"), 3, at(out / "lists.parquet"), **files, candidates=at(world / "events.parquet"))
    relisted = Relisting({"half": 1}, at(world / "halves.csv"))
    more = gcnrec.recommend(at(world / "run"), 3, new_users=at(world / "pairs.parquet"), relisting=relisted)
    return made, pq.read_table(out / "lists.parquet"), more


def alike(world, at, out):
    path = at(world / "items.parquet")
    made = gcnrec.similar(at(world / "run"), "item", 3, at(out / "like.parquet"), SimilarFiles(of=path, among=path, exclude=None))
    return made, gcnrec.similar(at(world / "run"), "user", 2, files=SimilarFiles(new=at(world / "pairs.parquet")))


def scores(world, at, out):
    pairs, new = at(world / "pairs.parquet"), NewNodes(users=at(world / "pairs.parquet"))
    return gcnrec.score(at(world / "run"), pairs, at(out / "s.parquet"), new=new), gcnrec.score(at(world / "run"), pairs)


def metrics(world, at, out):
    details = Details(per=("half",), attributes=at(world / "halves.csv"))
    return gcnrec.evaluate(at(world / "run"), segments=at(world / "segments.csv"), details=details)


CALLS = {
    "compare": lambda world, at, out: gcnrec.compare(at(world / "run"), [at(world / "run")], bootstrap=9, permutations=9),
    "evaluate": metrics,
    "ingest": ingest,
    "open_dataset": lambda world, at, out: gcnrec.open_dataset(at(world / "shop")).digest,
    "open_run": lambda world, at, out: gcnrec.open_run(at(world / "run")).lineage,
    "recommend": lists,
    "score": scores,
    "similar": alike,
    "train": lambda world, at, out: (
        gcnrec.train(at(world / "job.toml"), at(world / "shop"), at(world / "run"), resume=True).folder
    ),
}


def test_each_public_function_is_called():
    assert sorted(CALLS) == [name for name in gcnrec.__all__ if name not in ("Data", "Job")]


@pytest.mark.parametrize("name", CALLS)
def test_text_and_path_are_the_same(name, world, tmp_path):
    made = []
    for at in (str, Path):
        out = tmp_path / "out"
        out.mkdir()
        made.append(CALLS[name](world, at, out))
        out.rename(tmp_path / at.__name__)
    assert made[0] == made[1]


def test_sections_take_paths(world):
    assert gcnrec.Job.load(str(world / "job.toml")) == gcnrec.Job.load(world / "job.toml")
    assert gcnrec.Job(train={"init_from": world / "run"}).train.init_from == str(world / "run")
    assert gcnrec.Data(train=world / "events.parquet").train == str(world / "events.parquet")


def test_what_is_no_path_is_a_sentence(world):
    with pytest.raises(UsageError, match=r"expected a path as text or pathlib\.Path, got int"):
        gcnrec.open_dataset(3)
    with pytest.raises(UsageError, match="expected a path, got ''"):
        gcnrec.score(world / "run", "")
    with pytest.raises(DataError, match="is not a run folder"):
        gcnrec.evaluate(str(world / "shop"))
    assert (place("a/b"), place_if_any(None)) == (Path("a/b"), None)
