"""How fast two processes of this machine exchange rows, for `gcnrec doctor`: `python -m gcnrec.workers.probe FILE` writes JSON.

A process of its own: whatever goes wrong with process groups ends there, and within a bound.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from gcnrec.errors import GcnrecError, first_line
from gcnrec.system.programs import program
from gcnrec.workers.launch import inherited, led
from gcnrec.workers.world import World, from_environment, given_size, has_gloo

SIZES = {"exchange_64_kb_gb_per_s": (64_000, 40), "exchange_16_mb_gb_per_s": (16_000_000, 6)}
"""Bytes that each of two workers sends to the other at once, and how often."""
_PATIENCE_SECONDS = 30.0
"""For both processes to start, which import torch, and for exchanges, which take a tenth of a second."""
_ECHO = "gcnrec.workers.echo"


def probe() -> dict[str, Any]:
    """Whether workers of this machine can exchange rows, and GB/s by size; `no_exchange_because` where they cannot."""
    if from_environment():
        why = f"this process is one of {given_size()} workers that were started from outside; run it alone"
        return {"gloo": True, "no_exchange_because": why}
    if not has_gloo():
        return {"gloo": False, "no_exchange_because": "this torch is built without gloo"}
    with TemporaryDirectory() as folder:
        return {"gloo": True, **_apart(Path(folder) / "found.json")}


def _apart(file: Path) -> dict[str, Any]:
    """What a process of its own finds, and leaves in `file`."""
    command = program("gcnrec.workers.probe", str(file))
    try:
        done = subprocess.run(
            command, env=inherited(), capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=_PATIENCE_SECONDS
        )
    except subprocess.TimeoutExpired:
        return {"no_exchange_because": f"two processes did not meet within {_PATIENCE_SECONDS:g} s"}
    if done.returncode:
        said = done.stderr.strip().splitlines()
        return {"no_exchange_because": said[-1] if said else f"the process ended with code {done.returncode}"}
    found: dict[str, float] = json.loads(file.read_text(encoding="utf-8"))
    return found


def measured(world: World) -> dict[str, float]:
    """GB/s of each of `SIZES`, by the median second, as the leader of two workers."""
    rates = {}
    for name, (size, times) in SIZES.items():
        world.publish({"do": "swap", "bytes": size, "times": times})
        rates[name] = round(size / statistics.median(swap(world, size, times)) / 1e9, 3)
    return rates


def swap(world: World, size: int, times: int) -> list[float]:
    """Seconds of so many exchanges, in which each of two workers sends `size` bytes to the other."""
    seconds, outs = [], [size, 0] if world.rank else [0, size]
    sent = torch.zeros(size, dtype=torch.uint8)
    for _ in range(times):
        begun = time.perf_counter()
        world.exchange(sent, outs, outs)
        seconds.append(time.perf_counter() - begun)
    return seconds


def main() -> None:
    """Write rates of exchanges, as JSON, to the file that the command names; a failure is one line on stderr."""
    try:
        with led(2, 0.1, _ECHO) as world:
            found = measured(world)
    except GcnrecError as problem:
        raise SystemExit(first_line(problem)) from None
    Path(sys.argv[1]).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
