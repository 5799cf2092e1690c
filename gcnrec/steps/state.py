"""What a checkpoint holds: where a run is, its table, what its explorer watched, its layers and their optimizer.

Everything a run does next depends only on these, the job and the data.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import TypeAdapter, ValidationError

from gcnrec.errors import DataError, reading
from gcnrec.runs.checkpoints import Tensors
from gcnrec.steps.explore import Explorer
from gcnrec.steps.guards import LossTrend
from gcnrec.steps.protocol import TrainingStep
from gcnrec.storage.tensors import Pieces, Saved, whole
from gcnrec.tables.pipelined import Traffic


@dataclass(frozen=True, slots=True)
class Sums:
    """Sums over the steps of an epoch: losses, rows read, seconds, seconds of waits for batches, traffic, major page faults."""

    loss: float = 0.0
    rows: int = 0
    seconds: float = 0.0
    stalled_seconds: float = 0.0
    traffic: Traffic | None = None
    major_faults: int = 0


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run is: `epoch` epochs of `stage` are over, and `step` steps of the next, whose `sums` these are.

    When all of its steps are done, an epoch is over only after validation. `trend` is the loss's, over the steps of the stage;
    `best_*` and `waited` belong to early stopping, `seconds` is the time of the epochs that are over.
    """

    stage: Literal["fit", "refit"] = "fit"
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
    def of(cls, saved: dict[str, Any], where: str, remedy: str) -> Progress:
        """What `saved` gave. DataError, naming `where` and the key, when a value is missing or of another type."""
        try:
            return _PROGRESS.validate_python(saved)
        except ValidationError as problem:
            first = problem.errors(include_url=False, include_input=False)[0]
        key = ".".join(map(str, first["loc"]))
        raise DataError(f"the progress in {where} is damaged ({key}: {first['msg'].lower()}); {remedy}")


_PROGRESS = TypeAdapter(Progress)


def captured(step: TrainingStep, explorer: Explorer | None) -> Saved:
    """All tensors of a checkpoint: views of dense tables, and pieces of sparse ones, for a file that is written now."""
    tensors: dict[str, torch.Tensor | Pieces]
    tensors = {f"table.{name}": tensor for name, tensor in step.table.drained().saved().items()}
    if explorer:
        tensors |= {f"explorer.{name}": tensor for name, tensor in explorer.tensors().items()}
    if step.encoder.layers is not None and step.layer_optimizer is not None:
        # copy: from a device, nothing on the CPU
        tensors |= {f"layers.{name}": tensor.cpu() for name, tensor in step.encoder.layers.state_dict().items()}
        states = step.layer_optimizer.state_dict()["state"].items()
        kept = {f"{number}.{name}": tensor for number, state in states for name, tensor in state.items()}
        # Before its first gradient a weight has no moments: zeros are what Adam begins with.
        empty = {name: torch.zeros_like(form) for name, form in _moments(step.layer_optimizer).items()}
        tensors |= {f"adam.{name}": tensor.cpu() for name, tensor in (empty | kept).items()}
    return tensors


def copied(step: TrainingStep, explorer: Explorer | None) -> Tensors:
    """Copies of what `captured` gives, which later steps leave as they are."""
    return whole(captured(step, explorer))


def restore(step: TrainingStep, explorer: Explorer | None, tensors: Tensors, where: Path, remedy: str) -> None:
    """Put what `captured` gave back in place; nothing for an empty one.

    DataError, naming the file `where` and the `remedy`, for tensors of another table, model or policy.
    """
    if not tensors:
        return
    with reading(where, remedy):
        _restore_table(step, _part(tensors, "table."), where)
        if explorer:
            _check_alike(where, "the explorer", _part(tensors, "explorer."), explorer.tensors(), remedy)
            explorer.restore(_part(tensors, "explorer."))
        if step.encoder.layers is not None and step.layer_optimizer is not None:
            layers = _part(tensors, "layers.")
            _check_alike(where, "the layers", layers, step.encoder.layers.state_dict(), remedy)
            step.encoder.layers.load_state_dict(layers)
            adam = _part(tensors, "adam.")
            _check_alike(where, "the layers' optimizer", adam, _moments(step.layer_optimizer), remedy)
            state: dict[int, dict[str, torch.Tensor]] = {}
            for name, tensor in adam.items():
                number, _, key = name.partition(".")
                state.setdefault(int(number), {})[key] = tensor
            step.layer_optimizer.load_state_dict({**step.layer_optimizer.state_dict(), "state": state})


def _restore_table(step: TrainingStep, tensors: Tensors, where: Path) -> None:
    try:
        step.table.drained().restore(tensors)
    except DataError as problem:
        raise DataError(f"{where} does not fit: {problem}") from None


def _moments(optimizer: torch.optim.Optimizer) -> Tensors:
    """What Adam keeps of each parameter, by the names that checkpoints have."""
    moments: Tensors = {}
    for number, parameter in enumerate(chain.from_iterable(group["params"] for group in optimizer.param_groups)):
        moments |= {f"{number}.step": torch.tensor(0.0), f"{number}.exp_avg": parameter, f"{number}.exp_avg_sq": parameter}
    return moments


def _check_alike(where: Path, what: str, saved: Tensors, own: Tensors, remedy: str) -> None:
    """DataError, naming the first that differs, unless tensors have the names, shapes and dtypes of our `own`."""
    for name in sorted(saved.keys() | own.keys()):
        came, expected = (_form(tensors.get(name)) for tensors in (saved, own))
        if came != expected:
            raise DataError(f"{where} must hold for {what} {name!a} {expected}, holds {came}; {remedy}")


def _form(tensor: torch.Tensor | None) -> str:
    return "nothing" if tensor is None else f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def _part(tensors: Tensors, prefix: str) -> Tensors:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
