"""Made-up inputs for `jobs.measure.memory.limits`, each a multiple of a memory limit, written in pieces of bounded size.

Letters: E rows of a piece, W words or numbers of a piece.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from gcnrec.config import Data, Job
from gcnrec.loaders.parquet import ingest
from gcnrec.loaders.schema import open_dataset
from gcnrec.ranking.export_rules import export_rules
from gcnrec.runs.embeddings import write_embeddings
from gcnrec.runs.folder import describe_run, make_folder
from gcnrec.system.pages import scratch_rows

PIECE = 250_000
WIDTH = 512
"""Columns of the embeddings."""
LIST_WIDTH = 512
"""Numbers in each vector of a feature column."""
STRING_BYTES = 24
ROW_BYTES = 2 * (STRING_BYTES + 8) + 8 + 4
"""Bytes in memory of a row of string ids, a time and a weight."""


def edges(path: Path, size: int) -> None:
    """`size` bytes of rows: string ids; a tenth of all rows is one user's, eight tenths of the others' are one item's."""
    rows = size // ROW_BYTES
    draw = np.random.default_rng(1)
    schema = pa.schema({"user": pa.string(), "item": pa.string(), "time": pa.int64(), "weight": pa.float32()})
    with pq.ParquetWriter(path, schema) as writer:
        for count in _pieces(rows):
            huge_E = draw.random(count) < 0.1
            users_E = np.where(huge_E, 0, draw.integers(0, rows // 2, count))
            items_E = np.where(~huge_E & (draw.random(count) < 0.8), 0, draw.integers(0, rows // 4, count))
            times_E, weights_E = draw.integers(1, 10**9, count), draw.random(count, np.float32)
            writer.write_table(pa.table([_names(users_E), _names(items_E), times_E, weights_E], schema=schema))


def wide_features(folder: Path, size: int) -> None:
    """`features.parquet`, `size` bytes of vectors, and `edges.parquet` with an edge for every row of it."""
    rows = size // (4 * LIST_WIDTH)
    draw = np.random.default_rng(2)
    _one_edge_each(folder / "edges.parquet", rows)
    schema = pa.schema({"item": pa.int64(), "vector": pa.list_(pa.float32())})
    piece = draw.standard_normal(PIECE, np.float32)
    with pq.ParquetWriter(folder / "features.parquet", schema, use_dictionary=False, compression="none") as writer:
        done = 0
        for count in _pieces(rows, LIST_WIDTH):
            values = pa.array(piece[: count * LIST_WIDTH])
            lists = pa.ListArray.from_arrays(np.arange(count + 1, dtype=np.int32) * LIST_WIDTH, values)
            writer.write_table(pa.table([np.arange(done, done + count), lists], schema=schema))
            done += count


def many_words(folder: Path, size: int) -> None:
    """`features.parquet`, `size` bytes of lists of words, one word in ten seen once only, and `edges.parquet` as above."""
    length, word = 50, STRING_BYTES + 4
    rows = size // (length * word)
    draw = np.random.default_rng(3)
    _one_edge_each(folder / "edges.parquet", rows)
    schema = pa.schema({"item": pa.int64(), "words": pa.list_(pa.string())})
    with pq.ParquetWriter(folder / "features.parquet", schema) as writer:
        done = 0
        for count in _pieces(rows, length):
            words_W = (draw.pareto(0.5, count * length) * 10).clip(0, 1e9).astype(np.int64)
            rare_W = np.flatnonzero(draw.random(count * length) < 0.1)
            words_W[rare_W] = 10**12 + done * length + rare_W
            lists = pa.ListArray.from_arrays(np.arange(count + 1, dtype=np.int32) * length, _names(words_W))
            writer.write_table(pa.table([np.arange(done, done + count), lists], schema=schema))
            done += count


def run_folder(folder: Path, size: int, asked: int) -> None:
    """`data`, a dataset whose users' and items' embeddings are `size` bytes, and `run`, a run on it with random embeddings.

    One user has a tenth of the items, every other user one item; `asked` users have a test interaction.
    """
    nodes = size // (4 * WIDTH)
    users, items = nodes // 2, nodes - nodes // 2
    draw = np.random.default_rng(4)
    huge = draw.permutation(items)[: items // 10]
    users_E = np.concatenate([np.arange(users), np.zeros(len(huge), np.int64), np.arange(items) % users])
    items_E = np.concatenate([np.zeros(users, np.int64), huge, np.arange(items)])
    pq.write_table(pa.table({"user": users_E, "item": items_E}), folder / "train.parquet")
    tested = draw.permutation(users)[:asked]
    pq.write_table(pa.table({"user": tested, "item": draw.integers(0, items, asked)}), folder / "test.parquet")
    files = {name: str(folder / f"{name}.parquet") for name in ("train", "test")}
    data = Data(**files, user="user", item="item", valid_size=0.01)
    ingest(data, folder / "data", data_root=None, name="memory-limits")
    untrained_run(folder)


def untrained_run(folder: Path) -> None:
    """`run` on the dataset `data` with random embeddings, in `folder`."""
    draw = np.random.default_rng(5)
    dataset = open_dataset(folder / "data")
    job, graph = Job(), dataset.graph
    make_folder(folder / "run")
    describe_run(folder / "run", job, dataset, "cpu")
    rules = export_rules(job.model, job.loss, job.sampler)
    rows_NF = scratch_rows(folder, graph.num_nodes, WIDTH)
    piece = draw.standard_normal((1024, WIDTH), np.float32)
    for first in range(0, len(rows_NF), len(piece)):
        part = rows_NF[first : first + len(piece)].numpy()
        part[:] = piece[: len(part)]
    final = rules.exported(rows_NF, graph.num_users, graph.item_users.degrees, rules.rules[0])
    write_embeddings(folder / "run", dataset, final)


def _one_edge_each(path: Path, rows: int) -> None:
    items = np.arange(rows)
    pq.write_table(pa.table({"user": items % max(rows // 10, 1), "item": items}), path)


def _pieces(rows: int, width: int = 1) -> Iterator[int]:
    """Counts of rows that sum to `rows`, each of at most `PIECE` numbers or words."""
    most = max(PIECE // width, 1)
    for first in range(0, rows, most):
        yield min(most, rows - first)


def _names(numbers: NDArray[np.int64]) -> pa.Array:
    """Strings of `STRING_BYTES` characters."""
    return pc.utf8_lpad(pa.array(numbers).cast(pa.string()), STRING_BYTES, "x")
