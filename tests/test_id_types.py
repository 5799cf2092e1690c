"""Ids of one type as ids of another, against Python's own numbers, dates and UUIDs."""

from __future__ import annotations

import datetime
from decimal import Decimal
from uuid import UUID

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcnrec.ids.id_types import as_ids, from_text, held, plain

RANGES = {
    pa.int8(): (-128, 127),
    pa.uint16(): (0, 65535),
    pa.int64(): (-(2**63), 2**63 - 1),
    pa.uint64(): (0, 2**64 - 1),
    pa.decimal128(3, 0): (-999, 999),
    pa.decimal128(38, 0): (1 - 10**38, 10**38 - 1),
}
EDGES = sorted({edge + step for bounds in RANGES.values() for edge in bounds for step in (-1, 0, 1)} - {10**38, -(10**38)})


@given(st.sampled_from(list(RANGES)), st.sampled_from(list(RANGES)), st.lists(st.sampled_from(EDGES), max_size=8))
def test_integers_beyond_the_range_of_a_type_are_no_ids_of_it(came, kind, values):
    low, high = RANGES[came]
    values = [value for value in values if low <= value <= high]
    ids = pa.array([Decimal(value) for value in values] if pa.types.is_decimal(came) else values, came)
    low, high = RANGES[kind]
    expected = [value if low <= value <= high else None for value in values]
    assert as_ids(ids, kind).to_pylist() == expected and as_ids(ids, kind).type == kind
    assert as_ids(ids, held(kind, ids)).to_pylist() == values
    assert (held(kind, ids) == kind) == (None not in expected)


@given(st.sampled_from(list(RANGES)), st.lists(st.sampled_from(EDGES), min_size=1, max_size=8))
def test_integers_written_as_text_keep_their_value(kind, values):
    low, high = RANGES[kind]
    ids = from_text(pa.array([f" {value}" for value in values]), kind)
    assert ids.to_pylist() == values and (ids.type == kind) == all(low <= value <= high for value in values)


DAY, USER = datetime.date(2024, 2, 29), UUID(int=2**127 + 5)
TEXTS = [
    (pa.uuid(), str(USER).upper(), USER.bytes),
    (pa.uuid(), USER.hex, USER.bytes),
    (pa.date32(), "2024-02-29", DAY),
    (pa.date64(), "2024-02-29", DAY),
    (pa.string(), " 007", " 007"),
    (pa.dictionary(pa.int8(), pa.large_string()), "", ""),
    (pa.binary(3), "é7", "é7".encode()),
    (pa.binary(2), "é7", None),
    (pa.int32(), "NA", None),
    (pa.uuid(), "", None),
    (pa.int16(), "007", 7),
]


@pytest.mark.parametrize(("kind", "text", "value"), TEXTS, ids=str)
def test_text_is_read_as_the_type_of_the_ids(kind, text, value):
    ids = from_text(pa.array([text]), kind)
    assert ids.to_pylist() == [value] and ids.type == plain(kind)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (pa.int32(), "1.0"),
        (pa.int32(), "x"),
        (pa.int64(), "0x10"),
        (pa.uuid(), "12"),
        (pa.date32(), "1.2.2024"),
        (pa.int8(), "9" * 39),
    ],
)
def test_text_that_is_no_such_id_is_refused(kind, text):
    with pytest.raises(ValueError, match=r".+"):
        from_text(pa.array([text]), kind)


def test_ids_of_two_families_are_no_ids_of_each_other():
    examples = [pa.array(["7"]), pa.array([7]), pa.array([b"7"]), pa.array([DAY]), pa.array([USER.bytes], pa.uuid())]
    for ids in examples:
        assert as_ids(pa.nulls(2), ids.type).to_pylist() == [None, None]
        for other in examples:
            fine = {(ids.type, other.type)} & {(pa.binary(), pa.uuid())} or ids.type == other.type
            if not fine and (ids.type, other.type) != (pa.string(), pa.uuid()):
                with pytest.raises(ValueError, match="are no ids of each other; cast the column"):
                    as_ids(ids, other.type)
    assert as_ids(pa.array([str(USER)]), pa.uuid()).to_pylist() == [USER.bytes]
    assert as_ids(pa.array([USER.bytes, b"7"]), pa.uuid()).to_pylist() == [USER.bytes, None]
