"""Memory that ranking takes, mapped files apart, so that `evaluate` and `recommend` keep to a memory limit or refuse.

Upper bounds by the sizes of a data set, in bytes: every array that grows with users, items or pairs is in one of the terms.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq
import torch

from gcnrec.closed_forms.mixture import BLOCK_USERS, LEAST_USERS, MIXTURE_ROWS
from gcnrec.errors import DataError, DeviceError, reading
from gcnrec.interactions import Interactions
from gcnrec.loaders.bounds.allowed import Allowed
from gcnrec.loaders.bounds.table import table_bytes
from gcnrec.loaders.schema import Dataset
from gcnrec.ranking.beyond_accuracy import GATHERED_VALUES
from gcnrec.ranking.metrics import BOOTSTRAP_BYTES, PER_USER
from gcnrec.ranking.top_k import ITEMS_PER_TILE, USERS_PER_CHUNK
from gcnrec.results.given.request import RequestFiles
from gcnrec.results.given.text_tables import PIPED_BYTES
from gcnrec.runs.folder import Run
from gcnrec.runs.paths import MODEL, embeddings_paths
from gcnrec.storage.streams import check_regular, is_pipe
from gcnrec.system.limits import parse_bytes

_LEAST_USERS = 8
_MERGED = 56
"""Bytes of an edge of a merged graph while it is sorted."""
_TABLE_TIMES = 6
"""What a given file takes: its table, its ids in the type of the data, distinct ones, and their numbers."""
_ROW = 16 * 1024
"""Of a node's own embedding, and of what is made of it."""
_WORKING = 16 << 20
"""Buffers of the files that are read and written."""


def evaluation_bytes(run: Run, held_out: Interactions, ks: Sequence[int], bootstrap: int) -> int:
    """Bytes of `evaluate`, chunks of users apart: per node, per held-out pair, per user with such pairs, for a bootstrap."""
    dataset = run.dataset
    users, items = len(dataset.user_ids), len(dataset.item_ids)
    tested = min(users, len(held_out), run.job.evaluate.users or users)
    tilt = run.job.evaluate.tilt > 0.0
    lists = min(items, tested * max(ks)) if ks else 0
    per_user = 8 * len(ks) * (len(PER_USER) + len(run.job.evaluate.own) + (5 if tilt else 1)) + 96 + (24 if bootstrap else 0)
    pairs = _pair_bytes(dataset) + (80 if tilt else 0) * len(held_out)
    pairs += 56 * len(held_out) if dataset.others or dataset.keeps_repeats else 0  # by kind: `gcnrec.ranking.pairs.known_pairs`
    resamples = BOOTSTRAP_BYTES if bootstrap else 0
    nodes = _seen_bytes(dataset) + (40 + 8 * len(ks)) * items + 40 * lists
    return _WORKING + nodes + pairs + tested * per_user + resamples + _model_bytes(run)


def _seen_bytes(dataset: Dataset) -> int:
    """Bytes by user: of a sample's draw, and of where each user's entries begin in parts that lists leave out, train apart."""
    users = len(dataset.user_ids)
    parts = sum(map(bool, (len(dataset.valid), len(dataset.test), *map(len, dataset.later_negatives))))
    return (2 + 16 * parts + (16 if dataset.negatives is not None else 0) + 24 * len(dataset.others)) * users


def beyond_bytes(run: Run, ks: Sequence[int]) -> int:
    """Bytes that `evaluate` takes for metrics beyond accuracy: places of items, rows that are copied, a value for each user."""
    users, items = len(run.dataset.user_ids), len(run.dataset.item_ids)
    return 16 * items + 16 * len(ks) * users + 3 * 4 * GATHERED_VALUES


def node_table_bytes(run: Run, path: Path, limit: str) -> int:
    """Bytes of a file of segments or attributes, and of the ids in it. Raises DeviceError where it takes too much."""
    allowed = Allowed(parse_bytes(limit))
    nodes = 16 * len(run.dataset.user_ids) + 24 * len(run.dataset.item_ids)
    return _given_bytes(path, allowed) + 3 * _id_bytes(run, allowed) + nodes


