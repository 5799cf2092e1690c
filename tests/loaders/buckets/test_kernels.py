"""Distinct ids, places, lists and CSRs in passes against NumPy."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from gcnrec.loaders.buckets.csr import write_indptr, write_transpose, write_user_items
from gcnrec.loaders.buckets.deal import Numbers, bounds_of
from gcnrec.loaders.buckets.distinct import Distinct
from gcnrec.loaders.buckets.lists import count_numbers, dealt_path, merge_buckets
from gcnrec.loaders.ingest.heldout import Report
from gcnrec.system.scratch import Scratch

USERS, ITEMS = 60, 40


@pytest.fixture
def scratch(tmp_path):
    (tmp_path / "scratch").mkdir()
    return Scratch(tmp_path / "scratch", 1000)


def pairs_of(users, items):
    return users.astype(np.uint64) << np.uint64(32) | items.astype(np.uint64)


@pytest.mark.parametrize("kind", ["int8", "int32", "int64", "uint64"])
def test_ids_are_numbered_by_their_order(scratch, kind):
    draw, limits = np.random.default_rng(0), np.iinfo(kind)
    some = np.concatenate([draw.integers(limits.min, limits.max, 300, kind, endpoint=True), np.arange(100).astype(kind)])
    some = np.append(draw.choice(some, 900), np.array([limits.min, limits.max], kind))
    distinct = Distinct(pa.array(some).type, scratch)
    for part in np.split(some, [1, 2, 300, 310]):
        distinct.add(pa.array(part))
    keys = distinct.keys()
    expected = np.unique(some)
    assert len(keys) == len(expected)
    out = np.empty(len(some), np.uint64)
    Numbers((pa.array(some).type,) * 2, (keys, keys), scratch).pairs(pa.array(some), pa.array(some[::-1]), out)
    numbers = np.searchsorted(expected, some)
    assert np.array_equal(out, pairs_of(numbers, numbers[::-1]))


def test_buckets_have_like_shares_of_the_rows_and_all_users():
    users = np.arange(0, 3000, 3, dtype=np.uint64)
    sample = np.sort(np.random.default_rng(1).choice(users[100:900] ** 2 // users[899], 5000))
    sample = users[np.searchsorted(users, sample)]
    bounds = bounds_of(sample, users, 80_000, 10_000)
    assert bounds[0] == 0 and bounds[-1] == len(users) and len(bounds) == 9
    rows = np.histogram(np.searchsorted(users, sample), bounds)[0]
    assert rows.min() > 0.8 * 5000 / 8 and rows.max() < 1.2 * 5000 / 8
    assert bounds_of(sample[:0], users, 10, 100).tolist() == [0, len(users)]


@pytest.fixture
def made(tmp_path, scratch):
    """Lists of drawn rows, dealt to three buckets of which one has no row, and the rows themselves."""
    draw, bounds = np.random.default_rng(2), np.array([0, 20, 25, USERS])
    users, items = draw.integers(0, USERS - 5, 1500), draw.zipf(1.5, 1500) % ITEMS
    rows = pairs_of(users, items)[(users < 20) | (users >= 25)]
    for bucket in range(3):
        inside = (rows >> np.uint64(32) >= bounds[bucket]) & (rows >> np.uint64(32) < bounds[bucket + 1])
        rows[inside].tofile(dealt_path(tmp_path, bucket))
    return merge_buckets(tmp_path, bounds, scratch, Report()), rows


def test_lists_are_the_distinct_pairs(tmp_path, scratch, made):
    lists, rows = made
    expected = np.unique(rows)
    found = [
        pairs_of(np.full(len(some), bucket.first + user), some)
        for bucket in lists.buckets()
        for user, some in enumerate(np.split(bucket.items_E, bucket.starts[1:-1]))
    ]
    assert np.array_equal(np.concatenate(found), expected) and len(lists) == len(expected)
    assert not list(tmp_path.glob("*.dealt")), "the rows of a bucket go when its lists are whole"
    items = (expected & np.uint64(0xFFFFFFFF)).astype(np.int64)
    assert np.array_equal(lists.item_degrees(ITEMS, scratch), np.bincount(items, minlength=ITEMS))
    asked = np.sort(pairs_of(*np.random.default_rng(3).integers(0, (USERS, ITEMS), (200, 2)).T))
    codes = np.zeros(200, np.int8)
    lists.mark_contained(asked, codes)
    assert np.array_equal(codes == 1, np.isin(asked, expected)) and 0 < codes.sum() < 200


def test_both_directions_in_passes(tmp_path, scratch, made):
    """At a limit of 1,000 bytes, a pass has 100 pairs, or one row of more."""
    lists, rows = made
    draw, expected = np.random.default_rng(4), np.unique(rows)
    numbers = [draw.permutation(size).astype(np.int32) for size in (USERS, ITEMS)]
    users, items = numbers[0][expected >> np.uint64(32)], numbers[1][expected & np.uint64(0xFFFFFFFF)]
    degrees = np.zeros(USERS, np.int64)
    count_numbers(users, degrees)
    assert np.array_equal(degrees, np.bincount(users, minlength=USERS))
    of_users = write_indptr(tmp_path, "user_items", degrees)
    of_items = write_indptr(tmp_path, "item_users", np.bincount(items, minlength=ITEMS))
    path = tmp_path / "user_items.npy"
    passes = list(write_user_items(path, of_users, lists, numbers, 0, scratch))
    assert len(passes) > 5 and passes[-1] == len(expected)
    order = np.lexsort((items, users))
    assert np.array_equal(np.load(path), items[order])
    # What comes before `begun` stays as it is.
    np.save(path, np.where(np.arange(len(expected)) < passes[2], -1, 0).astype(np.int32))
    assert list(write_user_items(path, of_users, lists, numbers, passes[2], scratch)) == passes[3:]
    assert np.array_equal(np.load(path), np.where(np.arange(len(expected)) < passes[2], -1, items[order]))
    other = tmp_path / "item_users.npy"
    assert len(list(write_transpose(other, of_items, (of_users, items[order]), 0, scratch))) > 5
    assert np.array_equal(np.load(other), users[np.lexsort((users, items))])
