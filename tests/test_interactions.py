"""Ids and numbers."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcnrec.errors import DataError
from gcnrec.interactions import Interactions, MemoryVocabulary
from gcnrec.loaders.schema import StoredVocabulary

IDS = st.one_of(
    st.lists(st.integers(-(2**63), 2**63 - 1), unique=True, max_size=20).map(lambda ids: pa.array(ids, pa.int64())),
    st.lists(st.integers(0, 2**64 - 1), unique=True, max_size=20).map(lambda ids: pa.array(ids, pa.uint64())),
    st.lists(st.text(max_size=5), unique=True, max_size=20).map(lambda ids: pa.array(ids, pa.string())),
    st.lists(st.text(max_size=5), unique=True, max_size=20).map(lambda ids: pa.array(ids, pa.large_string())),
    st.lists(st.text(max_size=5), unique=True, max_size=20).map(lambda ids: pa.array(ids, pa.string()).dictionary_encode()),
    st.lists(st.binary(min_size=3, max_size=3), unique=True, max_size=20).map(lambda ids: pa.array(ids, pa.binary(3))),
)


@given(IDS, st.data())
def test_decode_of_numbers(ids, data):
    vocabulary = MemoryVocabulary(ids)
    numbers = data.draw(st.lists(st.integers(0, max(len(ids) - 1, 0)), max_size=30 if len(ids) else 0))
    decoded = vocabulary.decode(np.array(numbers, np.int64))
    assert decoded.to_pylist() == [ids[number].as_py() for number in numbers] and decoded.type == ids.type
    plain = decoded.cast(ids.type.value_type) if pa.types.is_dictionary(ids.type) else decoded
    assert vocabulary.numbers(plain).tolist() == numbers


def test_unknown_and_null_ids_are_minus_one():
    vocabulary = MemoryVocabulary(pa.array(["a", "b"]))
    assert vocabulary.numbers(pa.array(["b", None, "c", "a"])).tolist() == [1, -1, -1, 0]
    assert vocabulary.numbers(pa.chunked_array([["b"], ["a"]])).tolist() == [1, 0]
    assert vocabulary.numbers(pa.array([], pa.string())).dtype == np.int32
    assert MemoryVocabulary(pa.array([5, 7], pa.int16())).numbers(pa.array([7, 7000, 65541, None])).tolist() == [1, -1, -1, -1]
    assert MemoryVocabulary(pa.array([2**64 - 1], pa.uint64())).numbers(pa.array([-1], pa.int64())).tolist() == [-1]


def test_ids_of_another_kind():
    with pytest.raises(DataError, match="cannot be read as int64"):
        MemoryVocabulary(pa.array([1, 2])).numbers(pa.array(["one"]))
    with pytest.raises(DataError, match="must not be null, 1 are"):
        MemoryVocabulary(pa.array([1, None]))


def test_interactions_check_their_columns():
    users, items = MemoryVocabulary(pa.array([1, 2])), MemoryVocabulary(pa.array(["x"]))
    pair = np.array([1], np.int32), np.array([0], np.int32)
    assert len(Interactions(*pair, None, None, users, items)) == 1
    with pytest.raises(DataError, match="times_E must have one entry"):
        Interactions(*pair, np.array([1, 2]), None, users, items)
    with pytest.raises(DataError, match=r"users_E must lie in 0 .. 1, got 2"):
        Interactions(np.array([2], np.int32), pair[1], None, None, users, items)
    with pytest.raises(DataError, match=r"items_E must lie in 0 .. 0, got -1"):
        Interactions(pair[0], np.array([-1], np.int32), None, None, users, items)


@given(IDS, st.data())
def test_a_stored_vocabulary_finds_few_ids_as_one_in_memory_finds_all(tmp_path_factory, ids, data):
    path = tmp_path_factory.getbasetemp() / "ids.parquet"
    pq.write_table(pa.table({"id": ids}), path)
    stored, memory = StoredVocabulary(path), MemoryVocabulary(ids)
    wanted = data.draw(st.lists(st.integers(0, max(len(ids) - 1, 0)), max_size=len(ids) // 2))
    asked = pa.chunked_array([memory.decode(np.array(wanted, np.int64)), pa.nulls(1, ids.type)])
    asked = asked.cast(ids.type.value_type) if pa.types.is_dictionary(ids.type) else asked
    assert stored.numbers(asked).tolist() == memory.numbers(asked).tolist() == [*wanted, -1]
