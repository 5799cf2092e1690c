"""EASE (Steck 2019, "Embarrassingly shallow autoencoders for sparse data"): ridge regression of every item on the others.

With G = R'R and P = (G + regularisation * Id)^-1, the weights are B = Id - P / diag(P) by columns (eq. 8), zero on the
diagonal, and a user's scores are the sum of B's rows at the user's items.

Letters: B users of a chunk, T items of a tile, I items.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from scipy.linalg import lapack

from gcnrec import config
from gcnrec.closed_forms.cooccurrence import gram
from gcnrec.errors import DeviceError, UsageError
from gcnrec.graph import BipartiteGraph
from gcnrec.ops.propagate import propagate_rows
from gcnrec.ranking.scorer import GraphScorer

MAX_ITEMS = 20_000
"""From here on the inverse takes more than minutes and 3 GiB, where sparse neighbours rank as well."""
_ROWS = 1024
"""Rows of the inverse that are mirrored and rounded at once."""


@dataclass(frozen=True)
class EaseScorer(GraphScorer):
    """`weights_II` float32, row = item the user has, column = item scored."""

    weights_II: torch.Tensor

    def prepare(self, users_B: NDArray[np.int32]) -> torch.Tensor:
        """The users themselves, int32 (B): each tile sums its own columns of the weights."""
        return torch.from_numpy(users_B.astype(np.int32))

    def score(self, prepared: torch.Tensor, first: int, last: int, out_BT: torch.Tensor) -> None:
        ones_U, ones_I = torch.ones(self.num_users), torch.ones(self.num_items)
        propagate_rows(self.graph.user_items, self.weights_II[:, first:last], ones_U, ones_I, prepared.numpy(), out_BT)

    def tensors(self) -> dict[str, torch.Tensor]:
        return {"weights": self.weights_II}

    @classmethod
    def from_tensors(cls, graph: BipartiteGraph, tensors: dict[str, torch.Tensor]) -> EaseScorer:
        return cls(graph, tensors["weights"])


def fit(graph: BipartiteGraph, settings: config.Model, seed: int) -> EaseScorer:
    """Solve for the weights with `settings.regularisation`; nothing is drawn.

    Raises DeviceError for MAX_ITEMS items or more, or when an I x I float64 matrix does not fit into half of the available
    memory.
    """
    items = graph.num_items
    refuse_too_large(items)
    matrix_II = np.empty((items, items), np.float64, order="F")  # LAPACK's order: it then works in place
    gram(graph, matrix_II.T)
    matrix_II[np.diag_indices(items)] += settings.regularisation
    factor_II, failed = lapack.dpotrf(matrix_II, lower=True, overwrite_a=True)
    inverse_II, failed_too = (factor_II, 0) if failed else lapack.dpotri(factor_II, lower=True, overwrite_c=True)
    if failed or failed_too:
        raise UsageError(f"model.regularisation = {settings.regularisation} is too small to invert the items' matrix; raise it")
    return EaseScorer(graph, torch.from_numpy(_weights(inverse_II)))


def _weights(inverse_II: NDArray[np.float64]) -> NDArray[np.float32]:
    """-P_ij / P_jj off the diagonal and 0 on it, from the lower triangle of the symmetric P."""
    items = len(inverse_II)
    diagonal_I = inverse_II.diagonal().copy()
    weights_II = np.empty((items, items), np.float32)
    for first in range(0, items, _ROWS):
        last = min(first + _ROWS, items)
        rows = np.tril(inverse_II[first:last], k=first) + np.triu(inverse_II[:, first:last].T, k=first + 1)
        weights_II[first:last] = rows / -diagonal_I
    np.fill_diagonal(weights_II, 0.0)
    return weights_II


def refuse_too_large(items: int) -> None:
    """DeviceError for MAX_ITEMS items or more, or when an I x I float64 matrix takes over half of the available memory."""
    if items >= MAX_ITEMS:
        raise DeviceError(
            f"ease inverts a matrix of items x items and takes fewer than {MAX_ITEMS} items, got {items}; use gfcf, linkprop or "
            "itemknn, or ingest with --k-core to drop rare items"
        )
    needed, available = 8 * items**2, int(psutil.virtual_memory().available)
    if needed > available // 2:
        raise DeviceError(
            f"ease inverts a matrix of {items} x {items} items, {needed} bytes, and may use half of the available memory, "
            f"{available // 2} bytes; use gfcf or itemknn, or ingest with --k-core to drop rare items"
        )
