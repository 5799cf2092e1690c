"""Equal content makes equal safetensors files, which safetensors reads."""

from __future__ import annotations

import os
import stat

import pytest
import torch
from safetensors import safe_open

from gcnrec.storage.tensors import save_tensors

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


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
@pytest.mark.parametrize("metadata", [{}, METADATA])
def test_files_follow_the_umask(tmp_path, umask, mode, metadata):
    """safetensors makes its own files for their owner alone."""
    before = os.umask(umask)
    try:
        save_tensors({"a": torch.ones(3)}, tmp_path / "f.safetensors", metadata)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "f.safetensors").stat().st_mode) == mode
