"""A follower for tests: does what the leader's commands say, and ends with the exit code of what it meets."""

from __future__ import annotations

import os
import socket
import sys
import time
from itertools import pairwise

import numpy as np
import torch

from gcnrec.errors import GcnrecError
from gcnrec.workers.world import World, joined, leave


def rows(seed: int, rank: int, dtype: torch.dtype, shape: list[int]) -> torch.Tensor:
    """What worker `rank` sends: random bytes as `dtype` (0 or 1 as bool), without NaN."""
    generator = torch.Generator().manual_seed(1000 * seed + rank)
    drawn = torch.randint(0, 2 if dtype is torch.bool else 100, shape, generator=generator)
    return drawn.to(torch.float32).to(dtype) if dtype.is_floating_point or dtype.is_complex else drawn.to(dtype)


def exchanged(world: World, seed: int, dtype: torch.dtype, splits: list[list[int]], axes: list[int]) -> torch.Tensor:
    """The exchange in which worker v sends splits[v][w] rows to worker w; the same rows are borrowed too."""
    outs, ins = splits[world.rank], [outs_of[world.rank] for outs_of in splits]
    sent = rows(seed, world.rank, dtype, [sum(outs), *axes])
    came = world.exchange(sent, outs, ins)
    if dtype is torch.float32 and len(axes) == 1 and axes[0]:
        ends = [sum(outs[:worker]) for worker in range(world.size + 1)]
        halves = [[np.arange(first, (first + end) // 2), np.arange((first + end) // 2, end)] for first, end in pairwise(ends)]
        wide = torch.cat([sent, sent], 1)[:, : axes[0]]  # rows that do not lie together
        borrowed = world.borrow([[(wide, half) for half in each] for each in halves], axes[0], ins)
        if [len(each) for each in borrowed] != ins or not torch.equal(torch.cat(list(borrowed)), came):
            raise AssertionError(f"worker {world.rank} borrowed other rows")
    return came


def obey(world: World) -> None:
    """Commands until the last; what came of an exchange is kept and sent back when asked."""
    kept: list[int] = []
    while (command := world.awaited())["do"] != "end":
        if command["do"] == "exchange":
            dtype = getattr(torch, command["dtype"])
            came = exchanged(world, command["seed"], dtype, command["splits"], command["axes"])
            back = came.contiguous().reshape(-1).view(torch.uint8)
            world.counts([len(back)] * world.size)
            world.exchange(back, [len(back)] + [0] * (world.size - 1), [0] * world.size)
        elif command["do"] == "keep":
            kept.append(command["number"])
        elif command["do"] == "counts":
            world.counts([sum(kept) + each for each in range(world.size)])
            kept.clear()
        elif command["do"] == "report":
            time.sleep(command["seconds"])
            world.report()
        elif command["do"] == "say":
            world.counts([os.getpid()] * world.size)
        elif command["do"] == "fail" and command["rank"] == world.rank:
            raise GcnrecError("worker was asked to fail")
        elif command["do"] == "exit" and command["rank"] == world.rank:
            os._exit(command["code"])
        elif command["do"] == "sleep":
            time.sleep(command["seconds"])


if __name__ == "__main__":
    if hosts := os.environ.get("HOSTS_OF_TESTS"):
        socket.gethostname = lambda: hosts.split()[int(os.environ["RANK"])]
    try:
        with joined(float(os.environ.get("TIMEOUT_MINUTES", "1"))) as mine:
            obey(mine)
    except GcnrecError as problem:
        print(f"worker {os.environ['RANK']}: {problem}", file=sys.stderr)
        leave(problem.exit_code)
    leave(0)
