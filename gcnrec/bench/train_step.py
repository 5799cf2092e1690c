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

import numba
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from gcnrec.bench.graphs import GOWALLA, GraphInputs, graph_inputs, torch_csr
from gcnrec.bench.harness import Row, Variant, largest_error, measure, overall, rest
from gcnrec.config import Job, Loss, Model, Optimizer, Sampler, Train
from gcnrec.rows import RowGrad, Rows
from gcnrec.sampling.sampler import Batch, edge_sampler
from gcnrec.steps.step import Step
from gcnrec.system.machine import available_cores
from gcnrec.tables.dense import DenseTable
from gcnrec.tables.rules import Rule
from gcnrec.training.build import TrainData, build_step
from gcnrec.training.plan import plan_of

_WARMUP = 2
_START_SCALE = 0.1

Final = Callable[[torch.Tensor], torch.Tensor]
"""Table rows -> embeddings of all nodes, recorded by autograd."""


@dataclass(frozen=True)
class Task:
    """The same for every variant: the job, the normalised graph, the rows at the start and the batches in their order."""

    job: Job
    given: GraphInputs
    start_ND: torch.Tensor
    batches: list[Batch]

    @property
    def layers(self) -> int:
        return self.job.model.layers


def run(
    dataset: Path | None = None,
    width: int = 64,
    layers: tuple[int, ...] = (1, 3),
    batch_size: int = 2048,
    threads: int | None = None,
    runs: int = 15,
    size: tuple[int, int, int] = GOWALLA,
) -> Iterator[Row]:
    """Rows for every number of layers and one closing row, the smallest speedup. Units are positives.

    `dataset` is a dataset folder; None is a synthetic graph of `size` (users, items, edges) with power laws on both sides.
    """
    threads = threads or available_cores()
    torch.set_num_threads(threads)
    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
    given = graph_inputs(dataset, width, size)
    summaries = []
    for number in layers:
        task = task_of(given, number, batch_size, runs + _WARMUP)
        error = partial(largest_error, exact_gradient(task))
        tolerance = 2 * error(None, first_gradient(_torch_csr_symmetric(np.int64, task), task))
        variants = [Variant(name, partial(_start, build, task), _advance, rest) for name, build in CONTENDERS.items()]
        name, units = f"train-step-{number}-layer", len(task.batches[0].users_B)
        for row in measure(name, variants, units, error, tolerance, runs=runs, warmup=_WARMUP):
            if row.get("summary"):
                summaries.append(row)
            yield row
    yield overall("train-step", summaries)


