"""Tables in text: CSV in UTF-8 with a header, from a file or a pipe, read in pieces of whole lines; all values are text.

A row is one line. What Arrow would read as something else (a quote without its end takes all lines behind it for one value) is
refused by its line.
"""

from __future__ import annotations

import csv as standard
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
from pyarrow import csv

from gcnrec.errors import DataError, first_line, reading
from gcnrec.storage.streams import check_regular, is_pipe, pipe_bytes

PIPED_BYTES = 2**23
"""The most that is read from a pipe, which lies in memory."""
REMEDY = "give CSV with a header in UTF-8, or Parquet"
_PIECE_BYTES = 2**20
"""Bytes that are read at a time; no line may be longer."""
_MOST_COLUMNS = 1000
_ENDS = b"\r\n"
_BOM = b"\xef\xbb\xbf"
_OTHER_MARKS = (b"\xff\xfe", b"\xfe\xff")
_SHOWN = 200


@dataclass(frozen=True, slots=True)
class TextTable:
    """An opened table: `names` of its columns, and `pieces` of the lines behind the header, by the number of their first line."""

    path: Path
    names: list[str]
    pieces: Iterator[tuple[int, bytes]]

    def batches(self, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """The columns `names` as text, in the order of the rows; once only. Raises DataError for lines that are no rows."""
        for number, piece in self.pieces:
            with reading(f"{self.path} from line {number} on", REMEDY):
                batches = self._parsed(number, piece).select(names).to_batches()
            yield from batches

    def _parsed(self, number: int, piece: bytes) -> pa.Table:
        try:
            table = csv.read_csv(
                pa.py_buffer(piece),
                read_options=csv.ReadOptions(column_names=self.names, use_threads=False, block_size=len(piece) + 1),
                convert_options=csv.ConvertOptions(column_types=dict.fromkeys(self.names, pa.string())),
            )
        except pa.ArrowInvalid as problem:
            raise DataError(
                f"{self.path} must have {len(self.names)} columns in each line, as its header has "
                f"(from line {number} on: {first_line(problem)[:_SHOWN]}); correct it"
            ) from None
        if b'"' in piece and table.num_rows < sum(map(bool, piece.splitlines())):
            raise DataError(
                f"{self.path} must have each row in one line, a quote opened in or after line {number} goes on behind its "
                "line; close it, or double a quote that is part of a value"
            )
        return table


@contextmanager
def open_text(path: Path) -> Iterator[TextTable]:
    """The table at `path`. Raises DataError for what is no text in UTF-8, and for a header that is none."""
    with _opened(path) as file:
        with reading(path, REMEDY):
            pieces = _pieces(path, file)
            number, first = next(pieces, (1, b""))
            header, rest = _split(first)
            names = _names(path, header.strip(_ENDS))
        yield TextTable(path, names, _behind(number + _lines(header), rest, pieces))


def _behind(number: int, rest: bytes, pieces: Iterator[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    if rest.strip(_ENDS):
        yield number, rest
    yield from pieces


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    if is_pipe(path):
        yield io.BytesIO(pipe_bytes(path, PIPED_BYTES))
        return
    check_regular(path)
    with reading(path, REMEDY):
        file = path.open("rb")
    with file:
        yield file


def _pieces(path: Path, file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Whole lines, many at a time, and the number of the first; empty lines at the begin of the file are left out."""
    rest, number, is_first = b"", 1, True
    while True:
        with reading(path, REMEDY):
            block = file.read(_PIECE_BYTES)
        if is_first:
            _check_begin(path, block)
            block = block.removeprefix(_BOM)
            is_first = False
        whole = rest + block
        end = max(whole.rfind(b"\n"), whole.rfind(b"\r", 0, -1)) + 1 if block else len(whole)
        if end == 0 and len(whole) > _PIECE_BYTES:
            raise DataError(f"{path} must have lines of at most {_PIECE_BYTES:,} bytes, line {number} is longer; {REMEDY}")
        piece, rest = whole[:end], whole[end:]
        if piece:
            _check_text(path, piece, number)
            lines = _lines(piece)
            if number > 1 or piece.strip(_ENDS):
                yield number, piece
            number += lines
        if not block:
            return


def _lines(piece: bytes) -> int:
    return piece.count(b"\n") + piece.count(b"\r") - piece.count(b"\r\n")


def _check_begin(path: Path, block: bytes) -> None:
    if block.startswith(_OTHER_MARKS):
        raise DataError(f"{path} must be text in UTF-8, it is UTF-16 or UTF-32 by its first bytes; save it as UTF-8")
    if block.startswith(b"PAR1"):
        raise DataError(f"{path} must be text, it is Parquet; give the file a name that ends in .parquet, as it cannot be a pipe")


def _check_text(path: Path, piece: bytes, number: int) -> None:
    zero = piece.find(b"\0")
    if zero >= 0:
        raise DataError(f"{path} must be text in UTF-8, line {number + _lines(piece[:zero])} has a zero byte; save it as UTF-8")
    try:
        piece.decode()
    except UnicodeDecodeError as problem:
        place = number + _lines(piece[: problem.start])
        raise DataError(
            f"{path} must be text in UTF-8, line {place} has the byte 0x{piece[problem.start]:02x} that is none; save it as UTF-8"
        ) from None


def _split(piece: bytes) -> tuple[bytes, bytes]:
    """The lines up to the first that is not empty, and what follows them."""
    begin = len(piece) - len(piece.lstrip(_ENDS))
    ends = [end + 1 for end in (piece.find(b"\n", begin), piece.find(b"\r", begin)) if end >= 0]
    end = min(ends, default=len(piece))
    end += piece[end - 1 : end + 1] == b"\r\n"
    return piece[:end], piece[end:]


def _names(path: Path, header: bytes) -> list[str]:
    """The names of the columns. DataError where the first line cannot be a header."""
    if not header:
        return []
    try:
        (names,) = standard.reader([header.decode()], strict=True)
    except standard.Error as problem:
        raise DataError(
            f"{path} must begin with the names of its columns, its first line has none ({problem}); {REMEDY}"
        ) from None
    if len(names) > _MOST_COLUMNS:
        raise DataError(
            f"{path} must have at most {_MOST_COLUMNS:,} columns, it has {len(names):,}; leave out what is not needed"
        )
    return names
