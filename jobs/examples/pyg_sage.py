"""PyG's own GraphSAGE trained from a dataset folder on sampled subgraphs; the rows of users and items stay in gcnrec's table.

python jobs/examples/pyg_sage.py DATA [EPOCHS]
"""

import sys
import time

import torch
from torch.nn.functional import softplus
from torch_geometric.loader import LinkLoader
from torch_geometric.nn import GraphSAGE, to_hetero

from gcnrec import open_dataset
from gcnrec.loaders import pyg
from gcnrec.tables.dense import DenseTable
from gcnrec.tables.rules import Adam

WIDTH, RATE, BATCH, FANOUTS, RULE = 64, 3e-3, 2048, (10, 10), Adam(0.9, 0.999, 1e-8)


def batches(graph, data):
    """An epoch of `HeteroData`: 2,048 train pairs, a negative for each, and what two hops of sampled neighbours reach."""
    sampler = pyg.SubgraphSampler(graph, FANOUTS, seed=0, exclude_seen=False)
    return LinkLoader(data, sampler, pyg.USER_ITEM, neg_sampling="triplet", batch_size=BATCH, shuffle=True)


def bpr(out, users_B, positives_B, negatives_B):
    return softplus((out["user"][users_B] * (out["item"][negatives_B] - out["item"][positives_B])).sum(1)).mean()


def train(dataset, epochs, batches=batches, seed=0):
    """Yields (model, data, mean loss, seconds) of each epoch."""
    torch.manual_seed(seed)
    rows = pyg.table_rows(dataset.graph, DenseTable(0.1 * torch.randn(dataset.graph.num_nodes, WIDTH), RULE.state_width(WIDTH)))
    data, step = pyg.stores(dataset, rows), 0
    model = to_hetero(GraphSAGE(WIDTH, WIDTH, num_layers=2), pyg.METADATA)
    optimizer = torch.optim.Adam(model.parameters(), RATE)
    for _ in range(epochs):
        losses, begun = [], time.perf_counter()
        for batch in batches(dataset.graph, data):
            user, item = batch["user"], batch["item"]
            x = {"user": user.x.requires_grad_(), "item": item.x.requires_grad_()}
            loss = bpr(model(x, batch.edge_index_dict), user.src_index, item.dst_pos_index, item.dst_neg_index)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            for own, x_VD in x.items():  # the rows that the batch read are trained where they lie
                rows[own, "x"].update(RULE, batch[own].n_id.numpy(), x_VD.grad, step, RATE)
            losses.append(loss.item())
        yield model, data, sum(losses) / len(losses), time.perf_counter() - begun


if __name__ == "__main__":
    for epoch, (_, _, loss, seconds) in enumerate(train(open_dataset(sys.argv[1]), int((*sys.argv, 5)[2])), 1):
        print(f"epoch {epoch}: loss {loss:.4f}, {seconds:.1f} s")
