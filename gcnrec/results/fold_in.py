"""New users and items for a finished run, embedded without training.

New items come with features and are embedded by graphsage or pinsage as nodes without neighbours. New users come with
interactions. graphsage and pinsage encode them from their items, which do not read them in turn. For other models a new user's
embedding is the sum of its items' embeddings, each divided by the root of its degree: one hop of LightGCN.
A known user of the file has its items as well as the run's, and keeps the embedding that training gave it; without train items it
is embedded as a new one. In a mixture, partners score users by all their known items; new items have the trained part alone.
Letters: U users and I items of the run, A embedded users, C new items, E pairs, N nodes, F features, D width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray

from gcnrec.closed_forms.mixture_files import mixture_scorer
from gcnrec.config import INDUCTIVE
from gcnrec.errors import DataError, UsageError
from gcnrec.graph import Behaviour, BipartiteGraph, Csr, csr_from_edges
from gcnrec.ids.id_types import as_ids, held
from gcnrec.interactions import MemoryVocabulary, Vocabulary
from gcnrec.loaders.features.encode import encode_features
from gcnrec.loaders.schema import Dataset
from gcnrec.ops.propagate import inverse_sqrt, propagate
from gcnrec.ops.topk import ItemLists, contained
from gcnrec.ranking.export_rules import Exported, export_rules, log_shares, unit_length_
from gcnrec.ranking.scorer import EmbeddingScorer, Scorer
from gcnrec.results.given.dropped import FileCounts
from gcnrec.results.given.id_files import columns_of, open_ids
from gcnrec.runs.folder import Run, final_tensors
from gcnrec.runs.manifest import check_whole
from gcnrec.runs.paths import FEATURES
from gcnrec.system.pages import scratch_rows, scratch_values
from gcnrec.tables.dense import Allocate, DenseTable
from gcnrec.tables.features.files import read_codes
from gcnrec.tables.features.sides import Features, FeatureSides
from gcnrec.training.build import features_read, inductive_encoder


@dataclass(frozen=True)
class Widened:
    """A run's data and scorer with new nodes behind the known ones; `unknown_items` of the new users' file are left out.

    `trained`: the embeddings alone, without the partners of a mixture.

    In `dataset.graph`, users of the file read their items and no item reads them, so that other nodes keep their embeddings.
    `counts`: rows of the files that have no effect.
    """

    dataset: Dataset
    trained: EmbeddingScorer
    scorer: Scorer
    unknown_items: int
    counts: tuple[FileCounts, ...]


def with_new_nodes(run: Run, new_users: Path | None, new_items: Path | None, scratch: Path | None = None) -> Widened:
    """The data and scorer of `run` with the users and items of two files.

    `new_users`: Parquet or CSV of user and item ids, also of known users; `new_items`: features, as for ingestion, known items
    are left out. `scratch`: a folder for working arrays, by default the run's.
    Raises UsageError for a model that cannot embed them, DataError for a file that cannot be used.
    """
    name, dataset = run.job.model.name, run.dataset
    if run.job.model.closed_form:
        raise UsageError(f"--new-users and --new-items need a model with embeddings, and {run.folder} holds {name}; train one")
    if new_items is not None and not run.job.model.reads_features:
        raise UsageError(
            f"--new-items needs a model that embeds items by their features, and {run.folder} holds {name}; "
            "train graphsage or pinsage on a dataset with item features"
        )
    counts, scratch = [], scratch or run.folder
    if new_items is not None:
        dataset, count = _with_items(dataset, new_items, scratch)
        counts.append(count)
    if new_users is not None and name in INDUCTIVE and run.job.sampler.neighbours == "weighted":
        raise _without_weights(run, "draws neighbours by weight", "sampler.neighbours = 'uniform'")
    if new_users is not None and run.job.model.weighted_graph:
        raise _without_weights(run, "propagates by weights", "model.weighted_graph = false")
    given, unknown = _no_pairs(dataset), 0
    if new_users is not None:
        dataset, given, unknown, count = _with_users(dataset, new_users)
        counts.append(count)
    dataset = replace(
        dataset,
        graph=_folded(run.train_graph, given),
        others=_others_folded(tuple(other.until_test for other in dataset.others), given),
    )
    embed = partial(_encoded, scratch=scratch) if name in INDUCTIVE else _summed
    trained = embed(run, dataset, run.embeddings(scratch))
    return Widened(dataset, trained, _mixed(run, dataset, trained), unknown, tuple(counts))


def _without_weights(run: Run, reads: str, remedy: str) -> UsageError:
    return UsageError(f"--new-users brings interactions without weights, and {run.folder} {reads}; train with {remedy}")


def _no_pairs(dataset: Dataset) -> Csr:
    return Csr(np.zeros(len(dataset.user_ids) + 1, np.int64), np.empty(0, np.int32), len(dataset.item_ids))


def _with_items(dataset: Dataset, path: Path, scratch: Path) -> tuple[Dataset, FileCounts]:
    """The data with the new items of a feature file behind the known ones, all features in scratch of a folder."""
    given = encode_features(dataset, "item", str(path))
    fresh = dataset.item_ids.numbers(given.ids) < 0
    if not fresh.any():
        raise DataError(f"{path} must hold items that {dataset.name} does not know, all of its {len(fresh)} are known")
    known_IF = dataset.item_features
    assert known_IF is not None  # encode_features refuses
    rows = scratch_rows(scratch, len(known_IF) + int(fresh.sum()), known_IF.shape[1]).numpy()
    rows[: len(known_IF)], rows[len(known_IF) :] = known_IF, given.rows_RF[fresh]
    counts = FileCounts("--new-items", len(fresh), {"known_item": int((~fresh).sum())})
    wider = _appended(dataset.item_ids, given.ids.filter(pa.array(fresh)))
    return replace(dataset, item_ids=wider, item_features=rows), counts


def _with_users(dataset: Dataset, path: Path) -> tuple[Dataset, Csr, int, FileCounts]:
    """The data with the new users of a file of pairs, except for its graph; user -> items of the file, and what has no effect.

    The third part is the number of distinct unknown items.
    """
    users, items = columns_of(dataset)
    with open_ids(path) as table:
        user_ids, item_ids = table.pairs(users, items)
    fresh = user_ids.filter(pa.array(dataset.user_ids.numbers(user_ids) < 0))
    wider = _appended(dataset.user_ids, pc.unique(fresh)) if len(fresh) else dataset.user_ids
    numbers_E, items_E = wider.numbers(user_ids), dataset.item_ids.numbers(item_ids)
    known_E = items_E >= 0
    unknown = len(pc.unique(item_ids.filter(pa.array(~known_E))))
    count = len(wider) - len(dataset.user_ids)
    given = csr_from_edges(numbers_E[known_E], items_E[known_E], len(wider), len(dataset.item_ids))
    dropped = {"unknown_item": int((~known_E).sum()), "repeated": int(known_E.sum()) - given.num_edges}
    counts = FileCounts("--new-users", len(known_E), dropped)
    rows_UF = dataset.user_features
    if dataset.user_features is not None and count:
        rows_UF = np.concatenate([dataset.user_features, np.zeros((count, dataset.user_features.shape[1]), np.float32)])
    return replace(dataset, user_ids=wider, user_features=rows_UF), given, unknown, counts


def _folded(graph: BipartiteGraph, given: Csr) -> BipartiteGraph:
    """`graph` with the pairs `given` in the rows of their users, which no item reads; items beyond the known ones have no edges.

    `given`: user -> items, of known users and of new ones behind them.
    """
    items = graph.item_users
    ends = np.full(given.columns - items.rows, items.indptr[-1])
    item_users = Csr(np.concatenate([items.indptr, ends]), items.indices, given.rows)
    return BipartiteGraph(_merged(graph.user_items, given), item_users, _others_folded(graph.others, given))


def _others_folded(others: tuple[Behaviour, ...], given: Csr) -> tuple[Behaviour, ...]:
    """Other behaviours over as many nodes as `given` has, the new ones without edges."""
    none = Csr(np.zeros(given.rows + 1, np.int64), np.empty(0, np.int32), given.columns)
    return tuple(Behaviour(other.name, _folded(other.graph, none)) for other in others)


def _merged(known: Csr, given: Csr) -> Csr:
    """The rows of `known`, as many as `given` has, with the entries of `given` in their places. O(entries of both)."""
    behind = np.full(given.rows - known.rows, known.indptr[-1])
    wide = Csr(np.concatenate([known.indptr, behind]), known.indices, given.columns)
    rows_E, items_E = given.row_numbers(), given.indices
    fresh_E = ~contained(items_E[:, None], ItemLists(wide, rows_E))[:, 0]
    rows_E, items_E = rows_E[fresh_E], items_E[fresh_E]
    if not len(rows_E):
        return wide
    places_E = wide.indptr[rows_E]
    first_E = np.flatnonzero(np.diff(rows_E, prepend=-1))
    for first, last in zip(first_E.tolist(), [*first_E[1:].tolist(), len(rows_E)], strict=True):
        places_E[first:last] += np.searchsorted(wide.row(rows_E[first]), items_E[first:last])
    more = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.bincount(rows_E, minlength=given.rows))])
    return Csr(wide.indptr + more, np.insert(wide.indices, places_E, items_E), given.columns)  # copy: of the mapped file


def _to_embed(run: Run, dataset: Dataset) -> NDArray[np.int64]:
    """Numbers of the users that training gave no embedding of worth: new ones, and known ones with items of the file alone."""
    trained_U, now_U = run.train_graph.union.user_items.degrees, dataset.graph.union.user_items.degrees
    wanted_U = now_U > 0
    wanted_U[: len(trained_U)] &= trained_U == 0
    wanted_U[len(trained_U) :] = True
    return np.flatnonzero(wanted_U)


def _with_rows(known_UD: torch.Tensor, users_A: NDArray[np.int64], rows_AD: torch.Tensor, num_users: int) -> torch.Tensor:
    """`known_UD` with the rows of `users_A` in their places, float32 (`num_users`, D)."""
    wider = torch.cat([known_UD, torch.zeros(num_users - len(known_UD), known_UD.shape[1])])
    wider[torch.from_numpy(users_A)] = rows_AD
    return wider


def _appended(known: Vocabulary, ids: pa.Array | pa.ChunkedArray) -> Vocabulary:
    """`known` with `ids` behind, in the type of `known`, or a wider one where that does not hold them."""
    kind = held(known.type, known.ids, ids)
    parts = [as_ids(part, kind) for part in (known.ids, ids)]
    chunks = [chunk for part in parts for chunk in (part.chunks if isinstance(part, pa.ChunkedArray) else [part])]
    return MemoryVocabulary(pa.chunked_array(chunks).combine_chunks().cast(kind))


@dataclass(frozen=True)
class _KnownItems:
    """A closed form over the items that it was fitted on; items behind them score 0."""

    scorer: Scorer
    num_items: int

    @property
    def num_users(self) -> int:
        return self.scorer.num_users

    def prepare(self, users_B: NDArray[np.int32]) -> torch.Tensor:
        return self.scorer.prepare(users_B)

    def score(self, prepared: torch.Tensor, first: int, last: int, out_BT: torch.Tensor) -> None:
        known = min(max(self.scorer.num_items - first, 0), last - first)
        out_BT[:, known:] = 0
        if known:
            self.scorer.score(prepared, first, first + known, out_BT[:, :known])


def _mixed(run: Run, dataset: Dataset, trained: EmbeddingScorer) -> Scorer:
    """`trained` in the run's mixture: partners score for new users by their known items, and for new items not at all."""
    mixture = run.mixture
    if mixture is None:
        return trained
    partners = run.partners(mixture, _with_known_items(dataset.graph, run.train_graph.num_items))
    return mixture_scorer(mixture, trained, {name: _KnownItems(each, trained.num_items) for name, each in partners.items()})


