"""One type for a column that files hold in several: the narrowest that keeps every value, whatever the order of the files."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa

_DIGITS = {8: 3, 16: 5, 32: 10, 64: 20}
"""Decimal digits of integers by their bits."""
_UNITS = ("s", "ms", "us", "ns")


@dataclass(frozen=True, slots=True)
class Conflict:
    """Two files that hold the column at `path` in types which have none in common."""

    path: str
    files: tuple[str, str]
    types: tuple[pa.DataType, pa.DataType]


def merged(schemas: Iterable[tuple[str, pa.Schema]]) -> tuple[pa.Schema, dict[str, Conflict]]:
    """The columns of all files in the order in which they first come, and conflicts by path; there, the first type stays.

    `schemas` names each file. Fields of structs are merged by name, too.
    """
    fields: dict[str, tuple[str, pa.DataType]] = {}
    conflicts: dict[str, Conflict] = {}
    last = None
    for file, schema in schemas:
        if last is not None and schema.equals(last):
            continue
        last = schema
        for field in schema:
            first, kind = fields.setdefault(field.name, (file, field.type))
            if kind != field.type:
                fields[field.name] = first, _merged(field.name, (first, kind), (file, field.type), conflicts)
    return pa.schema([(name, kind) for name, (_, kind) in fields.items()]), conflicts


def _merged(path: str, one: tuple[str, pa.DataType], other: tuple[str, pa.DataType], found: dict[str, Conflict]) -> pa.DataType:
    """The common type of a column of two files; without one, the first, with an entry in `found`."""
    (first, a), (second, b) = one, other
    if pa.types.is_struct(a) and pa.types.is_struct(b):
        kinds = {field.name: field.type for field in a}
        for field in b:
            kind = kinds.setdefault(field.name, field.type)
            kinds[field.name] = _merged(f"{path}.{field.name}", (first, kind), (second, field.type), found)
        return pa.struct(list(kinds.items()))
    kind = common(a, b)
    if kind is None:
        found.setdefault(path, Conflict(path, (first, second), (a, b)))
    return a if kind is None else kind


def common(a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
    """The type that holds all values of both without loss; None where text meets numbers, or the like.

    Integers go to the widest of them, of mixed sign to the signed type that holds both; texts and bytes to the large type if
    either is; times to the finer unit, and to UTC if either has a zone.
    """
    if a == b or pa.types.is_null(b):
        return a
    if pa.types.is_null(a):
        return b
    a, b = (_plain(kind) for kind in (a, b))
    if pa.types.is_integer(a) and pa.types.is_integer(b):
        return _integer(a, b)
    for family, (small, large) in _FAMILIES:
        if family(a) and family(b):
            return a if a == b else large if large in (a, b) else small
    if any(family(kind) for family, _ in _FAMILIES for kind in (a, b)):
        return None
    if pa.types.is_timestamp(a) and pa.types.is_timestamp(b):
        zone = a.tz if a.tz == b.tz else "UTC"
        return pa.timestamp(max(a.unit, b.unit, key=_UNITS.index), zone)
    if pa.types.is_decimal(a) and pa.types.is_integer(b):
        return _decimal(a, b)
    if pa.types.is_integer(a) and pa.types.is_decimal(b):
        return _decimal(b, a)
    try:
        schemas = [pa.schema([("column", kind)]) for kind in (a, b)]
        return pa.unify_schemas(schemas, promote_options="permissive").field("column").type
    except pa.ArrowException:
        return None


def _plain(kind: pa.DataType) -> pa.DataType:
    """Without a dictionary, and without the layout of a view."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()}.get(kind, kind)


def _integer(a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
    if pa.types.is_signed_integer(a) == pa.types.is_signed_integer(b):
        return max(a, b, key=lambda kind: kind.bit_width)
    signed, unsigned = (a, b) if pa.types.is_signed_integer(a) else (b, a)
    bits = max(signed.bit_width, 2 * unsigned.bit_width)
    return {16: pa.int16(), 32: pa.int32(), 64: pa.int64()}.get(bits)


def _decimal(decimal: pa.DataType, integer: pa.DataType) -> pa.DataType | None:
    """The decimal that holds both, with the scale of the first: Arrow's own has 18 digits for int64, which may have 19."""
    whole = max(decimal.precision - decimal.scale, _DIGITS[integer.bit_width])
    digits = whole + decimal.scale
    if digits > 76:
        return None
    return pa.decimal128(digits, decimal.scale) if digits <= 38 else pa.decimal256(digits, decimal.scale)


def is_text(kind: pa.DataType) -> bool:
    """Whether values of `kind` are strings, of any layout of Arrow."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def is_bytes(kind: pa.DataType) -> bool:
    """Whether values of `kind` are bytes, of any layout of Arrow, fixed-size ones included."""
    return bool(
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_fixed_size_binary(kind)
        or pa.types.is_binary_view(kind)
    )


_FAMILIES = ((is_text, (pa.string(), pa.large_string())), (is_bytes, (pa.binary(), pa.large_binary())))
