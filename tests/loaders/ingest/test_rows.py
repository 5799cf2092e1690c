"""Sorting under a memory limit, k-core, splits: each against the plain Python that defines it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gcnrec.errors import UsageError
from gcnrec.loaders.ingest import pairs, splits
from gcnrec.loaders.ingest.rows import Rows, sort_rows
from gcnrec.system.limits import parse_bytes
from gcnrec.system.scratch import Scratch

NODES = 12
EDGES = st.lists(st.tuples(st.integers(0, NODES - 1), st.integers(0, NODES - 1)), max_size=60)


def pack(edges):
    return np.array([user << 32 | item for user, item in edges], np.uint64)


@pytest.fixture(scope="module")
def scratches(tmp_path_factory):
    """RAM only, and one so small that arrays are files and sorts go range by range."""
    folder = tmp_path_factory.mktemp("scratch")
    return Scratch(folder, 10**9), Scratch(folder, 400)


@given(EDGES, st.booleans(), st.booleans(), st.integers(0, 99))
def test_sort(scratches, edges, timed, weighted, seed):
    generator = np.random.default_rng(seed)
    times = generator.integers(0, 3, len(edges)) if timed else None
    weights = generator.integers(0, 3, len(edges)).astype(np.float32) if weighted else None
    keys = sorted(
        (user, item, times[at] if timed else 0, weights[at] if weighted else 0) for at, (user, item) in enumerate(edges)
    )
    for scratch in scratches:
        rows = Rows(pack(edges), None if times is None else times.copy(), None if weights is None else weights.copy())
        done = sort_rows(rows, NODES, NODES, scratch)
        assert done.pairs_E.tolist() == pack([key[:2] for key in keys]).tolist()
        assert done.times_E is None or done.times_E.tolist() == [key[2] for key in keys]
        assert done.weights_E is None or done.weights_E.tolist() == [key[3] for key in keys]
    assert not list(scratches[0].folder.iterdir()), "files behind arrays are unlinked at once"


@given(st.lists(st.tuples(st.integers(0, 2**31 - 2), st.integers(0, 2**31 - 2)), max_size=40))
def test_sort_of_large_numbers(edges):
    rows = sort_rows(Rows(pack(edges), None, None), 2**31 - 1, 2**31 - 1, Scratch(None, 10**9))
    assert rows.pairs_E.tolist() == sorted(pack(edges).tolist())


@given(EDGES)
def test_sort_of_the_high_number_alone_is_stable(scratches, edges):
    for scratch in scratches:
        ordered = sorted(edges, key=lambda edge: edge[1])
        done = sort_rows(Rows(pack(ordered), None, None), NODES, 0, scratch)
        assert done.pairs_E.tolist() == sorted(pack(edges).tolist())


def naive_core(edges, k):
    kept = set(edges)
    while True:
        users, items = [user for user, _ in kept], [item for _, item in kept]
        smaller = {edge for edge in kept if users.count(edge[0]) >= k and items.count(edge[1]) >= k}
        if smaller == kept:
            return kept
        kept = smaller


@given(EDGES, st.integers(1, 4))
def test_k_core(scratches, edges, k):
    packed = np.sort(pack(edges))
    users, items, _ = pairs.k_core(packed, NODES, NODES, k, scratches[1])
    codes = np.zeros(len(packed), np.int8)
    pairs.mark_alive(packed, users, items, codes)
    assert set(packed[codes == 1].tolist()) == set(pack(sorted(naive_core(edges, k))).tolist())


def test_one_pair_that_comes_very_often_is_sorted_by_time_and_weight(scratches):
    generator = np.random.default_rng(0)
    times, weights = generator.integers(0, 300, 50_000), generator.random(50_000, np.float32)
    keys = sorted(zip(times.tolist(), weights.tolist(), strict=True))
    done = sort_rows(Rows(np.full(50_000, 7 << 32, np.uint64), times, weights), NODES, NODES, scratches[1])
    assert list(zip(done.times_E.tolist(), done.weights_E.tolist(), strict=True)) == keys


@given(st.lists(st.integers(0, 9), min_size=1, max_size=30), st.lists(st.booleans(), min_size=30, max_size=30))
def test_falling_and_its_inverse(scratches, degrees, kept):
    kept = kept[: len(degrees)]
    order = pairs.falling(np.array(degrees), np.array(kept), scratches[1])
    expected = sorted((node for node in range(len(degrees)) if kept[node]), key=lambda node: (-degrees[node], node))
    assert order.tolist() == expected
    places = pairs.inverse(order, len(degrees), scratches[1])
    assert places.tolist() == [expected.index(node) if kept[node] else -1 for node in range(len(degrees))]


@given(EDGES, EDGES)
def test_contained(left, right):
    ours, others = np.sort(pack(left)), np.sort(pack(right))
    codes = np.zeros(len(ours), np.int8)
    pairs.mark_contained(ours, others, codes)
    assert codes.tolist() == np.isin(ours, others).astype(int).tolist()


@given(EDGES, st.floats(0, 0.95), st.integers(0, 2**40))
def test_random_split_is_exact_per_user(scratches, edges, share, seed):
    packed = np.sort(pack(edges))
    codes = splits.random_test(splits.SortedPairs(packed, NODES, NODES, scratches[1]), share, seed)
    for user in range(NODES):
        of_user = set(edge for edge in packed.tolist() if edge >> 32 == user)
        test = set(packed[codes == splits.TEST].tolist()) & of_user
        train = set(packed[codes == splits.TRAIN].tolist()) & of_user
        assert not test & train, "repeats of a pair stay together"
        assert len(test) == max(min(int(share * len(of_user) + 0.5), len(of_user) - 1), 0)


@given(st.integers(0, 999), st.integers(0, 2**40))
def test_draws_of_long_users_are_counted_to_the_same_bound(rank, seed):
    packed = np.repeat(pack([(3, item) for item in range(1000)]), 2)
    bounds = [int(draw(packed, 0, len(packed), rank, np.uint64(seed))) for draw in (splits._sorted_draw, splits._counted_draw)]
    assert bounds[0] == bounds[1]


@given(EDGES, st.floats(0, 0.99), st.integers(0, 2**40))
def test_carve_loses_no_node(scratches, edges, share, seed):
    packed = np.unique(pack(edges))
    codes = splits.carve(splits.SortedPairs(packed, NODES, NODES, scratches[1]), share, seed)
    train = packed[codes == splits.TRAIN]
    assert set((train >> np.uint64(32)).tolist()) == {user for user, _ in edges}
    assert set((train & np.uint64(0xFFFFFFFF)).tolist()) == {item for _, item in edges}
    assert share > 0 or len(train) == len(packed)


def test_carve_takes_its_share(scratches):
    packed = pack([(user, item) for user in range(200) for item in range(200)])
    codes = splits.carve(splits.SortedPairs(packed, 200, 200, scratches[1]), 0.1, 3)
    # 40,000 draws of probability 0.1: five standard deviations are 300.
    assert abs(int(codes.sum()) - 4000) < 300


@given(st.lists(st.integers(-(2**40), 2**40) | st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=50), st.floats(0, 0.99))
def test_time_at(times, share):
    moment = splits.time_at(np.array(times), share)
    later = sum(time >= moment for time in times)
    strictly_later = sum(time > moment for time in times)
    if not share:
        assert moment == max(times) + 1
        return
    assert moment in times and later >= share * len(times) - 1e-9 and strictly_later <= share * len(times) + 1e-9


def test_time_at_the_ends_of_64_bits():
    """Found by jobs/measure/fuzz: one more than the last time, or all between both ends, is no number of 64 bits with a sign."""
    ends = [-(2**63), 0, 2**63 - 1, 2**63 - 1]
    assert splits.time_at(np.array(ends), 0.5) == 2**63 - 1
    assert splits.time_at(np.array(ends), 0.75) == 0
    assert splits.time_at(np.array(ends), 0.5, 2**63 - 1) == 0


@settings(max_examples=50)
@given(st.lists(st.integers(0, 20), min_size=1, max_size=30), st.integers(0, 21), st.floats(0, 0.99))
def test_time_at_below(times, below, share):
    earlier = [time for time in times if time < below]
    if earlier:
        assert splits.time_at(np.array(times), share, below) == splits.time_at(np.array(earlier), share)
    else:
        assert splits.time_at(np.array(times), share, below) == below


def test_parse_bytes():
    assert parse_bytes("2GB") == 2 * 10**9 and parse_bytes(" 1.5 GiB ") == 3 * 2**29 and parse_bytes("100000000") == 10**8
    for text in ("", "GB", "2 apples", "-1GB", "1MB"):
        with pytest.raises(UsageError):
            parse_bytes(text)
