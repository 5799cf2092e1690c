"""What int8 codes of a run's features stand for, as a safetensors file: training, exports and new nodes read the same numbers.

    users.low, users.step, users.high, items.low, items.step, items.high: float32 (F), the grid of each column
    (`gcnrec.ops.features`); a side without features has none

The header says `format` "gcnrec-features", `version` and `dtype` "int8".
Letters: F features of a side.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open

from gcnrec.errors import DataError, reading
from gcnrec.ops.features import Grid
from gcnrec.storage.streams import check_regular
from gcnrec.storage.tensors import save_tensors
from gcnrec.tables.features.code import Code
from gcnrec.tables.features.sides import Features

_HEADER = {"format": "gcnrec-features", "version": "1", "dtype": "int8"}
_SIDES = ("users", "items")
_PARTS = ("low", "step", "high")


def write_codes(path: Path, features: Features) -> None:
    """Write the grids of `features` to `path`."""
    parts: dict[str, torch.Tensor] = {}
    for side, code in zip(_SIDES, features.codes or (), strict=True):
        if code.grid is not None:
            parts |= {f"{side}.{name}": torch.from_numpy(part) for name, part in zip(_PARTS, code.grid, strict=True)}
    save_tensors(parts, path, _HEADER)


def read_codes(path: Path, features: Features, remedy: str) -> tuple[Code, Code]:
    """The codes of users and of items, as `write_codes` has written them of features as wide as `features`.

    DataError, with the `remedy`, where the file is damaged or of other features.
    """
    check_regular(path)
    with reading(path, remedy), safe_open(path, "np") as file:
        header = file.metadata() or {}
        parts = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (it is no dictionary)
    if {name: header.get(name) for name in _HEADER} != _HEADER:
        raise DataError(f"{path} must have the header {_HEADER}, has {header}; {remedy}")
    codes = []
    for side, rows in zip(_SIDES, features.sides, strict=True):
        if rows is None:
            codes.append(Code("int8"))
            continue
        found = [parts.get(f"{side}.{name}") for name in _PARTS]
        for name, part in zip(_PARTS, found, strict=True):
            if part is None or part.dtype != np.float32 or part.shape != rows.shape[1:] or not np.isfinite(part).all():
                raise DataError(f"{path} must hold {side}.{name} of {rows.shape[1]} finite float32, it is damaged; {remedy}")
        grid = Grid(*(part for part in found if part is not None))
        if (grid.low_F > grid.high_F).any() or (grid.step_F < 0).any():
            raise DataError(f"{path} must hold {side}.low up to {side}.high in steps of 0 or more, others are there; {remedy}")
        codes.append(Code("int8", grid))
    return codes[0], codes[1]
