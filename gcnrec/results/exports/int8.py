"""Embeddings as int8: a quarter of the bytes, and the recall of the lists that they give.

Each row has one scale (symmetric uniform quantisation without an offset: Jacob et al. 2018, "Quantization and training of neural
networks for efficient integer-arithmetic-only inference", eq. 1 with zero point 0):

    scale = max |x| / 127        code = round(x / scale), half to even        x is about scale * code, off by at most scale / 2
    score = (sum of code_u * code_i) * scale_i * scale_u + popularity_factor * popularity

The sum is one of integers, at most 127^2 each. The popularity column is one number per item and stays float32.
Letters: U users, I items, R rows, B users of a chunk, T items of a tile, F width, K list length.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from gcnrec.interactions import Vocabulary
from gcnrec.loaders.schema import new_folder
from gcnrec.ranking.evaluate import HeldOutSplit, Measures, evaluate
from gcnrec.ranking.export_rules import Exported
from gcnrec.ranking.scorer import EmbeddingScorer, Scorer
from gcnrec.ranking.seen import judged_pairs, seen_items
from gcnrec.ranking.top_k import top_k_all
from gcnrec.results.evaluate import rule_of
from gcnrec.results.exports.target import EXPORT_FACTS, FORMAT, Target
from gcnrec.results.exports.vectors import measured_users, overlap
from gcnrec.runs.embeddings import EXPORT_KEY
from gcnrec.runs.folder import Run
from gcnrec.runs.paths import embeddings_paths
from gcnrec.storage.documents import write_json
from gcnrec.system.observer import Observer
from gcnrec.system.pages import let_go

LARGEST = 127
"""Of a code: -128 has no opposite and is not used."""
EXACT_FLOAT32 = 2**24 // LARGEST**2
"""The width up to which float32 adds products of codes without rounding, in any order."""
SCORE = "(sum of code_u * code_i) * scale_i * scale_u + popularity_factor * popularity"
_ROWS_BYTES = 2**24
"""Of float32 rows that are coded and written at a time, as a row group."""


def quantised(rows_RF: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes int8 (R, F) and scales float32 (R) of finite float32 rows; a row of zeros has scale 0 and codes 0."""
    scale_R = rows_RF.abs().amax(dim=1) / LARGEST
    steps_RF = (rows_RF / scale_R[:, None]).round().clamp(-LARGEST, LARGEST)
    codes_RF = torch.where(scale_R[:, None] > 0, steps_RF, 0.0).to(torch.int8)
    return codes_RF, scale_R


@dataclass(frozen=True)
class Int8Scorer:
    """Scores by the codes of `exact`'s rows, which are made anew for each chunk of users and tile of items: no copy is kept."""

    exact: EmbeddingScorer

    @property
    def num_users(self) -> int:
        return self.exact.num_users

    @property
    def num_items(self) -> int:
        return self.exact.num_items

    def prepare(self, users_B: NDArray[np.int32]) -> torch.Tensor:
        """Codes of the users, and behind them their scales, float32 (B, F + 1)."""
        codes_BF, scale_B = quantised(self.exact.prepare(users_B))
        return torch.cat([codes_BF.float(), scale_B[:, None]], dim=1)  # copy: of a chunk

    def score(self, prepared: torch.Tensor, first: int, last: int, out_BT: torch.Tensor) -> None:
        codes_TF, scale_T = quantised(self.exact.items_ID[first:last])
        exact = torch.float32 if codes_TF.shape[1] <= EXACT_FLOAT32 else torch.float64
        out_BT.copy_(torch.mm(prepared[:, :-1].to(exact), codes_TF.to(exact).T))
        out_BT.mul_(scale_T).mul_(prepared[:, -1:])
        if self.exact.column_I is not None:
            out_BT.add_(self.exact.column_I[first:last])


