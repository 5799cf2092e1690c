"""TorchRec's side of the rows part of bench `scale`: a worker that looks rows up and updates them, row-wise sharded.

Runs in an environment of its own, where TorchRec is and gcnrec is not, as a file: `python torchrec_rows.py FOLDER RANK`.
`FOLDER/task.json` says what to do, `FOLDER/start.npy` is the table; `FOLDER/found-RANK.json` and `FOLDER/rows-RANK.npy` are the
results. Letters: N rows of the table, R rows of a step, D width.
"""

from __future__ import annotations

import json
import resource
import statistics
import sys
import time
from pathlib import Path
from typing import Any


def table_of(torchrec: Any, rows: int, width: int, rate: float, epsilon: float) -> Any:
    """An embedding table of the rows in ranges, a range for each worker, updated by row-wise Adagrad in the backward pass."""
    import torch
    from torchrec.distributed import DistributedModelParallel
    from torchrec.distributed.embedding import EmbeddingCollectionSharder
    from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints, Topology
    from torchrec.optim import RowWiseAdagrad
    from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward

    config = torchrec.EmbeddingConfig(name="t", embedding_dim=width, num_embeddings=rows, feature_names=["f"])
    table = torchrec.EmbeddingCollection(tables=[config], device=torch.device("meta"))
    apply_optimizer_in_backward(RowWiseAdagrad, table.parameters(), {"lr": rate, "eps": epsilon})
    sharder: Any = EmbeddingCollectionSharder()
    world = torch.distributed.get_world_size()
    planner = EmbeddingShardingPlanner(
        topology=Topology(world_size=world, compute_device="cpu"),
        constraints={"t": ParameterConstraints(sharding_types=["row_wise"])},
    )
    plan = planner.collective_plan(table, [sharder], torch.distributed.GroupMember.WORLD)
    return DistributedModelParallel(table, device=torch.device("cpu"), plan=plan, sharders=[sharder])


def fill(table: Any, start_ND: Any) -> None:
    """Give the table its start."""
    import torch

    (weight,) = table.state_dict().values()
    for shard in weight.local_shards():
        first = shard.metadata.shard_offsets[0]
        shard.tensor.copy_(torch.from_numpy(start_ND[first : first + len(shard.tensor)]))


def looked_up(torchrec: Any, table: Any, rows_R: Any) -> Any:
    """Rows by number, (R, D), differentiable."""
    import torch

    lengths = torch.ones(len(rows_R), dtype=torch.int32)
    return table(torchrec.KeyedJaggedTensor(keys=["f"], values=torch.from_numpy(rows_R), lengths=lengths))["f"].values()


def cpu_seconds() -> float:
    """Of all threads of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main(folder: Path, rank: int) -> None:
    """Half the sum of squares is each step's loss, so that a row's gradient is the row, once for each worker that asked."""
    import numpy as np
    import torch
    import torchrec
    from torchrec.distributed.comm_ops import set_gradient_division

    task = json.loads((folder / "task.json").read_text(encoding="utf-8"))
    torch.set_num_threads(task["threads"])
    meeting = f"file://{folder / 'meeting'}"
    torch.distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=task["workers"])
    set_gradient_division(False)  # gradients of workers are summed, as ours are
    table = table_of(torchrec, *(task[name] for name in ("rows", "width", "rate", "epsilon")))
    fill(table, np.load(folder / "start.npy"))
    drawn = np.load(folder / f"drawn-{rank}.npy")
    wall: list[float] = []
    for number, rows_R in enumerate(drawn):
        if number == task["warm_steps"]:
            wall, began = [], cpu_seconds()
        begun = time.perf_counter()
        found_RD = looked_up(torchrec, table, rows_R)
        (found_RD.square().sum() / 2).backward()
        wall.append(time.perf_counter() - begun)
    cost = {"seconds": statistics.median(wall), "cpu_seconds": (cpu_seconds() - began) / len(wall)}
    (folder / f"found-{rank}.json").write_text(json.dumps(cost), encoding="utf-8")
    np.save(folder / f"rows-{rank}.npy", found_RD.detach().numpy())
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
