"""Slot tables as files: what is written comes back, and everything that does not fit is refused with one sentence."""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from slot_reader import read_slots

from gcnrec.errors import DataError
from gcnrec.interactions import MemoryVocabulary
from gcnrec.rows import Ticket
from gcnrec.runs.slot_files import order_digest, write_slots
from gcnrec.tables.arena import SlotBlock
from gcnrec.tables.slots import SlotTable

ORDER = order_digest(MemoryVocabulary(pa.array([7, 3])), MemoryVocabulary(pa.array(["b", "a"])))
COUNTS, COLUMNS, VALUES = [2, 0, 3, 1], [1, 5, 0, 2, 4, 3], [0.5, -1.0, 2.0, 3.0, -4.0, 0.0]
HEADER = {
    "format": "gcnrec-slots", "version": "1", "num_rows": "4", "width": "6", "budget_values": "8", "dtype": "float32",
    "order": ORDER,
}  # fmt: skip


def made(dtype="float32"):
    """Four rows of six columns with Adam's moments, filled by hand."""
    table = SlotTable(4, 6, 8, (2, 0), dtype)
    moments = np.arange(12, dtype=np.float32).reshape(2, 6)
    block = SlotBlock(0, np.array(COUNTS), np.array(COLUMNS, np.uint8), np.array(VALUES, np.float32), moments, np.empty((4, 0)))
    with table.rebuild() as rebuild:
        rebuild.write(block)
    return table


def tensors(**changed):
    own = {
        "counts": torch.tensor(COUNTS, dtype=torch.uint8),
        "columns": torch.tensor(COLUMNS, dtype=torch.uint8),
        "values": torch.tensor(VALUES),
    }
    return {**own, **changed}


def bytes_of(*numbers):
    return torch.tensor(numbers, dtype=torch.uint8)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_is_written_is_what_is_stored_and_comes_back(tmp_path, dtype):
    path = tmp_path / "table.safetensors"
    write_slots(path, made(dtype), ORDER)
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == {**HEADER, "dtype": dtype}
        found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    expected = tensors(values=torch.tensor(VALUES, dtype=getattr(torch, dtype)))
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)
    table = read_slots(path, num_rows=4, width=6, budget=8, order=ORDER)
    dense = torch.tensor([[0, 0.5, 0, 0, 0, -1], [0] * 6, [2, 0, 3, 0, -4, 0], [0] * 6])
    assert torch.equal(table.decode(table.read(Ticket(np.arange(4)), with_state=False)), dense)
    assert (table.num_values, table.max_values, table.dtype, table.state_shape) == (6, 8, dtype, (0, 0))
    assert list(table.counts_N) == COUNTS


def test_an_empty_table_comes_back(tmp_path):
    path = tmp_path / "table.safetensors"
    write_slots(path, SlotTable(3, 6, 0, (0, 0)), ORDER)
    assert read_slots(path, num_rows=3, width=6, budget=0).num_values == 0


@pytest.mark.parametrize(
    ("changed", "asked", "sentence"),
    [
        ({"format": "gcnrec"}, {}, "must have format 'gcnrec-slots', has 'gcnrec'"),
        ({"version": "2"}, {}, "must have version 1, has 2"),
        ({"order": None}, {}, "must name order"),
        ({"dtype": "float16"}, {}, "must have dtype float32 or bfloat16, has 'float16'"),
        ({}, {"num_rows": 5}, "must hold 5 rows of width 6, holds 4 of width 6"),
        ({}, {"width": 5}, "must hold 4 rows of width 5, holds 4 of width 6"),
        ({}, {"order": "0" * 64}, "belong to other ids"),
        ({}, {"budget": 5}, r"holds 6 values, the budget allows 5; set table\.budget"),
    ],
)
def test_a_header_that_does_not_fit_is_refused(tmp_path, changed, asked, sentence):
    path = tmp_path / "table.safetensors"
    save_file(tensors(), path, metadata={name: text for name, text in {**HEADER, **changed}.items() if text is not None})
    with pytest.raises(DataError, match=sentence):
        read_slots(path, **{"num_rows": 4, "width": 6, "budget": 8, "order": ORDER, **asked})


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"counts": bytes_of(2, 0, 3, 2)}, "4 counts add up to 7 for 6 columns and 6 values"),
        ({"counts": bytes_of(2, 4)}, "2 counts add up to 6 for 6 columns"),
        ({"values": torch.zeros(5)}, "for 6 columns and 5 values"),
        ({"columns": bytes_of(1, 5, 0, 2, 6, 3)}, "must be below 6, the largest is 6"),
        ({"columns": bytes_of(5, 1, 0, 2, 4, 3)}, "every row of .* must rise"),
        ({"columns": bytes_of(1, 5, 2, 2, 4, 3)}, "every row of .* must rise"),
        ({"values": torch.zeros(6, dtype=torch.bfloat16)}, "must hold vectors"),
        ({"counts": torch.tensor(COUNTS)}, "must hold vectors"),
        ({"more": torch.zeros(1)}, "must hold vectors"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(tmp_path, changed, sentence):
    path = tmp_path / "table.safetensors"
    save_file(tensors(**changed), path, metadata=HEADER)
    with pytest.raises(DataError, match=sentence):
        read_slots(path, num_rows=4, width=6, budget=8)


def test_a_row_that_no_record_holds_is_refused(tmp_path):
    path = tmp_path / "table.safetensors"
    row = {"counts": bytes_of(103), "columns": torch.arange(103).to(torch.uint8), "values": torch.zeros(103)}
    save_file(row, path, metadata={**HEADER, "num_rows": "1", "width": "128", "budget_values": "103"})
    with pytest.raises(DataError, match="may hold 102 values, one holds 103"):
        read_slots(path, num_rows=1, width=128, budget=103)


@pytest.mark.parametrize("content", [None, b"", b"not a table"])
def test_what_is_no_such_file_is_refused(tmp_path, content):
    path = tmp_path / "table.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match="cannot be read as a slot table"):
        read_slots(path, num_rows=4, width=6, budget=8)


def test_the_digest_is_of_the_ids_in_their_order():
    lengths_and_texts = b"".join(len(text).to_bytes(8, "little") + text for text in (b"ab", b"c"))
    expected = hashlib.sha256(b"string 2\n" + lengths_and_texts).hexdigest()
    assert order_digest(MemoryVocabulary(pa.array(["ab", "c"]))) == expected
    others = [["c", "ab"], ["a", "bc"], ["ab"], ["ab", "c", "d"]]
    assert expected not in {order_digest(MemoryVocabulary(pa.array(ids))) for ids in others}
    assert order_digest(MemoryVocabulary(pa.array(["ab", "c"]).dictionary_encode())) == expected
    assert order_digest(MemoryVocabulary(pa.array([1, 2]))) != order_digest(MemoryVocabulary(pa.array(["1", "2"])))
    assert order_digest(MemoryVocabulary(pa.array([1])), MemoryVocabulary(pa.array([2, 3]))) != order_digest(
        MemoryVocabulary(pa.array([1, 2])), MemoryVocabulary(pa.array([3]))
    )
