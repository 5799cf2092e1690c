"""The Arrow types that ids may have: which of them mean the same, and how ids of one type become ids of another.

Ids keep their meaning: text "007" is no integer 7, and an integer beyond the range of a type is no id of that type.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeAlias
from uuid import UUID

import pyarrow as pa
import pyarrow.compute as pc

Ids: TypeAlias = "pa.Array | pa.ChunkedArray"
EXPECTED = "integers, text, binary, UUIDs, dates or decimals without fraction"
"""The types that ids may have, in words."""
_DIGITS = 38
_UUID = pa.uuid()
_WIDE = (pa.int64(), pa.uint64(), pa.decimal128(_DIGITS, 0))
_ABSENT = ("", "NULL", "null", "NA", "N/A", "NaN", "nan")
"""What text files write where they have no integer, date or UUID."""
_INTEGER = re.compile(r"[+-]?[0-9]+")


def plain(kind: pa.DataType) -> pa.DataType:
    """The type in which ids of type `kind` are compared: no dictionary, view or extension, and decimals of 128 bits."""
    if pa.types.is_dictionary(kind):
        return plain(kind.value_type)
    if pa.types.is_decimal(kind) and kind.precision <= _DIGITS:
        return pa.decimal128(kind.precision, kind.scale)
    if kind == _UUID:
        return _UUID.storage_type
    return {pa.string_view(): pa.string(), pa.binary_view(): pa.binary(), pa.date64(): pa.date32()}.get(kind, kind)


def family(kind: pa.DataType) -> str | None:
    """What ids of a type are, in a word; None for a type that holds no ids. Ids of two families are never equal."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if kind == _UUID:
        return "UUIDs"
    kind = plain(kind)
    if pa.types.is_integer(kind) or (pa.types.is_decimal128(kind) and kind.scale == 0):
        return "integers"
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return "text"
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return "bytes"
    return "dates" if pa.types.is_date(kind) else None


def as_ids(ids: Ids, kind: pa.DataType) -> Ids:
    """`ids` in `plain(kind)`; null where they are null, or no id of that type can equal them.

    UUIDs may come as 16 bytes, or as text in the usual form. Raises ValueError for other text, and for ids of another family.
    """
    came, wanted, target = family(ids.type), family(kind), plain(kind)
    if pa.types.is_null(ids.type):
        return ids.cast(target)
    if (wanted, came) == ("UUIDs", "text"):
        return _mapped(ids, _uuid_bytes, target)
    if came != wanted and (wanted, came) != ("UUIDs", "bytes"):
        raise ValueError("text, bytes, numbers and dates are no ids of each other; cast the column")
    ids = ids.cast(plain(ids.type))
    if ids.type == target:
        return ids
    if wanted == "integers":
        return _within(ids, target)
    if pa.types.is_fixed_size_binary(target):
        ids = ids.cast(pa.large_binary())
        return pc.if_else(pc.equal(pc.binary_length(ids), target.byte_width), ids, pa.scalar(None, ids.type)).cast(target)
    return ids.cast(target)


def held(kind: pa.DataType, *parts: Ids) -> pa.DataType:
    """The type that holds all ids of `parts`: `kind` where they fit, else the first wider type of integers that does.

    Raises ValueError where a part is of another family.
    """
    kinds = (kind, *_WIDE) if family(kind) == "integers" else (kind,)
    return next((each for each in kinds if all(as_ids(ids, each).null_count == ids.null_count for ids in parts)), kind)


def from_text(ids: Ids, kind: pa.DataType) -> Ids:
    """Ids of a file without types, such as CSV, in the plain type that `held` gives for `kind`; null where there is none.

    Raises ValueError where one is not written like an id of this family.
    """
    if family(kind) == "text":
        return ids.cast(plain(kind))
    if family(kind) == "bytes":
        return as_ids(ids.cast(pa.large_binary()), kind)
    ids = pc.utf8_trim_whitespace(ids)
    ids = pc.if_else(pc.is_in(ids, value_set=pa.array(_ABSENT, ids.type)), pa.scalar(None, ids.type), ids)
    if family(kind) == "integers" and pc.any(pc.match_substring_regex(ids, "^[+-]?0[xX]")).as_py():
        raise ValueError("0x begins no integer; write its decimal digits")  # Arrow would read hexadecimal digits
    try:
        return ids.cast(plain(kind)) if family(kind) != "UUIDs" else as_ids(ids, kind)
    except pa.ArrowException as problem:
        if family(kind) != "integers":
            raise ValueError(str(problem)) from None
    wide = _mapped(ids, _integer, _WIDE[-1])
    return as_ids(wide, held(kind, wide))


def _mapped(ids: Ids, value: Callable[[str], object], kind: pa.DataType) -> Ids:
    """`value` of each text; null stays null."""
    return pa.array([None if text is None else value(text) for text in ids.to_pylist()], kind)


def _uuid_bytes(text: str) -> bytes:
    try:
        return UUID(text).bytes
    except ValueError:
        raise ValueError(f"{text!r} is no UUID") from None


def _integer(text: str) -> int:
    if not _INTEGER.fullmatch(text) or len(text.lstrip("+-0")) > _DIGITS:
        raise ValueError(f"{text!r} is no integer of at most {_DIGITS} digits")
    return int(text)


def _within(ids: Ids, kind: pa.DataType) -> Ids:
    """Integers or decimals as another such type; null where they are out of its range."""
    if pa.types.is_integer(ids.type) and pa.types.is_integer(kind):
        wrapped = pc.cast(ids, kind, safe=False)
        fits = pc.and_(pc.equal(pc.cast(wrapped, ids.type, safe=False), ids), pc.equal(_negative(wrapped), _negative(ids)))
        return pc.if_else(fits, wrapped, pa.scalar(None, kind))
    wide = ids.cast(_WIDE[-1])
    low, high = (pa.scalar(bound, wide.type) for bound in value_range(kind))
    fits = pc.and_(pc.greater_equal(wide, low), pc.less_equal(wide, high))
    return pc.if_else(fits, wide, pa.scalar(None, wide.type)).cast(kind)


def _negative(values: Ids) -> Ids:
    return pc.less(values, pa.scalar(0, values.type))


def value_range(kind: pa.DataType) -> tuple[int, int]:
    """The least and the largest value of a type of integers or decimals, the latter in units of their last digit."""
    if pa.types.is_decimal(kind):
        return 1 - 10**kind.precision, 10**kind.precision - 1
    if pa.types.is_unsigned_integer(kind):
        return 0, 2**kind.bit_width - 1
    return -(2 ** (kind.bit_width - 1)), 2 ** (kind.bit_width - 1) - 1
