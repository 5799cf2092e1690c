"""How long exported item embeddings are: what ranking by inner products then adds to the angle between user and item."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.config import Model


def typical_degree(degrees_I: NDArray[np.int64]) -> float:
    """The mean degree of items that have one: what is expected of an item that nobody has seen yet."""
    known_I = degrees_I[degrees_I > 0]
    return float(known_I.mean()) if len(known_I) else 1.0


def scale_for_ranking_(items_IF: torch.Tensor, degrees_I: NDArray[np.int64], settings: Model, unseen_degree: float) -> None:
    """Give every row, in place, the length |e|**norm_power * degree**degree_power; degree 0 counts as `unseen_degree`."""
    if settings.norm_power != 1.0:
        items_IF *= items_IF.norm(dim=1, keepdim=True).clamp_min(1e-12) ** (settings.norm_power - 1.0)
    if settings.degree_power:
        degrees = np.where(degrees_I > 0, degrees_I, unseen_degree).astype(np.float32)
        items_IF *= torch.from_numpy(degrees**settings.degree_power)[:, None]
