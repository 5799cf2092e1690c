"""The items most like each item, or the users most like each user, as a file of original ids.

Likeness is the cosine of two embeddings, without the column of popularity; in a mixture, of the trained part. Lists are exact.
Letters: R nodes that get a list, N nodes of that side, F width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from gcnrec.errors import DataError, UsageError
from gcnrec.graph import Csr, csr_from_edges
from gcnrec.interactions import MemoryVocabulary, Vocabulary
from gcnrec.ops.topk import Hidden, ItemLists, TopK
from gcnrec.ranking.export_rules import SHORTEST, unit_length_
from gcnrec.ranking.scorer import EmbeddingScorer
from gcnrec.ranking.top_k import in_chunks, rank_chunk
from gcnrec.results.evaluate import Trained
from gcnrec.results.fold_in import with_new_nodes
from gcnrec.results.given.dropped import FileCounts
from gcnrec.results.given.id_files import IdColumn, columns_of, open_ids
from gcnrec.results.given.request import Named, named
from gcnrec.results.lists import Columns, write_lists
from gcnrec.results.memory_bounds import nodes_per_chunk, similarity_bytes
from gcnrec.results.outputs import Output
from gcnrec.runs.folder import Run
from gcnrec.storage.places import Given, place, place_if_any
from gcnrec.system.observer import SILENT, Observer, kept
from gcnrec.system.scratch import memory_errors_as_sentences

Side = Literal["item", "user"]
LISTED = "similar"
"""The column of the ids that a list names."""


@dataclass(frozen=True, slots=True)
class SimilarSummary:
    """What was written: `nodes` got a list, `short` of them one of fewer than k nodes.

    `untrained` got one although the model knows no interaction of theirs. `unknown` counts ids of the given files that the run
    does not know. `dropped`: of each file that was given, its `rows`, and how many of them have no effect, by reason.
    """

    out: Path
    nodes: int
    rows: int
    short: int
    untrained: int
    unknown: int
    dropped: dict[str, dict[str, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SimilarFiles:
    """The files of a `similar` call; None where one is not given.

    `of`: the nodes that get a list; without it the new ones, or all where there are none or `every` is set. `among`: the only
    ones that lists may name; `exclude`: with one column, nodes that no list names, else pairs of a node and another, which its
    list leaves out. `new`: nodes that training never saw, as `recommend` takes them. `gcnrec.similar` takes tables, too.
    """

    of: Given | None = None
    among: Given | None = None
    exclude: Given | None = None
    new: Given | None = None
    every: bool = False

    @property
    def given(self) -> list[Path]:
        """The files that are given."""
        return [place(path) for path in (self.of, self.among, self.exclude, self.new) if path is not None]


def write_similar(
    run: Run, side: Side, k: int, out: Output, files: SimilarFiles | None = None, *, memory_limit: str | None = None,
    observer: Observer = SILENT,
) -> SimilarSummary:  # fmt: skip
    """Write the lists to `out`, as `gcnrec.similar` says (`gcnrec.api.lists`), and count them."""
    if k < 1:
        raise UsageError(f"--k must be at least 1, got {k}")
    if run.job.model.closed_form:
        raise UsageError(
            f"{run.folder} holds a closed-form model ({run.job.model.name}), which has no embeddings; train another one"
        )
    files, limit = files or SimilarFiles(), run.job.evaluate.memory_limit if memory_limit is None else memory_limit
    out.refuse_inputs(files.given)
    fixed = similarity_bytes(run, files.given, files.new is not None, limit)
    nodes = len(run.dataset.item_ids if side == "item" else run.dataset.user_ids)
    chunk = nodes_per_chunk(limit, fixed, min(k, nodes), f"listing what is similar in {run.folder}")
    with memory_errors_as_sentences(limit):
        return _similar(run, side, _Request(k, out, files), chunk, kept(observer))


@dataclass(frozen=True, slots=True)
class _Request:
    k: int
    out: Output
    files: SimilarFiles


@dataclass(frozen=True, slots=True)
class _Nodes:
    """One side of a run, with new nodes behind those that are `known`: their `column` and embeddings of length 1.

    `has_direction_N` is False for embeddings of zero, `trained_N` where the model knows nothing of a node. `name`: of the data.
    """

    column: IdColumn
    rows_NF: torch.Tensor
    has_direction_N: NDArray[np.bool_]
    trained_N: NDArray[np.bool_]
    known: int
    name: str


def _similar(run: Run, side: Side, request: _Request, chunk: int, observer: Observer) -> SimilarSummary:
    files = request.files
    nodes, brought = _nodes(run, side, place_if_any(files.new), request.out.scratch)
    asked, of_file = _asked(nodes, files)
    allowed_N, excluded, more = _listed(nodes, files, asked)
    counts = (*brought, *of_file, *more)
    for sentence in filter(None, (each.sentence for each in counts)):
        observer.note(sentence)
    lists = _Lists(min(request.k, len(allowed_N)), nodes, asked.numbers, allowed_N & nodes.has_direction_N, excluded)
    columns = Columns(nodes.column.names[0], asked.ids, LISTED, nodes.column.vocabulary)
    lengths_R = write_lists(request.out, columns, lists.in_chunks(chunk), observer)
    has_list_R = lengths_R > 0
    untrained = int((has_list_R & ~nodes.trained_N[asked.numbers]).sum())
    if untrained:
        observer.warn(
            f"{untrained:,} of {int(has_list_R.sum()):,} {side}s have no interaction that {run.folder} knows, "
            "so their lists say nothing of them"
        )
    return SimilarSummary(
        out=request.out.path, nodes=int(has_list_R.sum()), rows=int(lengths_R.sum()),
        short=int((has_list_R & (lengths_R < request.k)).sum()), untrained=untrained,
        unknown=sum(each.dropped.get(f"unknown_{side}", 0) for each in counts),
        dropped={each.key: each.summary for each in counts},
    )  # fmt: skip


def _nodes(run: Run, side: Side, new: Path | None, scratch: Path) -> tuple[_Nodes, tuple[FileCounts, ...]]:
    """The nodes of a side and their embeddings, with the new ones of a file; what of the file has no effect."""
    dataset, counts = run.dataset, tuple[FileCounts, ...]()
    if new is None:
        exported = run.embeddings(scratch)
        users_UF, items_IF = exported.users_UF, exported.items_IF
    else:
        wider = with_new_nodes(run, new if side == "user" else None, new if side == "item" else None, scratch)
        dataset, counts = wider.dataset, wider.counts
        users_UF, items_IF = wider.trained.users_UD, wider.trained.items_ID
    trained = Trained(dataset, run.refitted)
    rows_NF, degrees_N, features = (
        (users_UF, trained.of_users(np.arange(len(users_UF))), dataset.user_features)
        if side == "user"
        else (items_IF, trained.of_items(), dataset.item_features)
    )
    lengths_N = unit_length_(rows_NF).numpy()  # in place: these rows are this call's own
    users, items = columns_of(dataset)
    column, known = (users, len(run.dataset.user_ids)) if side == "user" else (items, len(run.dataset.item_ids))
    trained_N = (degrees_N > 0) | (features is not None and run.job.model.reads_features)
    return _Nodes(column, rows_NF, lengths_N > SHORTEST, trained_N, known, dataset.name), counts


def _asked(nodes: _Nodes, files: SimilarFiles) -> tuple[Named, list[FileCounts]]:
    """The nodes that get a list, each once: of the file, or the new ones, or all."""
    vocabulary = nodes.column.vocabulary
    if files.of is None:
        numbers = np.arange(0 if files.new is None or files.every else nodes.known, len(vocabulary), dtype=np.int32)
        return Named(vocabulary.decode(numbers), numbers, len(numbers)), []
    with open_ids(place(files.of)) as table:
        found = named(table, nodes.column, nodes.name)
    known_R = found.numbers >= 0
    numbers = found.numbers[known_R]
    counts = FileCounts(f"--{nodes.column.names[0]}s", found.rows, _of_nodes(nodes, found))
    return Named(vocabulary.decode(numbers), numbers, len(numbers)), [counts]


def _of_nodes(nodes: _Nodes, found: Named) -> dict[str, int]:
    return {f"unknown_{nodes.column.names[0]}": found.unknown, "repeated": found.repeated}


def _listed(nodes: _Nodes, files: SimilarFiles, asked: Named) -> tuple[NDArray[np.bool_], Csr | None, list[FileCounts]]:
    """Which nodes lists may name, what each row's list leaves out besides, and what of the files has no effect."""
    allowed_N, excluded, counts = np.full(len(nodes.rows_NF), files.among is None), None, []
    if files.among is not None:
        with open_ids(place(files.among)) as table:
            found = named(table, nodes.column, nodes.name)
        allowed_N[found.numbers[found.numbers >= 0]] = True
        counts.append(FileCounts("--among", found.rows, _of_nodes(nodes, found)))
    if files.exclude is not None:
        with open_ids(place(files.exclude)) as table:
            if len(table.names) == 1:
                found = named(table, nodes.column, nodes.name)
                allowed_N[found.numbers[found.numbers >= 0]] = False
                counts.append(FileCounts("--exclude", found.rows, _of_nodes(nodes, found)))
            else:
                other = IdColumn((LISTED,), nodes.column.vocabulary, others=nodes.column.names)
                excluded, count = _pairs(nodes, asked, *table.pairs(nodes.column, other))
                counts.append(count)
    return allowed_N, excluded, counts


