"""Features behind a device that lags, runs ahead and tears: every batch has the rows of the host's table, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gcnrec.errors import DeviceError
from gcnrec.rows import Ticket
from gcnrec.system.limits import Limits
from gcnrec.tables import placement
from gcnrec.tables.dense import DenseTable, in_ram
from gcnrec.tables.features.code import code_of
from gcnrec.tables.features.homes import FeatureHomes, feature_window
from gcnrec.tables.features.pipelined import PipelinedFeatures
from gcnrec.tables.features.sides import Features, feature_tables
from gcnrec.tables.features.table import FeatureTable
from gcnrec.tables.pipelined import Traffic
from gcnrec.tables.window import place_bytes
from gcnrec.testing import empty_rows

NODES = 60
DTYPES = ["float32", "float16", "bfloat16", "int8"]


def rows_of(width):
    return np.random.default_rng(width).standard_normal((NODES, width), np.float32)


def table_of(dtype, width=33):
    rows = rows_of(width)
    return FeatureTable.encoded(rows, code_of(rows, np.ones(NODES, np.bool_), dtype, 0, "item"), "item")


def batches(count=9):
    draw = np.random.default_rng(7)
    return [np.sort(draw.permutation(NODES)[: draw.integers(0, 25)]) for _ in range(count)]


def read_all(features, ahead=2):
    """The tiles of all batches, `ahead` of them announced before one is read."""
    waiting, tiles = [], []
    for index_R in batches():
        ticket = Ticket(index_R)
        if ahead:
            features.prefetch(ticket, index_R)
        waiting.append(ticket)
        if len(waiting) > ahead:
            tiles.append(features.read(waiting[0], waiting.pop(0).rows_R))
    return tiles + [features.read(ticket, ticket.rows_R) for ticket in waiting]


@pytest.mark.parametrize("hot", [0, 7, NODES])
@pytest.mark.parametrize("dtype", DTYPES)
def test_batches_have_the_rows_of_the_host(dtype, hot, fake_device):
    table = table_of(dtype)
    expected = [table.rows(index_R) for index_R in batches()]
    for seed in range(6):
        device = fake_device.LazyDevice(0) if seed == 0 else fake_device.FakeDevice(seed)
        found = read_all(PipelinedFeatures(table, device, hot), ahead=seed % 3)
        assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True)), seed


def windowed(table, device, hot, places):
    homes = FeatureHomes(table)
    return PipelinedFeatures(table, device, hot, feature_window(table, device, places * place_bytes(homes), in_ram))


@pytest.mark.parametrize(("dtype", "width", "hot"), [("float32", 33, 0), ("int8", 9, 7), ("bfloat16", 33, NODES)])
def test_rows_on_disk_come_through_a_window(dtype, width, hot, fake_device):
    """Of 60 rows it has places for 26; batches have up to 24."""
    table = table_of(dtype, width)
    expected = [table.rows(index_R) for index_R in batches()]
    for seed in range(6):
        device = fake_device.LazyDevice(0) if seed == 0 else fake_device.FakeDevice(seed)
        adopted = []
        device.adopt = lambda memory, length, adopted=adopted: adopted.append(memory.data_ptr())
        features = windowed(table, device, hot, 26)
        assert table.memory.data_ptr() not in adopted
        found = read_all(features, ahead=seed % 3)
        assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True)), seed


def test_a_place_of_the_window_that_is_used_again_too_early_is_seen(fake_device, monkeypatch):
    monkeypatch.setattr(fake_device.FakeMark, "finish", lambda mark: None)
    table = table_of("float32")
    expected = [table.rows(index_R) for index_R in batches()]
    wrong = 0
    for seed in range(6):
        features = windowed(table, fake_device.FakeDevice(seed), 0, 26)
        monkeypatch.setattr(features._device.compute, "after", lambda mark: mark.queue.run_until(mark.position))
        found = read_all(features)
        wrong += not all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    assert wrong


def test_more_rows_than_the_window_has_places_are_refused(fake_device):
    features = windowed(table_of("float32"), fake_device.FakeDevice(0), 0, 3)
    with pytest.raises(DeviceError, match="more than the 3 places that a table on disk has in memory"):
        features.prefetch(Ticket(np.arange(4)), np.arange(4))


def test_adopted_rows_that_start_anywhere(fake_device):
    """As memory of others has them: no row but the first starts on a line."""
    buffer = np.empty(NODES * 33 + 3, np.float32)
    rows = buffer[3:].reshape(NODES, 33)
    rows[...] = rows_of(33)
    table = FeatureTable.adopted(rows)
    features = PipelinedFeatures(table, fake_device.FakeDevice(1), 5)
    expected = [table.rows(index_R) for index_R in batches()]
    assert all(torch.equal(one, other) for one, other in zip(read_all(features), expected, strict=True))
    cold = np.concatenate([index_R[index_R >= 5] for index_R in batches()])
    start = cold * 132 + table.memory.data_ptr()
    assert features.traffic().lines == sum((start + 131) // 128 - start // 128 + 1)


def test_what_is_moved_is_counted(fake_device):
    features = PipelinedFeatures(table_of("int8", 100), fake_device.LazyDevice(0), 3)
    features.read(Ticket(np.array([0, 2, 5])), np.array([0, 2, 5]))
    # 100 codes have a line of their own, of which 112 bytes are read: whole vectors of 16.
    assert features.traffic() == Traffic(rows=3, cached_rows=2, bytes=112, lines=1)
    features.read(Ticket(np.array([1, 7, 8])), np.array([1, 7, 8]))
    assert features.traffic() == Traffic(rows=6, cached_rows=3, bytes=3 * 112, lines=3)
    half_lines = PipelinedFeatures(table_of("float16", 17), fake_device.LazyDevice(0))
    half_lines.read(Ticket(np.arange(10)), np.arange(10))
    assert half_lines.traffic() == Traffic(rows=10, cached_rows=0, bytes=480, lines=10)


class Recorded:
    """A queue that says in which order it got marks, waits and copies."""

    def __init__(self, name, log):
        self.name, self.log = name, log

    def mark(self):
        self.log.append((self.name, "mark", len(self.log)))
        return self.log[-1]

    def after(self, mark):
        self.log.append((self.name, "after", mark))


def test_a_buffer_is_filled_again_behind_its_last_reader(monkeypatch, fake_device):
    """On a GPU, compute may be behind: each copy into a buffer waits for compute's mark after the decoding of what it held."""
    device, log = fake_device.LazyDevice(0), []
    features = PipelinedFeatures(table_of("float32"), device)
    device.reads, device.compute = Recorded("reads", log), Recorded("compute", log)
    device.copy = lambda queue, pairs: log.extend(("reads", "copy", target.memory.data_ptr()) for _, target in pairs)
    decoded = features._decoded

    def recorded(memory, pitch, index_R, rows):
        log.append(("compute", "decode", memory.data_ptr()))
        return decoded(memory, pitch, index_R, rows)

    monkeypatch.setattr(features, "_decoded", recorded)
    read_all(features)
    fills = [at for at, (_, kind, _) in enumerate(log) if kind == "copy"]
    assert len(fills) == 9 and len({log[at][2] for at in fills}) < 9
    for at in fills:
        readers = [n for n in range(at) if log[n] == ("compute", "decode", log[at][2])]
        waits = [mark[2] for queue, kind, mark in log[:at] if (queue, kind) == ("reads", "after")]
        assert not readers or any(mark > readers[-1] and log[mark][0] == "compute" for mark in waits)


