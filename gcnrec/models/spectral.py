"""The largest singular triplets of the normalised interaction matrix: a start for embeddings, and the low-pass of gfcf.

Letters: U users, I items, K rank, S sketch columns (rank plus oversampling).
"""

from __future__ import annotations

import torch

from gcnrec.errors import UsageError
from gcnrec.graph import BipartiteGraph
from gcnrec.ops.propagate import inverse_sqrt, propagate
from gcnrec.random import Stage, normal


def top_singular(
    graph: BipartiteGraph, rank: int, seed: int, oversample: int = 16, iterations: int = 4
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`left_UK`, falling `singular_K` and `right_IK` of D_u^-1/2 R D_i^-1/2, float32, largest `rank` first.

    Randomised subspace iteration (Halko, Martinsson & Tropp 2011, algorithms 4.4 and 5.1). The entry of largest magnitude
    of each left vector is positive. Columns beyond min(U, I) are zero. Memory: 3 (U + I) (rank + oversample) floats.
    """
    if rank < 1 or oversample < 0 or iterations < 0:
        raise UsageError(f"a spectrum needs rank >= 1, oversample and iterations >= 0, got {rank}, {oversample}, {iterations}")
    users, items = graph.num_users, graph.num_items
    sketch = min(rank + oversample, users, items)
    scales = inverse_sqrt(graph.user_items.degrees), inverse_sqrt(graph.item_users.degrees)
    basis_IS = torch.from_numpy(normal(seed, Stage.SPECTRAL, 0, (items, sketch)))
    basis_US = _orthonormal(propagate(graph.user_items, basis_IS, *scales))
    for _ in range(iterations):
        basis_IS = _orthonormal(propagate(graph.item_users, basis_US, *reversed(scales)))
        basis_US = _orthonormal(propagate(graph.user_items, basis_IS, *scales))
    return _triplets(graph, basis_US, scales, rank)


def _triplets(
    graph: BipartiteGraph, basis_US: torch.Tensor, scales: tuple[torch.Tensor, torch.Tensor], rank: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Singular triplets of the matrix projected on the columns of `basis_US`, padded with zeros to `rank`."""
    projected_IS = propagate(graph.item_users, basis_US, scales[1], scales[0])
    basis_IS, small_SS = torch.linalg.qr(projected_IS)
    # projected = A' Q_u = Q_i R, so A is nearly Q_u R' Q_i': the triplets of the small R' give those of A
    rotate_SS, singular_S, turn_SS = torch.linalg.svd(small_SS.T.double())
    kept = min(rank, len(singular_S))
    left = basis_US @ rotate_SS[:, :kept].float()
    right = basis_IS @ turn_SS[:kept].T.float()
    if len(left):
        signs = torch.sign(left.gather(0, left.abs().argmax(0, keepdim=True)))[0]
        signs[signs == 0] = 1
        left, right = left * signs, right * signs
    missing = rank - kept
    pad = torch.nn.functional.pad
    return pad(left, (0, missing)), pad(singular_S[:kept].float(), (0, missing)), pad(right, (0, missing))


def _orthonormal(columns: torch.Tensor) -> torch.Tensor:
    return torch.linalg.qr(columns)[0].contiguous()  # copy: LAPACK answers by columns, the hop reads by rows
