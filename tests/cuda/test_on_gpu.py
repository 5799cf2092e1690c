"""The same kernels on a real GPU, where there is one, against the CPU's: what the stand-in cannot show."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gcnrec.cuda import gather as cuda_gather
from gcnrec.cuda import guard as cuda_guard
from gcnrec.cuda import propagate as cuda_propagate
from gcnrec.cuda import reduce as cuda_reduce
from gcnrec.cuda import sample as cuda_sample
from gcnrec.cuda import slots as cuda_slots
from gcnrec.cuda import softmax as cuda_softmax
from gcnrec.cuda import topk as cuda_topk
from gcnrec.cuda import update as cuda_update
from gcnrec.graph import csr_from_edges, transpose
from gcnrec.ops import propagate, reduce, slots, softmax, topk, update
from gcnrec.ops.draws import neighbours
from gcnrec.random import DrawKey
from gcnrec.rows import AdamSettings, Entries, RowGrad, Rows, State, Ticket
from gcnrec.tables.arena import SlotBlock
from gcnrec.tables.dense import aligned
from gcnrec.tables.slots import SlotTable

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
ROWS, COLUMNS = 500, 3000


def graph():
    draw = np.random.default_rng(0)
    rows = (ROWS * draw.random(20_000) ** 3).astype(np.int32)
    return csr_from_edges(rows, draw.integers(0, COLUMNS, 20_000).astype(np.int32), ROWS, COLUMNS)


def on_gpu(array):
    return torch.from_numpy(np.array(array)).cuda()


def csr_on_gpu(csr):
    other = transpose(csr)
    by_columns = cuda_propagate.Csr(on_gpu(other.indptr), on_gpu(other.indices), csr.rows)
    return cuda_propagate.Csr(on_gpu(csr.indptr), on_gpu(csr.indices), csr.columns, by_columns)


def slot_table(rows, dtype):
    draw = np.random.default_rng(1)
    counts = draw.integers(0, 60, rows)
    columns = np.concatenate([np.sort(draw.permutation(64)[:count]) for count in counts]).astype(np.uint8)
    table = SlotTable(rows, 64, len(columns), (0, 0), dtype)
    values = draw.standard_normal(len(columns)).astype(np.float32)
    with table.rebuild() as rebuild:
        state = np.zeros((0, len(columns)), np.float32), np.zeros((rows, 0), np.float32)
        rebuild.write(SlotBlock(0, counts, columns, values, *state))
    return table


@pytest.mark.parametrize("width", [1, 33, 64, 100, 256])
def test_rows_from_pinned_memory_and_back(width):
    plane = aligned(2000, width).normal_()
    pinned = torch.empty(plane.untyped_storage().nbytes() // 4 + 32).pin_memory()
    rows = pinned[: 2000 * plane.stride(0)].view(2000, -1)[:, :width].copy_(plane)
    index = torch.randperm(2000)[:700]
    found = cuda_gather.gather(rows, index.cuda(), max_blocks=8)
    assert torch.equal(found.cpu(), plane[index])
    cuda_gather.put(rows, index.cuda(), found * 2)
    torch.cuda.synchronize()
    assert torch.equal(rows[index], plane[index] * 2)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_slots(dtype):
    table, rows = slot_table(900, dtype), np.arange(0, 900, 3)
    own = cuda_slots.Slots(*(on_gpu(part) for part in table.slots))
    expected, found = np.empty((300, 64), np.float32), torch.empty(300, 64, device="cuda")
    slots.decode(table.slots, rows, expected)
    cuda_slots.decode(own, on_gpu(rows), found)
    assert np.array_equal(found.cpu().numpy(), expected)


def test_sums_and_products():
    csr, device = graph(), csr_on_gpu(graph())
    source, row_scale, column_scale = torch.randn(COLUMNS, 64), torch.rand(ROWS), torch.rand(COLUMNS)
    expected = propagate.propagate(csr, source, row_scale, column_scale)
    found = cuda_propagate.propagate(device, source.cuda(), row_scale.cuda(), column_scale.cuda())
    again = cuda_propagate.propagate(device, source.cuda(), row_scale.cuda(), column_scale.cuda())
    assert torch.equal(found, again) and torch.allclose(found.cpu(), expected, rtol=1e-5, atol=1e-4)
    rows = np.random.default_rng(2).permutation(ROWS)[:64].astype(np.int32)
    grad, out = torch.randn(64, 64), torch.zeros(COLUMNS, 64)
    summed = cuda_propagate.scatter_rows(device, grad.cuda(), on_gpu(rows), row_scale.cuda(), column_scale.cuda(), out.cuda())
    propagate.scatter_rows(csr, grad, rows, row_scale, column_scale, out)
    assert torch.allclose(summed.cpu(), out, rtol=1e-5, atol=1e-5)
    index = np.random.default_rng(3).integers(0, 90, 4000)
    grads = torch.randn(4000, 64)
    entries = reduce.entries_of(index, 90)
    summed = cuda_reduce.reduce_rows(Entries(*map(on_gpu, entries)), grads.cuda())
    assert torch.equal(summed.cpu(), reduce.reduce_rows(Entries(*map(torch.from_numpy, entries)), grads))


def test_adam():
    rows, width = np.arange(0, 300, 2), 64
    weights, state, last = torch.randn(300 * width), torch.zeros(300 * 2 * width), torch.zeros(300, dtype=torch.int32)
    values, settings = torch.randn(150 * width), AdamSettings(0.9, 0.999, 1e-8)

    def trained(kernels, place):
        index = place(torch.from_numpy(rows))
        own = State(place(state), index * 2 * width, place(last))
        chosen = Rows(Ticket(rows), index, place(weights), index * width, torch.full_like(index, width), own)
        kernels.adam(chosen, RowGrad(chosen.ticket, place(values), place(torch.arange(150) * width)), 3, 0.01, settings)
        return chosen.weights.cpu(), own.last_N.cpu()

    found, expected = trained(cuda_update, torch.Tensor.cuda), trained(update, torch.Tensor.clone)
    assert torch.allclose(found[0], expected[0], rtol=1e-6, atol=1e-6) and torch.equal(found[1], expected[1])


def test_a_bad_number_is_flagged_and_changes_nothing():
    bad, tensors = torch.zeros(1, dtype=torch.int32, device="cuda"), [torch.ones(70_000, device="cuda") for _ in range(9)]
    cuda_guard.flag_nonfinite(tensors, bad)
    assert bad.item() == 0
    tensors[8][69_999] = torch.nan
    cuda_guard.flag_nonfinite(tensors, bad)
    assert bad.item() == 1 << 8
    index, weights = torch.arange(100, device="cuda"), torch.randn(6400, device="cuda")
    chosen = Rows(Ticket(np.arange(100)), index, weights, index * 64, torch.full_like(index, 64), None)
    before = weights.clone()
    cuda_update.sgd(chosen, RowGrad(chosen.ticket, torch.ones(6400, device="cuda"), index * 64, bad), 1, 0.1)
    assert torch.equal(weights, before)


@pytest.mark.parametrize("width", [5, 2048, 9000])
def test_softmax(width):
    logits, goal = 8 * torch.randn(300, width), torch.randint(0, width, (300,))
    expected, found, again = logits.clone(), logits.cuda(), logits.cuda()
    losses = torch.from_numpy(softmax.softmax_gradient_(expected, goal.numpy()))
    on_device = cuda_softmax.softmax_gradient_(found, goal.cuda())
    assert torch.equal(on_device, cuda_softmax.softmax_gradient_(again, goal.cuda())) and torch.equal(found, again)
    assert torch.allclose(on_device.cpu(), losses, rtol=1e-5, atol=1e-5)
    assert torch.allclose(found.cpu(), expected, rtol=1e-5, atol=1e-6)


def test_draws_and_lists():
    csr, device = graph(), csr_on_gpu(graph())
    rows = np.arange(ROWS, dtype=np.int32)
    indptr, indices = neighbours.sample_neighbours(csr, rows, 10, DrawKey(7, 3, 1, 0))
    found, places = cuda_sample.sample_neighbours(device, on_gpu(rows), 10, DrawKey(7, 3, 1, 0))
    assert found.tolist() == indptr.tolist() and places[: indptr[-1]].tolist() == indices.tolist()
    scores = np.random.default_rng(4).integers(0, 50, (100, COLUMNS)).astype(np.float32)
    expected = topk.empty_lists(np.arange(100, dtype=np.int32), 20)
    topk.keep_best(scores.copy(), 0, topk.ItemLists(csr, rows[:100]), expected)
    best = cuda_topk.empty_lists(torch.arange(100, dtype=torch.int32, device="cuda"), 20)
    cuda_topk.keep_best(on_gpu(scores), 0, cuda_topk.ItemLists(device, on_gpu(rows[:100])), best)
    cuda_topk.check(best)
    assert np.array_equal(best.items_BK.cpu().numpy(), expected.items_BK)