def _pairs(nodes: _Nodes, asked: Named, of: pa.ChunkedArray, others: pa.ChunkedArray) -> tuple[Csr, FileCounts]:
    """Nodes per row of the request from pairs, of rows that were asked for."""
    kind = nodes.column.names[0]
    rows: Vocabulary = MemoryVocabulary(asked.ids)
    rows_E, numbers_E, others_E = rows.numbers(of), nodes.column.vocabulary.numbers(of), nodes.column.vocabulary.numbers(others)
    if not ((others_E >= 0) & (numbers_E >= 0)).any():
        raise DataError(
            f"--exclude must name pairs of {kind}s of {nodes.name}, none of its {len(of)} pairs is one; check its ids"
        )
    unknown_E = (numbers_E < 0) | (others_E < 0)
    keep_E = (rows_E >= 0) & (others_E >= 0)
    by_row = csr_from_edges(rows_E[keep_E], others_E[keep_E], len(rows), len(nodes.rows_NF))
    dropped = {
        f"unknown_{kind}": int(unknown_E.sum()), "not_asked": int((~unknown_E & (rows_E < 0)).sum()),
        "repeated": int(keep_E.sum()) - by_row.num_edges,
    }  # fmt: skip
    return by_row, FileCounts("--exclude", len(of), dropped)


