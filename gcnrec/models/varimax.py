"""Varimax: the rotation of a factor matrix that makes its rows sparse (Kaiser 1958).

Inner products do not change under a rotation, so an embedding may be turned until most of each row lies in few columns;
a table that stores few columns per row then loses little of it. Rohe & Zeng (2023, "Vintage factor analysis with varimax
performs statistical inference") show that on the spectrum of a graph with communities it finds them.

Letters: N rows, D width.
"""

from __future__ import annotations

import torch

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
