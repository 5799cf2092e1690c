"""Types of values that sections of the job file have: numbers within bounds, text, paths, names of folders, sizes, moments."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from gcnrec.errors import UsageError, shown
from gcnrec.extensions.names import ENCODERS, LOSSES, METRICS, POLICIES, TRACKERS, Kind, plain
from gcnrec.system.limits import parse_bytes


@dataclass(frozen=True, slots=True)
class Words:
    """What a value may be, in words, for a type whose bounds are no numbers: part of an annotation, read by `reference`."""

    text: str


Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
# Bounds refuse no job that makes sense. Beyond them numbers overflow, or memory, disk and time run out without a word.
Positive = Annotated[float, Field(gt=0.0, le=1e9)]
Amount = Annotated[float, Field(ge=0.0, le=1e9)]
Temperature = Annotated[float, Field(ge=1e-6, le=1e9)]
"""Below that, scores divided by it leave float32."""
Count = Annotated[int, Field(ge=1, le=10**6)]
Width = Annotated[int, Field(ge=1, le=2**16)]
Length = Annotated[int, Field(ge=1, le=10**9 - 1)]
"""Of lists; what is ranked is never more than the items."""
Steps = Annotated[int, Field(ge=1, le=10**12)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
_LONGEST_PATH = 4096
KeyType = Literal[
    "string", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float32", "float64", "date32"
]
"""Arrow's names of the types that a partition key may have."""


def _a_size(text: str) -> str:
    try:
        parse_bytes(text)
    except UsageError as problem:  # known before the hours that end with its use
        raise ValueError(str(problem).removeprefix("memory_limit ")) from None
    return text


Size = Annotated[str, AfterValidator(_a_size), Words('size such as "2GB", "64MB" to "1000000TB"')]


def _a_folder(text: str) -> str:
    if not text.isprintable() or not 0 < len(text) <= 100 or text[0] in ".-" or "/" in text or "\\" in text:
        raise ValueError("expects the name of one folder, at most 100 characters without / and \\, with no . or - first")
    return text


def _no_pattern(text: str) -> str:
    if set(text) & set("*?[]"):
        raise ValueError("expects a name without * ? [ and ], which a shell would read as a pattern")
    return text


def _no_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("expects text without the character NUL")
    return text


def _a_path(text: str) -> str:
    if len(text) > _LONGEST_PATH:
        raise ValueError(f"expects a path of at most {_LONGEST_PATH:,} characters, got {len(text):,}")
    return _no_nul(text)


def _path_as_text(value: Any) -> Any:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _a_moment(value: Any) -> Any:
    # int() and Decimal() also take 1_0, and digits of other scripts.
    if isinstance(value, str) and (len(value) > 100 or not value.isascii() or "_" in value):
        raise ValueError(f"expects a number or an ISO date such as 2014-03-01, got {shown(value)}")
    return value


def split_at_commas(value: Any) -> Any:
    """Text as the list of its parts, anything else as it is."""
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


FolderName = Annotated[str, AfterValidator(_a_folder), Words("name of a folder, at most 100 characters")]
Moment = Annotated[str | int | float, BeforeValidator(_a_moment), Words("number or ISO date")]
Text = Annotated[str, AfterValidator(_no_nul), Words("text")]
PathText = Annotated[str, BeforeValidator(_path_as_text), AfterValidator(_a_path), Words("path, at most 4,096 characters")]
DatasetName = Annotated[FolderName, AfterValidator(_no_pattern), Words("name, at most 100 characters without / \\ * ? [ ]")]


def _own(kind: Kind) -> Words:
    return Words(f'class of your own as "package.module:Class", or an entry point of {kind.group}')


OWN_METRIC = r"^[a-z][a-z0-9_]{0,39}$"
"""What a metric of another package may be called."""
EncoderName = Annotated[str, AfterValidator(ENCODERS.full_name), _own(ENCODERS)]
LossName = Annotated[str, AfterValidator(LOSSES.full_name), _own(LOSSES)]
MetricName = Annotated[str, AfterValidator(METRICS.full_name), _own(METRICS)]
MetricKind = Annotated[str, Field(pattern=OWN_METRIC)]
PolicyName = Annotated[str, AfterValidator(POLICIES.full_name), _own(POLICIES)]
TrackerName = Annotated[str, AfterValidator(TRACKERS.full_name), _own(TRACKERS)]
OwnSettings = Annotated[dict[str, Any], AfterValidator(plain), Words("table, which the class itself validates")]
"""What a class of another package is made of."""
