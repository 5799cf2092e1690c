"""First light: rows of a small pinned table reach the device, change there, and come back, through the queues of training."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import numpy as np
import torch

from gcnrec.tables.dense import DenseTable
from gcnrec.tables.pipelined import PipelinedTable
from gcnrec.tables.rules import Sgd
from jobs.measure.gpu.bed import Bed

ROWS, WIDTH, RATE = 4096, 64, 0.5


def run(bed: Bed) -> None:
    """RuntimeError, with names, when a check fails. Rows name the reason where the host copies rows in place of the GPU."""
    reasons: list[str] = []
    wrong = []
    with closing(bed.queues(reasons.append)) as queues:
        for name, right in _checks(queues):
            bed.report({"bench": "light", "variant": name, "right": right})
            wrong += [] if right else [name]
    bed.report({"bench": "light", "variant": "pinned", "right": not reasons, "reasons": reasons})
    if wrong or reasons:
        raise RuntimeError(f"wrong: {', '.join([*wrong, *reasons])}")


def _checks(queues: Any) -> list[tuple[str, bool]]:
    start_ND = torch.from_numpy(np.random.default_rng(0).standard_normal((ROWS, WIDTH), np.float32))
    table = PipelinedTable(DenseTable(start_ND.clone(), Sgd().state_width(WIDTH)), queues)
    rows_R = np.arange(0, ROWS, 3)
    ticket = table.prefetch(rows_R)
    tile_RD = table.decode(table.read(ticket, with_state=False))
    read = torch.equal(tile_RD.cpu(), start_ND[rows_R])
    grad = table.stored(ticket, torch.ones_like(tile_RD))
    table.write(Sgd().update(table.read(ticket, with_state=True), grad, 1, RATE))
    after_ND = torch.as_tensor(table.drained().tensors()["weights"])
    others_N = torch.ones(ROWS, dtype=torch.bool).index_fill_(0, torch.from_numpy(rows_R), False)
    return [
        ("rows reach the device", read),
        ("updates come back", torch.equal(after_ND[rows_R], start_ND[rows_R] - RATE)),
        ("other rows stay", torch.equal(after_ND[others_N], start_ND[others_N])),
    ]
