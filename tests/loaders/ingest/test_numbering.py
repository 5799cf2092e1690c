"""Numbers for ids, stretch by stretch, against Python's sorted set."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcnrec.loaders.ingest.numbering import Numbering
from gcnrec.system.scratch import Scratch, Spool

TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
KINDS = {
    "int64": (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    "int8": (pa.int8(), st.integers(-128, 127)),
    "uint64": (pa.uint64(), st.integers(0, 2**64 - 1)),
    "string": (pa.string(), TEXT),
    "large_string": (pa.large_string(), TEXT),
    "binary": (pa.binary(), st.binary(max_size=12)),
    "fixed": (pa.binary(3), st.binary(min_size=3, max_size=3)),
    "prefixes": (pa.string(), st.sampled_from(["", "a", "a\0", "aaaaaaaa", "aaaaaaaa\0", "aaaaaaaab", "aaaaaaaaaaaaaaaaaaa"])),
}


@pytest.mark.parametrize("name", KINDS)
@given(data=st.data())
def test_numbers_are_places_among_the_sorted_ids(tmp_path_factory, name, data):
    kind, values = KINDS[name]
    stretches = data.draw(st.lists(st.lists(values, min_size=1, max_size=12), max_size=6))
    numbering, bounds, codes = Numbering(kind, Scratch(tmp_path_factory.getbasetemp(), 400)), [0], []
    for stretch in stretches:
        codes.append(numbering.codes(pa.array(stretch, kind)))
        bounds.append(len(numbering))
    ids, numbers_E = numbering.numbered(np.array(bounds, np.int64))
    key = (lambda text: text.encode()) if name in ("string", "large_string", "prefixes") else None
    expected = sorted({value for stretch in stretches for value in stretch}, key=key)
    assert ids.take(np.arange(len(ids))).to_pylist() == expected and ids.take(np.arange(len(ids))).type == kind
    for first, own, stretch in zip(bounds, codes, stretches, strict=False):
        assert [expected[number] for number in numbers_E[first + own]] == stretch


def test_bytes_that_are_no_text_are_refused(tmp_path):
    damaged = pa.array([b"\xff"]).view(pa.string())
    with pytest.raises(pa.ArrowInvalid, match="UTF8"):
        Numbering(pa.string(), Scratch(tmp_path, 10**9)).codes(damaged)


def test_a_spool_gives_back_what_it_got_and_leaves_no_file(tmp_path):
    spool = Spool(tmp_path, np.int32)
    assert len(spool.array()) == 0
    for first in range(0, 9, 3):
        spool.append(np.arange(first, first + 3))
    assert spool.array().tolist() == list(range(9)) and len(spool) == 9
    assert not list(tmp_path.iterdir())
