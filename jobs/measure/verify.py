"""What it costs to verify a dataset folder: the first command reads all bytes, the second only asks what is remembered.

    python -m jobs.measure.verify --out RECORD.json --bytes 13GB [--folder DIR]

Files have the sizes of a dataset's arrays: times (8 bytes an edge), two directions (4 each) and weights (4). They hold bytes
that differ, and are read once before any timing, so that they lie in the page cache as far as memory reaches. One file is hashed
on one thread: the largest has 40 % of all bytes, so that two threads take 60 % of the time of one. A command is a process of its
own, with an empty memory of what was verified, or that of the command before it. The time is that of `verify` inside.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from gcnrec.integrity.digests import hashed
from gcnrec.integrity.listed import Listed, verify
from gcnrec.system.limits import parse_bytes

SHARES = {"times.npy": 8, "user_items.indices.npy": 4, "item_users.indices.npy": 4, "weights.npy": 4}
_BLOCK_BYTES = 1 << 26
_SETTLE_SECONDS = 2.5
"""Before a file that was written is remembered."""
_CHILD = "import sys; from jobs.measure.verify import timed; print(timed(sys.argv[1]))"


def main() -> int:
    from gcnrec.bench.harness import write_record  # not at the top: a timed command has no use for torch

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, metavar="RECORD.json")
    parser.add_argument("--bytes", default="500MB", metavar="SIZE", help="of all files together")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="where the files go for the time of the measurement")
    parser.add_argument("--repeats", type=int, default=3, metavar="N")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="verify-") as name:
        rows = measured(Path(name), parse_bytes(arguments.bytes), arguments.repeats)
    command = f"python -m jobs.measure.verify --out {arguments.out.name} --bytes {arguments.bytes}"
    free = psutil.virtual_memory().available
    write_record(arguments.out, command, rows, bytes=parse_bytes(arguments.bytes), memory_available_after=free)
    for row in rows:
        print(json.dumps(row))
    return 0


def measured(folder: Path, size: int, repeats: int) -> list[dict[str, Any]]:
    """Make the files in `folder`, and time hashing and commands; a row each, seconds as medians of `repeats`."""
    listed = made(folder, size)
    (folder / "listed.json").write_text(json.dumps({name: entry.model_dump() for name, entry in listed.items()}))
    time.sleep(_SETTLE_SECONDS)
    paths = [folder / name for name in listed]
    total = sum(path.stat().st_size for path in paths)
    once = os.urandom(_BLOCK_BYTES)
    ways: dict[str, tuple[int, Callable[[], Any]]] = {
        "sha256 of memory, one thread": (_BLOCK_BYTES, lambda: hashlib.sha256(once)),
        "files one after the other, one thread": (total, lambda: [_alone(path) for path in paths]),
        "files on two threads": (total, lambda: hashed(paths, str)),
    }
    rows = [_row(what, bytes_, [_timed(way) for _ in range(repeats)]) for what, (bytes_, way) in ways.items()]
    firsts, seconds = [], []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as cache:
            firsts.append(_command(folder, cache))
            seconds.append(_command(folder, cache))
    return [*rows, _row("first command", total, firsts), _row("second command", total, seconds)]


def made(folder: Path, size: int) -> dict[str, Listed]:
    """Files of `size` bytes together, by name, each read back once."""
    block, listed = bytearray(os.urandom(min(_BLOCK_BYTES, size))), {}
    for number, (name, share) in enumerate(SHARES.items()):
        left, digest = size * share // sum(SHARES.values()), hashlib.sha256()
        with (folder / name).open("wb") as file:
            while left:
                block[:8] = (left + number).to_bytes(8, "little")  # no two blocks are equal
                piece = memoryview(block)[: min(left, len(block))]
                digest.update(piece)
                file.write(piece)
                left -= len(piece)
        listed[name] = Listed(bytes=(folder / name).stat().st_size, sha256=digest.hexdigest())
        _alone(folder / name)
    return listed


def timed(folder: str) -> float:
    """Seconds of `verify` for the files of a folder that `measured` made, in this process."""
    listed = json.loads((Path(folder) / "listed.json").read_text())
    files = {Path(folder) / name: Listed.model_validate(entry) for name, entry in listed.items()}
    return _timed(lambda: verify(files, "listed.json", lambda path: "make it again"))


def _alone(path: Path) -> None:
    hashed([path], str)


def _command(folder: Path, cache: str) -> float:
    environment = {**os.environ, "XDG_CACHE_HOME": cache}
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, str(folder)], env=environment, capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def _timed(call: Any) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def _row(what: str, size: int, seconds: list[float]) -> dict[str, Any]:
    median = statistics.median(seconds)
    return {"what": what, "bytes": size, "seconds": median, "all_seconds": seconds, "seconds_per_gb": median / (size / 1e9)}


if __name__ == "__main__":
    sys.exit(main())
