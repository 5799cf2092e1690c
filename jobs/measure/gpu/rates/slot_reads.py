"""Reads of slot rows at a quarter of the values, against dense float32 rows of the same width and the same row numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from gcnrec.cuda import slots as cuda
from gcnrec.cuda.gather import gather
from gcnrec.cuda.spans import copy_spans
from gcnrec.tables.arena import RECORD_BYTES
from jobs.measure.gpu.bed import SETS, Bed, Work, race, report_timings, row_sets
from jobs.measure.gpu.rates.gathers import rows_of
from jobs.measure.gpu.rates.lines import lines

WIDTHS = (64, 128)
GROUP = 4
"""Of each group of neighbouring columns a single column is stored: a quarter of the values."""
FILL_ROWS = 1 << 20


@dataclass(frozen=True)
class Form:
    """The form of stored rows: type of the values, and equal or `mixed` numbers of values, as training moves them."""

    name: str
    dtype: torch.dtype
    mixed: bool

    @property
    def value_bytes(self) -> int:
        return 4 if self.dtype == torch.float32 else 2

    def counts(self, num_rows: int, width: int, device: torch.device) -> torch.Tensor:
        """Values of each row, int64; mixed ones lie evenly between half and one and a half times the mean."""
        mean = width // GROUP
        if not self.mixed:
            return torch.full((num_rows,), mean, device=device)
        draws = torch.Generator(device).manual_seed(5)
        return torch.randint(mean // 2, mean + mean // 2 + 1, (num_rows,), generator=draws, device=device)


FORMS = (Form("slots", torch.float32, False), Form("slots-mixed", torch.float32, True), Form("slots-bf16", torch.bfloat16, False))


def run(bed: Bed) -> None:
    for width in WIDTHS:
        table_ND = rows_of(bed, width)
        count = bed.sizes.call_bytes // (4 * width)
        sets = row_sets(bed, len(table_ND), count)
        for form in FORMS:
            _form(bed, table_ND, sets, form)


def _form(bed: Bed, table_ND: torch.Tensor, sets: list[torch.Tensor], form: Form) -> None:
    width, count = table_ND.shape[1], len(sets[0])
    slots, record_N = build(bed, len(table_ND), width, form)
    out_RD = torch.full((count, width), torch.nan, device=bed.device)
    dense_RD = torch.empty(count, width, device=bed.device)
    staged_sets = [Staging(bed, slots, record_N, rows_R) for rows_R in sets]
    own_R = torch.arange(count, device=bed.device)

    def decode(cap: int, run: int) -> None:
        cuda.decode(slots, sets[run % SETS], out_RD, cap)

    def copy(cap: int, run: int) -> None:
        staging = staged_sets[run % SETS]
        source, target = slots.columns.view(torch.float32), staging.slots.columns.view(torch.float32)
        copy_spans(source, staging.from_R, target, staging.at_R, staging.length_R, cap)
        cuda.decode(staging.slots, own_R, out_RD)

    def dense(cap: int, run: int) -> None:
        gather(table_ND, sets[run % SETS], dense_RD, cap)

    works: dict[str, Work] = {}
    for cap in bed.sizes.caps[-6:]:
        works |= {f"dense-{cap}": partial(dense, cap), f"gcnrec-{form.name}-decode-{cap}": partial(decode, cap)}
        works |= {f"gcnrec-{form.name}-copy-{cap}": partial(copy, cap)}
    timings = race(bed, works, runs=7)
    at_R, bytes_R = staged_sets[0].from_R.cpu().numpy() * 4, staged_sets[0].used_R.cpu().numpy()
    facts = {"width": width, "form": form.name, "rows_of_table": len(table_ND)}
    bare = {name: timing for name, timing in timings.items() if name.startswith("dense")}
    dense_facts = {**facts, "lines_per_row": width / 32, "footprint_bytes": table_ND.nbytes}
    report_timings(bed, "slots", bare, count, count * 4 * width, **dense_facts)
    ours = {name: timing for name, timing in timings.items() if not name.startswith("dense")}
    facts |= {"lines_per_row": lines(at_R, bytes_R) / count, "footprint_bytes": int(record_N.sum())}
    report_timings(bed, "slots", ours, count, int(bytes_R.sum()), **facts)
    _require_right(bed, slots, sets[0], width, form, (decode, copy), out_RD)


class Staging:
    """Sources and targets of the records of some rows, which training computes once for a batch."""

    def __init__(self, bed: Bed, slots: cuda.Slots, record_N: torch.Tensor, rows_R: torch.Tensor) -> None:
        size_R = record_N[rows_R].long()
        at_R = size_R.cumsum(0) - size_R
        arena = torch.empty(-(-int(size_R.sum()) // 64) * 64, dtype=torch.uint8, device=bed.device)
        self.slots = cuda.Slots(
            (at_R // cuda.UNIT).int(), slots.count_N[rows_R], arena.view(slots.values.dtype), arena, slots.capacity_K
        )
        self.from_R = slots.location_N[rows_R].long() * (cuda.UNIT // 4)
        self.at_R, self.length_R = at_R // 4, size_R // 4
        counts_R = slots.count_N[rows_R].long()
        self.used_R = slots.capacity_K[counts_R] * slots.values.element_size() + counts_R


def build(bed: Bed, num_rows: int, width: int, form: Form) -> tuple[cuda.Slots, torch.Tensor]:
    """Slots at the start of the bed's table, records in the order of the rows, and the size of every record (int32)."""
    sizes = np.array(RECORD_BYTES)
    capacities = sizes // (form.value_bytes + 1)
    choice = np.searchsorted(capacities, np.arange(capacities[-1] + 1))
    capacity_K, record_K = (torch.from_numpy(part[choice]).to(bed.device) for part in (capacities, sizes))
    counts_N = form.counts(num_rows, width, bed.device)
    record_N = record_K[counts_N].int()
    ends_N = record_N.cumsum(0)
    location_N = ((ends_N - record_N) // cuda.UNIT).int()
    total = int(ends_N[-1])
    arena = bed.table()[: -(-total // 64) * 64]
    for first in range(0, num_rows, FILL_ROWS):
        last = min(first + FILL_ROWS, num_rows)
        begin, end = int(ends_N[first] - record_N[first]), int(ends_N[last - 1])
        rows = slice(first, last)
        arena[begin:end].copy_(_records(counts_N[rows], record_N[rows], capacity_K, width, form))
    values = arena.view(torch.float32 if form.dtype == torch.float32 else torch.bfloat16)
    return cuda.Slots(location_N, counts_N.to(torch.uint8), values, arena, capacity_K), record_N


def _records(counts_R: torch.Tensor, record_R: torch.Tensor, capacity_K: torch.Tensor, width: int, form: Form) -> torch.Tensor:
    """Bytes of rows one after the other: normal values, and ascending columns after them."""
    device, draws = counts_R.device, torch.Generator(counts_R.device).manual_seed(int(counts_R.sum()))
    starts_R = record_R.cumsum(0) - record_R
    size = int(record_R.sum())
    bytes_ = torch.randn(size // form.value_bytes, generator=draws, device=device).to(form.dtype).view(torch.uint8)
    at_R, row_X = starts_R + capacity_K[counts_R] * form.value_bytes, torch.repeat_interleave(counts_R)
    first_R = counts_R.cumsum(0) - counts_R
    slot_X = torch.arange(len(row_X), device=device) - first_R[row_X]
    # slot j of a row with c slots lies between j * width / c and the next: ascending and different
    lows_X = slot_X * width // counts_R[row_X]
    gaps_X = (slot_X + 1) * width // counts_R[row_X] - lows_X
    shift_X = (torch.rand(len(row_X), generator=draws, device=device) * gaps_X).long().clamp_max(width - 1)
    bytes_[at_R[row_X] + slot_X] = (lows_X + torch.minimum(shift_X, gaps_X - 1)).to(torch.uint8)
    return bytes_


def _require_right(
    bed: Bed, slots: cuda.Slots, rows_R: torch.Tensor, width: int, form: Form, reads: tuple[Callable[[int, int], None], ...],
    out_RD: torch.Tensor,
) -> None:  # fmt: skip
    """Some of the rows, decoded in plain Python from the bytes in host memory, by every way of reading them."""
    arena = slots.columns
    some = list(range(0, len(rows_R), max(1, len(rows_R) // 64)))
    expected = torch.zeros(len(some), width)
    for place, r in enumerate(some):
        row = int(rows_R[r])
        count, start = int(slots.count_N[row]), int(slots.location_N[row]) * cuda.UNIT
        capacity = int(slots.capacity_K[count])
        values = arena[start : start + count * form.value_bytes].view(form.dtype).float()
        columns = arena[start + capacity * form.value_bytes :][:count].long()
        expected[place, columns] = values
    for read in reads:
        out_RD.fill_(torch.nan)
        read(bed.sizes.caps[-1], 0)
        if not torch.equal(out_RD[some].cpu(), expected):
            raise RuntimeError(f"{form.name}: {read.__name__} of slot rows {width} wide is wrong at full size")
