"""Bench `train-step`: one LightGCN step (He et al. 2020), from the table's rows to the table's updated rows.

Every variant trains the same rows on the same batches: L layers, their mean, cosine scores at temperature 0.12, softmax
over the batch's distinct positives, L2 of layer 0, Adam on every row. Peers get an adjacency normalised beforehand, write
the loss as one careful user of torch would, and use torch's fastest Adam for CPUs. Batches are drawn, and turned into
what each variant takes, before the clock runs: for ours and for peers alike.
A variant counts when the gradient of all rows in its first step is, against float64, at most twice as far off as torch's.
Letters: N nodes (users, then items), V nodes of the batch, B positives, J distinct positives, D width, L layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.bench.contenders.peer_loss import Labels, softmax_loss
from gcnrec.bench.contenders.recipe import Recipe, recipe_of
from gcnrec.bench.graphs import GOWALLA, GraphInputs, graph_inputs, torch_csr
from gcnrec.bench.harness import Row, in_parts, largest_error, measure, use_threads, variants_of
from gcnrec.config import Model, Optimizer
from gcnrec.rows import RowGrad, Rows
from gcnrec.sampling.sampler import Batch
from gcnrec.steps.step import Step
from gcnrec.tables.dense import DenseTable
from gcnrec.tables.rules import Rule

_WARMUP = 2
_START_SCALE = 0.1

Final = Callable[[torch.Tensor], torch.Tensor]
"""Table rows -> embeddings of all nodes, recorded by autograd."""


@dataclass(frozen=True)
class Task:
    """The same for every variant: the recipe and its layers, the normalised graph and the rows at the start."""

    recipe: Recipe
    layers: int
    given: GraphInputs
    start_ND: torch.Tensor


def run(
    dataset: Path | None = None,
    width: int = 64,
    layers: tuple[int, ...] = (1, 3),
    batch_size: int = 2048,
    threads: int | None = None,
    runs: int = 15,
    size: tuple[int, int, int] = GOWALLA,
) -> Iterator[Row]:
    """Yield rows for every number of layers and a closing row with the smallest speedup. Units are positives.

    `dataset` is a dataset folder; None is a synthetic graph of `size` (users, items, edges) with power laws on both sides.
    """
    use_threads(threads)
    given = graph_inputs(dataset, width, size)

    def part(number: int) -> Iterator[Row]:
        task = task_of(given, number, batch_size, runs + _WARMUP)
        error = partial(largest_error, exact_gradient(task))
        tolerance = 2 * error(None, first_gradient(_torch_csr_symmetric(np.int64, task), task))
        variants = variants_of({name: partial(_start, build) for name, build in CONTENDERS.items()}, task)
        name, units = f"train-step-{number}-layer", len(task.recipe.batches[0].users_B)
        return measure(name, variants, units, error, tolerance, runs=runs, warmup=_WARMUP)

    yield from in_parts("train-step", map(part, layers))


def task_of(given: GraphInputs, layers: int, batch_size: int, num_batches: int) -> Task:
    """Gowalla's recipe with `layers` layers, and as many batches of it."""
    model = Model(layers=layers, width=given.source_ND.shape[1])
    recipe = recipe_of(given.graph, model, Optimizer(rule="adam_dense", learning_rate=1e-3), batch_size, num_batches)
    return Task(recipe, layers, given, _START_SCALE * given.source_ND)


@dataclass
class _Watched:
    """An update rule that keeps the gradient of its last update; nothing is copied."""

    rule: Rule
    every_row: bool
    last_grad_ND: torch.Tensor = field(default_factory=lambda: torch.empty(0))

    def state_width(self, width: int) -> int:
        return self.rule.state_width(width)

    def update(self, rows: Rows, grad: RowGrad, step: int, rate: float) -> Rows:
        self.last_grad_ND = grad.values_X.view(len(grad.rows_R), -1)
        return self.rule.update(rows, grad, step, rate)


class Ours:
    """`gcnrec.steps.step.Step` as training calls it."""

    def __init__(self, task: Task) -> None:
        plan = task.recipe.plan
        step = task.recipe.step_on(DenseTable(task.start_ND, plan.rule.state_width(plan.width)))
        self._rule = _Watched(step.rule, step.rule.every_row)
        self._step: Step = replace(step, rule=self._rule)
        self._rate = task.recipe.optimizer.learning_rate

    def prepare(self, batch: Batch) -> Batch:
        return batch

    def __call__(self, batch: Batch) -> torch.Tensor:
        """Train on the batch; returns the gradient of all rows, (N, D), valid until the next call."""
        self._step(batch, self._rate)
        return self._rule.last_grad_ND


class Peer:
    """One step of torch code around `final`, with a table of its own in the dtype of `start_ND`."""

    def __init__(self, task: Task, final: Final, table_ND: torch.nn.Parameter) -> None:
        self._final, self._table, self._loss = final, table_ND, task.recipe.loss
        self._optimizer = torch.optim.Adam([table_ND], *task.recipe.adam, fused=True)

    def prepare(self, batch: Batch) -> Labels:
        return Labels.of(batch.nodes_V, batch.num_users, batch.users_B, batch.positives_B, self._table.dtype)

    def __call__(self, labels: Labels) -> torch.Tensor:
        """Train on the batch; returns the gradient of all rows, (N, D)."""
        self._optimizer.zero_grad()
        ego_VD = self._table.index_select(0, labels.nodes_V)
        final_VD = self._final(self._table).index_select(0, labels.nodes_V)
        softmax_loss(labels, final_VD, ego_VD, self._loss.temperature, self._loss.l2).backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        if self._table.grad is None:
            raise RuntimeError("the table must take part in the loss")
        return self._table.grad


