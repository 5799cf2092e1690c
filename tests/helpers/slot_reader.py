"""Reads `table.safetensors` back and verifies it: an oracle for what a run writes.

Letters: N rows, X stored values.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from gcnrec.errors import DataError
from gcnrec.runs.slot_files import FORMAT, VERSION
from gcnrec.tables.arena import VALUE_BYTES
from gcnrec.tables.slots import SlotTable

_HEADER = ("format", "version", "num_rows", "width", "budget_values", "dtype", "order")
_TENSORS = {"counts": "uint8", "columns": "uint8"}


def read_slots(path: Path, *, num_rows: int, width: int, budget: int, order: str | None = None) -> SlotTable:
    """The table in `path`, without optimizer state; `budget` in values; `order`, if given, is the digest that it must have.

    Raises DataError when the file is damaged, another format or version, another shape, or holds more than `budget` values.
    """
    tensors, header = _opened(path)
    _check_header(path, header, num_rows, width, order)
    _check_tensors(path, tensors, header, budget)
    table = SlotTable(num_rows, width, budget, (0, 0), header["dtype"])
    most = int(tensors["counts"].max()) if num_rows else 0
    if most > table.max_count:
        raise DataError(f"a row of {path} may hold {table.max_count} values, one holds {most}; it is damaged, export it again")
    nothing = {
        "moments": torch.empty(0, len(tensors["columns"])),
        "scalars": torch.empty(num_rows, 0),
        "last": torch.zeros(num_rows, dtype=torch.int32),
    }
    table.restore({**tensors, **nothing})
    return table


def _opened(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as problem:
        raise DataError(f"{path} cannot be read as a slot table ({problem}); export it again") from None
    return tensors, header


def _check_header(path: Path, header: dict[str, str], num_rows: int, width: int, order: str | None) -> None:
    if header.get("format") != FORMAT:
        raise DataError(f"{path} must have format '{FORMAT}', has {header.get('format')!r}; name a table that a sparse run wrote")
    if header.get("version") != VERSION:
        raise DataError(f"{path} must have version {VERSION}, has {header.get('version')}; export it with this gcnrec")
    absent = [name for name in _HEADER if name not in header]
    if absent:
        raise DataError(f"the header of {path} must name {', '.join(absent)}; it is damaged, export it again")
    if (header["num_rows"], header["width"]) != (str(num_rows), str(width)):
        raise DataError(
            f"{path} must hold {num_rows:,} rows of width {width}, holds {header['num_rows']} of width {header['width']}; "
            "open it with the data and the job that it was made by"
        )
    if header["dtype"] not in VALUE_BYTES:
        raise DataError(f"{path} must have dtype {' or '.join(VALUE_BYTES)}, has {header['dtype']!r}; export it again")
    if order is not None and header["order"] != order:
        raise DataError(f"the rows of {path} belong to other ids, or to the same in another order; open it with its own data")


def _check_tensors(path: Path, tensors: dict[str, torch.Tensor], header: dict[str, str], budget: int) -> None:
    wanted = {**_TENSORS, "values": header["dtype"]}
    found = {name: str(tensor.dtype).removeprefix("torch.") for name, tensor in tensors.items()}
    if found != wanted or any(tensor.ndim != 1 for tensor in tensors.values()):
        raise DataError(f"{path} must hold vectors {wanted}, holds {found}; it is damaged, export it again")
    counts, columns = tensors["counts"].numpy().astype(np.int64), tensors["columns"].numpy()
    num_rows, width = int(header["num_rows"]), int(header["width"])
    sizes = len(counts), int(counts.sum()), len(columns), len(tensors["values"])
    if sizes != (num_rows, len(columns), len(columns), len(columns)):
        raise DataError(
            f"the counts of {path} must be {num_rows:,} and add up to its columns and values, but {sizes[0]:,} counts add up to "
            f"{sizes[1]:,} for {sizes[2]:,} columns and {sizes[3]:,} values; it is damaged, export it again"
        )
    if len(columns) and int(columns.max()) >= width:
        raise DataError(f"the columns of {path} must be below {width}, the largest is {columns.max()}; export it again")
    falls = np.flatnonzero(np.diff(columns.astype(np.int64)) <= 0) + 1
    if not np.isin(falls, np.cumsum(counts)).all():
        raise DataError(f"the columns of every row of {path} must rise; it is damaged, export it again")
    if len(columns) > budget:
        raise DataError(f"{path} holds {len(columns):,} values, the budget allows {budget:,}; set table.budget as it was")
