"""Scores as probabilities over all items, added up: what a mixture of models ranks by.

Sums of a row are taken in float64 over float32 sums of blocks: two rows' parts then weigh what they should to seven digits.
A row with a score that is not finite becomes NaN, which ranking refuses.
Letters: B users of a chunk, I items.
"""

from __future__ import annotations

import numba
import numpy as np
import torch

from gcnrec.ops.softmax import LOG2E, exp2, total

_BLOCK = 512
_LEAST = np.float32(1e-30)
"""A row whose best score is below has none: its reciprocal would leave float32."""
NOISE = 1e-6
"""Share of a row's largest magnitude up to which a best score is rounding, about ten times what float32 leaves of a zero."""


def add_softmax(scores_BI: torch.Tensor, temperature: float, weight: float, out_BI: torch.Tensor) -> None:
    """out_bi += weight * exp(s_bi / temperature) / sum over j of exp(s_bj / temperature); the scores are overwritten.

    Float32, contiguous. Exponents below -126 (base 2) count as -126, so that every item keeps a positive share.
    """
    top_B = scores_BI.amax(1) if scores_BI.numel() else torch.zeros(len(scores_BI))
    _add_softmax(scores_BI.numpy(), top_B.numpy(), np.float32(float(LOG2E) / temperature), weight, out_BI.numpy())


def add_shares(scores_BI: torch.Tensor, weight: float, out_BI: torch.Tensor) -> None:
    """out_bi += weight * max(s_bi, 0) / sum over j of max(s_bj, 0); a row without a positive score adds nothing.

    A row whose best score is at most `NOISE` times its largest magnitude has none. Float32, contiguous; scores are overwritten.
    """
    least_B, top_B = scores_BI.aminmax(dim=1) if scores_BI.numel() else torch.zeros(2, len(scores_BI))
    top_B = torch.where((top_B <= -NOISE * least_B) & least_B.isfinite(), 0.0, top_B)
    _add_shares(scores_BI.numpy(), top_B.numpy(), weight, out_BI.numpy())


@numba.njit(inline="always")
def _total64(row):  # type: ignore[no-untyped-def]
    whole = 0.0
    for begin in range(0, len(row), _BLOCK):
        whole += np.float64(total(row[begin : begin + _BLOCK]))
    return whole


@numba.njit(parallel=True, cache=True, fastmath={"nsz", "contract"}, error_model="numpy")
def _add_softmax(scores_BI, top_B, scale, weight, out_BI):  # type: ignore[no-untyped-def]
    for b in numba.prange(len(scores_BI)):
        row, out, top = scores_BI[b], out_BI[b], top_B[b]
        if not np.isfinite(top):
            out[:] = np.float32(np.nan)
            continue
        for i in range(len(row)):
            row[i] = exp2((row[i] - top) * scale)
        share = np.float32(weight / _total64(row))
        for i in range(len(row)):
            out[i] += share * row[i]


@numba.njit(parallel=True, cache=True, fastmath={"nsz", "contract"}, error_model="numpy")
def _add_shares(scores_BI, top_B, weight, out_BI):  # type: ignore[no-untyped-def]
    for b in numba.prange(len(scores_BI)):
        row, out, top = scores_BI[b], out_BI[b], top_B[b]
        if not np.isfinite(top):
            out[:] = np.float32(np.nan)
            continue
        if top < _LEAST:
            continue
        scale = np.float32(1.0) / top
        for i in range(len(row)):
            row[i] = max(row[i], np.float32(0.0)) * scale
        share = np.float32(weight / _total64(row))
        for i in range(len(row)):
            out[i] += share * row[i]
