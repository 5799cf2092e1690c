"""Sparse products of drawn hops by torch alone, with the gradient: what a careful user of torch would write.

Letters: T targets and S sources of a hop, X drawn edges, D width.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.graph import Csr, transpose

Upload = Callable[[NDArray[Any]], torch.Tensor]
"""A host array on the device."""


class Hop:
    """The matrix diag(`scale_T`) A diag(`scale_S`) of a drawn hop's 0/1 matrix A, and its transpose, both as torch's CSR."""

    def __init__(self, csr: Csr, scale_T: NDArray[np.float32], scale_S: NDArray[np.float32], upload: Upload) -> None:
        self._matrix = _matrix(csr, scale_T, scale_S, upload)
        self._transposed = _matrix(transpose(csr), scale_S, scale_T, upload)

    def __call__(self, rows_SD: torch.Tensor) -> torch.Tensor:
        """Float32 (T, D), differentiable."""
        return _Product.apply(rows_SD, self._matrix, self._transposed)  # type: ignore[no-any-return]


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows_SD: torch.Tensor, matrix: torch.Tensor, transposed: torch.Tensor) -> torch.Tensor:
        ctx.transposed = transposed
        return matrix @ rows_SD

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> Any:
        return ctx.transposed @ grad_outputs[0], None, None


def _matrix(csr: Csr, row_scale: NDArray[np.float32], column_scale: NDArray[np.float32], upload: Upload) -> torch.Tensor:
    values_X = row_scale[csr.row_numbers()] * column_scale[csr.indices]
    parts = (csr.indptr.astype(np.int32), np.ascontiguousarray(csr.indices, np.int32), values_X.astype(np.float32))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that CSR tensors are in beta
        return torch.sparse_csr_tensor(*map(upload, parts), (csr.rows, csr.columns), check_invariants=False)
