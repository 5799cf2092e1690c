"""What a checkpoint holds: where a run is, its table, what its explorer watched, its layers and their optimizer.

Everything a run does next depends only on these, the job and the data.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from gcnrec.runs.checkpoints import Tensors
from gcnrec.steps.explore import Explorer
from gcnrec.steps.guards import LossTrend
from gcnrec.steps.step import Step
from gcnrec.tables.pipelined import Traffic


@dataclass(frozen=True, slots=True)
class Sums:
    """Sums over the steps of an epoch: losses, rows read, seconds, seconds that waited for batches, traffic."""

    loss: float = 0.0
    rows: int = 0
    seconds: float = 0.0
    stalled_seconds: float = 0.0
    traffic: Traffic | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run is: `epoch` epochs of `stage` are over, and `step` steps of the next, whose `sums` these are.

    When all of its steps are done, an epoch is over only after validation. `trend` is the loss's, over the steps of the stage;
    `best_*` and `waited` belong to early stopping, `seconds` is the time of the epochs that are over.
    """

    stage: str = "fit"
    epoch: int = 0
    step: int = 0
    sums: Sums = field(default_factory=Sums)
    trend: LossTrend = field(default_factory=LossTrend)
    best_epoch: int = 0
    best_value: float = -1.0
    waited: int = 0
    seconds: float = 0.0

    def saved(self) -> dict[str, Any]:
        """As JSON has it, which keeps floats exactly."""
        return asdict(self)

    @classmethod
    def of(cls, saved: dict[str, Any]) -> Progress:
        """What `saved` gave."""
        traffic = saved["sums"]["traffic"]
        sums = Sums(**{**saved["sums"], "traffic": Traffic(**traffic) if traffic else None})
        return cls(**{**saved, "sums": sums, "trend": LossTrend(**saved["trend"])})


def captured(step: Step, explorer: Explorer | None) -> Tensors:
    """All tensors of a checkpoint; dense tables give views."""
    tensors = {f"table.{name}": tensor for name, tensor in step.table.drained().tensors().items()}
    if explorer:
        tensors |= {f"explorer.{name}": tensor for name, tensor in explorer.tensors().items()}
    if step.encoder.layers is not None and step.layer_optimizer is not None:
        tensors |= {f"layers.{name}": tensor for name, tensor in step.encoder.layers.state_dict().items()}
        for number, state in step.layer_optimizer.state_dict()["state"].items():
            tensors |= {f"adam.{number}.{name}": tensor for name, tensor in state.items()}
    return tensors


def restore(step: Step, explorer: Explorer | None, tensors: Tensors) -> None:
    """Put what `captured` gave back in place; nothing for an empty one."""
    if not tensors:
        return
    step.table.drained().restore(_part(tensors, "table."))
    if explorer:
        explorer.restore(_part(tensors, "explorer."))
    if step.encoder.layers is not None and step.layer_optimizer is not None:
        step.encoder.layers.load_state_dict(_part(tensors, "layers."))
        adam: dict[int, dict[str, torch.Tensor]] = {}
        for name, tensor in _part(tensors, "adam.").items():
            number, _, key = name.partition(".")
            adam.setdefault(int(number), {})[key] = tensor
        step.layer_optimizer.load_state_dict({**step.layer_optimizer.state_dict(), "state": adam})


def _part(tensors: Tensors, prefix: str) -> Tensors:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
