"""What training, export and evaluation of a run take: seconds, private memory, and bytes of its folder at the peak.

Sizes follow from what each stage allocates; rates are measured here and now, on parts of the work. The process itself, with its
libraries and kernels, is in private memory: it is what the trying process has.
Letters: N nodes, I items, F width of the embeddings, R rows of a sample.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from gcnrec.ranking.scorer import EmbeddingScorer
from gcnrec.ranking.top_k import ITEMS_PER_TILE, USERS_PER_CHUNK, top_k

_SAMPLED_VALUES = 2**22
"""Of embeddings that are written and read in memory for a rate."""
_SAMPLED_ITEMS = 2**16
_SAMPLED_USERS = 128
_DISK_RATE = 1e9
"""Bytes a second that a disk takes and gives, where what is written is compressed at a lower rate anyway."""
_ITEM_BYTES = 36
"""Of an item in an evaluation: degrees, held-out pairs, and what orders them; two counts a list length come on top."""
_COUNT_BYTES = 8
_PAGE = 4096
"""Of scratch, at least, for each user whose embedding is read."""
_PROCESS_BYTES = 270 * 10**6
"""Of a process that ranks, with libraries, kernels and threads. measured: 265 to 290 MB for small runs."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """What costs depend on. `judged`: users of test that are ranked for; `lengths`: how many list lengths; `width`: F.

    `table_bytes`: of table and state, as a checkpoint has them; `kept`: checkpoints, the best one among them.
    `plane_bytes`: of what an export propagates at a time; `mapped_bytes`: of a table on disk; `aside_bytes`: of one that leaves
    RAM before the export.
    """

    nodes: int
    items: int
    judged: int
    lengths: int
    width: int
    table_bytes: int
    kept: int
    plane_bytes: int
    mapped_bytes: int
    aside_bytes: int

    @property
    def export_bytes(self) -> int:
        """Of the embeddings as float32."""
        return 4 * self.nodes * self.width


@dataclass(frozen=True, slots=True)
class Measured:
    """Seconds by the clock: of `launch` (imports and kernels), `train` (start and steps) and `propagate` (all hops of an export).

    `private_bytes`: of this process, which holds the table and has taken steps.
    """

    launch: float
    train: float
    propagate: float
    private_bytes: int


def stages(sizes: Sizes, measured: Measured) -> dict[str, dict[str, float]]:
    """`train`, `export` and `evaluate`, each with `seconds`, `private_bytes` and `disk_bytes`: of the run folder, at the peak."""
    write, read, packed = _parquet_rates(sizes.width)
    exported, saved = sizes.export_bytes, sizes.table_bytes / _DISK_RATE
    saved_files = sizes.kept * sizes.table_bytes
    files = saved_files + int(packed * exported) + sizes.table_bytes
    mapped = sizes.mapped_bytes + sizes.aside_bytes
    ranking = ranking_seconds(sizes.judged, sizes.items, sizes.width)
    evaluated = _PROCESS_BYTES + (_ITEM_BYTES + _COUNT_BYTES * sizes.lengths) * sizes.items + _lists_bytes(sizes)
    return {
        "train": {
            "seconds": measured.launch + measured.train + 2 * saved * sizes.kept,
            "private_bytes": measured.private_bytes,
            "disk_bytes": sizes.mapped_bytes + (sizes.kept + 1) * sizes.table_bytes,
        },
        "export": {
            "seconds": measured.propagate
            + exported * (1.0 / write + 1.0 / _DISK_RATE)
            + 2 * saved
            + sizes.aside_bytes / _DISK_RATE,
            "private_bytes": measured.private_bytes - sizes.aside_bytes + sizes.plane_bytes,
            "disk_bytes": mapped + max(files, saved_files + exported),  # scratch leaves while files grow
        },
        "evaluate": {
            "seconds": measured.launch + exported * (1.0 / read + 1.0 / _DISK_RATE) + ranking,
            "private_bytes": evaluated,
            "disk_bytes": files + min(exported, 4 * sizes.width * sizes.items + max(_PAGE, 4 * sizes.width) * sizes.judged),
        },
    }


def timed(call: Callable[[], Any]) -> float:
    """Seconds of a call."""
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def _lists_bytes(sizes: Sizes) -> int:
    """Of tiles of scores and chunks of lists on their way, and of the users' rows."""
    threads = torch.get_num_threads()
    return threads * USERS_PER_CHUNK * (4 * ITEMS_PER_TILE + 4 * sizes.width) + 8 * 40 * sizes.judged


def _parquet_rates(width: int) -> tuple[float, float, float]:
    """Bytes of embeddings a second that are written and read as Parquet, and the share of them that its files take."""
    rows_RF = np.random.default_rng(0).standard_normal((max(1, _SAMPLED_VALUES // width), width), np.float32)
    values = pa.FixedSizeListArray.from_arrays(pa.array(rows_RF.reshape(-1)), width)
    table, sink = pa.table({"embedding": values}), io.BytesIO()
    written = timed(lambda: pq.write_table(table, sink, compression="zstd"))
    read = timed(lambda: pq.read_table(pa.py_buffer(sink.getvalue()), use_threads=False))
    return rows_RF.nbytes / max(written, 1e-9), rows_RF.nbytes / max(read, 1e-9), len(sink.getvalue()) / rows_RF.nbytes


def ranking_seconds(judged: int, items: int, width: int) -> float:
    """Of ranking all items for `judged` users, from a part of both: seconds grow with their product."""
    users, part = min(_SAMPLED_USERS * torch.get_num_threads(), max(judged, 1)), min(_SAMPLED_ITEMS, max(items, 1))
    scorer = EmbeddingScorer(torch.randn(users, width), torch.randn(part, width))
    numbers_R, size = np.arange(users, dtype=np.int32), min(20, part)

    def rank() -> None:
        for _ in top_k(scorer, numbers_R, size, None, users_per_chunk=_SAMPLED_USERS):
            pass

    rank()  # the first round compiles
    return timed(rank) * (judged / users) * (items / part)
