"""The fused update of rows in pinned host memory, against reads and writes of the same rows and against the CPU's update."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch

from gcnrec.bench.update import MOMENTS
from gcnrec.cuda import ceiling, update
from gcnrec.cuda.spans import copy_spans
from gcnrec.ops import update as on_cores
from gcnrec.rows import AdamSettings, RowGrad, Rows, State, Ticket
from jobs.measure.gpu.bed import FILL_BYTES, SETS, Bed, Work, fill, race, report_timings, row_sets

WIDTH = 64
SLOTS, PITCH = 16, 20
"""Values of a slot row, and floats of its record."""
RATE, ADAM = 1e-3, AdamSettings(0.9, 0.999, 1e-8)
STATE = MOMENTS | {"adam_dense": (2, 0)}


def kernels(rate: float, settings: AdamSettings) -> dict[str, Callable[..., None]]:
    """The GPU's rules of `STATE`, called with rows, their gradient and the step."""
    adagrad = partial(update.adagrad_row, rate=rate, epsilon=settings.epsilon)
    adam = {name: partial(getattr(update, name), rate=rate, settings=settings) for name in ("adam", "adam_row", "adam_dense")}
    return {"sgd": partial(update.sgd, rate=rate), "adagrad_row": adagrad, **adam}


KERNELS = kernels(RATE, ADAM)


class Planes:
    """Weights and then state of as many rows as the memory holds; rows are `pitch` floats apart, `width` of them used."""

    def __init__(self, floats: torch.Tensor, rule: str, width: int, pitch: int, device: torch.device) -> None:
        moments, scalars = STATE[rule]
        self.rule, self.width, self.pitch, self.state_width = rule, width, pitch, moments * width + scalars
        self.rows = len(floats) // (pitch + self.state_width) // 32 * 32
        self.weights = floats[: self.rows * pitch]
        self.state = floats[self.rows * pitch :][: max(1, self.rows * self.state_width)]
        self.last_N = torch.zeros(self.rows, dtype=torch.int32, device=device)

    @property
    def row_bytes(self) -> int:
        """Bytes that an update of a row reads, and writes."""
        return 4 * (self.width + self.state_width)

    def at(self, rows_R: torch.Tensor) -> Rows:
        """The rows where they lie, for kernels of the device of `rows_R`."""
        state = State(self.state, rows_R * self.state_width, self.last_N)
        width_R = torch.full_like(rows_R, self.width)
        return Rows(Ticket(rows_R.cpu().numpy()), rows_R, self.weights, rows_R * self.pitch, width_R, state)


def grad_of(rows: Rows, grad_RD: torch.Tensor) -> RowGrad:
    return RowGrad(rows.ticket, grad_RD.view(-1), rows.count_R.cumsum(0) - rows.count_R)


def run(bed: Bed) -> None:
    floats = bed.table().view(torch.float32)
    for rule in MOMENTS:
        planes = Planes(floats, rule, WIDTH, WIDTH, bed.device)
        _renew(bed, planes)
        _rule(bed, planes)
    for width, pitch, part in ((SLOTS, PITCH, _rule), (WIDTH, WIDTH, _peers)):
        planes = Planes(floats, "adam", width, pitch, bed.device)
        _renew(bed, planes)
        part(bed, planes)


def _renew(bed: Bed, planes: Planes) -> None:
    """Normal weights and no moments: what was there before may be no number, and second moments must not be negative."""
    fill(bed, bed.table())
    zeros = torch.zeros(FILL_BYTES // 4, device=bed.device)
    for first in range(0, len(planes.state), len(zeros)):
        part = planes.state[first : first + len(zeros)]
        part.copy_(zeros[: len(part)], non_blocking=True)
    bed.finish()


def _rule(bed: Bed, planes: Planes) -> None:
    """Updates of rows in place, then the ceiling on rows of the same bytes spread over the same memory."""
    count = bed.sizes.call_bytes // planes.row_bytes
    sets = row_sets(bed, planes.rows, count)
    grad_RD = torch.randn(count, planes.width, device=bed.device)
    rows = [planes.at(rows_R) for rows_R in sets]
    grad = grad_of(rows[0], grad_RD)
    moved, table_M, row_bytes = count * planes.row_bytes, bed.table(), 256
    bare = row_sets(bed, len(table_M) // row_bytes, moved // row_bytes)

    def ours(lanes: int, run: int) -> None:
        KERNELS[planes.rule](rows[run % SETS], grad, run + 1, grid=update.Grid(lanes))

    works: dict[str, Work] = {f"gcnrec-zero-copy-lanes-{lanes}": partial(ours, lanes) for lanes in (8, 16, 32)}
    name = f"update-{planes.rule}" + ("-slots" if planes.width != planes.pitch else "")
    report_timings(bed, name, race(bed, works), count, moved, row_bytes=planes.row_bytes, width=planes.width)

    def turn(cap: int, run: int) -> None:
        ceiling.turn(table_M, bare[run % SETS], row_bytes, cap)

    # after the updates: it turns bits of whatever lies there
    works = {f"ceiling-turn-{cap}": partial(turn, cap) for cap in bed.sizes.caps[-4:]}
    report_timings(bed, name, race(bed, works, runs=5), count, moved, row_bytes=row_bytes)


def _peers(bed: Bed, planes: Planes) -> None:
    """Adam where rows come to the device and go back, where they live there, and on the CPU after the gradient's way back."""
    count = bed.sizes.call_bytes // planes.row_bytes
    sets = row_sets(bed, planes.rows, count)
    grad_RD = torch.randn(count, WIDTH, device=bed.device)
    direct = [planes.at(rows_R) for rows_R in sets]
    grad, adam = grad_of(direct[0], grad_RD), KERNELS["adam"]
    own = Planes(torch.zeros(count * 3 * WIDTH + 96 * WIDTH, device=bed.device), "adam", WIDTH, WIDTH, bed.device)
    own_R = torch.arange(count, device=bed.device)
    resident = own.at(own_R.clamp_max(own.rows - 1))
    length_R, state_R = torch.full_like(own_R, WIDTH), torch.full_like(own_R, 2 * WIDTH)

    def staged(run: int) -> None:
        rows_R = sets[run % SETS]
        at = (rows_R * WIDTH, rows_R * 2 * WIDTH, own_R * WIDTH, own_R * 2 * WIDTH)
        copy_spans(planes.weights, at[0], own.weights, at[2], length_R)
        copy_spans(planes.state, at[1], own.state, at[3], state_R)
        adam(resident, grad, run + 1)
        copy_spans(own.weights, at[2], planes.weights, at[0], length_R)
        copy_spans(own.state, at[3], planes.state, at[1], state_R)

    last_N = torch.zeros(planes.rows, dtype=torch.int32)
    buffer_RD = bed.host(torch.zeros(count, WIDTH))

    def cores(run: int) -> None:
        buffer_RD.copy_(grad_RD, non_blocking=True)
        bed.mark()()
        rows = planes.at(sets[run % SETS].cpu())
        rows = replace(rows, state=replace(rows.require_state(), last_N=last_N))
        on_cores.adam(rows, grad_of(rows, buffer_RD), run + 1, RATE, ADAM)

    works: dict[str, Work] = {
        "gcnrec-zero-copy": lambda run: adam(direct[run % SETS], grad, run + 1),
        "gcnrec-staged": staged,
        "gcnrec-on-device": lambda run: adam(resident, grad, run + 1),
        "gcnrec-cpu-cores": cores,
    }
    timings = race(bed, works, runs=5)
    report_timings(bed, "update-adam-peers", timings, count, count * planes.row_bytes, row_bytes=planes.row_bytes)
