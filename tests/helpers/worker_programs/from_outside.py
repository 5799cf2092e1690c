"""One of two workers for tests, started from outside: a world of torchrun's environment, then one of a process group that exists.

Worker 0 prints what came, and ends by SIGKILL in the second world; worker 1 prints the sentence of that loss.
"""

from __future__ import annotations

import os
import signal
import sys

import torch.distributed as dist

from gcnrec.errors import PeerLostError
from gcnrec.workers.launch import led
from gcnrec.workers.world import from_environment, leave


def use(kind: str, kills: bool) -> None:
    with led(None, 1.0) as world:
        came = world.counts([10 + world.rank] * 2)
        if world.rank == 0:
            print(kind, came, world.local_size, flush=True)
            world.publish({"do": "nothing"})
            if kills:
                os.kill(os.getpid(), signal.SIGKILL)
        else:
            while world.awaited()["do"] != "end":
                pass


if __name__ == "__main__":
    try:
        if not from_environment():
            sys.exit("started alone")
        use("torchrun", kills=False)
        os.environ["MASTER_PORT"] = os.environ["OTHER_PORT"]
        dist.init_process_group("gloo")
        use("adopted", kills=True)
    except PeerLostError as problem:
        print(problem, file=sys.stderr)
        leave(problem.exit_code)
