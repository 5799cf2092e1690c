"""Reading stored features on the GPU's kernels: the bits of the CPU's, and of NumPy's and torch's own types."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from host_device import HostDevice, kernels_of_the_gpu

from gcnrec.cuda.features import Grid, Stored, read_features
from gcnrec.errors import DataError
from gcnrec.ops import features as cpu
from gcnrec.rows import Ticket
from gcnrec.tables.features.code import code_of, grid_of
from gcnrec.tables.features.pipelined import PipelinedFeatures
from gcnrec.tables.features.table import FeatureTable

ROWS, WIDTH, PITCH = 300, 37, 48
INDEX = np.random.default_rng(2).permutation(ROWS)[:290]


def plane_of(dtype):
    """Every finite value of a 16-bit type, every code of int8."""
    draw = np.random.default_rng(0)
    if dtype == "float32":
        return draw.standard_normal((ROWS, PITCH), np.float32)
    if dtype == "int8":
        return np.resize(np.arange(-127, 128), ROWS * PITCH).astype(np.int8).reshape(ROWS, PITCH)
    bits = np.resize(draw.permutation(1 << 16), ROWS * PITCH).astype(np.uint16)
    exponent = 0x7C00 if dtype == "float16" else 0x7F80
    return np.where(bits & exponent == exponent, 0, bits).reshape(ROWS, PITCH)


def grid():
    draw = np.random.default_rng(1)
    low_F = (draw.normal(size=WIDTH) * 10.0 ** draw.integers(-6, 6, WIDTH)).astype(np.float32)
    high_F = low_F + np.float32(10.0) ** draw.integers(-6, 6, WIDTH).astype(np.float32)
    high_F[0] = low_F[0]
    return grid_of(low_F, high_F, np.zeros(WIDTH, np.bool_))


def on_the_device(plane, dtype, ends):
    parts = None if ends is None else Grid(*(torch.from_numpy(part) for part in ends))
    return Stored(torch.from_numpy(plane).view(-1), PITCH, WIDTH, dtype, parts)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8"])
@pytest.mark.parametrize("index", [INDEX, None], ids=["by number", "in order"])
def test_equals_the_cpu_bit_for_bit(host, dtype, index):
    plane, ends = plane_of(dtype), grid() if dtype == "int8" else None
    count = ROWS if index is None else len(index)
    expected, found = np.full((count, WIDTH), np.nan, np.float32), torch.full((count, WIDTH), torch.nan)
    cpu.read_features(cpu.Stored(plane.reshape(-1), PITCH, WIDTH, dtype, ends), index, expected)
    read_features(on_the_device(plane, dtype, ends), None if index is None else torch.from_numpy(index), found)
    assert np.array_equal(found.numpy().view(np.uint32), expected.view(np.uint32))
    assert [name for name, _, _ in host.launches] == [f"gcnrec_read_{dtype}"]


@pytest.mark.parametrize(("dtype", "skip"), [("float32", 0), ("float16", 0), ("int8", 0), ("adopted", 0), ("adopted", 7)])
def test_rows_come_from_host_memory_whole(host_launcher, dtype, skip):
    """By the copy of spans that training uses, of tables whose rows start on lines and of adopted ones that start anywhere."""
    rows = np.random.default_rng(4).standard_normal((ROWS, WIDTH), np.float32)
    if dtype == "adopted":
        buffer = np.full(rows.size + skip, np.nan, np.float32)
        buffer[skip:] = rows.reshape(-1)
        table = FeatureTable.adopted(buffer[skip:].reshape(rows.shape), 1000)
    else:
        table = FeatureTable.encoded(rows, code_of(rows, np.ones(ROWS, np.bool_), dtype, 0, "item"), "item", 1000)
    nodes = np.sort(INDEX[skip:]) + 1000
    expected = table.read(Ticket(nodes), nodes)
    with kernels_of_the_gpu(host_launcher):
        for hot in (0, 20, ROWS):
            found = PipelinedFeatures(table, HostDevice(), hot).read(Ticket(nodes), nodes)
            assert torch.equal(found, expected), hot
    assert any("copy_spans" in name for name, _, _ in host_launcher.launches)


def test_nothing_to_read_launches_nothing(host):
    stored = on_the_device(plane_of("float32"), "float32", None)
    read_features(stored, torch.empty(0, dtype=torch.int64), torch.empty(0, WIDTH))
    assert host.launches == []


def test_what_the_kernel_cannot_read_is_refused(host):
    stored = on_the_device(plane_of("float32"), "float32", None)
    with pytest.raises(DataError, match=r"rows of 37 features need a tile as wide, got \(300, 36\)"):
        read_features(stored, None, torch.empty(ROWS, 36))
    with pytest.raises(DataError, match=r"values must be torch.int8, got torch.float32"):
        read_features(stored._replace(dtype="int8"), None, torch.empty(ROWS, WIDTH))
