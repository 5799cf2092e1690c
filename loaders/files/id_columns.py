"""The types of the ids of all inputs together: the columns that hold them agree, or are refused by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from gcnrec.config import Data
from gcnrec.errors import DataError, UsageError, nearest
from gcnrec.ids.id_types import EXPECTED, family
from gcnrec.loaders.files.common_types import common
from gcnrec.loaders.ingest.inputs import Input


@dataclass(frozen=True, slots=True)
class IdTypes:
    """The types of user and item ids in the dataset: those of the inputs, the widest of integers."""

    user: pa.DataType
    item: pa.DataType


def key_types(declared: Mapping[str, str] | None, *ids: str | None) -> dict[str, pa.DataType]:
    """The types of partition keys, for `open_input`: `declared` by name, and text for each name of `ids`."""
    text = {name: pa.string() for name in ids if name}
    return text | {name: pa.type_for_alias(kind) for name, kind in (declared or {}).items()}


def id_types(sources: Sequence[Input], data: Data) -> IdTypes:
    """The types of the columns `data.user` and `data.item` of all inputs.

    Raises DataError for a column that is missing or holds no ids, and where text is in one input and integers in another.
    """
    if not data.user or not data.item:
        raise UsageError(
            "user and item must name the columns that hold the ids, one of them is unset; set both in [data], or by --user and "
            "--item"
        )
    keys = sorted(set().union(*(source.keys for source in sources)))
    features = data.user_features or data.item_features  # whose paths may have the key
    for name in data.partition_type or {}:
        if name not in keys and not features:
            known = f", the partition keys are {', '.join(map(repr, keys))}" if keys else ", no path has a partition key"
            raise DataError(f"partition_type names {name!r}{known}{nearest(name, keys)}; leave it out or name a key")
    return IdTypes(_type_of(sources, data.user), _type_of(sources, data.item))


def _type_of(sources: Sequence[Input], path: str) -> pa.DataType:
    first, *others = sources
    kind = own_type(first, path)
    for source in others:
        came = own_type(source, path)
        both = common(kind, came)
        if both is None or family(both) is None:
            keys = any(path in each.keys for each in (first, source))
            remedy = f"declare --partition-type {path}=TYPE, or " if keys else ""
            raise DataError(
                f"column {path!r} must hold ids of one type in all inputs, it is {kind} in {first.text} and {came} in "
                f"{source.text}; {remedy}cast it in one of them"
            )
        kind = both
    return kind


def own_type(source: Input, path: str) -> pa.DataType:
    """The type of the ids in the column `path` of an input: no dictionary, no view. DataError where it holds no ids."""
    declared = source.field(path).type
    kind = declared.value_type if pa.types.is_dictionary(declared) else declared
    kind = {pa.string_view(): pa.string(), pa.binary_view(): pa.binary(), pa.date64(): pa.date32()}.get(kind, kind)
    if family(kind) is None:
        raise DataError(f"{source.text}: ids must be {EXPECTED}, column {path!r} is {declared}; cast it to integers or text")
    return kind
