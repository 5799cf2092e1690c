"""Content nearest neighbours: itemknn with the cosine of items' features in place of that of their users.

A user's score of an item is the sum of its similarities to the user's items, counting only the `neighbours` most similar items
of each of these; items without train users are among them. Items without features are similar to none.
Letters: I items, F features, K neighbours, T items of a tile.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec import config
from gcnrec.closed_forms.itemknn import NEIGHBOURS, ItemKnnScorer
from gcnrec.errors import DataError
from gcnrec.graph import BipartiteGraph

_ROWS = 512
"""Items compared with all others at a time."""


def fit(graph: BipartiteGraph, settings: config.Model, items_IF: NDArray[np.float32] | None) -> ItemKnnScorer:
    """Keep the `settings.neighbours` most similar items of every item, none of cosine 0 or less.

    Raises DataError for data without item features.
    """
    if items_IF is None:
        raise DataError("contentknn compares items by their features, and the data has none; ingest with --item-features")
    units_IF = torch.nn.functional.normalize(torch.from_numpy(np.array(items_IF)), dim=1)  # copy: out of the memory map
    count = min(settings.neighbours or NEIGHBOURS, graph.num_items - 1)
    neighbours_IK = np.full((graph.num_items, count), -1, np.int32)
    similarity_IK = np.zeros((graph.num_items, count), np.float32)
    for first in range(0, graph.num_items, _ROWS):
        rows = slice(first, min(first + _ROWS, graph.num_items))
        neighbours_IK[rows], similarity_IK[rows] = _nearest(units_IF, rows, count)
    return ItemKnnScorer(graph, torch.from_numpy(neighbours_IK), torch.from_numpy(similarity_IK))


def _nearest(units_IF: torch.Tensor, rows: slice, count: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The nearest items of a range of items by ascending number, -1 and 0 behind the last."""
    cosines_TI = units_IF[rows] @ units_IF.T
    cosines_TI[torch.arange(len(cosines_TI)), torch.arange(rows.start, rows.stop)] = 0.0
    best_TK, chosen_TK = cosines_TI.topk(count, dim=1)
    last = cosines_TI.shape[1]
    chosen_TK = torch.where(best_TK > 0, chosen_TK, last)
    chosen_TK, order_TK = chosen_TK.sort(dim=1)
    best_TK = best_TK.gather(1, order_TK)
    absent_TK = chosen_TK == last
    return chosen_TK.masked_fill(absent_TK, -1).numpy().astype(np.int32), best_TK.masked_fill(absent_TK, 0.0).numpy()
