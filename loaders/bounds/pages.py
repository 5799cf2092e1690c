"""The pages of a column in a row group, by their headers: what each becomes when decompressed, and its payload on demand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from gcnrec.loaders.bounds.compact import Compact, Truncated, Wanted
from gcnrec.loaders.bounds.footer import Chunk

DATA, _INDEX, DICTIONARY, DATA_V2 = range(4)
_PLAIN_DICTIONARY, RLE, DELTA_LENGTHS, DELTA_BYTES, _RLE_DICTIONARY = 2, 3, 6, 7, 8
_CODECS = {1: "snappy", 2: "gzip", 4: "brotli", 6: "zstd", 7: "lz4_raw"}
_HADOOP_LZ4 = 5
_HEADER: Wanted = {
    1: int, 2: int, 3: int, 5: {1: int, 2: int, 4: int}, 7: {1: int, 2: int}, 8: {1: int, 4: int, 5: int, 6: int, 7: int}
}  # fmt: skip
_FIRST_READ = 512
_MOST_HEADER = 2**20
_OLD_SLACK = 128
"""Bytes that old writers forgot to count in the size of a column."""


@dataclass(frozen=True, slots=True)
class Page:
    """A page with `values` values (or levels); its payload of `compressed` bytes from `at` becomes `size` bytes.

    Of version 2, `levels` are the bytes of repetition and of definition levels, which are never compressed; else None.
    `has_old_levels`: repetition levels are packed as no writer does any more.
    """

    kind: int
    encoding: int
    values: int
    at: int
    compressed: int
    size: int
    levels: tuple[int, int] | None
    is_compressed: bool
    has_old_levels: bool

    @property
    def has_codes(self) -> bool:
        """Whether its values are numbers of a dictionary's."""
        return self.kind != DICTIONARY and self.encoding in (_PLAIN_DICTIONARY, _RLE_DICTIONARY)


def pages(source: pa.NativeFile, chunk: Chunk) -> Iterator[Page]:
    """The pages in their order. Raises ArrowInvalid where a header is damaged, or pages hold another count than the footer."""
    at, end, seen = chunk.start, min(chunk.start + chunk.size + _OLD_SLACK, source.size()), 0
    while seen < chunk.values:
        page, at = _page(source, at, end)
        if page is None:
            continue
        seen += page.values if page.kind != DICTIONARY else 0
        yield page
    if seen != chunk.values:
        raise pa.ArrowInvalid(f"column {chunk.leaf.path!r} has {seen:,} values in its pages and {chunk.values:,} by its footer")


def payload(source: pa.NativeFile, page: Page, codec: int) -> bytes:
    """The page as it was before compression. Raises ArrowInvalid, OSError or NotImplementedError for other bytes and codecs."""
    source.seek(page.at)
    data = source.read(page.compressed)
    plain = sum(page.levels or (0, 0))
    if not page.is_compressed or codec == 0 or page.size <= plain:
        return bytes(data)
    return bytes(data[:plain]) + _decompressed(data[plain:], page.size - plain, codec)


def _page(source: pa.NativeFile, at: int, end: int) -> tuple[Page | None, int]:
    """The page whose header begins at `at`, None for an index, and where the next one begins."""
    size = _FIRST_READ
    while True:
        source.seek(at)
        reader = Compact(source.read(min(size, end - at)))
        try:
            head = reader.struct(_HEADER)
            break
        except Truncated:
            if size >= min(_MOST_HEADER, end - at):
                raise
            size *= 16
    start = at + reader.at
    kind, plain, packed = (head.get(field, -1) for field in (1, 2, 3))
    if min(kind, plain, packed) < 0 or start + packed > end:
        raise pa.ArrowInvalid("a page has a damaged header")
    body = head.get({DATA: 5, DICTIONARY: 7, DATA_V2: 8}.get(kind, 0))
    if kind == _INDEX or kind > DATA_V2:
        return None, start + packed
    if not body or body.get(1, -1) < 0:
        raise pa.ArrowInvalid("a page has a damaged header")
    encoding = body.get(4 if kind == DATA_V2 else 2, -1)
    levels = None
    if kind == DATA_V2:
        levels = max(body.get(6, 0), 0), max(body.get(5, 0), 0)
    is_compressed, old = bool(body.get(7, True)), kind == DATA and body.get(4, RLE) != RLE
    return Page(kind, encoding, body[1], start, packed, plain, levels, is_compressed, old), start + packed


def _decompressed(data: bytes, size: int, codec: int) -> bytes:
    if codec == _HADOOP_LZ4:
        return _from_hadoop(data, size)
    if codec not in _CODECS:
        raise pa.ArrowInvalid(f"its pages have the unknown compression {codec}")
    return bytes(pa.Codec(_CODECS[codec]).decompress(data, size, asbytes=True))


def _from_hadoop(data: bytes, size: int) -> bytes:
    """Frames of Hadoop's LZ4, each with both its sizes before it; or one raw block, as other writers have it."""
    raw, parts, at, left = pa.Codec("lz4_raw"), [], 0, size
    while left and at + 8 <= len(data):
        plain, packed = int.from_bytes(data[at : at + 4], "big"), int.from_bytes(data[at + 4 : at + 8], "big")
        if plain > left or packed > len(data) - at - 8:
            break
        parts.append(raw.decompress(data[at + 8 : at + 8 + packed], plain, asbytes=True))
        at, left = at + 8 + packed, left - plain
    return b"".join(parts) if not left else bytes(raw.decompress(data, size, asbytes=True))