def test_memory_that_cannot_be_had_is_named(monkeypatch, fake_device):
    device = fake_device.LazyDevice(0)

    def full(length, like):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(device, "empty", full)
    with pytest.raises(
        Exception, match=r"features of 5 nodes should be kept on the GPU, .* 1,280 bytes; lower table.cache_bytes"
    ):
        PipelinedFeatures(table_of("float32"), device, 5)


def test_rows_and_features_share_the_cache(monkeypatch, fake_device):
    """Degrees 3, 2, 1, 0 on both sides; a row and its state take 96 bytes, users' features 16, items' 64."""
    monkeypatch.setattr(placement, "gpu", lambda: "a GPU")
    monkeypatch.setattr(placement, "pipeline_of", lambda *_: fake_device.FakeDevice(0))
    graph, draw = empty_rows().graph, np.random.default_rng(0)
    features = Features(*(draw.standard_normal((4, width), np.float32) for width in (4, 16)))
    sides = feature_tables(features, 4, in_ram, for_gpu=True)

    def kept(budget, reads_rows=True, kind="host", **more):
        there = placement.Placement(True, kind, budget)
        table = placement.placed(there, graph, DenseTable(torch.zeros(8, 8), 16), reads_rows=reads_rows, **more)
        placed = placement.placed_features(there, table, sides)
        hot = (0, 0) if table.hot is None else (table.hot.users, table.hot.items)
        assert hot == tuple(side._hot for side in placed.sides) and placed.host == sides
        return hot

    assert kept(2 * 96) == (1, 1) and kept(2 * 96, features=sides) == (0, 0)
    assert kept(2 * 96 + 16 + 64, features=sides) == (1, 1)
    assert kept(2 * 80, reads_rows=False, features=sides) == (2, 2)
    assert kept(0, kind="device", features=sides) == (4, 4)


def test_features_on_disk_have_windows_by_their_size(monkeypatch, fake_device):
    """A quarter of 12,800 bytes, of which users with 16 of 80 bytes a node have a fifth."""
    monkeypatch.setattr(placement, "gpu", lambda: "a GPU")
    monkeypatch.setattr(placement, "pipeline_of", lambda *_: fake_device.FakeDevice(0))
    monkeypatch.setattr(placement, "read_limits", lambda: Limits(12_800, None))
    draw = np.random.default_rng(0)
    features = Features(*(draw.standard_normal((200, width), np.float32) for width in (4, 16)))
    sides = feature_tables(features, 200, in_ram, for_gpu=True)
    there = placement.Placement(True, "disk")
    table = placement.placed(there, empty_rows().graph, DenseTable(torch.zeros(8, 8), 16), reads_rows=False)
    placed = placement.placed_features(there, table, sides)
    assert [side._window.places for side in placed.sides] == [640 // (128 + 17), 2560 // (128 + 17)]
