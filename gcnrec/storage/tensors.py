"""Safetensors files whose bytes depend on their content alone."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from gcnrec.storage.files import work_folder


def save_tensors(tensors: dict[str, torch.Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Write `tensors` and text `metadata` to `path`, equal files for equal content, readable as the umask says.

    safetensors writes metadata in the order of a hash table, another one each time: sorted here, in place, in as many bytes.
    """
    path.touch()  # with the mode that the umask, or the folder, gives to files: safetensors makes its own for the owner alone
    mode = path.stat().st_mode
    with work_folder(path) as folder:  # safetensors writes under a name that names no writer
        save_file(tensors, folder / "tensors", metadata=metadata or None)
        (folder / "tensors").replace(path)
    path.chmod(mode)
    if not metadata:
        return
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) <= size:
            file.seek(8)
            file.write(text.ljust(size))
