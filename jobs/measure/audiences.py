"""Which users take an item: recall of audiences by several scores, on the test pairs of finished runs, and seconds.

    python -m jobs.measure.audiences RUN... --out RECORD.json [--k 20,100]

Each item with test pairs gets the `k` users with the highest score, without users who have it in train or validation. recall@k is
the share of its test users among them, mean over items. Scores: the trained score as it is; the probability P(i|u); P(i|u) times
the user's activity, 1 + the interactions in train and validation; the activity alone. `seconds` are of `--for-items` for all
items, in lists of 20.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from gcnrec.bench.harness import write_record
from gcnrec.graph import csr_from_edges
from gcnrec.ops.topk import ItemLists, Seen, contained
from gcnrec.ranking.audience import Crowd, EqualScorer, audiences
from gcnrec.ranking.scorer import EmbeddingScorer, Scorer
from gcnrec.results.shop.audience import AudienceFiles, AudienceOptions, audience, probabilities
from gcnrec.runs.folder import Run, open_run

CHUNK = 128


@dataclass(frozen=True)
class Rising:
    """exp of a trained score less its largest value: above 0, and in the order of the score for all pairs."""

    scorer: EmbeddingScorer
    largest: float

    @property
    def num_users(self) -> int:
        return self.scorer.num_users

    @property
    def num_items(self) -> int:
        return self.scorer.num_items

    def prepare(self, users_B: NDArray[np.int32]) -> torch.Tensor:
        return self.scorer.prepare(users_B)

    def score(self, prepared: torch.Tensor, first: int, last: int, out_BT: torch.Tensor) -> None:
        self.scorer.score(prepared, first, last, out_BT)
        out_BT.sub_(self.largest).exp_()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--out", type=Path, required=True, metavar="RECORD.json")
    parser.add_argument("--k", default="20,100", metavar="N,...")
    given = parser.parse_args()
    rows = []
    for folder in given.runs:
        rows += measured(open_run(folder), [int(k) for k in given.k.split(",")])
    write_record(given.out, f"python -m jobs.measure.audiences RUN... --out {given.out.name} --k {given.k}", rows)
    for row in rows:
        print(json.dumps(row))
    return 0


def measured(run: Run, ks: Sequence[int]) -> list[dict[str, Any]]:
    """A row for each score of a run."""
    dataset, known = run.dataset, run.dataset.known_items(run.dataset.valid)
    activity_U = np.sum([part.degrees for part in known], axis=0).astype(np.float32)
    one_U = np.ones_like(activity_U)
    with tempfile.TemporaryDirectory() as name:
        probability = probabilities(run, None, Path(name))
        arms: dict[str, tuple[Scorer, NDArray[np.float32]]] = {
            "probability": (probability, one_U),
            "probability x activity": (probability, 1 + activity_U),
            "activity": (EqualScorer(len(one_U), len(dataset.item_ids)), 1 + activity_U),
        }
        if not run.job.model.closed_form:
            trained = run.embeddings(Path(name)).scorer
            arms["trained score"] = (Rising(trained, _largest(trained)), one_U)
        about = {"data": dataset.name, "model": run.mixture.name if run.mixture else run.job.model.name}
        found = [{**about, "score": arm, **recalls(run, *each, ks)} for arm, each in arms.items()]
        begun = time.perf_counter()
        pq.write_table(pa.table({"item": dataset.item_ids.ids}), f"{name}/items.parquet")
        made = audience(run, AudienceFiles(Path(name) / "items.parquet"), AudienceOptions(20), Path(name) / "lists.parquet")
        found.append({**about, "score": "all lists", "items": made.items, "seconds": time.perf_counter() - begun})
    return found


def recalls(run: Run, scorer: Scorer, weights_U: NDArray[np.float32], ks: Sequence[int]) -> dict[str, float]:
    """recall@k of the users of test, mean over the items that have any who do not have it before."""
    test, seen = run.dataset.test, Seen(run.dataset.known_items(run.dataset.valid))
    fresh_E = np.ones(len(test), np.bool_)
    for part in seen.parts:
        fresh_E &= ~contained(test.items_E[:, None], ItemLists(part, test.users_E))[:, 0]
    held = csr_from_edges(test.items_E[fresh_E], test.users_E[fresh_E], scorer.num_items, scorer.num_users)
    items_J = np.flatnonzero(held.degrees).astype(np.int32)
    users_R = np.arange(scorer.num_users, dtype=np.int32)
    best = audiences(scorer, items_J, max(ks), Crowd(users_R, weights_U, seen.of), CHUNK, lambda done, count: None)
    hits_JK = contained(best.items_BK, ItemLists(held, items_J))
    return {f"recall@{k}": float((hits_JK[:, :k].sum(axis=1) / held.degrees[items_J]).mean()) for k in ks}


def _largest(scorer: EmbeddingScorer) -> float:
    """The largest score of any pair."""
    tops = []
    for first in range(0, scorer.num_users, CHUNK):
        users_B = np.arange(first, min(first + CHUNK, scorer.num_users), dtype=np.int32)
        out_BI = torch.empty(len(users_B), scorer.num_items)
        scorer.score(scorer.prepare(users_B), 0, scorer.num_items, out_BI)
        tops.append(float(out_BI.max()))
    return max(tops)


if __name__ == "__main__":
    sys.exit(main())
