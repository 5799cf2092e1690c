"""The largest singular triplets of the normalised interaction matrix: a start for embeddings, and the low-pass of gfcf.

The spectrum of an interaction graph falls slowly (the 256th value of Gowalla is half the first), where plain subspace
iteration needs dozens of rounds. A Krylov basis, which keeps what every round saw, needs a few hops more than its depth.

Varimax rotates a factor matrix so that its rows become sparse (Kaiser 1958). Inner products do not change under a rotation.
An embedding may thus be turned until most of each row lies in few columns; a table that stores few columns per row then loses
little of it. Rohe & Zeng (2023, "Vintage factor analysis with varimax performs statistical inference") show that varimax finds
the communities in the spectrum of a graph.

Letters: U users, I items, K rank, N nodes of the smaller side, S columns of the basis, B columns of a block; of varimax N rows,
D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from gcnrec.errors import UsageError
from gcnrec.graph import BipartiteGraph
from gcnrec.ops.propagate import inverse_sqrt, propagate
from gcnrec.random import Stage, normal

_BLOCKS = 8
"""Blocks to a rank: narrower blocks reach deeper with as many columns, wider ones are faster by the column."""
_NOISE = 1e-5
"""Length below which a direction of unit vectors in float32 is rounding noise."""


def top_singular(
    graph: BipartiteGraph, rank: int, seed: int, oversample: int = 16, iterations: int = 4
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`left_UK`, falling `singular_K` and `right_IK` of D_u^-1/2 R D_i^-1/2, float32.

    Randomised block Krylov method (Musco & Musco 2015, algorithm 2, on the idea of Halko et al. 2011) with a basis of
    iterations * (rank + oversample) columns over the smaller side, which is most of the memory it needs.
    The entry of largest magnitude of each left vector is positive. Triplets beyond the numerical rank are zero. A value with
    more copies than a block has columns, as in a graph of many components, is found in some of its copies only.
    """
    if rank < 1 or oversample < 0 or iterations < 1:
        raise UsageError(f"a spectrum needs rank >= 1, oversample >= 0, iterations >= 1, got {rank}, {oversample}, {iterations}")
    matrix = _Normalised(graph)
    short = min(graph.num_users, graph.num_items)
    block = min(-(-(rank + oversample) // _BLOCKS), short)
    columns = min(iterations * (rank + oversample), short + block)
    basis_NS, projected_SS = _krylov(matrix, block, max(1, columns // max(1, block)), seed)
    squares, vectors_SS = _falling_eigen(projected_SS)
    kept = min(rank, int((squares > _NOISE**2).sum()))
    singular_K = torch.zeros(rank)
    singular_K[:kept] = squares[:kept].sqrt()
    near_NK = torch.zeros(short, rank)
    near_NK[:, :kept] = basis_NS @ vectors_SS[:, :kept].float()
    far_MK = matrix.across(near_NK) * torch.where(singular_K > 0, 1 / singular_K, 0.0)
    left, right = (near_NK, far_MK) if matrix.users_near else (far_MK, near_NK)
    signs = _signs(left)
    return left * signs, singular_K, right * signs


@dataclass(frozen=True)
class _Normalised:
    """The matrix seen from its smaller side: `across` maps that side's rows to the other side's, `back` returns them."""

    graph: BipartiteGraph

    @property
    def users_near(self) -> bool:
        return self.graph.num_users <= self.graph.num_items

    def across(self, near: torch.Tensor) -> torch.Tensor:
        return self._hop(near, to_items=self.users_near)

    def back(self, far: torch.Tensor) -> torch.Tensor:
        return self._hop(far, to_items=not self.users_near)

    def _hop(self, rows: torch.Tensor, to_items: bool) -> torch.Tensor:
        up, down = self.graph.user_items, self.graph.item_users
        csr, other = (down, up) if to_items else (up, down)
        return propagate(csr, rows, inverse_sqrt(csr.degrees), inverse_sqrt(other.degrees))


def _krylov(matrix: _Normalised, block: int, blocks: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """An orthonormal basis of the span of M X, M'M applied again and again, and M M' projected on it (float64)."""
    graph = matrix.graph
    far, near = max(graph.num_users, graph.num_items), min(graph.num_users, graph.num_items)
    basis_NS = torch.zeros(near, blocks * block)
    projected_SS = torch.zeros(blocks * block, blocks * block, dtype=torch.float64)
    start_MB = torch.from_numpy(normal(seed, Stage.SPECTRAL, 0, (far, block)))
    next_NB = _orthonormal(_orthonormal(matrix.back(start_MB), 0.0), 0.0)
    for number in range(blocks):
        own = slice(number * block, (number + 1) * block)
        known = slice(0, (number + 1) * block)
        basis_NS[:, own] = next_NB
        next_NB = matrix.back(matrix.across(next_NB))
        overlap = basis_NS[:, known].T @ next_NB
        projected_SS[known, own] = overlap.double()
        projected_SS[own, known] = overlap.T.double()
        next_NB -= basis_NS[:, known] @ overlap
        next_NB = _orthonormal(next_NB, _NOISE)
        next_NB -= basis_NS[:, known] @ (basis_NS[:, known].T @ next_NB)  # again: the first pass leaves rounding errors
        next_NB = _orthonormal(next_NB, 0.5)
    return basis_NS, projected_SS


def _orthonormal(columns: torch.Tensor, shortest: float) -> torch.Tensor:
    """An orthonormal basis of the span; directions shorter than `shortest` become zero columns.

    By the Gram matrix, which is several times faster than a QR of a tall matrix and keeps it in rows.
    """
    squares, vectors = _falling_eigen((columns.T @ columns).double())
    floor = max(shortest**2, len(squares) * torch.finfo(torch.float32).eps * float(squares.max()) if len(squares) else 0.0)
    lengths = torch.where(squares > floor, squares, torch.inf).sqrt()
    return columns @ (vectors / lengths).float()


def _falling_eigen(symmetric: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    values, vectors = torch.linalg.eigh(symmetric)
    return values.flip(0), vectors.flip(1)


def _signs(vectors: torch.Tensor) -> torch.Tensor:
    """-1 for the columns whose entry of largest magnitude is negative, else 1."""
    if not len(vectors):
        return torch.ones(vectors.shape[1])
    return torch.where(vectors.gather(0, vectors.abs().argmax(0, keepdim=True)) < 0, -1.0, 1.0)[0]


ROUNDS = 50


_STILL = 1e-4
"""Relative growth of the criterion below which it has converged."""


def varimax(rows_ND: torch.Tensor) -> torch.Tensor:
    """The rotation (D, D), float32: rows_ND @ rotation has the largest variance of squared loadings, rows of unit length.

    Fixed-point iteration of the criterion's gradient and its polar factor; rows of zeros are ignored.
    """
    unit_ND = torch.nn.functional.normalize(rows_ND, dim=1)
    rotation_DD = torch.eye(rows_ND.shape[1])
    before = 0.0
    for _ in range(ROUNDS):
        turned_ND = unit_ND @ rotation_DD
        squares_ND = turned_ND.square()
        turned_ND *= squares_ND.sub_(squares_ND.mean(0))
        left_DD, singular_D, right_DD = torch.linalg.svd(unit_ND.T @ turned_ND)
        rotation_DD = left_DD @ right_DD
        value = float(singular_D.sum())
        if value <= before * (1.0 + _STILL):
            break
        before = value
    return rotation_DD
