"""A GraphSAGE of DGL's own SAGEConv trained from a dataset folder on gcnrec's blocks; the rows stay in gcnrec's table.

python jobs/examples/dgl_sage.py DATA [EPOCHS]
"""

import sys
import time

import torch
from torch.nn.functional import softplus

from gcnrec import open_dataset
from gcnrec.loaders import dgl as folder  # before dgl itself, so that it settles which backend DGL takes
from gcnrec.loaders.table_rows import TableRows
from gcnrec.ops.draws.sample import popularity_table
from gcnrec.sampling.blocks import NeighbourSampler
from gcnrec.sampling.sampler import EdgeSampler
from gcnrec.tables.dense import DenseTable
from gcnrec.tables.rules import Adam

from dgl.nn import SAGEConv  # isort: skip

WIDTH, RATE, BATCH, FANOUTS, RULE = 64, 3e-3, 2048, (10, 10), Adam(0.9, 0.999, 1e-8)


def batches(graph, epoch, seed):
    """An epoch of (input nodes, blocks, users, items, items drawn as negatives), the last three as places in the output."""
    uniform, neighbours = popularity_table(graph.item_users.degrees, 0.0), NeighbourSampler(graph, FANOUTS, seed, True)
    for batch in folder.batches(EdgeSampler(graph, None, BATCH, 1, uniform, False, seed, 1.0, neighbours), epoch):
        yield batch.input_nodes, batch.blocks, batch.users_B, batch.positives_B, batch.negatives_BN[:, 0]


def train(dataset, epochs, batches=batches, seed=0):
    """Yields (layers, rows, mean loss, seconds) of each epoch."""
    torch.manual_seed(seed)
    nodes, step = dataset.graph.num_nodes, 0
    rows = TableRows(DenseTable(0.1 * torch.randn(nodes, WIDTH), RULE.state_width(WIDTH)), 0, nodes)
    layers = torch.nn.ModuleList([SAGEConv(WIDTH, WIDTH, "mean"), SAGEConv(WIDTH, WIDTH, "mean")])
    optimizer = torch.optim.Adam(layers.parameters(), RATE)
    for epoch in range(epochs):
        losses, begun = [], time.perf_counter()
        for input_R, blocks, users_B, positives_B, negatives_B in batches(dataset.graph, epoch, seed):
            x_RD = rows.read(input_R.numpy()).requires_grad_()
            out_VD = layers[1](blocks[1], layers[0](blocks[0], x_RD).relu())
            loss = softplus((out_VD[users_B] * (out_VD[negatives_B] - out_VD[positives_B])).sum(1)).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            rows.update(RULE, input_R.numpy(), x_RD.grad, step, RATE)
            losses.append(loss.item())
        yield layers, rows, sum(losses) / len(losses), time.perf_counter() - begun


if __name__ == "__main__":
    for epoch, (_, _, loss, seconds) in enumerate(train(open_dataset(sys.argv[1]), int((*sys.argv, 5)[2])), 1):
        print(f"epoch {epoch}: loss {loss:.4f}, {seconds:.1f} s")
