"""Lists and scores of a run from Python: `gcnrec.recommend`, `gcnrec.similar`, `gcnrec.score`; as files, or as Arrow tables."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any, TypeVar, overload

import pyarrow as pa

from gcnrec.api.given import as_files
from gcnrec.reports.progress import watched
from gcnrec.results.given.request import RequestFiles
from gcnrec.results.outputs import Gathered, Output
from gcnrec.results.recommend import ListOptions, RecommendSummary, write_recommendations
from gcnrec.results.relisting import Relisting
from gcnrec.results.score import NewNodes, ScoreSummary, SeenOf, write_scores
from gcnrec.results.similar import Side, SimilarFiles, SimilarSummary, write_similar
from gcnrec.runs.folder import Run, opened
from gcnrec.storage.places import Given, StrPath
from gcnrec.system.observer import SILENT, Observer
from gcnrec.workers.world import World

S = TypeVar("S", RecommendSummary, SimilarSummary, ScoreSummary)
SUMMARY = b"gcnrec.summary"
"""The key in the metadata of a table's schema under which the summary of a file is found, as JSON."""


@overload
def recommend(
    run: Run | StrPath, k: int, out: None = None, *, users: Given | None = ..., items: Given | None = ...,
    candidates: Given | None = ..., exclude: Given | None = ..., seen: str = ..., fallback: str | None = ...,
    new_users: Given | None = ..., new_items: Given | None = ..., relisting: Relisting | None = ...,
    segment: str | None = ..., memory_limit: str | None = ..., observer: Observer = ..., world: World | None = ...,
    progress: bool = ...,
) -> pa.Table: ...  # fmt: skip


@overload
def recommend(
    run: Run | StrPath, k: int, out: StrPath | Output, *, users: Given | None = ..., items: Given | None = ...,
    candidates: Given | None = ..., exclude: Given | None = ..., seen: str = ..., fallback: str | None = ...,
    new_users: Given | None = ..., new_items: Given | None = ..., relisting: Relisting | None = ...,
    segment: str | None = ..., memory_limit: str | None = ..., observer: Observer = ..., world: World | None = ...,
    progress: bool = ...,
) -> RecommendSummary: ...  # fmt: skip


def recommend(
    run: Run | StrPath, k: int, out: StrPath | Output | None = None, *, users: Given | None = None,
    items: Given | None = None, candidates: Given | None = None, exclude: Given | None = None, seen: str = "all",
    fallback: str | None = None, new_users: Given | None = None, new_items: Given | None = None,
    relisting: Relisting | None = None, segment: str | None = None, memory_limit: str | None = None,
    observer: Observer = SILENT, world: World | None = None, progress: bool = False,
) -> RecommendSummary | pa.Table:  # fmt: skip
    """Lists of the best `k` items: user and item (original ids in their Arrow types), rank int32 from 1, score float32.

    Without `out` they come as a table in memory, with the summary in the metadata of its schema. Else they are written to `out`,
    whose ending decides the format: .csv, .jsonl, or Parquet; an `Output` may replace a file.

    Users come in the order of the file `users`, else of `candidates`, else all of them by number; lists by rank. A list
    has at most `k` items, and at most all there are; it is never padded. `items` restricts what is ranked, `candidates` to
    these pairs of user and item. `segment` is a column of `users` and of `items`: a user gets items of the same value alone.
    `exclude` leaves out pairs, or with a single column items for everybody. `seen`: "all" leaves out train, valid and test
    interactions, "met" also items met by other behaviours, "train" only train, "none" nothing.
    `fallback` "popularity" gives users whom the model did not train on the most popular items (score: train users), and a column
    `source`, "model" or "fallback". Without it, users unknown to the dataset are left out, and counted.
    `new_users` (pairs of user and item) and `new_items` (features) bring nodes that training never saw
    (`gcnrec.results.fold_in`). New items are ranked with the others. With `new_users` the users of that file alone get lists,
    unless `users` or `candidates` name others; a user that the run knows has the items of the file as well.
    `relisting`: at most so many items of a kind in a list, or items unlike each other; lists are then in the order of choice.
    `memory_limit`, such as "2GB" (default: of the job), bounds memory; the process itself, mapped files and a table that is
    returned do not count. `world`: the workers that this process leads; their machines share the users. `progress` shows a bar.
    Raises UsageError when `out` exists, DataError when a file cannot be read or none of its ids is known, DeviceError when the
    limit is too small for the data. Each file may be a table in memory instead (`gcnrec.api.given`), here as below.
    """
    chosen = relisting or Relisting()
    given = {"users": users, "items": items, "candidates": candidates, "exclude": exclude}
    given |= {"new_users": new_users, "new_items": new_items, "attributes": chosen.attributes}
    with watched(progress, observer) as heard, as_files(given) as paths:
        run, files = opened(run, heard), RequestFiles(**paths, segment=segment)
        options = ListOptions(k, seen, fallback, replace(chosen, attributes=paths["attributes"]))

        def write(to: Output) -> RecommendSummary:
            return write_recommendations(run, files, options, to, memory_limit=memory_limit, observer=heard, world=world)

        return _made(run, out, write)


