"""Features as tables: rows as NumPy indexes them, in the bytes that their type takes; what int8 codes stand for; refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from gcnrec.errors import DataError
from gcnrec.graph import BipartiteGraph
from gcnrec.rows import Ticket
from gcnrec.system.pages import scratch_values
from gcnrec.tables.features import code as codes
from gcnrec.tables.features.code import Code, code_of, encode
from gcnrec.tables.features.files import read_codes, write_codes
from gcnrec.tables.features.sides import Features, FeatureSides, feature_tables, with_codes
from gcnrec.tables.features.table import FeatureTable, pitch_of

DTYPES = ["float32", "float16", "bfloat16", "int8"]
ROWS = np.random.default_rng(0).standard_normal((400, 33), np.float32)
INDEX = np.random.default_rng(1).integers(0, 400, 1000)


def everyone(rows):
    return np.ones(len(rows), np.bool_)


def table_of(rows, dtype, **options):
    return FeatureTable.encoded(rows, code_of(rows, everyone(rows), dtype, 0, "item"), "item", **options)


def as_stored(rows, dtype):
    """What other libraries make of 16-bit floats."""
    return torch.from_numpy(rows).to(getattr(torch, dtype)).float().numpy()


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_by_number(dtype):
    table = table_of(ROWS, dtype)
    found = table.read(Ticket(INDEX), INDEX).numpy()
    if dtype == "int8":
        assert np.abs(found - ROWS[INDEX]).max() < 1.01 * 7.0 / 254 / 2  # nobody is 3.5 deviations away
    else:
        assert np.array_equal(found, as_stored(ROWS, dtype)[INDEX])
    assert (table.num_rows, table.width, table.host) == (400, 33, table)


def test_a_datasets_rows_are_read_where_they_lie(tmp_path):
    np.save(tmp_path / "f.npy", ROWS)
    mapped = np.load(tmp_path / "f.npy", mmap_mode="r")
    table = FeatureTable.adopted(mapped)
    assert np.shares_memory(table.stored.values, mapped) and table.bytes == 0
    assert np.array_equal(table.rows(INDEX).numpy(), ROWS[INDEX])


@pytest.mark.parametrize(
    ("width", "dtype", "pitch"),
    [(1, "int8", 4), (3, "int8", 4), (5, "int8", 8), (64, "int8", 64), (65, "int8", 128), (129, "int8", 256), (1, "float16", 4),
     (33, "bfloat16", 128), (100, "float32", 512), (602, "float32", 2432), (16, "float32", 64)],
)  # fmt: skip
def test_rows_start_on_lines_or_share_one_evenly(width, dtype, pitch):
    assert pitch_of(width, dtype) == pitch
    table = table_of(np.ones((3, width), np.float32), dtype)
    stored = table.stored
    assert stored.pitch * stored.values.itemsize == pitch and stored.values.ctypes.data % 128 == 0
    assert table.bytes == 3 * pitch and not stored.values.reshape(3, -1)[:, width:].any()


def test_blocks_of_any_size_and_a_file_give_the_same_table(monkeypatch, tmp_path):
    whole = table_of(ROWS, "int8")
    monkeypatch.setattr(codes, "_BLOCK_VALUES", 7 * 33)
    asked = []

    def allocate(length):
        asked.append(length)
        return scratch_values(tmp_path, length)

    parts = table_of(ROWS, "int8", allocate=allocate)
    assert np.array_equal(parts.stored.values, whole.stored.values) and len(asked) == 1


def test_ends_are_those_of_nodes_with_interactions():
    known = np.arange(400) % 4 > 0
    rows = ROWS.copy()
    rows[~known] *= 100.0
    grid = code_of(rows, known, "int8", 0, "item").grid
    assert np.abs(grid.low_F - rows[known].min(0)).max() <= grid.step_F.max() / 2  # 0 is a point
    assert np.array_equal(grid.high_F, rows[known].max(0))
    beyond = FeatureTable.encoded(np.full((1, 33), 1e30, np.float32), Code("int8", grid), "item").rows(np.zeros(1, int))
    assert beyond.numpy().tolist() == [grid.high_F.tolist()]


def test_of_20_000_nodes_two_are_beyond_either_end():
    rows = np.random.default_rng(5).permutation(20_000).astype(np.float32)[:, None]
    grid = code_of(rows, everyone(rows), "int8", 0, "item").grid
    assert (grid.low_F.tolist(), grid.high_F.tolist()) == ([2.0], [19_997.0])


def test_many_nodes_are_sampled_by_the_seed(monkeypatch):
    monkeypatch.setattr(codes, "MOST_SAMPLED", 100)
    drawn = [code_of(ROWS, everyone(ROWS), "int8", seed, "item").grid for seed in (0, 0, 1)]
    assert np.array_equal(drawn[0].low_F, drawn[1].low_F) and not np.array_equal(drawn[0].low_F, drawn[2].low_F)
    assert (drawn[0].high_F <= ROWS.max(0)).all() and (drawn[0].high_F < ROWS.max(0)).any()


def test_what_is_absent_stays_zero():
    """Zeros stand for absent values: a node without any must not get a vector of its own."""
    rows = ROWS.copy()
    rows[7] = 0.0
    grid = code_of(rows, everyone(rows), "int8", 0, "item").grid
    assert not table_of(rows, "int8").rows(np.array([7])).any()
    positive = code_of(np.abs(rows) + 1, everyone(rows), "int8", 0, "item").grid
    assert np.array_equal(positive.low_F, (np.abs(rows) + 1).min(0)) and (grid.low_F < 0).all()


def pairs():
    """Columns of one value, of two, and of two of which one is rare; the third value of the last column comes late."""
    draw = np.random.default_rng(3)
    rows = np.empty((300, 6), np.float32)
    rows[:, 0] = 0.1
    rows[:, 1] = np.where(draw.random(300) < 0.5, -0.1, 1.0)
    rows[:, 2] = np.where(np.arange(300) == 290, 7.3, 0.0)
    rows[:, 3] = np.where(draw.random(300) < 0.5, 1e-20, 1.0)
    rows[:, 4] = np.where(draw.random(300) < 0.5, -3e38, 3e38)
    rows[:, 5] = np.where(np.arange(300) == 299, 0.5, np.arange(300) % 2)
    return rows


@pytest.mark.parametrize("block", [1 << 20, 50 * 6])
def test_columns_of_one_or_two_values_are_exact(monkeypatch, block):
    monkeypatch.setattr(codes, "_BLOCK_VALUES", block)
    rows = pairs()
    found = table_of(rows, "int8").rows(np.arange(300)).numpy()
    assert np.array_equal(found[:, :5], rows[:, :5])
    assert found[:290, 5].tolist() == rows[:290, 5].tolist() and abs(found[299, 5] - 0.5) < 0.5 / 254 + 1e-6


def test_without_interactions_all_nodes_count():
    grid = code_of(ROWS, ~everyone(ROWS), "int8", 0, "user").grid
    assert np.array_equal(grid.high_F, ROWS.max(0))
    assert code_of(ROWS[:0], everyone(ROWS[:0]), "int8", 0, "user").grid.low_F.tolist() == [0.0] * 33


@pytest.mark.parametrize("dtype", DTYPES[1:])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_no_numbers_are_refused(dtype, value):
    rows = ROWS.copy()
    rows[200, 5] = value
    with pytest.raises(DataError, match=rf"finite features, and column 5 of the item features holds {value}; ingest other"):
        table_of(rows, dtype)


def test_values_beyond_the_range_are_refused_with_a_remedy():
    rows = ROWS.copy()
    rows[3, 2] = -70_000
    with pytest.raises(DataError, match=r"column 2 of the item features has -70000; train with model.feature_dtype = 'bfloat16'"):
        table_of(rows, "float16")
    rows[3, 2] = 3.4e38
    with pytest.raises(DataError, match=r"up to 3.38953e\+38, .* train with model.feature_dtype = 'float32'"):
        table_of(rows, "bfloat16")
    rows[3, 2] = np.nan
    out = np.empty_like(rows)
    encode(rows, Code(), out, "item")  # as a dataset has it, so that float32 changes nothing
    assert np.isnan(out[3, 2])


def test_a_column_that_is_nearly_always_zero_keeps_its_rare_values():
    """Of 24,000 nodes two are cut off at either end: all that have another value than 0 in the first column."""
    rows = np.zeros((24_000, 2), np.float32)
    rows[[7, 9], 0], rows[:6, 1] = (1.0, 2.0), (1.0, 1.0, 1.0, 2.0, 50.0, 60.0)
    found = table_of(rows, "int8").rows(np.arange(12)).numpy()
    assert found[[7, 9, 11], 0] == pytest.approx([1.0, 2.0, 0.0], abs=1 / 254)
    assert found[:7, 1] == pytest.approx([1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 0.0], abs=1 / 254)


def test_no_code_reads_as_an_infinite_value():
    """A third value between ends that are too far apart takes one of them; where training has more values, they are refused."""
    rows, known = ROWS.copy(), np.arange(400) < 300
    rows[:2, 4] = -1.7e38, 1.7e38  # float32 holds up to 3.4028e38
    assert np.isfinite(table_of(rows, "int8").rows(np.arange(400)).numpy()).all()
    rows[:300, 3], rows[300:, 3] = np.where(np.arange(300) % 2, -3e38, 3e38), 2e38
    found = FeatureTable.encoded(rows, code_of(rows, known, "int8", 0, "item"), "item").rows(np.arange(400))
    assert found[:300, 3].tolist() == rows[:300, 3].tolist() and found[300:, 3].tolist() == [np.float32(3e38)] * 100
    rows[:2, 4] = -1.8e38, 1.8e38
    with pytest.raises(DataError, match=r"column 4 of the item features has -1.8e\+38 to 1.8e\+38; .* = 'float32'"):
        code_of(rows, known, "int8", 0, "item")


def test_sides_of_any_widths_and_absent_ones():
    graph = BipartiteGraph.from_edges(np.array([0, 1]), np.array([0, 1]), 3, 4)
    users, items = ROWS[:3, :7], np.ascontiguousarray(ROWS[:4])
    users = np.ascontiguousarray(users)
    nodes = np.array([0, 2, 3, 6])  # users 0 and 2, items 0 and 3
    for features in (Features(users, items), Features(users), Features(None, items), Features()):
        tables = feature_tables(features, graph.num_users, torch.empty, for_gpu=False)
        tiles = tables.read(Ticket(nodes))
        for rows, tile, own in zip(features.sides, tiles, ([0, 2], [0, 3]), strict=True):
            assert (tile is None) == (rows is None) and (rows is None or np.array_equal(tile.numpy(), rows[own]))
        assert tables.widths == tuple(None if rows is None else rows.shape[1] for rows in features.sides)
        assert tables.bytes == 0 and tables.host == tables and features.any == any(tile is not None for tile in tiles)
    assert FeatureSides(3).read(Ticket(nodes)) == (None, None)


def test_float32_is_copied_for_a_gpu():
    tables = feature_tables(Features(None, ROWS), 3, torch.empty, for_gpu=True)
    assert tables.bytes == 400 * 256 and np.array_equal(tables.items.rows(INDEX).numpy(), ROWS[INDEX])


@pytest.fixture
def coded(tmp_path):
    graph = BipartiteGraph.from_edges(np.array([0, 1]), np.array([0, 399]), 2, 400)
    features = with_codes(Features(None, ROWS), graph, "int8", 0)
    write_codes(tmp_path / "features.safetensors", features)
    return features, tmp_path / "features.safetensors"


def test_codes_come_back_from_their_file(coded):
    features, path = coded
    again = read_codes(path, Features(None, ROWS), "train anew")
    assert again[0] == features.codes[0] and again[1].dtype == "int8"
    assert all(np.array_equal(one, other) for one, other in zip(again[1].grid, features.codes[1].grid, strict=True))
    assert np.array_equal(features.codes[1].grid.low_F, ROWS[[0, 399]].min(0))  # the two items with interactions


@pytest.mark.parametrize("change", ["other width", "users", "cut", "ends", "header"])
def test_codes_of_other_features_are_refused(coded, change):
    features, path = coded
    other = Features(None, ROWS)
    if change == "other width":
        other = Features(None, np.ascontiguousarray(ROWS[:, :5]))
    elif change == "users":
        other = Features(ROWS, ROWS)
    elif change == "cut":
        path.write_bytes(path.read_bytes()[:-5])
    elif change == "header":
        save_file(load_file(path), path, {"format": "gcnrec-features", "version": "2", "dtype": "int8"})
    else:
        low, step, high = features.codes[1].grid
        write_codes(path, Features(None, ROWS, (Code("int8"), Code("int8", codes.Grid(high, step, low)))))
    with pytest.raises(DataError, match=r"features.safetensors .*; train anew"):
        read_codes(path, other, "train anew")
