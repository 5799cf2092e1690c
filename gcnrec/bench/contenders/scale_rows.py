"""The rows part of bench `scale`: workers ask for rows of a table that they share, and update them by row-wise Adagrad.

Ours against TorchRec, which runs in an environment of its own. Half the sum of squares is each step's loss, so that the gradient
of a row is the row, once for each worker that asked. Followers run `python -m gcnrec.bench.contenders.scale_rows`.
Letters: N rows of the table, R rows of a step of one worker, T steps, D width, W workers.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.bench.contenders.scale_task import Cost, Meter
from gcnrec.bench.harness import use_threads
from gcnrec.errors import DeviceError, GcnrecError
from gcnrec.random import Stage, generator
from gcnrec.tables.dealt.exchanged import ExchangedTable
from gcnrec.tables.dealt.shards import DenseShards
from gcnrec.tables.dense import DenseTable
from gcnrec.tables.rules import AdagradRow
from gcnrec.workers.launch import led
from gcnrec.workers.metered import Metered
from gcnrec.workers.world import World, joined, leave

_MODULE = "gcnrec.bench.contenders.scale_rows"
_PEER_SECONDS = 600.0


@dataclass(frozen=True)
class RowsTask:
    """Each of `workers` asks `steps` times for `asked` of `rows` rows, and `warm_steps` times before the clock runs."""

    workers: int
    rows: int
    asked: int
    width: int
    threads: int
    steps: int
    warm_steps: int = 2
    rate: float = 0.01
    epsilon: float = 1e-8

    def drawn(self, rank: int) -> NDArray[np.int64]:
        """The rows that worker `rank` asks for, ascending in each step (T, R)."""
        draws = generator(rank, Stage.SYNTHETIC)
        count = self.warm_steps + self.steps
        return np.stack([np.sort(draws.permutation(self.rows)[: self.asked]) for _ in range(count)])

    def start_ND(self) -> NDArray[np.float32]:
        return generator(0, Stage.INIT).standard_normal((self.rows, self.width), np.float32)


@dataclass(frozen=True)
class RowsCost:
    """What a step costs, and the rows of the last step as worker 0 got them (R, D)."""

    cost: Cost
    last_RD: NDArray[np.float32]


def ours(task: RowsTask) -> RowsCost:
    """The cost of our exchange, by workers of this machine."""
    with led(task.workers, module=_MODULE) as world:
        world.publish({"do": "rows", "task": asdict(task)})
        return taken(task, Metered(world))


def taken(task: RowsTask, world: Metered) -> RowsCost:
    """The steps of worker `world.rank`. All workers call it together."""
    use_threads(task.threads)
    rule = AdagradRow(task.epsilon)
    start_ND = np.empty((0, task.width), np.float32) if world.rank else task.start_ND()
    host = None if world.rank else DenseTable(torch.from_numpy(start_ND), rule.state_width(task.width))
    table = ExchangedTable(world, DenseShards(task.rows, task.width, rule.state_width(task.width)), host)
    table.deal()
    meter, wall, tile_RD = Meter(world), [], torch.empty(0)
    for number, rows_R in enumerate(task.drawn(world.rank)):
        if number == task.warm_steps:
            meter.start()
        begun = time.perf_counter()
        tickets = table.announce([rows_R])
        table.fetch(tickets)
        tile_RD = table.decode(table.read(tickets[0], with_state=False))
        grad = table.pushed(tickets, [table.stored(tickets[0], tile_RD)])
        table.write(rule.update(table.local.read(grad.ticket, with_state=True), grad, number + 1, task.rate))
        wall.append(time.perf_counter() - begun)
    cpu_W, bytes_W = (meter.shared() / task.steps).T.tolist()
    return RowsCost(Cost(statistics.median(wall[task.warm_steps :]), cpu_W, bytes_W, []), tile_RD.numpy())


def of_torchrec(task: RowsTask, python: Path) -> RowsCost:
    """The cost of TorchRec's row-wise table, by the interpreter `python`, which has it. DeviceError where that fails."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "start.npy", task.start_ND())
        (folder / "task.json").write_text(json.dumps(asdict(task)), encoding="utf-8")
        for rank in range(task.workers):
            np.save(folder / f"drawn-{rank}.npy", task.drawn(rank))
        _run_peer(task, python, folder)
        found = [json.loads((folder / f"found-{rank}.json").read_text(encoding="utf-8")) for rank in range(task.workers)]
        cost = Cost(found[0]["seconds"], [each["cpu_seconds"] for each in found], [], [])
        return RowsCost(cost, np.load(folder / "rows-0.npy"))


def _run_peer(task: RowsTask, python: Path, folder: Path) -> None:
    program = Path(__file__).with_name("torchrec_rows.py")
    started: list[subprocess.Popen[str]] = []
    deadline = time.monotonic() + _PEER_SECONDS
    try:
        for rank in range(task.workers):
            command = [str(python), "-W", "ignore", str(program), str(folder), str(rank)]
            started.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True))
        said = [each.communicate(timeout=max(deadline - time.monotonic(), 1))[1] for each in started]
    except (OSError, subprocess.TimeoutExpired) as problem:
        raise DeviceError(f"TorchRec's workers cannot be run by {python}: {problem}") from None
    finally:
        for each in started:
            each.kill()
            each.wait()
    for each, lines in zip(started, said, strict=True):
        if each.returncode:
            last = (lines.strip().splitlines() or [f"exit code {each.returncode}"])[-1]
            raise DeviceError(f"a worker of TorchRec, run by {python}, failed: {last}")


def difference(expected: RowsCost, found: RowsCost) -> float:
    """The largest difference of the last step's rows, as a share of the largest value."""
    return float(np.abs(found.last_RD - expected.last_RD).max() / np.abs(expected.last_RD).max())


def follow(world: World) -> None:
    """Take part in tasks until their leader ends."""
    command: dict[str, Any] = world.awaited()
    while command["do"] == "rows":
        taken(RowsTask(**command["task"]), Metered(world))
        command = world.awaited()


def main() -> None:
    """Follow the leader that the environment names."""
    try:
        with joined() as world:
            follow(world)
    except GcnrecError as problem:
        leave(problem.exit_code)
    leave(0)


if __name__ == "__main__":
    main()
