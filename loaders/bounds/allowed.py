"""How much memory a reader may take, as shares of a limit, and the sentences of what is refused because it needs more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil

from gcnrec.errors import DataError, DeviceError

_FOOTER_TIMES = 40
"""Bytes that Arrow takes at most for each byte of a footer. measured: 5 to 14 for each of three copies."""
_AT_HAND = 1 / 2
"""Share of the limit for what is decoded at a time."""
_REWRITE = "pyarrow.parquet.write_table(table, path, row_group_size=100_000, data_page_size=65_536)"


@dataclass(frozen=True, slots=True)
class Allowed:
    """`memory` bytes for one reader; `longest`: by the path of a column of ids, how many bytes one of them may have.

    `rows`: how many rows of the size of the largest one may be held, with what is made of them.
    """

    memory: int = 2 * 10**9
    longest: Mapping[str, int] = field(default_factory=dict)
    rows: int = 32

    @property
    def at_hand(self) -> int:
        """Bytes of pages, dictionaries and a batch while a file is read."""
        return int(self.memory * _AT_HAND)

    @property
    def row(self) -> int:
        """Bytes of a row after it is decoded."""
        return self.memory // self.rows

    def check_footer(self, path: str, size: int) -> None:
        """DeviceError where parsing a footer of `size` bytes takes more than three quarters of the limit."""
        if (needed := size * _FOOTER_TIMES * 4 // 3) > self.memory:
            raise DeviceError(
                f"{path} has a footer of {size:,} bytes, a list of columns and row groups; to parse it takes {needed:,} bytes, "
                f"and memory_limit = {_size(self.memory)}; set --memory-limit {_size(needed)}, or write the file anew with fewer "
                "columns and larger row groups"
            )

    def check_at_hand(self, place: str, column: str, needed: int, longest: int) -> None:
        """DeviceError where decoding a row group takes more than its share, most of it for `column`.

        DataError where that is a column of ids, and one of `longest` bytes, which is too long, lies there.
        """
        if needed <= self.at_hand:
            return
        self.check_id(column, place, longest)
        raise DeviceError(
            f"{place} takes {needed:,} bytes to decode, most of them for column {column!r}; memory_limit = {_size(self.memory)} "
            f"allows {self.at_hand:,} for that; set --memory-limit {_size(ceil(needed / _AT_HAND))}, or write the file anew with "
            f"smaller row groups and pages, {_REWRITE}"
        )

    def check_row(self, place: str, column: str, needed: int) -> None:
        """DeviceError where a row takes more than its share, most of it for `column`; DataError where that holds ids."""
        if needed > self.row:
            self.check_id(column, place, needed)
            raise DeviceError(
                f"{place} takes {needed:,} bytes, most of them for column {column!r}; memory_limit = {_size(self.memory)} allows "
                f"{self.row:,} for a row; shorten the text or list, leave the column or row out, or set --memory-limit "
                f"{_size(needed * self.rows)}"
            )

    def check_id(self, column: str, place: str, longest: int) -> None:
        """DataError where an id in a column of ids is longer than it may be."""
        most = self.longest.get(column, longest)
        if longest > most:
            raise DataError(
                f"ids in column {column!r} may have {most:,} bytes, one of {longest:,} lies in {place}; shorten or drop it, or "
                f"set --max-id-bytes {longest} (data.max_id_bytes in a job)"
            )


def _size(nbytes: int) -> str:
    """A size as options take it: whole megabytes or gigabytes, rounded up where it is no whole number of them."""
    unit, name = (10**9, "GB") if nbytes % 10**9 == 0 or nbytes > 10**11 else (10**6, "MB")
    return f"{-(-nbytes // unit)}{name}"


DEFAULT = Allowed()
"""For a reader whose command has bounded the whole file before."""
