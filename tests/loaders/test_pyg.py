"""PyG's own loaders and models on a dataset folder."""

from __future__ import annotations

import warnings
from itertools import pairwise

import numpy as np
import pytest
import torch

from gcnrec.errors import UsageError
from gcnrec.tables.dense import DenseTable
from gcnrec.testing import checkerboard, halves, write_dataset

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # importing PyG compiles with torch.jit
    from torch_geometric.loader import LinkLoader, NodeLoader
    from torch_geometric.nn import GraphSAGE, to_hetero

    from gcnrec.loaders import pyg


@pytest.fixture
def dataset(tmp_path):
    return write_dataset(halves(9, 6), tmp_path / "data")


def edges_of(dataset):
    rows = dataset.graph.user_items
    return {(user, int(item)) for user in range(rows.rows) for item in rows.row(user)}


def features(graph, width=3):
    """Row n of users is (n, n, n), of items (100 + n, ...)."""
    users, items = (np.tile(np.arange(count, dtype=np.float32)[:, None], width) for count in (graph.num_users, graph.num_items))
    return {("user", "x"): users, ("item", "x"): items + 100}


def links(dataset, sampler, negatives, **options):
    return LinkLoader(pyg.stores(dataset, features(dataset.graph)), sampler, pyg.USER_ITEM, neg_sampling=negatives, **options)


def test_link_loader_gives_valid_subgraphs_with_their_rows(dataset):
    sampler = pyg.SubgraphSampler(dataset.graph, (3, 2), seed=5)
    seen, edges = set(), edges_of(dataset)
    for batch in links(dataset, sampler, {"mode": "triplet", "amount": 4}, batch_size=16, shuffle=True):
        assert batch.validate()
        users, items = batch["user"].n_id, batch["item"].n_id
        assert batch["user"].x[:, 1].tolist() == users.tolist()
        assert batch["item"].x[:, 1].tolist() == [item + 100 for item in items.tolist()]
        for edge_type, row, column in ((pyg.USER_ITEM, users, items), (pyg.ITEM_USER, items, users)):
            one, other = batch[edge_type].edge_index
            pairs = list(zip(row[one].tolist(), column[other].tolist(), strict=True))
            assert len({*pairs}) == len(pairs) == sum(batch[edge_type].num_sampled_edges)
            assert {pair if edge_type == pyg.USER_ITEM else pair[::-1] for pair in pairs} <= edges
        own = users[batch["user"].src_index].tolist()
        positives, negatives = items[batch["item"].dst_pos_index].tolist(), items[batch["item"].dst_neg_index]
        assert negatives.shape == (len(own), 4)
        for user, others in zip(own, negatives.tolist(), strict=True):
            assert not {(user, other) for other in others} & edges
        seen |= {*zip(own, positives, strict=True)}
    assert seen == edges


def test_manual_seed_repeats_an_epoch(dataset):
    loader = links(dataset, pyg.SubgraphSampler(dataset.graph, (2,), 5), "triplet", batch_size=40, shuffle=True)

    def epoch(seed):
        torch.manual_seed(seed)
        return [(batch["item"].n_id.tolist(), batch["item"].dst_neg_index.tolist()) for batch in loader]

    first, again, other = epoch(1), epoch(1), epoch(2)
    assert first == again != other


