"""Small graphs whose edges have times, batches of pairs that see their own past, and the graph before a time."""

from __future__ import annotations

import numpy as np

from gcnrec.config import Sampler
from gcnrec.graph import BipartiteGraph
from gcnrec.ops.draws.dated import dated
from gcnrec.sampling.dated_blocks import DatedSampler
from gcnrec.sampling.sampler import edge_sampler


def timed_graph(users=9, items=7, edges=60, seed=0, times=12):
    """A random graph, and int64 times of its edges, several of which are equal."""
    draw = np.random.default_rng(seed)
    rows, columns = (size * draw.random(edges) ** 1.5 for size in (users, items))
    graph = BipartiteGraph.from_edges(rows.astype(np.int32), columns.astype(np.int32), users, items)
    return graph, draw.integers(0, times, graph.num_edges)


def sampler_of(graph, times, fanouts, with_targets=False, size=8, disliked=None, **settings):
    """Batches of `size` pairs, with the blocks of their past; by default with two drawn negatives."""
    past = dated(graph, times)
    neighbours = DatedSampler(past, past.dates(times), fanouts, 0, with_targets)
    chosen = Sampler(**(settings or {"negatives": "uniform", "num_negatives": 2}))
    return edge_sampler(chosen, graph, None, size, 0, neighbours, disliked)


def edge_times(graph, times):
    """(user node, item node) -> time."""
    csr = graph.user_items
    pairs = zip(csr.row_numbers().tolist(), (csr.indices + graph.num_users).tolist(), strict=True)
    return dict(zip(pairs, times.tolist(), strict=True))


def times_of_nodes(batch, graph, times):
    """The time at which each entry of the batch's nodes stands: that of its pair."""
    known, found = edge_times(graph, times), {}
    triples = batch.triples
    for b, (user, item) in enumerate(zip(triples.users_B.tolist(), triples.positives_B.tolist(), strict=True)):
        nodes = {batch.users_B[b]: user, batch.positives_B[b]: item + graph.num_users}
        nodes |= dict(zip(batch.negatives_BN[b].tolist(), (triples.negatives_BN[b] + graph.num_users).tolist(), strict=True))
        if batch.disliked_B is not None and triples.disliked_B[b] >= 0:
            nodes[int(batch.disliked_B[b])] = triples.disliked_B[b] + graph.num_users
        for place, node in nodes.items():
            assert batch.nodes_V[place] == node
            found.setdefault(int(place), set()).add(known[user, item + graph.num_users])
    assert all(len(own) == 1 for own in found.values()) and len(found) == len(batch.nodes_V)
    return [own.pop() for _, own in sorted(found.items())]


def before(graph, times, time):
    """The graph of the edges that are older than `time`."""
    csr, kept = graph.user_items, times < time
    return BipartiteGraph.from_edges(csr.row_numbers()[kept], csr.indices[kept], graph.num_users, graph.num_items)
