"""The bitmap set against NumPy's unique and searchsorted, used over and over."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from gcnrec.ops.compact import NodeSet


@settings(max_examples=80)
@given(st.integers(1, 40_000), st.lists(st.lists(st.integers(0, 2**40), max_size=60), min_size=1, max_size=4))
def test_members_and_ranks(num_nodes, fills):
    nodes = NodeSet.empty(num_nodes)
    for fill in fills:
        numbers = np.array(fill, np.int64) % num_nodes
        half = len(numbers) // 2
        nodes.mark(numbers[:half])
        nodes.mark(numbers[half:])
        members = nodes.members()
        assert members.dtype == np.int64 and np.array_equal(members, np.unique(numbers))
        ranks = np.empty(len(numbers), np.int32)
        nodes.ranks(numbers, ranks)
        assert np.array_equal(ranks, np.searchsorted(members, numbers))
        nodes.clear()
        assert not nodes.bits_W.any() and not nodes.lines.any() and len(nodes.members()) == 0


def test_full_words_and_lines():
    nodes, everything = NodeSet.empty(1300), np.arange(1300, dtype=np.int32)
    nodes.mark(everything[::-1])
    assert np.array_equal(nodes.members(), everything)
    ranks = np.empty(1300, np.int64)
    nodes.ranks(everything, ranks)
    assert np.array_equal(ranks, everything)


def test_numbers_behind_others():
    nodes, items = NodeSet.empty(100), np.array([7, 3, 7], np.int32)
    nodes.mark(items, 90)
    nodes.mark(np.array([5], np.int32))
    assert nodes.members().tolist() == [5, 93, 97]
    ranks = np.empty(3, np.int32)
    nodes.ranks(items, ranks, 90)
    assert ranks.tolist() == [2, 1, 2]