def test_binary_negatives(dataset):
    sampler = pyg.SubgraphSampler(dataset.graph, (), 5)
    (batch,) = links(dataset, sampler, {"mode": "binary", "amount": 0.5}, batch_size=10_000)
    count = dataset.graph.num_edges
    drawn = -(-count // 2)
    label = batch[pyg.USER_ITEM].edge_label
    assert label.tolist() == [1.0] * count + [0.0] * drawn
    users, items = batch[pyg.USER_ITEM].edge_label_index
    for user, item, one in zip(batch["user"].n_id[users], batch["item"].n_id[items], label, strict=True):
        assert (int(item) in dataset.graph.user_items.row(int(user))) == bool(one)


def test_no_negatives_and_the_other_direction(dataset):
    data = pyg.stores(dataset, features(dataset.graph))
    sampler = pyg.SubgraphSampler(dataset.graph, (2,), 5)
    (batch,) = LinkLoader(data, sampler, (pyg.ITEM_USER, torch.tensor([[3, 2], [0, 1]])), batch_size=2)
    items, users = batch[pyg.ITEM_USER].edge_label_index
    assert (batch["item"].n_id[items].tolist(), batch["user"].n_id[users].tolist()) == ([3, 2], [0, 1])


def test_node_loader_puts_the_seeds_first_in_their_order(dataset):
    data = pyg.stores(dataset, features(dataset.graph))
    loader = NodeLoader(data, pyg.SubgraphSampler(dataset.graph, (2, 2), 5), ("item", torch.tensor([4, 0, 11])), batch_size=3)
    (batch,) = loader
    assert batch["item"].n_id[:3].tolist() == [4, 0, 11] and batch["item"].batch_size == 3
    assert batch["item"].num_sampled_nodes[0] == 3 and batch["user"].num_sampled_nodes[0] == 0


def test_with_full_fanouts_a_model_gives_what_it_gives_on_the_whole_graph(tmp_path):
    dataset = write_dataset(checkerboard(12), tmp_path / "data")
    graph = dataset.graph
    torch.manual_seed(3)
    table = DenseTable(torch.randn(graph.num_nodes, 8), 0)
    data = pyg.stores(dataset, pyg.table_rows(graph, table))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        model = to_hetero(GraphSAGE(8, 8, num_layers=2), pyg.METADATA).eval()
    whole = pyg.hetero_data(data)
    assert torch.equal(torch.cat([whole["user"].x, whole["item"].x]), table.columns(0, 8))
    expected = model(whole.x_dict, whole.edge_index_dict)["user"]
    for batch in NodeLoader(data, pyg.SubgraphSampler(graph, (20, 20), 5), "user", batch_size=5):
        found = model(batch.x_dict, batch.edge_index_dict)["user"][: batch["user"].batch_size]
        torch.testing.assert_close(found, expected[batch["user"].input_id])


def test_graph_store_gives_every_layout(dataset):
    graph, store = dataset.graph, pyg.BipartiteStore(dataset.graph)
    edges = {(pyg.USER_ITEM, *edge) for edge in edges_of(dataset)}
    edges |= {(pyg.ITEM_USER, item, user) for _, user, item in edges}
    found = {layout: set() for layout in ("coo", "csr", "csc")}
    for edge_type in (pyg.USER_ITEM, pyg.ITEM_USER):
        rows, columns = store.get_edge_index(edge_type, "coo")
        found["coo"] |= {(edge_type, *edge) for edge in zip(rows.tolist(), columns.tolist(), strict=True)}
        indptr, columns = store.get_edge_index(edge_type, "csr")
        found["csr"] |= {(edge_type, row, column) for row, column in uncompressed(indptr, columns)}
        rows, indptr = store.get_edge_index(edge_type, "csc")
        found["csc"] |= {(edge_type, row, column) for column, row in uncompressed(indptr, rows)}
    assert found == dict.fromkeys(found, edges)
    assert store.coo([pyg.USER_ITEM])[1][pyg.USER_ITEM].tolist() == graph.user_items.indices.tolist()
    with pytest.raises(KeyError):
        store.get_edge_index(("user", "knows", "user"), "coo")
    assert not store.put_edge_index((rows, rows), pyg.USER_ITEM, "coo") and not store.remove_edge_index(pyg.USER_ITEM, "coo")


def uncompressed(indptr, indices):
    return [(row, int(index)) for row, (a, b) in enumerate(pairwise(indptr)) for index in indices[a:b]]


def test_row_store_reads_arrays_and_tables_by_any_index(tmp_path, dataset):
    np.save(tmp_path / "x.npy", np.arange(12, dtype=np.float32).reshape(6, 2))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    table = DenseTable(torch.from_numpy(np.array(mapped)), 0)
    for source in (mapped, pyg.TableRows(table, 0, 6)):
        store = pyg.RowStore({("user", "x"): source})
        assert store.get_tensor("user", "x", torch.tensor([4, 1, 4])).tolist() == [[8, 9], [2, 3], [8, 9]]
        assert store.get_tensor("user", "x", slice(4, None)).tolist() == [[8, 9], [10, 11]]
        assert store.get_tensor("user", "x", 2).tolist() == [[4, 5]]
        assert store.get_tensor("user", "x", None).tolist() == mapped.tolist()
        assert store.get_tensor_size("user", "x") == (6, 2)
        assert store.get_tensor_size("user", "y") is None and store.get_tensor("user", "y", None) is None
    assert store.put_tensor(torch.ones(6, 1), "user", "y", None) and store.get_tensor("user", "y", 0).tolist() == [[1]]
    assert not store.put_tensor(torch.ones(1, 1), "user", "y", 0)
    assert [(a.group_name, a.attr_name) for a in store.get_all_tensor_attrs()] == [("user", "x"), ("user", "y")]
    assert store.remove_tensor("user", "y", None) and not store.remove_tensor("user", "y", None)
    assert pyg.stores(dataset)[0].get_all_tensor_attrs() == []  # the folder has no features


def test_what_cannot_be_asked_for(dataset):
    sampler = pyg.SubgraphSampler(dataset.graph, (2,), 5)
    data = pyg.stores(dataset)
    with pytest.raises(UsageError, match="popularity_power"):
        next(iter(links(dataset, sampler, {"mode": "triplet", "dst_weight": torch.ones(15)}, batch_size=4)))
    with pytest.raises(UsageError, match="edge_label_index must name"):
        next(iter(LinkLoader(data, sampler, (("user", "to", "user"), torch.zeros(2, 1, dtype=torch.long)))))
    with pytest.raises(UsageError, match="input_nodes must name"):
        next(iter(NodeLoader(data, sampler, ("shop", torch.tensor([0])))))
    with pytest.raises(UsageError, match="time"):
        next(iter(NodeLoader(data, sampler, ("user", torch.tensor([0])), input_time=torch.tensor([7]))))