def task_of(given: GraphInputs, layers: int, batch_size: int, num_batches: int) -> Task:
    """Gowalla's recipe with `layers` layers, and as many batches of it."""
    job = Job(
        model=Model(layers=layers, width=given.source_ND.shape[1]),
        sampler=Sampler(negatives="in_batch"),
        loss=Loss(name="softmax", score="cosine", temperature=0.12, l2=1e-5),
        optimizer=Optimizer(rule="adam_dense", learning_rate=1e-3),
        train=Train(batch_size=batch_size),
    )
    sampler = edge_sampler(job.sampler, given.graph, None, batch_size, job.train.seed)
    steps = range(num_batches)
    batches = [sampler.batch(step // sampler.steps_per_epoch, step % sampler.steps_per_epoch) for step in steps]
    return Task(job, given, _START_SCALE * given.source_ND, batches)


@dataclass
class _Watched:
    """An update rule that remembers the gradient it was last given: nothing is copied, nothing else changes."""

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
        plan = plan_of(task.job, len(task.start_ND))
        table = DenseTable(task.start_ND, plan.rule.state_width(plan.width))
        step = build_step(task.job, plan, TrainData(task.given.graph), table)
        self._rule = _Watched(step.rule, step.rule.every_row)
        self._step: Step = replace(step, rule=self._rule)
        self._rate = task.job.optimizer.learning_rate

    def prepare(self, batch: Batch) -> Batch:
        return batch

    def __call__(self, batch: Batch) -> torch.Tensor:
        """Train on the batch; returns the gradient of all rows, (N, D), valid until the next call."""
        self._step(batch, self._rate)
        return self._rule.last_grad_ND


@dataclass(frozen=True)
class Labels:
    """A batch as torch code wants it: int64 positions, each positive's place in the pool, float32 weights."""

    nodes_V: torch.Tensor
    num_users: int
    users_B: torch.Tensor
    target_B1: torch.Tensor
    log_count_J: torch.Tensor
    own_B1: torch.Tensor
    uses_V: torch.Tensor


class Peer:
    """One step of torch code around `final`, with a table of its own in the dtype of `start_ND`."""

    def __init__(self, task: Task, final: Final, table_ND: torch.nn.Parameter) -> None:
        self._final, self._table, self._loss = final, table_ND, task.job.loss
        settings = task.job.optimizer
        self._optimizer = torch.optim.Adam(
            [table_ND], settings.learning_rate, (settings.beta1, settings.beta2), settings.epsilon, fused=True
        )

    def prepare(self, batch: Batch) -> Labels:
        target_B = torch.from_numpy(batch.positives_B - batch.num_users)
        counts_J = torch.bincount(target_B, minlength=len(batch.nodes_V) - batch.num_users).to(self._table.dtype)
        uses_V = np.bincount(np.concatenate([batch.users_B, batch.positives_B]), minlength=len(batch.nodes_V))
        return Labels(
            torch.from_numpy(batch.nodes_V),
            batch.num_users,
            torch.from_numpy(batch.users_B),
            target_B[:, None],
            counts_J.log(),
            -counts_J.log()[target_B, None],
            torch.from_numpy(uses_V).to(self._table.dtype),
        )

    def __call__(self, labels: Labels) -> torch.Tensor:
        """Train on the batch; returns the gradient of all rows, (N, D)."""
        self._optimizer.zero_grad()
        self._objective(labels).backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        if self._table.grad is None:
            raise RuntimeError("the table must take part in the loss")
        return self._table.grad

    def _objective(self, labels: Labels) -> torch.Tensor:
        """Softmax over the distinct positives, each weighted by its count in the batch, the row's own by 1; L2 of layer 0."""
        rows_VD = F.normalize(self._final(self._table).index_select(0, labels.nodes_V), dim=1)
        users_BD, pool_JD = rows_VD.index_select(0, labels.users_B), rows_VD[labels.num_users :]
        logits_BJ = torch.addmm(labels.log_count_J, users_BD, pool_JD.T, alpha=1 / self._loss.temperature)
        logits_BJ = logits_BJ.scatter_add_(1, labels.target_B1, labels.own_B1)
        squares_V = self._table.index_select(0, labels.nodes_V).square().sum(1)
        penalty = self._loss.l2 / (2 * len(labels.users_B)) * (labels.uses_V * squares_V).sum()
        return F.cross_entropy(logits_BJ, labels.target_B1[:, 0]) + penalty


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
    hop = partial(_apply, _Symmetric, matrix)
    return Peer(task, partial(_mean_of_layers, hop, task.layers), _table(task, dtype))


def _torch_csr_horner(index: type, task: Task) -> Peer:
    matrix = torch_csr(task.given, index)
    return Peer(task, lambda rows_ND: _SymmetricMean.apply(rows_ND, matrix, task.layers), _table(task))


def _apply(function: Any, matrix: torch.Tensor, rows_ND: torch.Tensor) -> torch.Tensor:
    product: torch.Tensor = function.apply(rows_ND, matrix)
    return product


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
    return contender(contender.prepare(task.batches[0]))  # type: ignore[arg-type]


def exact_gradient(task: Task) -> NDArray[np.float64]:
    """`first_gradient` computed in float64."""
    grad: NDArray[np.float64] = first_gradient(_torch_csr_symmetric(np.int64, task, torch.float64), task).numpy()
    return grad


def _start(build: Build, task: Task) -> Iterator[Callable[[], torch.Tensor]]:
    contender = build(task)
    prepared = [contender.prepare(batch) for batch in task.batches]
    return iter([partial(contender, batch) for batch in prepared])  # type: ignore[arg-type]


def _advance(steps: Iterator[Callable[[], torch.Tensor]]) -> torch.Tensor:
    return next(steps)()


def _table(task: Task, dtype: torch.dtype = torch.float32) -> torch.nn.Parameter:
    return torch.nn.Parameter(task.start_ND.to(dtype, copy=True))
