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

ROWS, WIDTH, STATE, RATE = 4096, 64, 128, 0.5


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
    host = DenseTable(start_ND.clone(), STATE)
    state_NS = torch.as_tensor(host.tensors()["state"])
    state_NS.copy_(torch.arange(float(ROWS))[:, None])  # which sgd leaves, so that it must come back as it went
    table = PipelinedTable(host, queues)
    rows_R = np.arange(0, ROWS, 3)
    ticket = table.prefetch(rows_R)
    tile_RD = table.decode(table.read(ticket, with_state=False))
    read = torch.equal(tile_RD.cpu(), start_ND[rows_R])
    grad = table.stored(ticket, torch.ones_like(tile_RD))
    table.write(Sgd().update(table.read(ticket, with_state=True), grad, 1, RATE))
    after = table.drained().tensors()
    after_ND, after_NS = (torch.as_tensor(after[name]) for name in ("weights", "state"))
    others_N = torch.ones(ROWS, dtype=torch.bool).index_fill_(0, torch.from_numpy(rows_R), False)
    return [
        ("rows reach the device", read),
        ("updates come back", torch.equal(after_ND[rows_R], start_ND[rows_R] - RATE)),
        ("state stays", torch.equal(after_NS, torch.arange(float(ROWS))[:, None].expand(-1, STATE))),
        ("other rows stay", torch.equal(after_ND[others_N], start_ND[others_N])),
    ]
