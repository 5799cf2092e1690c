"""Several behaviours become graphs over the same nodes, and none of them gives a held-out pair away: against plain Python."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from gcnrec.config import Data
from gcnrec.errors import DataError
from gcnrec.graph import Behaviour, BipartiteGraph, latest_weight, summed_weight
from gcnrec.loaders.parquet import ingest
from gcnrec.loaders.schema import open_dataset, repeated_by
from gcnrec.runs.folder import with_valid

KINDS = np.array(["view", "cart", "buy"])


def drawn(rng, rows=400, users=15, items=12):
    """Rows (user, item, time, kind) with many repeats and equal times."""
    return [
        (int(rng.integers(users)), int(rng.integers(items)), int(rng.integers(60)), str(rng.choice(KINDS, p=(0.6, 0.15, 0.25))))
        for _ in range(rows)
    ]


def written(path, rows, *, kinds=True):
    table = pa.table({"u": [r[0] for r in rows], "i": [r[1] for r in rows], "t": [r[2] for r in rows]})
    pq.write_table(table.append_column("kind", pa.array([r[3] for r in rows])) if kinds else table, path)
    return str(path)


def made(tmp_path, rows, name="d", **keys):
    files = {"train": written(tmp_path / f"{name}.parquet", rows)}
    data = Data.model_validate({**files, "user": "u", "item": "i", "behaviour": "kind", "target": "buy", **keys})
    return ingest(data, tmp_path / name, data_root=None, name=name)


def pairs(csr, dataset):
    users, items = dataset.user_ids.decode(csr.row_numbers()), dataset.item_ids.decode(csr.indices)
    return set(zip(users.to_pylist(), items.to_pylist(), strict=True))


def held(part):
    users, items = part.user_ids.decode(part.users_E), part.item_ids.decode(part.items_E)
    return set(zip(users.to_pylist(), items.to_pylist(), strict=True))


def others(dataset):
    return {other.name: pairs(other.graph.user_items, dataset) for other in dataset.others}


def of(rows, kind, keep=lambda row: True):
    return {(u, i) for u, i, t, k in rows if k == kind and keep((u, i, t))}


@pytest.mark.parametrize("seed", range(4))
def test_a_split_by_time_cuts_all_behaviours_at_one_moment(tmp_path, seed):
    rows = drawn(np.random.default_rng(seed))
    dataset = made(tmp_path, rows, time="t", split="temporal", test_from=50, valid_size=0.2)
    report = dataset.info["report"]
    begin = report["valid_from_s"]
    first = min(t for _, _, t, kind in rows if kind == "buy" and t >= begin)
    assert pairs(dataset.graph.user_items, dataset) == of(rows, "buy", lambda row: row[2] < begin)
    for kind in ("view", "cart"):
        assert others(dataset)[kind] == of(rows, kind, lambda row: row[2] < first)
    assert max(other.times_E.max() for other in dataset.others) < first
    last = min(t for _, _, t, kind in rows if kind == "buy" and t >= 50)
    for other in dataset.others:
        rows_of = [row for row in rows if row[3] == other.name and row[2] < last]
        known = other.until_test
        nodes = (dataset.user_ids.ids.to_pylist(), dataset.item_ids.ids.to_pylist())
        expected = {
            (u, i): max(r[2] for r in rows_of if r[:2] == (u, i)) for u, i, *_ in rows_of if u in nodes[0] and i in nodes[1]
        }
        assert pairs(known.graph.user_items, dataset) == set(expected)
        csr = known.graph.user_items
        ids = zip(
            *(
                vocabulary.decode(numbers).to_pylist()
                for vocabulary, numbers in ((dataset.user_ids, csr.row_numbers()), (dataset.item_ids, csr.indices))
            ),
            strict=True,
        )
        assert dict(zip(ids, known.times_E.tolist(), strict=True)) == expected


def weighed(rows, kind, until, duplicates, logarithm):
    """(user, item) -> what all rows of a kind before `until` weigh, by the keys of ingestion; each row weighs 1 + its time."""
    found = {}
    for user, item, time, own in sorted(rows, key=lambda row: row[2]):
        if own == kind and time < until:
            before = found.get((user, item), 0) if duplicates == "sum" else 0
            found[user, item] = before + time + 1
    return {pair: math.log1p(weight) if logarithm else weight for pair, weight in found.items()}


@pytest.mark.parametrize(("duplicates", "logarithm"), [("latest", False), ("sum", True)])
def test_pairs_that_come_again_weigh_until_test_what_ingestion_would_give_them(tmp_path, duplicates, logarithm):
    rows = drawn(np.random.default_rng(1), rows=1000)  # train has each user and item, so that no row is dropped
    keys = {"time": "t", "test_from": 50, "valid_size": 0.2, "repeats": "keep", "weight": "t + 1", "weight_log": logarithm}
    dataset = made(tmp_path, rows, split="temporal", duplicates=duplicates, **keys)
    test = min(time for *_, time, kind in rows if kind == "buy" and time >= 50)
    for other in dataset.others:
        known = other.until_test
        assert known.graph.num_edges < other.graph.num_edges + len(other.later.users_E), "the case must occur"
        assert weights(known.graph.user_items, known.weights_E, dataset) == pytest.approx(
            weighed(rows, other.name, test, duplicates, logarithm), rel=1e-6
        )


def test_a_refit_knows_later_rows_also_where_no_pair_of_validation_is_left(tmp_path):
    rows = [(1, 1, 0, "buy"), (2, 2, 0, "buy"), (2, 1, 1, "view"), (1, 1, 5, "buy"), (1, 2, 6, "view"), (2, 2, 9, "buy")]
    dataset = made(tmp_path, rows, time="t", split="temporal", test_from=8, valid_size=0.3)
    assert not len(dataset.valid) and others(dataset) == {"view": {(2, 1)}}
    assert pairs(with_valid(dataset).others[0].graph.user_items, dataset) == {(2, 1), (1, 2)}


def test_without_logarithms_a_sum_is_plain():
    assert repeated_by({"duplicates": "sum"}) is summed_weight and repeated_by({"weight_log": True}) is latest_weight


def weights(csr, weights_E, dataset):
    users, items = dataset.user_ids.decode(csr.row_numbers()), dataset.item_ids.decode(csr.indices)
    return dict(zip(zip(users.to_pylist(), items.to_pylist(), strict=True), weights_E.tolist(), strict=True))


@pytest.mark.parametrize("seed", range(4))
def test_leave_last_cuts_each_user_at_the_first_held_out_moment(tmp_path, seed):
    rows = drawn(np.random.default_rng(seed), rows=150)
    dataset = made(tmp_path, rows, time="t", split="leave_last")
    first = {}
    for part in (dataset.valid, dataset.test):
        for user, time in zip(part.user_ids.decode(part.users_E).to_pylist(), part.times_E.tolist(), strict=True):
            first[user] = min(first.get(user, time), time)
    lost = {user for user in {row[0] for row in rows} if user not in first}
    for kind in ("view", "cart"):
        expected = {(u, i) for u, i, t, k in rows if k == kind and t < first.get(u, 10**9)}
        came = others(dataset)[kind]
        # A held-out pair that train has as well is dropped, and still cuts its user's history.
        assert {pair for pair in came if pair[0] not in lost} == {pair for pair in expected if pair[0] not in lost}
        assert came <= expected


@pytest.mark.parametrize("keep", [False, True])
def test_a_drawn_pair_takes_its_other_rows_along_unless_told_otherwise(tmp_path, keep):
    rows = drawn(np.random.default_rng(7))
    dataset = made(tmp_path, rows, split="random", keep_other=keep)
    out = held(dataset.valid) | held(dataset.test)
    assert out and of(rows, "view") & out, "the case must occur"
    for kind in ("view", "cart"):
        assert others(dataset)[kind] == (of(rows, kind) if keep else of(rows, kind) - out)
    met = len(held(dataset.test) & (of(rows, "view") | of(rows, "cart")))
    assert dataset.info["report"]["met_test"] == (met if keep else 0)


def test_cold_items_stay_cold(tmp_path):
    rows = drawn(np.random.default_rng(3))
    dataset = made(tmp_path, rows, split="cold_items", test_size=0.3)
    warm = {item for _, item in pairs(dataset.graph.user_items, dataset)}
    cold = {item for _, item in held(dataset.test) | held(dataset.valid)} - warm
    assert cold
    assert not any(item in cold for found in others(dataset).values() for _, item in found)


def test_nodes_of_other_behaviours_are_numbered_behind_the_target_s(tmp_path):
    rows = [(1, 1, 0, "buy"), (2, 1, 1, "buy"), (3, 2, 2, "view"), (1, 3, 3, "view"), (1, 3, 4, "view")]
    dataset = made(tmp_path, rows, split="random", test_size=0.0, valid_size=0.0)
    assert dataset.user_ids.ids.to_pylist() == [1, 2, 3] and dataset.item_ids.ids.to_pylist() == [1, 2, 3]
    assert dataset.graph.item_users.degrees.tolist() == [2, 0, 0]
    assert others(dataset) == {"view": {(3, 2), (1, 3)}}
    assert dataset.info["behaviours"] == {"target": "buy", "others": [{"name": "view", "edges": 2}]}
    assert pairs(dataset.graph.union.user_items, dataset) == {(1, 1), (2, 1), (3, 2), (1, 3)}
    assert dataset.reading("none").graph.union.num_edges == 2 and len(dataset.reading("none").others) == 1


def test_held_out_files_may_lack_the_column_and_other_rows_of_theirs_are_dropped(tmp_path):
    train = [(1, 1, 0, "buy"), (1, 2, 0, "view"), (1, 3, 0, "view"), (2, 1, 0, "buy"), (2, 2, 0, "buy"), (2, 3, 0, "buy")]
    test = [(1, 2, 5, "buy"), (2, 1, 5, "view")]
    without = written(tmp_path / "valid.parquet", [(1, 3, 4, "")], kinds=False)
    dataset = made(tmp_path, train, test=written(tmp_path / "test.parquet", test), valid=without)
    assert held(dataset.test) == {(1, 2)} and held(dataset.valid) == {(1, 3)}
    assert dataset.info["report"]["other_test"] == 1
    assert (dataset.info["report"]["met_valid"], dataset.info["report"]["met_test"]) == (1, 1)


def test_several_values_are_the_target_and_numbers_name_behaviours(tmp_path):
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"u": [1, 1, 2, 2], "i": [1, 2, 1, 3], "kind": pa.array([4, 1, 3, 4], pa.int8())}), path)
    keys = {"train": str(path), "user": "u", "item": "i", "behaviour": "kind", "target": "4, 3", "test_size": 0, "valid_size": 0}
    dataset = ingest(Data.model_validate(keys), tmp_path / "d", data_root=None, name="d")
    assert pairs(dataset.graph.user_items, dataset) == {(1, 1), (2, 1), (2, 3)}
    assert others(dataset) == {"1": {(1, 2)}} and dataset.info["behaviours"]["target"] == "4, 3"


def test_the_k_core_counts_the_target_and_others_keep_its_nodes(tmp_path):
    rows = [(u, i, 0, "buy") for u in (1, 2) for i in (1, 2)] + [
        (3, 1, 0, "buy"),
        (3, 1, 0, "view"),
        (1, 9, 0, "view"),
        (1, 2, 0, "view"),
    ]
    dataset = made(tmp_path, rows, k_core=2, split="random", test_size=0, valid_size=0)
    assert dataset.user_ids.ids.to_pylist() == [1, 2] and others(dataset) == {"view": {(1, 2)}}
    assert dataset.info["report"]["outside_core_view"] == 2


def peeled(found, k):
    """The pairs of the k-core."""
    while True:
        users, items = ([pair[side] for pair in found] for side in (0, 1))
        kept = {(u, i) for u, i in found if users.count(u) >= k and items.count(i) >= k}
        if kept == found:
            return found
        found = kept


@pytest.mark.parametrize("keep_cold", [False, True])
@pytest.mark.parametrize("split", ["temporal", "given"])
def test_nodes_outside_the_core_are_gone_with_all_their_rows(tmp_path, split, keep_cold):
    rows = drawn(np.random.default_rng(0), rows=300)
    rows = [row for row in rows if row[3] == "view" or row[1] % 4] + [(90, 1, 55, "buy"), (91, 2, 3, "view"), (91, 2, 55, "buy")]
    train, test = ([row for row in rows if (row[2] >= 40) is late] for late in (False, True))
    keys = {"split": split, "k_core": 3, "valid_size": 0, "keep_cold": keep_cold}
    if split == "temporal":
        dataset = made(tmp_path, rows, time="t", test_from=40, **keys)
    else:
        dataset = made(tmp_path, train, time="t", test=written(tmp_path / "test.parquet", test), **keys)
    bought, held_out = of(train, "buy"), of(test, "buy")
    core = peeled(bought, 3)
    users, items = ({pair[side] for pair in core} for side in (0, 1))
    lost = ({u for u, _ in bought} - users, {i for _, i in bought} - items)
    assert pairs(dataset.graph.user_items, dataset) == core and core and lost[0] and lost[1]
    for kind, found in others(dataset).items():
        assert found == {(u, i) for u, i in of(train, kind) if u in users and i in items}
    of_lost = {(u, i) for u, i in held_out if u in lost[0] or i in lost[1]}
    known = held_out - of_lost - core
    assert held(dataset.test) == (known if keep_cold else {(u, i) for u, i in known if u in users and i in items})
    assert not keep_cold or known & {(90, 1), (91, 2)}, "the case must occur"
    assert dataset.info["report"]["k_core_test"] == len(of_lost) > 0
    assert not lost[0] & set(dataset.user_ids.ids.to_pylist()) and not lost[1] & set(dataset.item_ids.ids.to_pylist())


@pytest.mark.parametrize("keys", [{"split": "random"}, {"split": "cold_items", "test_size": 0.3}])
def test_what_the_core_kept_before_a_draw_stays(tmp_path, keys):
    rows = drawn(np.random.default_rng(6), rows=200)
    dataset = made(tmp_path, rows, k_core=3, keep_other=True, **keys)
    core = peeled(of(rows, "buy"), 3)
    users, items = ({pair[side] for pair in core} for side in (0, 1))
    assert pairs(dataset.graph.user_items, dataset) | held(dataset.valid) | held(dataset.test) == core
    for kind, found in others(dataset).items():
        assert found == {(u, i) for u, i in of(rows, kind) if u in users and i in items} != of(rows, kind)


@pytest.mark.parametrize("name", ["", "v{x}", "{}", "later", "ü\"'", "a b"])
def test_any_short_text_names_a_behaviour(tmp_path, name):
    rows = [(1, 1, 0, "buy"), (2, 1, 1, "buy"), (1, 2, 0, name), (1, 2, 9, name), (1, 1, 5, "buy")]
    dataset = made(tmp_path, rows, time="t", split="temporal", test_from=5, valid_size=0, repeats="keep")
    assert others(dataset) == {name: {(1, 2)}}
    assert any(line.startswith(f"1 rows of {name} dropped") for line in dataset.info["report"]["lines"])


def test_mistakes_are_sentences(tmp_path):
    rows = [(1, 1, 0, "buy"), (1, 2, 0, "view")]
    with pytest.raises(DataError, match=r"has no row of the target 'bye'; it has 'buy', 'view'"):
        made(tmp_path, rows, target="bye")
    with pytest.raises(DataError, match="has no column 'kinds'; did you mean 'kind'"):
        made(tmp_path, rows, behaviour="kinds")
    many = [(1, n, 0, f"k{n}") for n in range(40)]
    with pytest.raises(DataError, match="must name at most 32 behaviours, it has more, such as"):
        made(tmp_path, [*rows, *many])
    pq.write_table(pa.table({"u": [1, 2], "i": [1, 2], "kind": ["buy", None]}), tmp_path / "null.parquet")
    with pytest.raises(DataError, match=r"column 'kind' holds nulls, first in row 1 of .*null.parquet; drop such rows"):
        made(tmp_path, rows, train=str(tmp_path / "null.parquet"))
    pq.write_table(pa.table({"u": [1, 2], "i": [1, 2], "kind": [0.5, 1.0]}), tmp_path / "float.parquet")
    with pytest.raises(DataError, match="column 'kind' must name behaviours by text or integers, it holds double"):
        made(tmp_path, rows, train=str(tmp_path / "float.parquet"))
    with pytest.raises(DataError, match="must name behaviours in at most 100 characters, one has 101: 'xxx"):
        made(tmp_path, [*rows, (1, 3, 0, "x" * 101)])
    with pytest.raises(ValidationError, match="behaviour needs target, the values of that column"):
        Data(train="x", behaviour="kind")
    with pytest.raises(ValidationError, match="target needs behaviour, the column that says"):
        Data(train="x", target="buy")


def test_damaged_graphs_of_behaviours_are_found(tmp_path):
    dataset = made(tmp_path, drawn(np.random.default_rng(0)), split="random")
    path = dataset.folder / "behaviour_1.item_users.indices.npy"
    path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\x7f")
    with pytest.raises(DataError, match=r"behaviour_1.item_users.indices.npy"):
        open_dataset(dataset.folder, verify=True)


def test_the_union_has_every_edge_once_in_both_directions():
    rng = np.random.default_rng(1)
    first, *more = (
        BipartiteGraph.from_edges(rng.integers(9, size=n).astype(np.int32), rng.integers(7, size=n).astype(np.int32), 9, 7)
        for n in (30, 20, 0)
    )
    graph = replace(first, others=tuple(Behaviour(str(n), each) for n, each in enumerate(more)))
    edges = [
        set(zip(each.user_items.row_numbers().tolist(), each.user_items.indices.tolist(), strict=True)) for each in (first, *more)
    ]
    union = graph.union
    assert sorted(edges[0] | edges[1]) == list(
        zip(union.user_items.row_numbers().tolist(), union.user_items.indices.tolist(), strict=True)
    )
    assert sorted((i, u) for u, i in edges[0] | edges[1]) == list(
        zip(union.item_users.row_numbers().tolist(), union.item_users.indices.tolist(), strict=True)
    )
    assert first.union is first
