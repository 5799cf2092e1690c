"""Feature tables of parts, in the memory that training takes for a GPU."""

from __future__ import annotations

import torch

from gcnrec.cuda.hostmemory import allocate
from gcnrec.ops.features import Stored
from gcnrec.tables.features.table import FeatureTable, pitch_of


def table_of(num_rows: int, columns: int, pitch: int | None = None, first_node: int = 0) -> FeatureTable:
    """Zeros, a row every `pitch` bytes; None aligns rows as training does."""
    pitch = pitch_of(columns, "float32") if pitch is None else pitch
    floats = torch.from_numpy(allocate(num_rows * pitch).content).view(torch.float32)
    return FeatureTable(Stored(floats.numpy(), pitch // 4, columns, "float32"), num_rows, first_node)
