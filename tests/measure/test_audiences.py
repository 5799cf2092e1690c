"""Recall of audiences by hand."""

from __future__ import annotations

import numpy as np
import pytest

from gcnrec.config import Job
from gcnrec.testing import checkerboard, write_dataset
from gcnrec.training.train import train
from jobs.measure.audiences import measured


def test_recall_is_of_the_users_of_each_item(tmp_path):
    job = {"model": {"name": "mf", "width": 4}, "train": {"epochs": 1, "refit": False}, "evaluate": {"baselines": []}}
    run = train(Job.parse(job, [], "t"), write_dataset(checkerboard(), tmp_path / "data"), tmp_path / "run")
    dataset, (users_UF, items_IF) = (
        run.dataset,
        (np.stack(np.asarray(each, np.float64)) for each in (run.scorer().users_UD.numpy(), run.scorer().items_ID.numpy())),
    )
    scores = users_UF @ items_IF.T
    known = np.zeros(scores.shape, bool)
    for part in dataset.known_items(dataset.valid):
        known[part.row_numbers(), part.indices] = True
    activity = 1 + known.sum(axis=1)
    chances = np.exp(scores / run.job.loss.temperature)
    chances /= chances.sum(axis=1, keepdims=True)
    wanted = {"trained score": scores, "probability x activity": chances * activity[:, None], "probability": chances}
    found = {row["score"]: row for row in measured(run, [3])}
    held = np.zeros_like(known)
    held[dataset.test.users_E, dataset.test.items_E] = True
    for name, values in wanted.items():
        values = np.where(known, -np.inf, values)
        recalls = [
            held[np.argsort(-values[:, item], kind="stable")[:3], item].sum() / held[:, item].sum()
            for item in np.flatnonzero(held.any(axis=0))
        ]
        assert found[name]["recall@3"] == pytest.approx(np.mean(recalls)), name
    assert found["all lists"]["items"] == len(dataset.item_ids)