def write_int8(run: Run, embeddings: Exported, target: Target, k: int, observer: Observer) -> dict[str, Any]:
    """Write `users.parquet`, `items.parquet` (`id`, `embedding` fixed_size_list<int8>[F], `scale`, items also `popularity` where
    the export has it) and `export.json` with the figures, which are returned.

    `recall@k`: the share of the float32 lists, of up to 1,000 users, that int8 lists hold. Where test has pairs,
    `test_recall@k` of both kinds of lists, over all users with held-out items.
    """
    scorer = embeddings.scorer
    k = min(k, scorer.num_items)
    width = scorer.items_ID.shape[1]
    facts: dict[str, Any] = {
        "format": FORMAT, "kind": "int8", "score": SCORE, "popularity_factor": embeddings.factor, "model": run.job.model.name,
        "data": run.dataset.digest, "users": scorer.num_users, "items": scorer.num_items, "width": width,
    }  # fmt: skip
    with new_folder(target.path, target.force) as work:
        users, items = (work / path.name for path in embeddings_paths(run.folder))
        facts["bytes"] = _write_rows(users, run.dataset.user_ids, embeddings.users_UF, None, run.folder)
        facts["bytes"] += _write_rows(items, run.dataset.item_ids, embeddings.items_IF, embeddings.popularity_I, run.folder)
        facts["float32_bytes"] = 4 * width * (scorer.num_users + scorer.num_items)
        facts |= _agreement(scorer, k) | _on_test(run, scorer, k, observer)
        write_json(work / EXPORT_FACTS, facts)
    return facts


def _write_rows(path: Path, ids: Vocabulary, rows_RF: torch.Tensor, popularity_R: torch.Tensor | None, run: Path) -> int:
    """Write codes and scales of all rows under the metadata of the run's own file; returns their bytes before compression."""
    width = rows_RF.shape[1]
    own = pq.read_schema(next(each for each in embeddings_paths(run) if each.name == path.name)).metadata
    fields = [("id", ids.type), ("embedding", pa.list_(pa.int8(), width)), ("scale", pa.float32())]
    fields += [] if popularity_R is None else [("popularity", pa.float32())]
    schema, first = pa.schema(fields, metadata={EXPORT_KEY: own[EXPORT_KEY]}), 0
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for part in ids.chunks(max(1, _ROWS_BYTES // (4 * width))):
            here = slice(first, first + len(part))
            codes_RF, scale_R = quantised(rows_RF[here])
            columns = [pa.FixedSizeListArray.from_arrays(pa.array(codes_RF.view(-1).numpy()), width), pa.array(scale_R.numpy())]
            columns += [] if popularity_R is None else [pa.array(popularity_R[here].numpy())]
            writer.write_table(pa.table([part, *columns], schema=schema))
            let_go(rows_RF)
            first += len(part)
    return first * (width + 4)


def _agreement(scorer: EmbeddingScorer, k: int) -> dict[str, Any]:
    """How much of the float32 lists, nothing left out, int8 lists hold: users spread evenly over the numbers, so over degrees."""
    users_B = measured_users(scorer)
    float_BK, int8_BK = (top_k_all(each, users_B, k, None).items_BK for each in (scorer, Int8Scorer(scorer)))
    return {f"recall@{k}": overlap(int8_BK, float_BK), "measured_users": len(users_B)}


def _on_test(run: Run, scorer: EmbeddingScorer, k: int, observer: Observer) -> dict[str, dict[str, float]]:
    """Recall on test by both kinds of lists; nothing where test has no pairs. Nothing is chosen by it."""
    rule = rule_of(run)
    pairs = judged_pairs(rule, run.dataset, "test", run.job.evaluate.users)
    if not len(pairs):
        return {}
    split, name = HeldOutSplit.of(pairs, run.dataset.graph, seen_items(rule, run.dataset, "test")), f"recall@{k}"
    kinds: dict[str, Scorer] = {"float32": scorer, "int8": Int8Scorer(scorer)}
    recalls = {}
    for kind, each in kinds.items():
        observer.work(f"ranking for test by {kind}", 0, 0)
        recalls[kind] = evaluate(each, split, Measures((k,))).metrics[name]
    return {f"test_{name}": recalls}