def recommendation_bytes(run: Run, files: RequestFiles, limit: str) -> int:
    """Bytes of `recommend`, chunks of users apart: ids and a few numbers per node, held-out pairs, the given files.

    Raises DeviceError, naming the file, where a given one or a page of it takes too much of `limit`.
    """
    dataset, allowed = run.dataset, Allowed(parse_bytes(limit))
    users, items = len(dataset.user_ids), len(dataset.item_ids)
    given = sum(_given_bytes(path, allowed) for path in files.given)
    pairs = _pair_bytes(dataset)
    named = files.users is not None and not files.bring_nodes  # their ids alone are read
    ids = _item_id_bytes(run, allowed) if named else _id_bytes(run, allowed)
    nodes = 40 * items + (_seen_bytes(dataset) if named else 40 * users)
    total = _WORKING + 3 * ids + nodes + pairs + given
    embeddings = _embedding_bytes(run, allowed)
    return total + _model_bytes(run) + (3 * embeddings if files.bring_nodes else 0)


def similarity_bytes(run: Run, given: Sequence[Path], brings_nodes: bool, limit: str) -> int:
    """Bytes of `similar`, chunks of nodes apart; as `recommendation_bytes`: ids, numbers of each node, and the `given` files."""
    allowed = Allowed(parse_bytes(limit))
    nodes = len(run.dataset.user_ids) + len(run.dataset.item_ids)
    files = sum(_given_bytes(path, allowed) for path in given)
    embeddings = _embedding_bytes(run, allowed)
    return _WORKING + 3 * _id_bytes(run, allowed) + 40 * nodes + files + (3 * embeddings if brings_nodes else 0)


def most_items(run: Run, new_items: Path | None) -> int:
    """The most items that lists of `run` can hold, with these of a file of new items."""
    return len(run.dataset.item_ids) + (0 if new_items is None else _most_rows(new_items))


def users_per_chunk(limit: str, fixed: int, run: Run, k: int, what: str) -> int:
    """Users whose lists are made at a time, on each of torch's threads, so that all of it stays below `limit`.

    `k`: items of a list, at most as many as there are. Raises DeviceError, naming the setting, where `fixed` bytes leave no room.
    """
    items, mixed = len(run.dataset.item_ids), run.mixture is not None and bool(run.mixture.partners)
    whole = run.job.model.closed_form or mixed
    # Scores of a tile, or of all items by one model or by a mixture and its parts; the user's row; lists that wait for their
    # turn, and what is computed from them.
    row = (MIXTURE_ROWS * 4 if mixed else 8) * items if whole else _ROW
    each = (4 * ITEMS_PER_TILE + row + 3 * 40 * k) * (1 if whole else torch.get_num_threads())
    least, most = (LEAST_USERS, BLOCK_USERS) if mixed else (_LEAST_USERS, USERS_PER_CHUNK)
    return min(_fitting(limit, fixed, each, least, f"{what} {run.folder}"), most)


