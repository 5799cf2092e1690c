"""The number of blocks of a transfer kernel, measured once per machine and remembered in the user's cache folder.

Too few leave PCIe idle, and every further one takes a multiprocessor from training. So the cap is the smallest with which
copies from pinned memory run about as fast as with any.
Letters: R spans.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.cuda import module
from gcnrec.cuda.hostmemory import allocate
from gcnrec.cuda.pinned import PinnedMemory, pin_or_stage
from gcnrec.cuda.spans import copy_spans
from gcnrec.errors import DeviceError

Transfer = Callable[[int], float]
"""Seconds of a copy by a grid of at most so many blocks."""
CAPS = (2, 4, 8, 12, 16, 24, 32, 48, 64, 132)
DEFAULT = 24
"""Without a measurement: 768 KiB in flight, more than PCIe 5 needs, in a fifth of a large GPU's multiprocessors."""
ENOUGH = 0.97
"""Share of the best rate that a smaller grid must reach."""
RUNS = 5
SPAN_BYTES = (256, 1024)
"""A dense row of 64 floats, and one with its two moments and padding."""
BUFFER_BYTES = 256 << 20
SETS = 4
"""Spans are copied in turns of so many sets, each larger than a GPU's cache, which might keep what the last turn read."""
_DRIVER = Path("/sys/module/nvidia/version")
_PCI = Path("/sys/bus/pci/devices")


@cache
def transfer_blocks(device: torch.device) -> int:
    """The number for `device`, remembered or measured now, in about a second; DEFAULT where no memory can be pinned."""
    return remembered(cache_file(), machine_key(device), lambda: measured(device)) or DEFAULT


def remembered(file: Path | None, key: str, measure: Callable[[], int | None]) -> int | None:
    """The number of `file` under `key`, else the result of `measure`, which is written there.

    A broken file counts as empty; a file that cannot be written is not needed.
    """
    known = _read(file).get(key)
    if isinstance(known, int) and not isinstance(known, bool) and known >= 1:
        return known
    found = measure()
    if file is not None and found is not None:
        _write(file, {**_read(file), key: found})
    return found


def smallest_enough(transfers: Sequence[Transfer], caps: Sequence[int] = CAPS, runs: int = RUNS) -> int:
    """The smallest of `caps` whose rate is ENOUGH of the best in all of `transfers`, by medians of `runs` after a first call.

    If no cap qualifies, because one transfer wants few blocks and another many, the cap with the best worst share counts.
    """
    share_of = dict.fromkeys(caps, 1.0)
    for transfer in transfers:
        # Runs of all caps in turns, so that a machine that slows down meanwhile slows all of them down.
        seconds = [[transfer(cap) for cap in caps] for _ in range(runs + 1)][1:]
        medians = {cap: median(run[place] for run in seconds) for place, cap in enumerate(caps)}
        best = min(medians.values())
        share_of = {cap: min(share, best / medians[cap]) for cap, share in share_of.items()}
    return min(cap for cap, share in share_of.items() if share >= ENOUGH * max(share_of.values()))


def measured(device: torch.device) -> int | None:
    """The smallest enough grid for reads of random spans of pinned memory; None where no memory can be pinned for it."""
    try:
        memory = pin_or_stage(allocate(BUFFER_BYTES))
    except DeviceError:
        return None
    if not isinstance(memory, PinnedMemory):
        return None
    with memory, torch.cuda.device(device):
        source = torch.from_numpy(memory.content).view(torch.float32)
        try:
            return smallest_enough([_transfer(source, nbytes, device) for nbytes in SPAN_BYTES])
        finally:
            torch.cuda.synchronize(device)  # synchronize: kernels must not read memory that is given back


def spans_of(length: int, span: int, sets: int = SETS) -> list[NDArray[np.int64]]:
    """Random disjoint sets of spans that cover `length` values, each ascending as a batch's rows are: where the spans begin."""
    order = np.random.default_rng(0).permutation(length // span)
    return [np.sort(part) * span for part in np.array_split(order, sets)]


def _transfer(source: torch.Tensor, span_bytes: int, device: torch.device) -> Transfer:
    span = span_bytes // source.element_size()
    sets = [torch.from_numpy(each_R).to(device) for each_R in spans_of(len(source), span)]  # copy: once
    target = torch.empty(max(map(len, sets)) * span, dtype=source.dtype, device=device)
    packed_R = torch.arange(0, len(target), span, device=device)
    length_R = torch.full_like(packed_R, span)
    turns = 0

    def seconds(blocks: int) -> float:
        nonlocal turns
        at_R = sets[turns % len(sets)]
        turns += 1
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        copy_spans(source, at_R, target, packed_R[: len(at_R)], length_R[: len(at_R)], blocks)
        end.record()
        end.synchronize()  # synchronize: the time is asked for
        return begin.elapsed_time(end) / 1e3

    return seconds


def machine_key(device: torch.device) -> str:
    """The key of a number: the GPU, its driver, its link, and the kernel that copies."""
    facts = torch.cuda.get_device_properties(device)
    kernel = hashlib.sha256(module.source("spans.cu").encode()).hexdigest()[:8]
    return f"{facts.name}, driver {_line(_DRIVER)}, PCIe {_link(facts)}, kernel {kernel}"


def cache_file() -> Path | None:
    """transfer.json in the user's cache folder, by the XDG base directory rules; None for a user without a home."""
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        base = named if named.is_absolute() else Path.home() / ".cache"
    except RuntimeError:
        return None
    return base / "gcnrec" / "transfer.json"


def _link(facts: Any) -> str:
    """The fastest rate of the GPU's link (idle, it runs slower) and the lanes that it has; `?` for what the kernel hides."""
    if not hasattr(facts, "pci_bus_id"):  # a torch that does not know it
        return "?"
    folder = _PCI / f"{facts.pci_domain_id:04x}:{facts.pci_bus_id:02x}:{facts.pci_device_id:02x}.0"
    return f"{_line(folder / 'max_link_speed')} x{_line(folder / 'current_link_width')}"


def _line(path: Path) -> str:
    """The text of a small file of the kernel."""
    try:
        return path.read_text(encoding="ascii", errors="replace").strip() or "?"
    except OSError:
        return "?"


def _read(file: Path | None) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8")) if file else {}
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write(file: Path, numbers: dict[str, Any]) -> None:
    """Write a temporary file, then rename it: two processes that tune at once leave a whole file."""
    work = file.with_name(f".{file.name}.{os.getpid()}.part")
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        work.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
        work.replace(file)
    with suppress(OSError):
        work.unlink(missing_ok=True)
