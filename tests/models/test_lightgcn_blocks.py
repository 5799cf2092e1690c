"""LightGCN on tables wider than one block of columns."""

from __future__ import annotations

import pytest
import torch

from gcnrec.config import Sampler
from gcnrec.models.hops import Hop
from gcnrec.models.lightgcn import BLOCK, LightGcn
from gcnrec.sampling.sampler import edge_sampler
from gcnrec.tables.dense import DenseTable
from gcnrec.testing import check_encoder, checkerboard


@pytest.mark.parametrize("num_layers", [0, 1, 2, 3, 4])
def test_one_whole_block_and_a_part(num_layers):
    graph, width = checkerboard().graph, BLOCK + 5
    batch = edge_sampler(Sampler(), graph, None, 4, 0).batch(0, 1)
    rows = torch.randn(graph.num_nodes, width, generator=torch.Generator().manual_seed(5))

    def dense(rows_ND, hop_NN):
        layers = [rows_ND]
        for _ in range(num_layers):
            layers.append(hop_NN @ layers[-1])
        return sum(layers) / len(layers)

    check_encoder(LightGcn(Hop(graph), num_layers, width, True), DenseTable(rows, 0), batch, graph, dense)
