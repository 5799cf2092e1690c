"""Copies of pieces and patches, against their twins and against plain Python: nothing else may be touched."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from gcnrec.cuda import module
from gcnrec.cuda import spans as cuda
from gcnrec.errors import DataError
from gcnrec.ops import slots as ops
from gcnrec.ops import spans as twin
from gcnrec.queues import Spans

SPANS = {
    "anywhere": [(0, 0), (3, 1), (500, 31), (64, 32), (129, 33), (200, 100), (1, 7)],
    "on 16 bytes": [(16 * k, 16 * (k % 4)) for k in range(30)],
    "on 8 bytes": [(8 * k, 8 * (k % 9)) for k in range(60)],
    "long": [(0, 560), (32, 544), (16, 1)],
}


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.int64])
@pytest.mark.parametrize("name", SPANS)
def test_copy_spans_touches_nothing_else(host, name, dtype):
    source_at, length = np.array(SPANS[name]).T.copy()
    target_at = np.cumsum(length + 16) - length
    source = np.random.default_rng(0).integers(1, 250, 700).astype(dtype)
    expected, found = (np.zeros(int(target_at[-1] + length[-1]) + 16, dtype) for _ in range(2))
    ops.copy_spans(source, source_at, expected, target_at, length)
    cuda.copy_spans(*map(torch.from_numpy, (source, source_at, found, target_at, length)))
    assert np.array_equal(found, expected)


def in_python(pairs):
    """Copies value by value."""
    for source, target in pairs:
        for piece in range(len(target)):
            length = target.length_R if isinstance(target.length_R, int) else int(target.length_R[piece])
            at, to = ((int(side.at_R[piece]) + side.shift) * side.pitch for side in (source, target))
            target.memory[to : to + length] = source.memory[at : at + length]


def planes(draw, rows, dtype=torch.float32):
    """Two planes of a dense table of `rows` rows behind a copy of some of them, and slots of 0 to 9 values."""
    picked = np.sort(draw.choice(rows, rows // 2, replace=False))
    index, own = torch.from_numpy(picked), torch.arange(len(picked))
    made = []
    for width, pitch, shift in ((6, 8, 0), (5, 7, -2)):
        home = torch.from_numpy(draw.integers(1, 250, rows * pitch)).to(dtype)
        source = Spans(home, index - shift, width, pitch, shift)
        made.append((source, Spans(torch.zeros(len(picked) * width, dtype=dtype), own * width, width)))
    lengths = torch.from_numpy(draw.integers(0, 10, len(picked)))
    home = Spans(torch.from_numpy(draw.integers(1, 250, rows * 10)).to(dtype), index * 10, lengths)
    return [*made, (home, home.packed_in(torch.zeros(int(lengths.sum()), dtype=dtype)))]


def fresh(pairs):
    """The same copies into memory of their own."""
    return [(source, Spans(target.memory.clone(), target.at_R, target.length_R)) for source, target in pairs]


@pytest.mark.parametrize("by_target", [False, True], ids=["by source", "by target"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.int64], ids=str)
def test_all_planes_of_a_batch_go_in_one_launch(host, dtype, by_target):
    """There, and changed values back to where they came from, but nowhere else."""
    pairs = planes(np.random.default_rng(0), 40, dtype)
    expected, others = fresh(pairs), fresh(pairs)
    in_python(expected)
    twin.copy_pairs(others)
    cuda.copy_pairs(pairs, 2, by_target)
    assert len(host.launches) == 1 and host.launches[0][1] == 2
    for (_, found), (_, right), (_, other) in zip(pairs, expected, others, strict=True):
        assert torch.equal(found.memory, right.memory) and torch.equal(other.memory, right.memory)
    before = [source.memory.clone() for source, _ in pairs]
    for _, target in pairs:
        target.memory.add_(1)
    cuda.copy_pairs([(target, source) for source, target in pairs], 2, by_target)
    for old, (source, target) in zip(before, pairs, strict=True):
        right = Spans(old, source.at_R, target.length_R, source.pitch, source.shift)
        in_python([(target, right)])
        assert torch.equal(source.memory, old)


def test_more_pairs_than_a_launch_takes_and_sizes_of_their_own(host):
    draw = np.random.default_rng(1)
    pairs = [pair for dtype in (torch.float32, torch.uint8) for _ in range(3) for pair in planes(draw, 12, dtype)]
    expected = fresh(pairs)
    in_python(expected)
    cuda.copy_pairs(pairs)
    assert [name for name, _, _ in host.launches] == ["gcnrec_copy_spans_1"] * 2 + ["gcnrec_copy_spans_4"] * 2
    assert all(torch.equal(found.memory, right.memory) for (_, found), (_, right) in zip(pairs, expected, strict=True))


def batch(draw, rows, count, number):
    """Rows of a batch, and copies of two planes of them: row r's values say r and the batch."""
    picked = torch.from_numpy(np.sort(draw.choice(rows, count, replace=False)))
    lengths = 1 + picked % 7
    dense = Spans((picked.repeat_interleave(6) + 1000 * number).float(), torch.arange(count) * 6, 6)
    slots = Spans((picked.repeat_interleave(lengths) + 1000 * number).float(), lengths.cumsum(0) - lengths, lengths)
    return picked, (dense, slots)