def _with_known_items(graph: BipartiteGraph, num_items: int) -> BipartiteGraph:
    """`graph` without the items from number `num_items` on."""
    up, down = graph.user_items, graph.item_users
    kept = up.indices < num_items
    places = np.concatenate([np.zeros(1, np.int64), np.cumsum(kept)])
    user_items = Csr(places[up.indptr], up.indices[kept], num_items)
    others = tuple(replace(other, graph=_with_known_items(other.graph, num_items)) for other in graph.others)
    return BipartiteGraph(user_items, Csr(down.indptr[: num_items + 1], down.indices, down.columns), others)


def _encoded(run: Run, dataset: Dataset, known: Exported, scratch: Path) -> EmbeddingScorer:
    """Exports the wider graph by the trained layers, and takes the rows to embed from there."""
    rows_ND, layers = final_tensors(run)
    graph, num_users, num_items = dataset.graph, len(known.users_UF), len(known.items_IF)
    width, new_users = rows_ND.shape[1], graph.num_users - num_users
    users_A = _to_embed(run, dataset)
    rows_ND[torch.from_numpy(users_A[users_A < num_users])] = 0.0  # never trained: as rows of new users
    none = torch.zeros(new_users, width), torch.zeros(graph.num_items - num_items, width)
    table = DenseTable(torch.cat([rows_ND[:num_users], none[0], rows_ND[num_users:], none[1]]), 0)
    allocate = partial(scratch_values, scratch)
    encoder = inductive_encoder(run.job, graph.union, width, _features(run, dataset, allocate), allocate)
    encoder.layers.load_state_dict(layers)
    out_ND = scratch_rows(scratch, graph.num_nodes, width)
    encoder.export(table, out_ND)
    new_users_AD, new_items_CD = out_ND[torch.from_numpy(users_A)], out_ND[graph.num_users + num_items :].clone()
    column_I = None
    rules = export_rules(run.job.model, run.job.loss, run.job.sampler)
    if known.rule.kind == "powers":
        typical = rules.typical_degree(run.train_graph.item_users.degrees)
        rules.scale_by_powers_(new_items_CD, np.zeros(len(new_items_CD), np.int64), typical)
    elif known.lengths_I is not None:
        for rows in (new_users_AD, new_items_CD):
            unit_length_(rows)
    if known.popularity_I is not None:
        counts_I = rules.popularity_of(run.train_graph, known.rule)
        wider_I = np.concatenate([counts_I, np.zeros(len(new_items_CD), counts_I.dtype)])
        column_I = known.factor * log_shares(wider_I, rules.typical_degree(counts_I))
    users_UD = _with_rows(known.users_UF, users_A, new_users_AD, graph.num_users)
    return EmbeddingScorer(users_UD, torch.cat([known.items_IF, new_items_CD]), column_I)


def _features(run: Run, dataset: Dataset, allocate: Allocate) -> FeatureSides:
    """All features as training had them: new nodes by the codes of the run."""
    features, path = Features(dataset.user_features, dataset.item_features), run.folder / FEATURES
    if run.job.model.needs_codes and features.any:
        check_whole(run.folder, [path])
        features = replace(features, codes=read_codes(path, features, f"train {run.folder} anew"))
    return features_read(run.job, features, dataset.graph.union, allocate)


def _summed(run: Run, dataset: Dataset, known: Exported) -> EmbeddingScorer:
    """Users to embed by one hop from the exported items, with the lengths that the encoder gave these."""
    graph, users_A = dataset.graph, _to_embed(run, dataset)
    own = graph.user_items.picked(users_A)
    scales = inverse_sqrt(own.degrees), inverse_sqrt(graph.union.item_users.degrees)
    rows_ID = known.items_IF if known.lengths_I is None else known.items_IF * known.lengths_I[:, None]
    new_users_AD = propagate(own, rows_ID, *scales)
    if known.lengths_I is not None:
        unit_length_(new_users_AD)
    return replace(known.scorer, users_UD=_with_rows(known.users_UF, users_A, new_users_AD, graph.num_users))
