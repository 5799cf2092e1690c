"""Safetensors files whose bytes depend on their content alone, written a piece at a time: 8 bytes with the length of a header of
JSON, the header, and the values of all tensors, one behind the other.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch

_PIECE_BYTES = 1 << 24
DTYPES = {
    torch.bool: "BOOL", torch.uint8: "U8", torch.int8: "I8", torch.int16: "I16", torch.uint16: "U16", torch.float16: "F16",
    torch.bfloat16: "BF16", torch.int32: "I32", torch.uint32: "U32", torch.float32: "F32", torch.float64: "F64",
    torch.int64: "I64", torch.uint64: "U64",
}  # fmt: skip
"""By their names in the header. In a file the last of these dtypes comes first, as safetensors itself writes them."""
_RANKS = {dtype: rank for rank, dtype in enumerate(DTYPES)}


@dataclass(frozen=True)
class Pieces:
    """A tensor that never lies in memory whole: each call of `made` gives its values anew, in order, as tensors of `dtype`."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    made: Callable[[], Iterator[torch.Tensor]]

    def whole(self) -> torch.Tensor:
        """All of it, as a new tensor."""
        flat = [torch.empty(0, dtype=self.dtype), *(piece.reshape(-1) for piece in self.made())]
        return torch.cat(flat).reshape(self.shape)


Saved = Mapping[str, torch.Tensor | Pieces]
"""What a file holds, by name."""


def whole(saved: Saved) -> dict[str, torch.Tensor]:
    """Copies of all tensors."""
    return {name: part.whole() if isinstance(part, Pieces) else part.clone() for name, part in saved.items()}


def bytes_of(part: torch.Tensor | Pieces) -> Iterator[memoryview]:
    """The bytes of a tensor of any device, rows one after the other without what pads them, a piece at a time."""
    if isinstance(part, Pieces):
        pieces = part.made()
    else:
        rows = max(1, _PIECE_BYTES // max(1, part.nbytes // max(1, len(part)))) if part.dim() else 1
        pieces = iter(part.split(rows)) if part.numel() and part.dim() else iter([part])
    for piece in filter(torch.Tensor.numel, pieces):  # an empty one has no bytes, whatever its strides
        # copy: from a device, and of padded rows
        yield piece.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def save_tensors(tensors: Saved, path: Path, metadata: dict[str, str]) -> None:
    """Write `tensors` and text `metadata` to `path`, equal files for equal content. Raises OSError when the disk is full."""
    names = sorted(tensors, key=lambda name: (-_RANKS[tensors[name].dtype], name))
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    end = 0
    for name in names:
        dtype, shape, first = tensors[name].dtype, tuple(tensors[name].shape), end
        end += prod(shape) * dtype.itemsize
        header[name] = {"dtype": DTYPES[dtype], "shape": shape, "data_offsets": (first, end)}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text = text.ljust(-(-len(text) // 8) * 8)  # values begin at a multiple of 8 bytes
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            for piece in bytes_of(tensors[name]):
                file.write(piece)
