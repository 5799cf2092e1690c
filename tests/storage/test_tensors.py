"""Equal content makes equal safetensors files, which safetensors reads."""

from __future__ import annotations

import os
import stat

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from gcnrec.storage.tensors import DTYPES, Pieces, save_tensors

METADATA = {
    f"key {n}": value for n, value in enumerate(["plain", 'quo"ted', "line\nand\ttab", "ü 漢 \u0001", "back\\slash", "/"])
}


def test_files_are_equal_and_readable(tmp_path):
    tensors = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.zeros(0, dtype=torch.int64)}
    contents = set()
    for number in range(20):
        path = tmp_path / f"{number}.safetensors"
        save_tensors(tensors, path, dict(sorted(METADATA.items(), reverse=bool(number % 2))))
        contents.add(path.read_bytes())
    assert len(contents) == 1
    with safe_open(tmp_path / "3.safetensors", framework="pt") as file:
        assert file.metadata() == METADATA
        assert all(torch.equal(file.get_tensor(name), tensor) for name, tensor in tensors.items())


def test_bytes_are_those_that_safetensors_writes(tmp_path):
    tensors = {str(dtype): torch.arange(-3, 9).to(dtype).reshape(3, 4) for dtype in DTYPES}
    tensors |= {"none": torch.empty(0, 4), "number": torch.tensor(2.5), "another": torch.tensor([7]), "é": torch.ones(2)}
    save_tensors(tensors, tmp_path / "ours", {"one": "value"})
    save_file(tensors, tmp_path / "theirs", {"one": "value"})
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_pieces_and_padded_rows_are_written_as_the_whole_is(tmp_path, monkeypatch):
    monkeypatch.setattr("gcnrec.storage.tensors._PIECE_BYTES", 40)
    whole_RD = torch.randn(23, 5, generator=torch.Generator().manual_seed(0))
    padded_RD = torch.zeros(23, 8)
    padded_RD[:, :5] = whole_RD
    pieces = Pieces(torch.float32, (23, 5), lambda: iter(whole_RD.reshape(-1).split(7)))
    none = Pieces(torch.int32, (0,), lambda: iter(()))
    save_tensors({"a": pieces, "b": padded_RD[:, :5], "c": none}, tmp_path / "pieces", {})
    save_file({"a": whole_RD, "b": whole_RD.clone(), "c": torch.empty(0, dtype=torch.int32)}, tmp_path / "whole")
    assert (tmp_path / "pieces").read_bytes() == (tmp_path / "whole").read_bytes()
    assert torch.equal(pieces.whole(), whole_RD) and none.whole().shape == (0,)


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
@pytest.mark.parametrize("metadata", [{}, METADATA])
def test_files_follow_the_umask(tmp_path, umask, mode, metadata):
    before = os.umask(umask)
    try:
        save_tensors({"a": torch.ones(3)}, tmp_path / "f.safetensors", metadata)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "f.safetensors").stat().st_mode) == mode
