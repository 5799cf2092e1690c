"""The finite check: which gradients hold a number that leaves training."""

from __future__ import annotations

from collections.abc import Sequence

import torch

LAST_BIT = 30
"""The bit of each further tensor, so that the word stays a positive int32."""


def flag_nonfinite(tensors: Sequence[torch.Tensor], bad: torch.Tensor) -> None:
    """Set bit i (at most 30) of `bad` where `tensors[i]` holds a number that is not finite; other bits stay.

    Tensors are float32 of any shape, `bad` is int32 (1). Each number is judged by itself: a sum that overflows is no reason.
    """
    for place, tensor in enumerate(tensors):
        # A finite sum has finite terms, and takes a quarter of the time of a look at each term.
        if not torch.isfinite(tensor.sum()) and not torch.isfinite(tensor).all():
            bad |= 1 << min(place, LAST_BIT)
