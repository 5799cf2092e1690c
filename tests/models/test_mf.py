"""Matrix factorisation against its transcription: the embedding is the row."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from built import step_of

from gcnrec.config import Job
from gcnrec.models.mf import MatrixFactorisation
from gcnrec.sampling.sampler import edge_sampler
from gcnrec.tables.dense import DenseTable
from gcnrec.testing import check_encoder, check_step, checkerboard, encoded_by, worlds


@pytest.mark.parametrize("world", worlds(), ids=lambda world: world.name)
def test_equals_the_transcription(world):
    graph = world.graph
    table = DenseTable(torch.randn(graph.num_nodes, 20, generator=torch.Generator().manual_seed(0)), 0)
    batch = edge_sampler(Job().sampler, graph, None, 6, 0).batch(0, 0)
    check_encoder(MatrixFactorisation(20), table, batch, graph, lambda rows_ND, hop_NN: rows_ND)


def test_a_step_touches_the_rows_of_its_batch_only():
    graph = checkerboard().graph
    batch = edge_sampler(Job().sampler, graph, None, 6, 0).batch(0, 0)
    encoded = encoded_by(MatrixFactorisation(4), DenseTable(torch.zeros(graph.num_nodes, 4), 0), batch)
    ones = torch.ones(len(batch.nodes_V), 4)
    assert np.array_equal(encoded.pull(ones, ones).rows_R, batch.nodes_V)


@pytest.mark.parametrize("rule", ["adam", "adam_dense"])
def test_step(rule):
    sections = {"model": {"name": "mf", "width": 16}, "optimizer": {"rule": rule}, "train": {"batch_size": 12}}
    job, graph = Job.parse(sections, [], "test"), checkerboard().graph
    check_step(lambda: step_of(job, graph), rate=0.02, steps=60, share=0.3)