@pytest.mark.parametrize(
    ("rows", "earlier", "later"), [(60, 40, 35), (60, 60, 1), (200, 1, 150), (30, 30, 30), (9, 0, 5), (9, 5, 0)]
)
def test_a_patch_brings_the_rows_of_both(host, rows, earlier, later):
    """Against sets: rows of both have the earlier batch's values, all others their own."""
    draw = np.random.default_rng(rows + later)
    (old_E, sources), (new_L, targets) = batch(draw, rows, earlier, 1), batch(draw, rows, later, 2)
    others = [Spans(target.memory.clone(), target.at_R, target.length_R) for target in targets]
    cuda.patch(old_E, new_L, list(zip(sources, targets, strict=True)))
    twin.patch(old_E, new_L, list(zip(sources, others, strict=True)))
    both = set(old_E.tolist()) & set(new_L.tolist())
    for target, other in zip(targets, others, strict=True):
        values = [row + (1000 if row in both else 2000) for row in new_L.tolist()]
        assert torch.equal(target.memory, torch.tensor(values).repeat_interleave(target.lengths()).float())
        assert torch.equal(other.memory, target.memory)
    assert len(host.launches) == min(1, earlier * later)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_planes_and_patches_on_a_gpu_are_those_of_the_cpu():
    """From pinned host memory to the device, patched there, and back to where they came from."""
    draw, rows = np.random.default_rng(5), 4000
    here, there = [], []
    for seed in range(2):
        index = torch.from_numpy(np.sort(np.random.default_rng(seed).choice(rows, rows // 2, replace=False)))
        here.append((index, torch.empty(len(index) * 100)))
        there.append((index.cuda(), torch.empty(len(index) * 100, device="cuda")))
    homes = [torch.from_numpy(draw.standard_normal(rows * 128, np.float32)) for _ in range(2)]
    pinned = [home.clone().pin_memory() for home in homes]
    for sides, memories, module_ in ((here, homes, twin), (there, pinned, cuda)):
        pairs = [
            (Spans(memory, index, 100, 128), Spans(copy, torch.arange(len(index), device=index.device), 100, 100))
            for memory, (index, copy) in zip(memories, sides, strict=True)
        ]
        module_.copy_pairs(pairs)
        module_.patch(sides[0][0], sides[1][0], [(pairs[0][1], pairs[1][1])])
        sides[1][1].mul_(2)
        module_.copy_pairs([(pairs[1][1], pairs[1][0])])
    torch.cuda.synchronize()
    assert torch.equal(there[1][1].cpu(), here[1][1]) and torch.equal(pinned[1], homes[1])


def test_no_pieces_launch_nothing(host):
    none = torch.empty(0, dtype=torch.int64)
    cuda.copy_spans(torch.empty(0), none, torch.empty(0), none, none)
    cuda.copy_pairs([])
    assert host.launches == []


def test_dtypes_that_differ_and_planes_of_other_sizes_are_refused(host):
    own = torch.arange(2)
    whole, bytes_ = Spans(torch.zeros(2), own, 1), Spans(torch.zeros(2, dtype=torch.uint8), own, 1)
    with pytest.raises(DataError, match=r"one dtype, got torch\.float32 and torch\.uint8"):
        cuda.copy_pairs([(whole, Spans(torch.zeros(2, dtype=torch.uint8), own, 1))])
    with pytest.raises(DataError, match=r"up to 4 planes of 4 bytes a value, got torch\.uint8"):
        cuda.patch(own, own, [(bytes_, bytes_)])
    with pytest.raises(DataError, match="up to 4 planes"):
        cuda.patch(own, own, [(whole, whole)] * 5)


def test_cupy_passes_a_struct_by_value(monkeypatch):
    """A launch takes its arguments apart before it looks for a driver: what CuPy refuses is a TypeError, all else fails later."""
    function = pytest.importorskip("cupy.cuda.function", reason="needs CuPy").Function
    given = []
    monkeypatch.setattr(module, "launch", lambda file, kernel, grid, block, arguments, device: given.extend(arguments))
    cuda.copy_spans(torch.zeros(2), torch.arange(2), torch.zeros(2), torch.arange(2), torch.ones(2, dtype=torch.int64))
    assert any(each.dtype.kind == "V" for each in given)
    kernel = function.__new__(function)
    for arguments, refused in ((tuple(given), False), ((object(),), True)):
        with pytest.raises(Exception) as caught:
            kernel((1,), (1,), arguments, stream=SimpleNamespace(ptr=0))
        assert isinstance(caught.value, TypeError) == refused