@overload
def similar(
    run: Run | StrPath, side: Side, k: int, out: None = None, files: SimilarFiles | None = ..., *, memory_limit: str | None = ...,
    observer: Observer = ..., progress: bool = ...,
) -> pa.Table: ...  # fmt: skip


@overload
def similar(
    run: Run | StrPath, side: Side, k: int, out: StrPath | Output, files: SimilarFiles | None = ..., *,
    memory_limit: str | None = ..., observer: Observer = ..., progress: bool = ...,
) -> SimilarSummary: ...  # fmt: skip


def similar(
    run: Run | StrPath, side: Side, k: int, out: StrPath | Output | None = None, files: SimilarFiles | None = None, *,
    memory_limit: str | None = None, observer: Observer = SILENT, progress: bool = False,
) -> SimilarSummary | pa.Table:  # fmt: skip
    """Lists of the `k` nodes most like each: the node (column "item" or "user"), `similar`, rank int32 from 1, score float32.

    The score is the cosine of two embeddings. Without `out` lists come as a table in memory, with the summary in the metadata of
    its schema; else they are written. `files` names files of nodes. Lists come in the order of `files.of`, else by number, and
    never name the node itself. A node whose embedding is zero has no direction: it gets no list, and no list names it.
    `memory_limit` (default: of the job) bounds memory; the process itself, mapped files and a returned table do not count.
    `progress` shows a bar.
    Raises UsageError when `out` exists and for a model without embeddings, DataError when a file cannot be read or none of its
    ids is known, DeviceError when the limit is too small for the data.
    """
    asked = files or SimilarFiles()
    given = {"of": asked.of, "among": asked.among, "exclude": asked.exclude, "new": asked.new}
    with watched(progress, observer) as heard, as_files(given) as paths:
        run, there = opened(run, heard), SimilarFiles(**paths, every=asked.every)
        return _made(run, out, lambda to: write_similar(run, side, k, to, there, memory_limit=memory_limit, observer=heard))


@overload
def score(
    run: Run | StrPath, pairs: Given, out: None = None, *, seen: SeenOf = ..., new: NewNodes | None = ...,
    memory_limit: str | None = ..., observer: Observer = ..., progress: bool = ...,
) -> pa.Table: ...  # fmt: skip


@overload
def score(
    run: Run | StrPath, pairs: Given, out: StrPath | Output, *, seen: SeenOf = ..., new: NewNodes | None = ...,
    memory_limit: str | None = ..., observer: Observer = ..., progress: bool = ...,
) -> ScoreSummary: ...  # fmt: skip


def score(
    run: Run | StrPath, pairs: Given, out: StrPath | Output | None = None, *, seen: SeenOf = "none",
    new: NewNodes | None = None, memory_limit: str | None = None, observer: Observer = SILENT, progress: bool = False,
) -> ScoreSummary | pa.Table:  # fmt: skip
    """Score and rank of each pair of the file `pairs`, in its order: user and item as it has them, score float32, rank int32.

    Both are null where one of the ids is unknown. Without `out` they come as a table in memory, with the summary in the metadata
    of its schema; else they are written. `rank` is the item's place from 1 among all items, by falling score, then rising item
    number. `seen` "all" takes the user's other train, valid and test items out of that ranking, "train" only those of train.
    `new`: files of nodes that training never saw. `progress` shows a bar.
    Raises UsageError when `out` exists, DataError when a file cannot be read or names no pair of the run, DeviceError when the
    memory limit (default: of the job) is too small for the data.
    """
    given = {"pairs": pairs, "users": None if new is None else new.users, "items": None if new is None else new.items}
    with watched(progress, observer) as heard, as_files(given) as paths:
        run, path, brought = opened(run, heard), paths["pairs"], NewNodes(paths["users"], paths["items"])
        assert path is not None
        return _made(
            run, out, lambda to: write_scores(run, path, to, seen=seen, new=brought, memory_limit=memory_limit, observer=heard)
        )


def _made(run: Run, out: StrPath | Output | None, write: Callable[[Output], S]) -> S | Any:
    """The summary of what `write` has written to `out`; without `out` the table, with the summary in its schema's metadata."""
    if out is not None:
        return write(Output.of(out))
    gathered = Gathered(run.folder)
    summary = {key: value for key, value in asdict(write(gathered)).items() if key != "out"}
    return gathered.table.replace_schema_metadata({SUMMARY: json.dumps(summary)})
