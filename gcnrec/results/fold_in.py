"""New users and items for a finished run, embedded without training.

New items come with features and are embedded by graphsage or pinsage as nodes without neighbours. New users come with
interactions. graphsage and pinsage encode them from their items, which do not read them in turn. For other models a new user's
embedding is the sum of its items' embeddings, each divided by the root of its degree: one hop of LightGCN.
In a mixture, partners score for new users by their known items; new items have the trained part alone.
Letters: U users and I items of the run, A new users, C new items, N nodes, F features, D width.
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

from gcnrec.closed_forms.mixture_files import load_partners, mixture_scorer
from gcnrec.config import INDUCTIVE
from gcnrec.errors import DataError, UsageError
from gcnrec.graph import BipartiteGraph, Csr, csr_from_edges
from gcnrec.ids.id_types import as_ids, held
from gcnrec.interactions import MemoryVocabulary, Vocabulary
from gcnrec.loaders.features.encode import encode_features
from gcnrec.loaders.schema import Dataset
from gcnrec.models.node_inputs import Features
from gcnrec.ops.propagate import inverse_sqrt, propagate
from gcnrec.ranking.export_rules import Exported, export_rules, log_shares, unit_length_
from gcnrec.ranking.scorer import EmbeddingScorer, Scorer
from gcnrec.results.id_files import columns_of, ids_of, read_table
from gcnrec.runs.folder import Run, final_tensors
from gcnrec.system.pages import scratch_rows, scratch_values
from gcnrec.tables.dense import DenseTable
from gcnrec.training.build import inductive_encoder


@dataclass(frozen=True)
class Widened:
    """A run's data and scorer with new nodes behind the known ones; `unknown_items` of the new users' file are left out.

    In `dataset.graph`, new users read their items and no item reads them, so that known nodes keep their embeddings.
    """

    dataset: Dataset
    scorer: Scorer
    unknown_items: int


def with_new_nodes(run: Run, new_users: Path | None, new_items: Path | None) -> Widened:
    """The data and scorer of `run` with the users and items of two files; rows of ids that it knows already are left out.

    `new_users`: Parquet or CSV of user and item ids; `new_items`: features, as for ingestion. Raises UsageError for a model
    that cannot embed them, DataError for a file that cannot be used or holds nothing new.
    """
    name, dataset = run.job.model.name, run.dataset
    if run.job.model.closed_form:
        raise UsageError(f"--new-users and --new-items need a model with embeddings, and {run.folder} holds {name}; train one")
    if new_items is not None and (name not in INDUCTIVE or run.job.model.inputs == "rows"):
        raise UsageError(
            f"--new-items needs a model that embeds items by their features, and {run.folder} holds {name}; "
            "train graphsage or pinsage on a dataset with item features"
        )
    if new_items is not None:
        dataset = _with_items(dataset, new_items, run.folder)
    if new_users is not None and name in INDUCTIVE and run.job.sampler.neighbours == "weighted":
        raise UsageError(
            f"--new-users brings interactions without weights, and {run.folder} draws neighbours by weight; "
            "train with sampler.neighbours = 'uniform'"
        )
    own, unknown = Csr(np.zeros(1, np.int64), np.empty(0, np.int32), len(dataset.item_ids)), 0
    if new_users is not None:
        dataset, own, unknown = _with_users(dataset, new_users)
    dataset = replace(dataset, graph=_folded(run.train_graph, own))
    embed = _encoded if name in INDUCTIVE else _summed
    return Widened(dataset, _mixed(run, dataset, embed(run, dataset, run.embeddings(run.folder))), unknown)


def _with_items(dataset: Dataset, path: Path, scratch: Path) -> Dataset:
    """The data with the new items of a feature file behind the known ones, all features in scratch of a folder."""
    given = encode_features(dataset, "item", str(path))
    fresh = dataset.item_ids.numbers(given.ids) < 0
    if not fresh.any():
        raise DataError(f"{path} must hold items that {dataset.name} does not know, all of its {len(fresh)} are known")
    known_IF = dataset.item_features
    assert known_IF is not None  # encode_features refuses
    rows = scratch_rows(scratch, len(known_IF) + int(fresh.sum()), known_IF.shape[1]).numpy()
    rows[: len(known_IF)], rows[len(known_IF) :] = known_IF, given.rows_RF[fresh]
    return replace(dataset, item_ids=_appended(dataset.item_ids, given.ids.filter(pa.array(fresh))), item_features=rows)


def _with_users(dataset: Dataset, path: Path) -> tuple[Dataset, Csr, int]:
    """The data with the new users of a file of pairs, except for its graph; new user -> items; the number of unknown items."""
    users, items = columns_of(dataset)
    table = read_table(path, users, items)
    user_ids, item_ids = ids_of(path, table, users), ids_of(path, table, items)
    fresh = pa.array(dataset.user_ids.numbers(user_ids) < 0)
    user_ids, item_ids = user_ids.filter(fresh), item_ids.filter(fresh)
    if not len(user_ids):
        raise DataError(f"{path} must hold users that {dataset.name} does not know, all of its {len(fresh)} rows name known ones")
    wider = _appended(dataset.user_ids, pc.unique(user_ids))
    numbers_E, items_E = wider.numbers(user_ids), dataset.item_ids.numbers(item_ids)
    known_E = items_E >= 0
    unknown = len(pc.unique(item_ids.filter(pa.array(~known_E))))
    count = len(wider) - len(dataset.user_ids)
    own = csr_from_edges(numbers_E[known_E] - len(dataset.user_ids), items_E[known_E], count, len(dataset.item_ids))
    rows_UF = None
    if dataset.user_features is not None:
        rows_UF = np.concatenate([dataset.user_features, np.zeros((count, dataset.user_features.shape[1]), np.float32)])
    return replace(dataset, user_ids=wider, user_features=rows_UF), own, unknown


def _folded(graph: BipartiteGraph, own: Csr) -> BipartiteGraph:
    """`graph` with the rows `own` of new users behind the others; items beyond the known ones have no edges."""
    users, items = graph.user_items, graph.item_users
    indptr = np.concatenate([users.indptr, users.indptr[-1] + own.indptr[1:]])
    user_items = Csr(indptr, np.concatenate([users.indices, own.indices]) if own.rows else users.indices, own.columns)
    ends = np.full(own.columns - items.rows, items.indptr[-1])
    return BipartiteGraph(user_items, Csr(np.concatenate([items.indptr, ends]), items.indices, user_items.rows))


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
    partners = load_partners(mixture, run.folder, _with_known_items(dataset.graph, run.train_graph.num_items))
    return mixture_scorer(mixture, trained, {name: _KnownItems(each, trained.num_items) for name, each in partners.items()})


def _with_known_items(graph: BipartiteGraph, num_items: int) -> BipartiteGraph:
    """`graph` without the items from number `num_items` on."""
    up, down = graph.user_items, graph.item_users
    kept = up.indices < num_items
    places = np.concatenate([np.zeros(1, np.int64), np.cumsum(kept)])
    user_items = Csr(places[up.indptr], up.indices[kept], num_items)
    return BipartiteGraph(user_items, Csr(down.indptr[: num_items + 1], down.indices, down.columns))


def _encoded(run: Run, dataset: Dataset, known: Exported) -> EmbeddingScorer:
    """Exports the wider graph by the trained layers, and takes the new rows from there."""
    rows_ND, layers = final_tensors(run)
    graph, num_users, num_items = dataset.graph, len(known.users_UF), len(known.items_IF)
    width, new_users = rows_ND.shape[1], graph.num_users - num_users
    none = torch.zeros(new_users, width), torch.zeros(graph.num_items - num_items, width)
    table = DenseTable(torch.cat([rows_ND[:num_users], none[0], rows_ND[num_users:], none[1]]), 0)
    features = Features(dataset.user_features, dataset.item_features)
    encoder = inductive_encoder(run.job, graph, width, features, partial(scratch_values, run.folder))
    encoder.layers.load_state_dict(layers)
    out_ND = scratch_rows(run.folder, graph.num_nodes, width)
    encoder.export(table, out_ND)
    new_users_AD, new_items_CD = out_ND[num_users : graph.num_users], out_ND[graph.num_users + num_items :].clone()
    column_I, degrees_I = None, run.train_graph.item_users.degrees
    rules = export_rules(run.job.model, run.job.loss, run.job.sampler)
    if known.rule.kind == "powers":
        rules.scale_by_powers_(new_items_CD, np.full(len(new_items_CD), rules.typical_degree(degrees_I)))
    elif known.lengths_I is not None:
        for rows in (new_users_AD, new_items_CD):
            unit_length_(rows)
    if known.popularity_I is not None:
        wider_I = np.concatenate([degrees_I, np.zeros(len(new_items_CD), np.int64)])
        column_I = known.factor * log_shares(wider_I, rules.typical_degree(degrees_I))
    return EmbeddingScorer(torch.cat([known.users_UF, new_users_AD]), torch.cat([known.items_IF, new_items_CD]), column_I)


def _summed(run: Run, dataset: Dataset, known: Exported) -> EmbeddingScorer:
    """New users by one hop from the exported items, with the lengths that the encoder gave these."""
    graph, num_users = dataset.graph, len(known.users_UF)
    own_indptr: NDArray[np.int64] = graph.user_items.indptr[num_users:] - graph.user_items.indptr[num_users]
    own = Csr(own_indptr, graph.user_items.indices[graph.user_items.indptr[num_users] :], graph.num_items)
    scales = inverse_sqrt(own.degrees), inverse_sqrt(graph.item_users.degrees)
    rows_ID = known.items_IF if known.lengths_I is None else known.items_IF * known.lengths_I[:, None]
    new_users_AD = propagate(own, rows_ID, *scales)
    if known.lengths_I is not None:
        unit_length_(new_users_AD)
    return replace(known.scorer, users_UD=torch.cat([known.users_UF, new_users_AD]))