@dataclass(frozen=True, slots=True)
class _Lists:
    """Lists of the nodes `numbers_R`, `k` long, of all that `allowed_N` and `excluded` (per row) leave but the node itself."""

    k: int
    nodes: _Nodes
    numbers_R: NDArray[np.int32]
    allowed_N: NDArray[np.bool_]
    excluded: Csr | None

    def in_chunks(self, rows: int) -> Iterator[TopK]:
        """All lists, `rows` of them at a time."""
        scorer = EmbeddingScorer(self.nodes.rows_NF, self.nodes.rows_NF)
        count = len(self.numbers_R)
        own = Csr(np.arange(len(self.allowed_N) + 1), np.arange(len(self.allowed_N), dtype=np.int32), len(self.allowed_N))
        allowed = None if self.allowed_N.all() else np.flatnonzero(self.allowed_N).astype(np.int32)

        def rank(start: int) -> TopK:
            rows_B = np.arange(start, min(start + rows, count), dtype=np.int32)
            numbers_B = self.numbers_R[rows_B]
            hidden = [ItemLists(own, numbers_B)]
            if self.excluded is not None:
                hidden.append(ItemLists(self.excluded, rows_B))
            listed = None if allowed is None else ItemLists.shared(allowed, len(rows_B), len(self.allowed_N))
            best = rank_chunk(scorer, numbers_B, self.k, Hidden(tuple(hidden)), listed)
            best.items_BK[~self.nodes.has_direction_N[numbers_B]] = -1
            return replace(best, users_B=rows_B)

        return in_chunks(scorer, rank, range(0, count, rows))
