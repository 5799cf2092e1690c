"""PyG's own LightGCN trained from a dataset folder: gcnrec draws the batches, its graph store gives the edges.

    python jobs/examples/pyg_lightgcn.py DATA [EPOCHS]

PyG's LightGCN holds its rows itself and propagates over the whole graph, so the sampler adds negatives and no neighbours.
"""

import sys
import time

import torch
from torch_geometric.loader import LinkLoader
from torch_geometric.nn import LightGCN

from gcnrec import open_dataset
from gcnrec.loaders import pyg

WIDTH, LAYERS, RATE, DECAY, BATCH = 64, 2, 3e-3, 1e-4, 4096


def batches(graph, data):
    """An epoch of (user nodes, item nodes, nodes of items drawn as negatives)."""
    sampler = pyg.SubgraphSampler(graph, (), seed=0, exclude_seen=False)
    for batch in LinkLoader(data, sampler, pyg.USER_ITEM, neg_sampling="triplet", batch_size=BATCH, shuffle=True):
        items = graph.num_users + batch["item"].n_id
        yield batch["user"].n_id[batch["user"].src_index], items[batch["item"].dst_pos_index], items[batch["item"].dst_neg_index]


def edges(graph, data):
    """Both directions of every edge, int64 (2, 2E), items numbered after users."""
    users_E, items_E = data[1].get_edge_index(pyg.USER_ITEM, "coo")
    return torch.stack([torch.cat([users_E, items_E + graph.num_users]), torch.cat([items_E + graph.num_users, users_E])])


def train(dataset, epochs, batches=batches, seed=0):
    """Yields (model, data, mean loss, seconds) of each epoch."""
    torch.manual_seed(seed)
    graph, data = dataset.graph, pyg.stores(dataset)
    model, edge_index = LightGCN(graph.num_nodes, WIDTH, LAYERS), edges(graph, data)
    optimizer = torch.optim.Adam(model.parameters(), RATE)
    for _ in range(epochs):
        losses, begun = [], time.perf_counter()
        for users_B, positives_B, negatives_B in batches(graph, data):
            pairs = torch.stack([users_B.repeat(2), torch.cat([positives_B, negatives_B])])
            positive_B, negative_B = model(edge_index, pairs).chunk(2)
            loss = model.recommendation_loss(positive_B, negative_B, pairs.unique(), lambda_reg=DECAY)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        yield model, data, sum(losses) / len(losses), time.perf_counter() - begun


if __name__ == "__main__":
    for epoch, (_, _, loss, seconds) in enumerate(train(open_dataset(sys.argv[1]), int((*sys.argv, 5)[2])), 1):
        print(f"epoch {epoch}: loss {loss:.4f}, {seconds:.1f} s")
