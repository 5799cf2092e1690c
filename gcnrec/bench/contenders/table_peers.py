"""Peers of slot tables in torch: embeddings with sparse gradients, sparse tensors, a dense table under a mask.

Where torch has no operation, the peer is what a careful user of torch would write.
Letters: N rows, R rows of a batch, V nodes of the batch, D width, X chosen cells of all rows, Y chosen cells of the batch's rows.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from gcnrec.bench.contenders.peer_loss import Labels, softmax_loss
from gcnrec.bench.contenders.table_task import Task, places_in
from gcnrec.sampling.sampler import Batch
from gcnrec.tables.slots import dense_rows

WITH_STEPS = ("torch-embedding", "torch-embedding-bag")
"""The rest has no gradient of its own: a training step would be the user's, not torch's."""


class Embedding:
    """nn.Embedding(sparse=True) and SparseAdam: a dense table whose gradient names rows."""

    dtype = torch.float32

    def __init__(self, task: Task) -> None:
        self._table, self._loss = torch.nn.Parameter(task.dense()), task.recipe.loss
        self._optimizer: torch.optim.Optimizer = torch.optim.SparseAdam([self._table], *task.recipe.adam)

    def _look_up(self, rows_R: torch.Tensor) -> torch.Tensor:
        return F.embedding(rows_R, self._table, sparse=True)

    def read(self, rows_R: NDArray[np.int64]) -> torch.Tensor:
        with torch.no_grad():
            return self._look_up(torch.from_numpy(rows_R))

    def update_of(self, rows_R: NDArray[np.int64], grad_RD: torch.Tensor, step: int) -> Callable[[], None]:
        return partial(self._pull, self._look_up(torch.from_numpy(rows_R)), grad_RD)

    def step_of(self, batch: Batch) -> Callable[[], Any] | None:
        return partial(self._train, Labels.of(batch.nodes_V, batch.num_users, batch.users_B, batch.positives_B))

    def _pull(self, tile_RD: torch.Tensor, grad_RD: torch.Tensor) -> None:
        self._optimizer.zero_grad()
        tile_RD.backward(grad_RD)  # type: ignore[no-untyped-call]
        self._optimizer.step()

    def _train(self, labels: Labels) -> None:
        self._optimizer.zero_grad()
        ego_VD = self._look_up(labels.nodes_V)
        softmax_loss(labels, ego_VD, ego_VD, self._loss.temperature, self._loss.l2).backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()


class EmbeddingBag(Embedding):
    """nn.EmbeddingBag(mode="sum", sparse=True) with one row a bag, and SparseAdam."""

    def _look_up(self, rows_R: torch.Tensor) -> torch.Tensor:
        return F.embedding_bag(rows_R, self._table, torch.arange(len(rows_R)), mode="sum", sparse=True)


class Masked(Embedding):
    """A dense table, a dense mask and Adam, as DSL's authors train (Wang et al. 2024): the mask is multiplied in after a step."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self._mask_ND = dense_rows({**task.cells, "values": torch.ones(len(task.cells["columns"]))}, task.width)
        self._optimizer = torch.optim.Adam([self._table], *task.recipe.adam, fused=True)

    def _look_up(self, rows_R: torch.Tensor) -> torch.Tensor:
        return F.embedding(rows_R, self._table)

    def _pull(self, tile_RD: torch.Tensor, grad_RD: torch.Tensor) -> None:
        super()._pull(tile_RD, grad_RD)
        with torch.no_grad():
            self._table.mul_(self._mask_ND)


class _Sparse:
    """Values in a sparse tensor of torch, moments in two vectors. Row pointers, columns and places are int64."""

    dtype = torch.float32

    def __init__(self, task: Task) -> None:
        counts_N = task.cells["counts"].long()
        self._pointers = F.pad(counts_N.cumsum(0), (1, 0))
        self._columns_X, self._values_X = task.cells["columns"].long(), task.cells["values"].clone()
        self._moments_2X = torch.zeros(2, len(self._values_X))
        self._shape, self._settings = (task.graph.num_nodes, task.width), task.recipe.optimizer
        self._weights = self._tensor()

    def _tensor(self) -> torch.Tensor:
        """A CSR tensor that shares the values."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch says that CSR tensors are in beta
            return torch.sparse_csr_tensor(
                self._pointers, self._columns_X, self._values_X, self._shape, check_invariants=False
            )  # fmt: skip

    def _places(self, rows_R: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Of every value of the rows: which of the rows, and where among all values."""
        return places_in(self._pointers[rows_R], self._pointers[rows_R + 1])

    def update_of(self, rows_R: NDArray[np.int64], grad_RD: torch.Tensor, step: int) -> Callable[[], None]:
        return partial(self._update, torch.from_numpy(rows_R), grad_RD, step)

    def step_of(self, batch: Batch) -> Callable[[], Any] | None:
        return None

    def _update(self, rows_R: torch.Tensor, grad_RD: torch.Tensor, step: int) -> None:
        """Adam on the rows' values, in place: the tensor shares them, so that nothing has to be built again."""
        given = self._settings
        row_Y, at_Y = self._places(rows_R)
        grad_Y = grad_RD[row_Y, self._columns_X[at_Y]]
        first_Y = self._moments_2X[0][at_Y].lerp_(grad_Y, 1 - given.beta1)
        second_Y = self._moments_2X[1][at_Y].mul_(given.beta2).addcmul_(grad_Y, grad_Y, value=1 - given.beta2)
        self._moments_2X[0].index_copy_(0, at_Y, first_Y)
        self._moments_2X[1].index_copy_(0, at_Y, second_Y)
        divisor_Y = second_Y.div_(1 - given.beta2**step).sqrt_().add_(given.epsilon)
        self._values_X.index_add_(0, at_Y, first_Y.div_(divisor_Y), alpha=-given.learning_rate / (1 - given.beta1**step))


class CsrByPlaces(_Sparse):
    """A CSR tensor, read by index arithmetic on its parts: torch has no index_select for CSR."""

    def read(self, rows_R: NDArray[np.int64]) -> torch.Tensor:
        row_Y, at_Y = self._places(torch.from_numpy(rows_R))
        tile_RD = torch.zeros(len(rows_R), self._shape[1])
        tile_RD[row_Y, self._weights.col_indices()[at_Y]] = self._weights.values()[at_Y]
        return tile_RD


class CsrByProduct(_Sparse):
    """A CSR tensor, read as the product of a selection matrix with it."""

    def read(self, rows_R: NDArray[np.int64]) -> torch.Tensor:
        rows = len(rows_R)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            selection = torch.sparse_csr_tensor(
                torch.arange(rows + 1), torch.from_numpy(rows_R), torch.ones(rows), (rows, self._shape[0]), check_invariants=False
            )
            tile_RD: torch.Tensor = (selection @ self._weights).to_dense()
        return tile_RD


class Coo(_Sparse):
    """A COO tensor, read by index_select; its rows are found by bisection."""

    def _tensor(self) -> torch.Tensor:
        rows_X = torch.repeat_interleave(torch.arange(self._shape[0]), self._pointers.diff())
        indices_2X = torch.stack([rows_X, self._columns_X])
        return torch.sparse_coo_tensor(indices_2X, self._values_X, self._shape, is_coalesced=True, check_invariants=False)

    def read(self, rows_R: NDArray[np.int64]) -> torch.Tensor:
        return self._weights.index_select(0, torch.from_numpy(rows_R)).to_dense()

    def _places(self, rows_R: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        rows_X = self._weights.indices()[0]
        return places_in(torch.searchsorted(rows_X, rows_R), torch.searchsorted(rows_X, rows_R, right=True))
