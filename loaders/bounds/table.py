"""What a whole Parquet file takes as a table in memory, found before it is read."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import pyarrow as pa
from pyarrow import fs

from gcnrec.loaders.bounds.allowed import Allowed
from gcnrec.loaders.bounds.footer import Footer, footer_size
from gcnrec.loaders.bounds.weight import weigh

_NEVER = 2**62
"""Rows of a block that is never full: all rows are decoded at a time."""


def table_bytes(path: Path, allowed: Allowed, columns: Collection[str] | None = None) -> int:
    """Bytes of the columns (all by default) of a file as a table, at most; 0 where it is no Parquet: its reader reports that.

    Raises DeviceError, naming the column and row group, where its footer, a page or a dictionary takes more than is allowed.
    """
    total = 0
    try:
        with fs.LocalFileSystem().open_input_file(str(path)) as source:
            allowed.check_footer(str(path), footer_size(source))
            for group in Footer(source).groups(lambda leaf: columns is None or leaf.split(".")[0] in columns):
                place = f"row group {group.number} of {path}"
                total += sum(weigh(source, chunk, place, _NEVER, allowed).total for chunk in group.chunks)
    except (OSError, pa.ArrowException, ValueError):
        return 0
    return total