def audience_chunks(limit: str, fixed: int, run: Run, k: int) -> tuple[int, int]:
    """Users scored at a time, and items whose lists of `k` users are held at a time. DeviceError as of `users_per_chunk`."""
    scores, of_lists, what = MIXTURE_ROWS * 4 * len(run.dataset.item_ids), 3 * 40 * k, f"listing users for items of {run.folder}"
    fitting = _fitting(limit, fixed + _LEAST_USERS * of_lists, scores, LEAST_USERS, what)
    users = min(max(fitting // 2, LEAST_USERS), BLOCK_USERS)
    return users, _fitting(limit, fixed + users * scores, of_lists, _LEAST_USERS, what)


def nodes_per_chunk(limit: str, fixed: int, k: int, what: str) -> int:
    """Nodes whose lists, `k` long, are made at a time from embeddings alone; as `users_per_chunk`."""
    each = (4 * ITEMS_PER_TILE + _ROW + 3 * 40 * k) * torch.get_num_threads()
    return min(_fitting(limit, fixed, each, _LEAST_USERS, what), USERS_PER_CHUNK)


def _fitting(limit: str, fixed: int, each: int, least: int, what: str) -> int:
    """How many lists of `each` bytes fit, next to `fixed` bytes. DeviceError, with `what` is done, for fewer than `least`."""
    allowed = parse_bytes(limit)
    count = (allowed - fixed) // each
    if count < least:
        raise DeviceError(
            f"{what} needs {fixed + least * each:,} bytes for its users, items, pairs and files, memory_limit = {limit} allows "
            f"{allowed:,}; raise --memory-limit or evaluate.memory_limit"
        )
    return count


def _model_bytes(run: Run) -> int:
    """The arrays of a closed-form model, which are read whole; embeddings and partners of a mixture are mapped.

    Partners read the graph that they were fitted on, which a refit merges from train and valid, and which is the union of
    behaviours where there are several; a closed-form model reads that, too.
    """
    path, graph = run.folder / MODEL, run.dataset.graph
    mixed = run.mixture is not None and bool(run.mixture.partners)
    edges = graph.num_edges + len(run.dataset.valid) if mixed and run.refitted else 0
    if graph.others and (mixed or run.job.model.closed_form):
        edges += graph.num_edges + sum(other.graph.num_edges for other in graph.others)
    return _MERGED * edges + (2 * path.stat().st_size if run.job.model.closed_form and path.is_file() else 0)


def _most_rows(path: Path) -> int:
    """Rows of a Parquet file, the bytes of any other; 0 where it cannot be read or is no file: its reader reports that."""
    try:
        check_regular(path)
        return pq.read_metadata(path).num_rows if path.suffix.lower() != ".csv" else path.stat().st_size
    except (OSError, ValueError, DataError):
        return 0


def _pair_bytes(dataset: Dataset) -> int:
    """Bytes of held-out pairs and of later negative ones, and of the rows of negative pairs where users are folded in."""
    known = len(dataset.valid) + len(dataset.test) + sum(map(len, dataset.later_negatives))
    return 56 * known + (16 * len(dataset.user_ids) if dataset.negatives is not None else 0)


def _embedding_bytes(run: Run, allowed: Allowed) -> int:
    """Bytes of the embeddings with their ids in memory, where they are float32 whatever the files have."""
    size = sum(_table_bytes(path, allowed) for path in embeddings_paths(run.folder))
    return 2 * size if run.job.export.dtype == "float16" else size


def _id_bytes(run: Run, allowed: Allowed) -> int:
    """Bytes of the ids of all users and items, from the pages of their files."""
    dataset = run.dataset
    sides = ("users", dataset.user_ids), ("items", dataset.item_ids)
    return sum(4 * len(ids) + table_bytes(dataset.folder / f"{name}.parquet", allowed, ["id"]) for name, ids in sides)


def _item_id_bytes(run: Run, allowed: Allowed) -> int:
    """As `_id_bytes`, of items alone."""
    return 4 * len(run.dataset.item_ids) + table_bytes(run.dataset.folder / "items.parquet", allowed, ["id"])


def _given_bytes(path: Path, allowed: Allowed) -> int:
    """Bytes of a given file and of what is made of it. Raises DeviceError where that alone is more than the limit."""
    size = _TABLE_TIMES * _table_bytes(path, allowed)
    if size > allowed.memory:
        raise DeviceError(
            f"{path} takes {size:,} bytes, {_TABLE_TIMES} times its table, and memory_limit allows {allowed.memory:,}; give "
            f"fewer rows, columns or letters, or set --memory-limit {size // 10**6 + 1}MB"
        )
    return size


def _table_bytes(path: Path, allowed: Allowed) -> int:
    """Bytes of a Parquet file's columns, of all files of a folder, or of a CSV file; 0 where its reader will refuse it."""
    if path.is_dir():
        with reading(path, "name a file, or a folder of Parquet files alone"):
            files = list(path.rglob("*.parquet"))
        return sum(_table_bytes(file, allowed) for file in files)
    if is_pipe(path):
        return PIPED_BYTES
    if not path.is_file() or path.suffix.lower() == ".csv":
        return path.stat().st_size if path.is_file() else 0
    return table_bytes(path, allowed)
