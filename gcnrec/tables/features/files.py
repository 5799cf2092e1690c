"""What int8 codes of a run's features stand for, as a safetensors file: training, exports and new nodes read the same numbers.

    users.low, users.high, items.low, items.high: float32 (F), the ends of each column's grid; a side without features has none

The header says `format` "gcnrec-features", `version` and `dtype` "int8". Steps between the ends follow from them
(`gcnrec.tables.features.code.grid_of`).
Letters: F features of a side.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open

from gcnrec.errors import DataError, reading
from gcnrec.storage.streams import check_regular
from gcnrec.storage.tensors import save_tensors
from gcnrec.tables.features.code import Code, grid_of
from gcnrec.tables.features.sides import Features

FORMAT, VERSION = "gcnrec-features", "1"
_SIDES = ("users", "items")


def write_codes(path: Path, features: Features) -> None:
    """Write the grids of `features` to `path`."""
    ends: dict[str, torch.Tensor] = {}
    for side, code in zip(_SIDES, features.codes or (), strict=True):
        if code.grid is not None:
            ends |= {f"{side}.low": torch.from_numpy(code.grid.low_F), f"{side}.high": torch.from_numpy(code.grid.high_F)}
    save_tensors(ends, path, {"format": FORMAT, "version": VERSION, "dtype": "int8"})


def read_codes(path: Path, features: Features, remedy: str) -> tuple[Code, Code]:
    """The codes of users and of items, as `write_codes` has written them of features as wide as `features`.

    DataError, with the `remedy`, where the file is damaged or of other features.
    """
    check_regular(path)
    with reading(path, remedy), safe_open(path, "np") as file:
        ends = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (it is no dictionary)
    codes = []
    for side, rows in zip(_SIDES, features.sides, strict=True):
        if rows is None:
            codes.append(Code("int8"))
            continue
        for name in (f"{side}.low", f"{side}.high"):
            found = ends.get(name)
            if found is None or found.dtype != np.float32 or found.shape != rows.shape[1:] or not np.isfinite(found).all():
                raise DataError(f"{path} must hold {name} of {rows.shape[1]} finite float32, it is damaged; {remedy}")
        low_F, high_F = ends[f"{side}.low"], ends[f"{side}.high"]
        if (low_F > high_F).any():
            raise DataError(f"{path} must hold {side}.low up to {side}.high, some are above; {remedy}")
        codes.append(Code("int8", grid_of(low_F, high_F)))
    return codes[0], codes[1]
