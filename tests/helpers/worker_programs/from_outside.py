"""One of two workers for tests, started from outside: a world of torchrun's environment, then one of a process group that exists.

Worker 0 prints what came, and in the second world sends itself the signal that is named; worker 1 prints the sentence of that
loss.
"""

from __future__ import annotations

import os
import signal
import sys

import torch.distributed as dist

from gcnrec.errors import PeerLostError
from gcnrec.workers.launch import led
from gcnrec.workers.world import from_environment, leave


def use(kind: str, minutes: float, end: str | None) -> None:
    with led(None, minutes) as world:
        came = world.counts([10 + world.rank] * 2)
        if world.rank == 0:
            print(kind, came, world.local_size, flush=True)
            world.publish({"do": "nothing"})
            if end:
                os.kill(os.getpid(), signal.Signals[end])
        else:
            while world.awaited()["do"] != "end":
                pass


if __name__ == "__main__":
    try:
        if not from_environment():
            sys.exit("started alone")
        use("torchrun", 1.0, None)
        os.environ["MASTER_PORT"] = os.environ["OTHER_PORT"]
        dist.init_process_group("gloo")
        use("adopted", 1.0 if sys.argv[1] == "SIGKILL" else 0.05, sys.argv[1])
    except PeerLostError as problem:
        print(problem, file=sys.stderr)
        leave(problem.exit_code)
