"""A small finished run with held-out pairs and a column of popularity."""

from __future__ import annotations

import numpy as np
import pytest

from gcnrec.config import Job
from gcnrec.testing import World, write_dataset
from gcnrec.training.train import train


def crowd() -> World:
    """120 users with 3 to 12 of 60 items, which are numbered by falling degree; a tenth of the pairs is held out."""
    rng = np.random.default_rng(3)
    likes = sorted((rng.permutation(60)[: rng.integers(3, 13)].tolist() for _ in range(120)), key=len, reverse=True)
    order = np.argsort(-np.bincount(np.concatenate(likes), minlength=60), kind="stable").argsort()
    edges = [(user, int(order[item])) for user, items in enumerate(likes) for item in items]
    held = {edge for edge in edges if rng.random() < 0.1}
    return World("crowd", 120, 60, [edge for edge in edges if edge not in held], [], sorted(held))


@pytest.fixture(scope="package")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("crowd")
    sections = {
        "model": {"width": 8},
        "optimizer": {"learning_rate": 0.02},
        "train": {"epochs": 2, "batch_size": 256, "threads": 2},
        "evaluate": {"baselines": [], "patience": 0},
    }
    return train(Job.parse(sections, [], "test"), write_dataset(crowd(), folder / "data"), folder / "run")
