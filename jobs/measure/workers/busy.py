"""Trains a lane by one worker until it is ended: what the other core does while `speed` measures one worker.

    python -m jobs.measure.workers.busy PARENT LANE

PARENT is the number of the process to end with, LANE a lane as JSON. It prints a line when it trains.
"""

from __future__ import annotations

import json
import signal
import sys
from dataclasses import replace

from gcnrec.bench.contenders.scale_task import Lane, led_cost
from gcnrec.system.signals import end_with_parent
from gcnrec.workers.metered import Metered
from gcnrec.workers.world import Alone

_STEPS = 10**6
"""Hours of steps, before which it is ended."""


def main() -> None:
    end_with_parent(int(sys.argv[1]), signal.SIGKILL)
    lane, world = Lane(**json.loads(sys.argv[2])), Metered(Alone())
    led_cost(replace(lane, steps=1), world)
    print("it trains", flush=True)
    led_cost(replace(lane, steps=_STEPS), world)


if __name__ == "__main__":
    main()