class _Symmetric(torch.autograd.Function):
    """matrix @ rows, whose gradient is matrix @ gradient: no transposed copy."""

    @staticmethod
    def forward(ctx: Any, rows_ND: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
        ctx.matrix = matrix
        return matrix @ rows_ND

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> Any:
        return ctx.matrix @ grad_outputs[0], None


class _SymmetricMean(torch.autograd.Function):
    """The mean of layers 0 .. L as one operation: one buffer of sums forward, Horner's rule backward."""

    @staticmethod
    def forward(ctx: Any, rows_ND: torch.Tensor, matrix: torch.Tensor, layers: int) -> torch.Tensor:
        ctx.matrix, ctx.layers = matrix, layers
        return _horner(matrix, rows_ND, layers)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> Any:
        return _horner(ctx.matrix, grad_outputs[0], ctx.layers), None, None


def _horner(matrix: torch.Tensor, rows_ND: torch.Tensor, layers: int) -> torch.Tensor:
    """(x + A (x + A (x + ...))) / (L + 1), L at least 1."""
    total_ND = rows_ND
    for _ in range(layers):
        total_ND = (matrix @ total_ND).add_(rows_ND)
    return total_ND.div_(layers + 1)


def _mean_of_layers(hop: Callable[[torch.Tensor], torch.Tensor], layers: int, rows_ND: torch.Tensor) -> torch.Tensor:
    total_ND = rows_ND
    for _ in range(layers):
        rows_ND = hop(rows_ND)
        total_ND = total_ND + rows_ND
    return total_ND / (layers + 1)


def _torch_csr(index: type, task: Task) -> Peer:
    matrix = torch_csr(task.given, index)
    return Peer(task, partial(_mean_of_layers, lambda rows_ND: matrix @ rows_ND, task.layers), _table(task))


def _torch_csr_symmetric(index: type, task: Task, dtype: torch.dtype = torch.float32) -> Peer:
    matrix = torch_csr(task.given, index, dtype)
    mean = partial(_mean_of_layers, lambda rows_ND: _Symmetric.apply(rows_ND, matrix), task.layers)
    return Peer(task, mean, _table(task, dtype))


def _torch_csr_horner(index: type, task: Task) -> Peer:
    matrix = torch_csr(task.given, index)
    return Peer(task, lambda rows_ND: _SymmetricMean.apply(rows_ND, matrix, task.layers), _table(task))


def _pyg(adjacency: tuple[torch.Tensor, ...], task: Task) -> Peer:
    from torch_geometric.nn.models import LightGCN

    model = LightGCN(*task.start_ND.shape, task.layers, normalize=False)
    model.embedding.weight.data.copy_(task.start_ND)
    return Peer(task, lambda _: model.get_embedding(*adjacency), model.embedding.weight)


def _pyg_csr(index: type, task: Task) -> Peer:
    return _pyg((torch_csr(task.given, index),), task)


def _pyg_edge_index(task: Task) -> Peer:
    edge_index = torch.from_numpy(np.stack([task.given.columns_E, task.given.rows_E]))  # source, target
    return _pyg((edge_index, torch.from_numpy(task.given.values_E)), task)


Build = Callable[[Task], "Ours | Peer"]
CONTENDERS: dict[str, Build] = {
    "gcnrec": Ours,
    "torch-csr": partial(_torch_csr, np.int64),
    "torch-csr-symmetric": partial(_torch_csr_symmetric, np.int64),
    "torch-csr-int32-symmetric": partial(_torch_csr_symmetric, np.int32),
    "torch-csr-horner": partial(_torch_csr_horner, np.int64),
    "torch-csr-int32-horner": partial(_torch_csr_horner, np.int32),
    "pyg-lightgcn-csr": partial(_pyg_csr, np.int64),
    "pyg-lightgcn-edge-index": _pyg_edge_index,
}
"""All of them required. The symmetric ones reuse the matrix for the backward pass, as a careful user would."""


def first_gradient(contender: Ours | Peer, task: Task) -> torch.Tensor:
    """Gradient of all rows, (N, D), of the loss of the first batch at the start."""
    return contender(contender.prepare(task.recipe.batches[0]))  # type: ignore[arg-type]


def exact_gradient(task: Task) -> NDArray[np.float64]:
    """`first_gradient` computed in float64."""
    grad: NDArray[np.float64] = first_gradient(_torch_csr_symmetric(np.int64, task, torch.float64), task).numpy()
    return grad


def _start(build: Build, task: Task) -> Callable[[], torch.Tensor]:
    """A call takes the step on the next batch."""
    contender = build(task)
    prepared = iter([contender.prepare(batch) for batch in task.recipe.batches])
    return lambda: contender(next(prepared))  # type: ignore[arg-type]


def _table(task: Task, dtype: torch.dtype = torch.float32) -> torch.nn.Parameter:
    return torch.nn.Parameter(task.start_ND.to(dtype, copy=True))
