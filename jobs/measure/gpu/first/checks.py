"""Every kernel on small inputs against float64, or, where nothing is rounded, against plain indexing: before any timing.

Tables lie in pinned memory, as in training; results come back and are compared on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product

import numpy as np
import torch

from gcnrec.cuda import ceiling, gather, guard, propagate, reduce, sample, slot_hops, slots, softmax, spans, topk
from gcnrec.graph import csr_from_edges, transpose
from gcnrec.ops.draws import alias, neighbours
from gcnrec.ops.draws import sample as negatives_on_host
from gcnrec.ops.reduce import entries_of
from gcnrec.random import DrawKey
from gcnrec.rows import AdamSettings, Entries, RowGrad, Ticket
from gcnrec.tables.slots import SlotTable
from jobs.measure.gpu.bed import Bed
from jobs.measure.gpu.first.check_tables import on_bed, small_graph, small_slots
from jobs.measure.gpu.rates.updates import STATE, Planes, grad_of, kernels

EPS = torch.finfo(torch.float32).eps
RATE, BETA1, BETA2, EPSILON = 1e-2, 0.9, 0.999, 1e-8
KERNELS = kernels(RATE, AdamSettings(BETA1, BETA2, EPSILON))
Found = tuple[str, torch.Tensor, torch.Tensor, float]
"""Name of a check, result, exact result (float64 where it rounds), and the allowed error in units in the last place."""


def run(bed: Bed) -> None:
    """RuntimeError when a kernel is wrong or fails; the others are checked all the same."""
    wrong = []
    for check in CHECKS:
        try:
            for name, found, exact, units in check(bed):
                distance, allowed = _distance(found.cpu(), exact), units * EPS * float(exact.double().abs().max())
                right = distance <= allowed
                bed.report({"bench": "checks", "variant": name, "error_abs": distance, "allowed": allowed, "right": right})
                wrong += [] if right else [name]
        except Exception as problem:
            error = f"{type(problem).__name__}: {problem}"[:300]
            bed.report({"bench": "checks", "variant": check.__name__, "error": error, "right": False})
            wrong.append(check.__name__)
            bed.finish()
    if wrong:
        raise RuntimeError(f"wrong: {', '.join(wrong)}")


def _distance(found: torch.Tensor, exact: torch.Tensor) -> float:
    """The largest difference; infinite where a number is not one, or shapes differ."""
    if found.shape != exact.shape or not bool(torch.isfinite(found.double()).all()):
        return float("inf")
    return float((found.double() - exact.double()).abs().max())


def gathers(bed: Bed) -> Iterator[Found]:
    """Widths that take each kernel: 16-byte vectors, single floats, and rows that start anywhere in a line."""
    for width in (3, 64, 100, 128, 129):
        plane_PD = bed.host(torch.randn(500, width))
        rows_R = torch.randint(0, 500, (300,))
        out_RD = gather.gather(plane_PD, rows_R.to(bed.device), torch.full((300, width), torch.nan, device=bed.device), 4)
        yield f"gather-{width}", out_RD, plane_PD[rows_R], 0
        fresh_RD, chosen_R = torch.randn(200, width), torch.randperm(500)[:200]
        gather.put(plane_PD, chosen_R.to(bed.device), fresh_RD.to(bed.device))
        bed.finish()
        yield f"put-{width}", plane_PD[chosen_R], fresh_RD, 0


def ceilings(bed: Bed) -> Iterator[Found]:
    memory_M = bed.host(torch.randint(0, 256, (100 * 256,), dtype=torch.uint8))
    rows_R = torch.randperm(100)[:60]
    before = memory_M.numpy().view(np.uint32).reshape(100, 64).copy()
    seen = ceiling.read(memory_M, rows_R.to(bed.device), 256, 1056).cpu().numpy()
    right = np.bitwise_xor.reduce(before[rows_R], axis=None)
    yield "ceiling-read", torch.tensor([int(np.bitwise_xor.reduce(seen.view(np.uint32)))]), torch.tensor([int(right)]), 0
    ceiling.turn(memory_M, rows_R.to(bed.device), 256, 8)
    bed.finish()
    before[rows_R, ::4] = ~before[rows_R, ::4]
    yield "ceiling-turn", memory_M, torch.from_numpy(before.view(np.uint8).reshape(-1)), 0
    ceiling.write(memory_M, rows_R.to(bed.device), 256, 5, 8)
    bed.finish()
    before[rows_R] = np.tile([5, 6, 7, 8], 16)
    yield "ceiling-write", memory_M, torch.from_numpy(before.view(np.uint8).reshape(-1)), 0


def slot_rows(bed: Bed) -> Iterator[Found]:
    for dtype, width in product(("float32", "bfloat16"), (5, 64, 256)):
        yield from _slot_rows(bed, width, dtype)


def _slot_rows(bed: Bed, width: int, dtype: str) -> Iterator[Found]:
    table, dense_ND = small_slots(90, width, dtype)
    own = on_bed(bed, table)
    rows_R = torch.arange(0, 90, 2)
    device_R = rows_R.to(bed.device)
    out_RD = torch.full((len(rows_R), width), torch.nan, device=bed.device)
    slots.decode(own, device_R, out_RD, max_blocks=2)
    yield f"decode-{dtype}-{width}", out_RD, dense_ND[rows_R], 0
    part_NC = torch.full((90, width - width // 2), torch.nan, device=bed.device)
    slots.decode_columns(own, width // 2, width, part_NC)
    yield f"decode-columns-{dtype}-{width}", part_NC, dense_ND[:, width // 2 :], 0
    yield from _staged(bed, own, table, dense_ND, device_R)
    counts_R = torch.from_numpy(table.counts_N[rows_R.numpy()].astype(np.int64))
    at_R, tile_RD = counts_R.cumsum(0) - counts_R, torch.randn(len(rows_R), width)
    picked_X = torch.full((int(counts_R.sum()),), torch.nan, device=bed.device)
    slots.pick(own, device_R, tile_RD.to(bed.device), at_R.to(bed.device), picked_X)
    block = table.unpack(0, 90)
    columns_R = [torch.from_numpy(block.columns_X[block.rows_X == row].astype(np.int64)) for row in rows_R.tolist()]
    yield f"pick-{dtype}-{width}", picked_X, torch.cat([tile_RD[r, part] for r, part in enumerate(columns_R)]), 0
    at_N = torch.from_numpy(block.starts_R)
    added_X, expected_X = torch.ones(table.num_values, device=bed.device), torch.ones(table.num_values)
    slots.add_at_rows(own, device_R, tile_RD.to(bed.device), at_N.to(bed.device), added_X)
    for r, row in enumerate(rows_R.tolist()):
        expected_X[at_N[row] : at_N[row] + len(columns_R[r])] += tile_RD[r, columns_R[r]]
    yield f"add-at-rows-{dtype}-{width}", added_X, expected_X, 0


def _staged(bed: Bed, own: slots.Slots, table: SlotTable, dense_ND: torch.Tensor, rows_R: torch.Tensor) -> Iterator[Found]:
    """Records brought to the device as spans, and decoded there."""
    size_R = torch.from_numpy(table.arena.layout.sizes.record_K[table.counts_N[rows_R.cpu().numpy()]]).to(bed.device)
    at_R = size_R.cumsum(0) - size_R
    arena = torch.zeros(-(-int(size_R.sum()) // 64) * 64 + 64, dtype=torch.uint8, device=bed.device)
    from_R = own.location_N[rows_R].long() * slots.UNIT // 4
    spans.copy_spans(own.columns.view(torch.float32), from_R, arena.view(torch.float32), at_R // 4, size_R // 4)
    location_R = (at_R // slots.UNIT).int()
    staged = slots.Slots(location_R, own.count_N[rows_R], arena.view(own.values.dtype), arena, own.capacity_K)
    out_RD = torch.full((len(rows_R), dense_ND.shape[1]), torch.nan, device=bed.device)
    slots.decode(staged, torch.arange(len(rows_R), device=bed.device), out_RD)
    yield f"copy-spans-{table.dtype}-{table.width}", out_RD, dense_ND[rows_R.cpu()], 0


def reductions(bed: Bed) -> Iterator[Found]:
    for width in (7, 64):
        index_B, grad_BD = torch.randint(0, 40, (900,)), torch.randn(900, width)
        exact_RD = torch.zeros(41, width, dtype=torch.float64).index_add_(0, index_B, grad_BD.double())
        entries = Entries(*(torch.from_numpy(part).to(bed.device) for part in entries_of(index_B.numpy(), 41)))
        yield f"reduce-{width}", reduce.reduce_rows(entries, grad_BD.to(bed.device)), exact_RD, 32


def updates(bed: Bed) -> Iterator[Found]:
    """Two steps of every rule on dense rows in pinned memory, by Duchi et al. 2011 and Kingma & Ba 2015 in float64."""
    rows, width = 64, 33
    chosen_R = torch.arange(0, rows, 3)
    for rule, (moments, scalars) in STATE.items():
        planes = Planes(bed.host(torch.zeros(rows * (width + moments * width + scalars))), rule, width, width, bed.device)
        first_ND, weights_ND = torch.randn(rows, width), planes.weights.view(rows, width)
        weights_ND.copy_(first_ND)
        chosen, exact_RD = planes.at(chosen_R.to(bed.device)), first_ND[chosen_R].double()
        state = [torch.zeros(len(chosen_R), width, dtype=torch.float64) for _ in range(2)]
        for step in (1, 2):
            grad_RD = torch.randn(len(chosen_R), width)
            KERNELS[rule](chosen, grad_of(chosen, grad_RD.to(bed.device)), step)
            bed.finish()
            exact_RD = _exact_step(rule, exact_RD, state, grad_RD.double(), step)
        yield f"update-{rule}", weights_ND[chosen_R], exact_RD, 8
        kept = torch.ones(rows, dtype=torch.bool).index_fill_(0, chosen_R, False)
        yield f"update-{rule}-leaves", weights_ND[kept], first_ND[kept], 0


def _exact_step(rule: str, weights: torch.Tensor, planes: list[torch.Tensor], grad: torch.Tensor, step: int) -> torch.Tensor:
    by_row = rule in ("adagrad_row", "adam_row")
    square = grad.square().mean(1, keepdim=True).expand_as(grad) if by_row else grad.square()
    if rule == "sgd":
        return weights - RATE * grad
    if rule == "adagrad_row":
        planes[1] = planes[1] + square
        return weights - RATE * grad / (planes[1].sqrt() + EPSILON)
    planes[0] = BETA1 * planes[0] + (1 - BETA1) * grad
    planes[1] = BETA2 * planes[1] + (1 - BETA2) * square
    divisor = (planes[1] / (1 - BETA2**step)).sqrt() + EPSILON
    return weights - RATE * planes[0] / (1 - BETA1**step) / divisor


def products(bed: Bed) -> Iterator[Found]:
    """Hops over dense rows and over slots, with a row of all columns, and their transposes."""
    _, own, dense_RC = small_graph(bed)
    rows, columns = dense_RC.shape
    row_scale, column_scale = torch.rand(rows) + 0.1, torch.rand(columns) + 0.1
    scaled_RC = row_scale[:, None].double() * dense_RC * column_scale.double()
    scales = row_scale.to(bed.device), column_scale.to(bed.device)
    chosen_V = torch.tensor([0, 2, 5, 7], dtype=torch.int32)
    device_V, long_V = chosen_V.to(bed.device), chosen_V.long()
    for width in (5, 64):
        source_CD, grad_VD = torch.randn(columns, width), torch.randn(4, width)
        product_RD = propagate.propagate(own, source_CD.to(bed.device), *scales)
        yield f"propagate-{width}", product_RD, scaled_RC @ source_CD.double(), 64
        out_CD = torch.zeros(columns, width, device=bed.device)
        propagate.scatter_rows(own, grad_VD.to(bed.device), device_V, *scales, out_CD)
        yield f"scatter-{width}", out_CD, scaled_RC[long_V].T @ grad_VD.double(), 64
    table, dense_ND = small_slots(columns, 64, "float32")
    hops, out_VD = on_bed(bed, table), torch.full((4, 64), torch.nan, device=bed.device)
    scaled = propagate.ScaledCsr(own, *scales)
    slot_hops.propagate_rows(scaled, device_V, hops, 0, out_VD)
    yield "slot-propagate", out_VD, scaled_RC[long_V] @ dense_ND.double(), 64
    block, grad_VD = table.unpack(0, columns), torch.randn(4, 64)
    out_X = torch.zeros(table.num_values, device=bed.device)
    grad = RowGrad(Ticket(np.arange(columns)), out_X, torch.from_numpy(block.starts_R).to(bed.device))
    slot_hops.scatter_rows(scaled, grad_VD.to(bed.device), device_V, hops, 0, grad)
    exact_CD = scaled_RC[long_V].T @ grad_VD.double()
    yield "slot-scatter", out_X, exact_CD[block.rows_X, block.columns_X.astype(np.int64)], 64


def long_columns(bed: Bed) -> Iterator[Found]:
    """A column of 1,300 edges, which a block sums, and one of 900."""
    lengths, rows = (1300, 900), 1300
    edges = np.concatenate([np.arange(length) for length in lengths]).astype(np.int32)
    csr = csr_from_edges(edges, np.repeat(np.arange(2), lengths).astype(np.int32), rows, 2)
    dense_RC = torch.zeros(rows, 2, dtype=torch.float64)
    dense_RC[csr.row_numbers(), csr.indices] = 1.0
    parts = [
        [torch.from_numpy(np.array(part)).to(bed.device) for part in (one.indptr, one.indices)] for one in (csr, transpose(csr))
    ]
    own = propagate.Csr(*parts[0], 2, propagate.Csr(*parts[1], rows))
    scales = torch.ones(rows, device=bed.device), torch.ones(2, device=bed.device)
    chosen_V, grad_VD = torch.arange(0, rows, 3, dtype=torch.int32), torch.randn(434, 130)
    out_CD = torch.zeros(2, 130, device=bed.device)
    propagate.scatter_rows(own, grad_VD.to(bed.device), chosen_V.to(bed.device), *scales, out_CD)
    yield "scatter-long", out_CD, dense_RC[chosen_V.long()].T @ grad_VD.double(), 64


def softmaxes(bed: Bed) -> Iterator[Found]:
    """A row that a block holds, and one that it reads twice."""
    for width in (300, 9000):
        logits_CJ, goal_C = 8.0 * torch.randn(5, width), torch.randint(0, width, (5,))
        exact_CJ = torch.softmax(logits_CJ.double(), 1)
        exact_losses_C = -exact_CJ.gather(1, goal_C[:, None]).log()[:, 0]
        exact_CJ.scatter_add_(1, goal_C[:, None], torch.full((5, 1), -1.0, dtype=torch.float64))
        found_CJ = logits_CJ.to(bed.device)
        losses_C = softmax.softmax_gradient_(found_CJ, goal_C.to(bed.device))
        yield f"softmax-{width}", found_CJ, exact_CJ, 16
        yield f"softmax-losses-{width}", losses_C, exact_losses_C, 16


def guards(bed: Bed) -> Iterator[Found]:
    """The second and the fourth of four tensors hold a bad number."""
    tensors = [torch.ones(5000, device=bed.device) for _ in range(4)]
    tensors[1][4999], tensors[3][0] = torch.nan, torch.inf
    bad = torch.zeros(1, dtype=torch.int32, device=bed.device)
    guard.flag_nonfinite(tensors, bad)
    yield "flag-nonfinite", bad, torch.tensor([10]), 0


def draws(bed: Bed) -> Iterator[Found]:
    """The CPU's integers: neighbours with and without replacement, negatives that were not seen."""
    csr, own, dense_RC = small_graph(bed)
    targets = np.arange(csr.rows, dtype=np.int32)
    expected, columns = neighbours.sample_neighbours(csr, targets, 5, DrawKey(3, 9, 1, 100))
    found, places = sample.sample_neighbours(own, torch.from_numpy(targets).to(bed.device), 5, DrawKey(3, 9, 1, 100))
    yield "sample-indptr", found, torch.from_numpy(expected), 0
    yield "sample-columns", places[: len(columns)], torch.from_numpy(columns), 0
    tables = alias.alias_rows(csr, np.random.default_rng(0).random(csr.num_edges) + 0.1)
    expected, columns = alias.sample_weighted(csr, tables, targets, 5, DrawKey(3, 9, 1, 100))
    device_tables = sample.AliasTable(*(bed.host(torch.from_numpy(part)) for part in (tables.thresholds_I, tables.others_I)))
    found, places = sample.sample_weighted(own, device_tables, torch.from_numpy(targets).to(bed.device), 5, DrawKey(3, 9, 1, 100))
    yield "sample-weighted", places[: len(columns)], torch.from_numpy(columns), 0
    popular = negatives_on_host.popularity_table(dense_RC.sum(0).long().numpy(), 0.75)
    right = negatives_on_host.negatives(targets, 7, popular, csr, 3, 9)
    parts = (popular.thresholds_I, popular.others_I)
    device_popular = sample.AliasTable(*(torch.from_numpy(part).to(bed.device) for part in parts))
    found_BN = sample.negatives(torch.from_numpy(targets).to(bed.device), 7, device_popular, own, 3, 9)
    yield "negatives", found_BN, torch.from_numpy(right), 0


def rankings(bed: Bed) -> Iterator[Found]:
    """The best items of every user over two tiles, seen ones left out; scores are all different."""
    csr, own, dense_RC = small_graph(bed)
    users = torch.arange(csr.rows, dtype=torch.int32, device=bed.device)
    scores_BI = torch.randperm(dense_RC.numel()).view(dense_RC.shape).float()
    best = topk.empty_lists(users, 10)
    hidden = topk.ItemLists(own, users)
    for first in range(0, csr.columns, 400):
        topk.keep_best(scores_BI[:, first : first + 400].contiguous().to(bed.device), first, hidden, best)
    right_BK = scores_BI.masked_fill(dense_RC > 0, -1.0).topk(10, 1)
    rows = dense_RC.sum(1) < csr.columns - 10  # others have no ten items left
    yield "topk-items", best.items_BK.cpu()[rows], right_BK.indices[rows], 0
    yield "topk-scores", best.scores_BK.cpu()[rows], right_BK.values[rows], 0


CHECKS: tuple[Callable[[Bed], Iterator[Found]], ...] = (
    gathers, ceilings, slot_rows, reductions, updates, products, long_columns, softmaxes, guards, draws, rankings,
)  # fmt: skip
