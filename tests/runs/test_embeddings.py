"""Exported embeddings come back as they were written, and files of other ids are refused."""

from __future__ import annotations

import errno

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from gcnrec.errors import DataError, UsageError
from gcnrec.interactions import MemoryVocabulary
from gcnrec.ranking.export_rules import Exported, ExportRule
from gcnrec.runs import embeddings
from gcnrec.runs.embeddings import map_embeddings, write_embeddings
from gcnrec.testing import checkerboard, write_dataset


@pytest.fixture
def dataset(tmp_path):
    return write_dataset(checkerboard(), tmp_path / "data")


def written(path, ids, rows_RF):
    flat = pa.array(rows_RF.reshape(-1))
    pq.write_table(pa.table({"id": ids, "embedding": pa.FixedSizeListArray.from_arrays(flat, rows_RF.shape[1])}), path)


@pytest.mark.parametrize("kind", [pa.int64(), pa.string(), pa.dictionary(pa.int32(), pa.string())])
def test_rows_in_the_order_of_the_ids(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(embeddings, "_BATCH_BYTES", 4 * 4 * 3)
    rows_RF = np.random.default_rng(0).normal(size=(11, 3)).astype(np.float32)
    ids = pa.array([str(each) for each in range(20, 31)]).cast(kind)
    written(tmp_path / "users.parquet", ids, rows_RF)
    assert torch.equal(map_embeddings(tmp_path / "users.parquet", MemoryVocabulary(ids), tmp_path), torch.from_numpy(rows_RF))
    assert [path.name for path in tmp_path.iterdir()] == ["users.parquet"]


@pytest.mark.parametrize("only", [[], [0, 1, 2, 7, 10], [3], range(11)])
def test_chosen_rows_are_there_and_others_take_no_disk(tmp_path, monkeypatch, only):
    monkeypatch.setattr(embeddings, "_BATCH_BYTES", 4 * 4 * 3)
    rows_RF, only = np.random.default_rng(0).normal(size=(11, 3)).astype(np.float32), np.array(only, np.int64)
    ids = pa.array(range(20, 31))
    written(tmp_path / "users.parquet", ids, rows_RF)
    found = map_embeddings(tmp_path / "users.parquet", MemoryVocabulary(ids), tmp_path, only).numpy()
    assert (found[only] == rows_RF[only]).all() and not found[np.setdiff1d(np.arange(11), only)].any()
    assert [path.name for path in tmp_path.iterdir()] == ["users.parquet"]


def test_a_full_disk_is_named_where_chosen_rows_are_written(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    written(tmp_path / "users.parquet", pa.array([1, 2]), np.zeros((2, 2), np.float32))
    monkeypatch.setattr(embeddings, "TemporaryFile", full)
    with pytest.raises(DataError, match=r"scratch cannot be had in .*No space left on device"):
        map_embeddings(tmp_path / "users.parquet", MemoryVocabulary(pa.array([1, 2])), tmp_path, np.array([1]))


@pytest.mark.parametrize("others", [[1, 3, 2], [1, 2], [1, 2, 3, 4]])
def test_other_ids_are_refused(tmp_path, others):
    written(tmp_path / "items.parquet", pa.array(others), np.zeros((len(others), 2), np.float32))
    with pytest.raises(DataError, match="must hold the ids of the dataset"):
        map_embeddings(tmp_path / "items.parquet", MemoryVocabulary(pa.array([1, 2, 3])), tmp_path)


def test_float16_is_rounded_once_and_comes_back_in_float32(tmp_path, dataset):
    rows_NF = torch.randn(48, 5, generator=torch.Generator().manual_seed(0))
    rows_NF[7, 2], rows_NF[30, 1] = 65504.0, 2.0**-24
    write_embeddings(tmp_path, dataset, Exported(ExportRule("inner"), rows_NF[:24], rows_NF[24:]), "float16")
    nearest_NF = rows_NF.numpy().astype(np.float16).astype(np.float32)
    for side, ids, expected in (("users", dataset.user_ids, nearest_NF[:24]), ("items", dataset.item_ids, nearest_NF[24:])):
        path = tmp_path / "embeddings" / f"{side}.parquet"
        assert pq.read_schema(path).field("embedding").type == pa.list_(pa.float16(), 5)
        assert np.array_equal(map_embeddings(path, ids, tmp_path).numpy(), expected)


def test_a_number_beyond_float16_is_refused_and_leaves_no_file(tmp_path, dataset):
    rows_NF = torch.ones(48, 5)
    rows_NF[40, 3] = -65505.0
    with pytest.raises(UsageError, match=r"items.parquet must hold numbers up to 65,504, .* has 65,505; continue with --resume"):
        write_embeddings(tmp_path, dataset, Exported(ExportRule("inner"), rows_NF[:24], rows_NF[24:]), "float16")
    assert [path.name for path in (tmp_path / "embeddings").iterdir()] == ["users.parquet"]


def test_a_damaged_file_is_refused(tmp_path):
    (tmp_path / "items.parquet").write_bytes(b"not parquet")
    with pytest.raises(DataError, match="cannot be read"):
        map_embeddings(tmp_path / "items.parquet", MemoryVocabulary(pa.array([1])), tmp_path)
