"""Exchanges between processes that obey, checked against threads that pass tensors to each other."""

from __future__ import annotations

import torch
from fake_world import run_workers
from worker_programs.obeying import exchanged


def splits(size, kind):
    """How many rows each worker sends to each."""
    return {
        "uneven": [[(3 * v + 5 * w) % 4 for w in range(size)] for v in range(size)],
        "empty": [[0] * size for _ in range(size)],
        "to one": [[7 * (w == size - 1) for w in range(size)] for _ in range(size)],
        "from one": [[2 + w if v == 1 else 0 for w in range(size)] for v in range(size)],
        "own": [[3 * (v == w) for w in range(size)] for v in range(size)],
    }[kind]


def exchange_everywhere(world, dtype, kind, axes):
    """What each worker got in one exchange, as bytes, sent to worker 0."""
    table = splits(world.size, kind)
    world.publish({"do": "exchange", "dtype": dtype, "seed": 3, "splits": table, "axes": axes})
    mine = exchanged(world, 3, getattr(torch, dtype), table, axes)
    own = mine.contiguous().reshape(-1).view(torch.uint8)
    sizes = world.counts([len(own)] + [0] * (world.size - 1))
    outs = [len(own)] + [0] * (world.size - 1)
    back = world.exchange(own, outs, sizes)
    return mine, back.split(sizes)


def check_exchange(world, dtype, kind, axes):
    mine, came = exchange_everywhere(world, dtype, kind, axes)
    table, kind_of = splits(world.size, kind), getattr(torch, dtype)
    oracle = run_workers(world.size, lambda fake: exchanged(fake, 3, kind_of, table, axes))
    assert mine.dtype == kind_of and mine.shape == oracle[0].shape and torch.equal(mine, oracle[0])
    assert [bytes(piece.tolist()) for piece in came] == [bytes(o.reshape(-1).view(torch.uint8).tolist()) for o in oracle]
