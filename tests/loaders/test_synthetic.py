"""The synthetic world: any stretch alone, the promised degrees and blocks, constant memory, and recall that means something."""

from __future__ import annotations

import errno

import numpy as np
import pyarrow.dataset as ds
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcnrec.config.toml import validated
from gcnrec.errors import DataError, UsageError
from gcnrec.loaders import synthetic
from gcnrec.loaders.cards import load_card
from gcnrec.loaders.parquet import ingest
from gcnrec.loaders.sources import materialise
from gcnrec.loaders.synthetic import _63_BITS, _MULTIPLIER, World, draw_edges, write_world

WORLD = World(users=2000, items=900, edges=40_000, blocks=9, user_exponent=0.5, item_exponent=0.7, inside=0.75, seed=5)


def rank_of(ids):
    """The rank (0 is the most popular) behind ids that `draw_edges` gave out."""
    inverse = np.uint64(pow(int(_MULTIPLIER), -1, 2**63))
    return ((ids.astype(np.uint64) * inverse) & _63_BITS).astype(np.int64)


@given(st.integers(0, 2**40), st.integers(1, 50), st.integers(0, 50))
def test_any_stretch_alone(first, count, skip):
    whole = draw_edges(WORLD, first, count + skip)
    tail = draw_edges(WORLD, first + skip, count)
    assert all((a[skip:] == b).all() for a, b in zip(whole, tail, strict=True))


def test_threads_do_not_matter(threads):
    threads(1)
    one = draw_edges(WORLD, 0, 10_000)
    threads(2)
    assert all((a == b).all() for a, b in zip(one, draw_edges(WORLD, 0, 10_000), strict=True))


def test_degrees_follow_their_power_laws():
    users, items = (rank_of(ids) for ids in draw_edges(WORLD, 0, 400_000))
    for ranks, size, exponent in ((users, 2000, 0.5), (items, 900, 0.7)):
        assert ranks.min() >= 0 and ranks.max() < size
        counts = np.bincount(ranks, minlength=size)
        head, tail = slice(90, 180), slice(630, 720)
        weights = (np.arange(size) + 1.5) ** -exponent
        # Some 8,000 draws or more on each side: five per cent are over three standard deviations.
        assert counts[head].sum() / counts[tail].sum() == pytest.approx(weights[head].sum() / weights[tail].sum(), rel=0.06)


def test_blocks_hold_their_share():
    users, items = (rank_of(ids) % WORLD.blocks for ids in draw_edges(WORLD, 0, 100_000))
    # An edge that leaves its block comes back by chance once in nine.
    assert (users == items).mean() == pytest.approx(0.75 + 0.25 / 9, abs=0.01)


def test_ids_are_spread_and_unique():
    ids = draw_edges(WORLD, 0, 100_000)[0]
    assert len(np.unique(ids)) == len(np.unique(rank_of(ids))) and ids.min() >= 0 and ids.max() > 2**61


def test_parts_stream(tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic, "GROUP_ROWS", 4096)
    monkeypatch.setattr(synthetic, "PART_GROUPS", 3)
    said = []
    write_world(WORLD, tmp_path / "world", said.append)
    files = sorted(path.name for path in (tmp_path / "world").iterdir())
    assert files == [f"part-{part:05d}.parquet" for part in range(4)] and len(said) == 4
    table = ds.dataset(tmp_path / "world").to_table()
    users, items = draw_edges(WORLD, 0, WORLD.edges)
    assert (table["user"].to_numpy() == users).all() and (table["item"].to_numpy() == items).all()
    assert (np.diff(table["time"].to_numpy()) == 1).all()


def test_a_test_file_holds_the_rows_behind_the_edges(tmp_path):
    world = WORLD.model_copy(update={"edges": 3000, "ids": "int32", "times": False, "test": 200})
    write_world(world, tmp_path / "world")
    for name, first, count in (("train", 0, 3000), ("test.parquet", 3000, 200)):
        table = ds.dataset(tmp_path / "world" / name).to_table()
        assert table.schema.names == ["user", "item"] and {str(kind) for kind in table.schema.types} == {"int32"}
        users, items = draw_edges(world, first, count)
        assert (table["user"].to_numpy() == users).all() and (table["item"].to_numpy() == items).all()
    assert "ids" not in WORLD.identity and '"ids":"int32"' in world.identity


def test_full_disk_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(synthetic, "write_rows", full)
    with pytest.raises(DataError, match="No space left"):
        write_world(WORLD, tmp_path / "world")
    assert not list(tmp_path.iterdir())


def test_more_blocks_than_items():
    with pytest.raises(UsageError, match="blocks must not pass"):
        validated(World, {"users": 10, "items": 3, "blocks": 4}, "card")


def test_the_card_makes_its_world_once(tmp_path):
    path = tmp_path / "card.toml"
    path.write_text(
        """
[card]
name = "small"
title = "a small world"
licence = "none"
origin = "this test"
[synthetic]
users = 300
items = 100
edges = 5000
blocks = 5
[data]
train = "synthetic"
user = "user"
item = "item"
time = "time"
split = "temporal"
"""
    )
    said = []
    data = materialise(load_card(path), None, tmp_path / "cache", said.append)
    assert materialise(load_card(path), None, tmp_path / "cache", said.append) == data and len(said) == 1
    dataset = ingest(data, tmp_path / "out", data_root=None, name="small")
    assert dataset.info["report"]["rows_train"] == 5000
    assert dataset.info["report"]["leakage_train_after_first_test"] == 0
