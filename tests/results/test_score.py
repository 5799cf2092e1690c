"""Scores and ranks of given pairs of a fake run, against sorting all scores."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gcnrec.api.lists import recommend, score
from gcnrec.errors import DataError, UsageError
from gcnrec.results import score as module
from tests.results.test_recommend import ITEMS, SCORES, TEST, TRAIN, VALID, fake_run

USERS = [101, 102, 103, 104]


def rank_of(user, item, left_out):
    order = sorted((-SCORES[user, each], each) for each in range(len(ITEMS)) if each == item or (user, each) not in left_out)
    return 1 + [each for _, each in order].index(item)


@pytest.mark.parametrize(("seen", "left_out"), [("none", []), ("train", TRAIN), ("all", TRAIN + VALID + TEST)])
@pytest.mark.parametrize("chunk", [1, 3, 512])
def test_every_row_has_its_score_and_rank(tmp_path, monkeypatch, seen, left_out, chunk):
    monkeypatch.setattr(module, "users_per_chunk", lambda *_: chunk)
    rows = [(user, item) for item in (4, 0, 2, 1, 3) for user in (2, 0, 3, 1)] + [(2, 4), (0, 0)]
    table = pa.table({"customer": pa.array([USERS[user] for user, _ in rows]), "product": [ITEMS[item] for _, item in rows]})
    pq.write_table(table, tmp_path / "pairs.parquet")
    made = score(fake_run(), tmp_path / "pairs.parquet", tmp_path / "out.parquet", seen=seen)
    found = pq.read_table(tmp_path / "out.parquet")
    assert found.schema.names == ["user", "item", "score", "rank"]
    assert found.schema.types == [pa.uint16(), pa.string(), pa.float32(), pa.int32()]
    assert list(zip(found["user"].to_pylist(), found["item"].to_pylist(), strict=True)) == [
        (USERS[user], ITEMS[item]) for user, item in rows
    ]
    assert found["score"].to_pylist() == [SCORES[row] for row in rows]
    assert found["rank"].to_pylist() == [rank_of(user, item, left_out) for user, item in rows]
    assert (made.rows, made.scored, made.users) == (22, 22, 4)


def test_no_row_is_dropped(tmp_path):
    (tmp_path / "pairs.csv").write_text("user,item\n104,salt\n999,salt\n101,wine\n104,salt\n7,wine\n102,salt\n")
    made = score(fake_run(), tmp_path / "pairs.csv", tmp_path / "out.parquet")
    found = pq.read_table(tmp_path / "out.parquet").to_pydict()
    assert found == {
        "user": [104, 999, 101, 104, 7, 102], "item": ["salt", "salt", "wine", "salt", "wine", "salt"],
        "score": [3.0, None, None, 3.0, None, 5.0], "rank": [1, None, None, 1, None, 1],
    }  # fmt: skip
    assert (made.rows, made.scored, made.users, made.unknown_users, made.unknown_items) == (6, 3, 2, 2, 1)


def test_ids_beyond_the_range_of_the_data_keep_their_value(tmp_path):
    table = pa.table({"user": pa.array([101, 10**12]), "item": ["salt", "salt"]})
    pq.write_table(table, tmp_path / "pairs.parquet")
    score(fake_run(), tmp_path / "pairs.parquet", tmp_path / "out.parquet")
    found = pq.read_table(tmp_path / "out.parquet")
    assert found["user"].to_pylist() == [101, 10**12] and found["rank"].to_pylist() == [5, None]


@pytest.mark.parametrize("ending", [".parquet", ".csv", ".jsonl"])
def test_ids_keep_the_type_of_the_data(tmp_path, ending):
    ids = pa.array([number.to_bytes(16, "big") for number in range(4)], pa.uuid())
    pq.write_table(pa.table({"user": ids, "item": ITEMS[:4]}), tmp_path / "pairs.parquet")
    score(fake_run(user_ids=ids), tmp_path / "pairs.parquet", tmp_path / f"out{ending}")
    if ending == ".parquet":
        assert pq.read_table(tmp_path / "out.parquet").schema.field("user").type == pa.uuid()
    else:
        assert "00000000-0000-0000-0000-000000000003" in (tmp_path / f"out{ending}").read_text()


def test_what_cannot_be_done_is_refused(tmp_path):
    pairs, out = tmp_path / "pairs.csv", tmp_path / "out.parquet"
    pairs.write_text("user,item\n101,wine\n999,salt\n")
    with pytest.raises(DataError, match=r"pairs.csv must name users and items of shop, none of its 2 pairs has both"):
        score(fake_run(), pairs, out)
    with pytest.raises(UsageError, match="--seen must be one of all, met, train, none, got 'x'"):
        score(fake_run(), pairs, out, seen="x")
    pairs.write_text("user\n101\n")
    with pytest.raises(DataError, match="must have two columns"):
        score(fake_run(), pairs, out)
    assert not out.exists()
    out.write_bytes(b"mine")
    with pytest.raises(UsageError, match="exists and is never overwritten; choose another --out, or add --force"):
        score(fake_run(), pairs, out)


def test_scores_are_those_of_the_lists(tmp_path):
    """What `recommend` lists without leaving anything out is what `score` says of these pairs."""
    run = fake_run(scores=np.random.default_rng(1).normal(size=(4, 5)).astype(np.float32))
    recommend(run, 5, tmp_path / "lists.parquet", seen="none")
    score(run, tmp_path / "lists.parquet", tmp_path / "out.parquet")
    lists, scored = pq.read_table(tmp_path / "lists.parquet"), pq.read_table(tmp_path / "out.parquet")
    for name in ("user", "item", "rank", "score"):
        assert lists[name].to_pylist() == scored[name].to_pylist()
