"""Thrift's compact protocol, in which Parquet writes footers and page headers: wanted fields by number, the others skipped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import pyarrow as pa

Wanted: TypeAlias = "Mapping[int, type[int] | type[bytes] | Wanted | list[Wanted]]"
"""Fields of a struct by number: a number or flag (`int`), bytes, fields of a struct, or of each struct in a list."""
_DEEPEST = 32
_TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = 1, 2, 3, 7, 8, 9, 10, 11, 12


class Truncated(pa.ArrowInvalid):  # type: ignore[misc]
    """The bytes end inside a struct."""


class Compact:
    """Reads structs from `data`; `at` is the place of the next one. Raises ArrowInvalid for what is no such struct."""

    def __init__(self, data: bytes) -> None:
        self._data, self.at = data, 0

    def struct(self, wanted: Wanted, last: int = 2**15, depth: int = 0) -> dict[int, Any]:
        """The next struct's fields that are `wanted`; reading ends after field `last`, which then is not skipped over."""
        if depth > _DEEPEST:
            raise pa.ArrowInvalid("its metadata is nested too deeply")
        found: dict[int, Any] = {}
        number = 0
        while number < last:
            head = self._byte()
            kind = head & 15
            if kind == 0:
                break
            number = number + (head >> 4) if head >> 4 else self._signed()
            if number in wanted:
                found[number] = self._value(kind, wanted[number], depth)
            else:
                self._skip(kind, depth)
        return found

    def _value(self, kind: int, wanted: Any, depth: int) -> Any:
        if wanted is int and kind in (_TRUE, _FALSE):
            return kind == _TRUE
        if wanted is int and _BYTE < kind < _DOUBLE:
            return self._signed()
        if wanted is bytes and kind == _BINARY:
            size = self._varint()
            self._pass(size)
            return self._data[self.at - size : self.at]
        if isinstance(wanted, dict) and kind == _STRUCT:
            return self.struct(wanted, depth=depth + 1)
        if isinstance(wanted, list) and kind == _LIST:
            size, inner = self._list()
            return [self._value(inner, wanted[0], depth) for _ in range(size)]
        raise pa.ArrowInvalid("its metadata cannot be parsed")

    def _skip(self, kind: int, depth: int) -> None:
        if kind in (_TRUE, _FALSE):
            return
        if depth > _DEEPEST:
            raise pa.ArrowInvalid("its metadata is nested too deeply")
        if _BYTE < kind < _DOUBLE:
            self._varint()
        elif kind == _BINARY:
            self._pass(self._varint())
        elif kind == _STRUCT:
            self.struct({}, depth=depth + 1)
        elif kind in (_LIST, _SET):
            size, inner = self._list()
            self._skip_all([inner], size, depth)
        elif kind == _MAP:
            size = self._varint()
            kinds = self._byte() if size else 0
            self._skip_all([kinds >> 4, kinds & 15], size, depth)
        elif kind in (_BYTE, _DOUBLE):
            self._pass(1 if kind == _BYTE else 8)
        else:
            raise pa.ArrowInvalid("its metadata cannot be parsed")

    def _skip_all(self, kinds: list[int], times: int, depth: int) -> None:
        """Elements of a list or a map; a flag is a byte there, so that each takes one at least."""
        taken = [_BYTE if kind in (_TRUE, _FALSE) else kind for kind in kinds]
        for _ in range(times):
            for kind in taken:
                self._skip(kind, depth + 1)

    def _list(self) -> tuple[int, int]:
        head = self._byte()
        size = head >> 4 if head >> 4 < 15 else self._varint()
        if size > len(self._data) - self.at:  # each takes a byte at least
            raise Truncated("its metadata ends too early")
        return size, head & 15

    def _signed(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7
            if shift > 63:
                raise pa.ArrowInvalid("its metadata cannot be parsed")

    def _byte(self) -> int:
        at = self.at
        if at >= len(self._data):
            raise Truncated("its metadata ends too early")
        self.at = at + 1
        return self._data[at]

    def _pass(self, size: int) -> None:
        if size > len(self._data) - self.at:
            raise Truncated("its metadata ends too early")
        self.at += size
