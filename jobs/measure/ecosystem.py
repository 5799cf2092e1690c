"""Measures the examples for PyG and DGL against the libraries' own in-memory loaders, and writes a record.

    OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 python -m jobs.measure.ecosystem DATA RECORD.json [EPOCHS] [NOTE]

Only the loader differs: same model, rows, update rule, batch size and number of negatives. Both are judged by the mean BPR loss
of the validation pairs against fixed negatives, propagated over the whole graph. PyG's NeighborLoader needs pyg-lib or
torch-sparse; without them PyG's own way is to propagate over the whole graph for every batch of pairs, so that is measured here.
The record has seconds of the clock and of the processor, for machines with other work.
Letters: B pairs of a batch, N nodes.
"""

from __future__ import annotations

import importlib.util
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import softplus
from torch.utils.data import DataLoader

from gcnrec import open_dataset
from gcnrec.bench.harness import write_record
from gcnrec.loaders import dgl as folder
from gcnrec.loaders import pyg
from gcnrec.system.machine import machine, versions

EXAMPLES = Path(__file__).parents[1] / "examples"
SEEDS = (0, 1, 2)


def example(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pyg_sage_whole(batch_size):
    def batches(graph, data):
        whole = pyg.hetero_data(data)
        whole["user"].n_id, whole["item"].n_id = torch.arange(graph.num_users), torch.arange(graph.num_items)
        for pairs_B2 in DataLoader(whole[pyg.USER_ITEM].edge_index.T, batch_size, shuffle=True):
            for own in whole.node_types:
                whole[own].x = data[0].get_tensor(own, "x", None)
            whole["user"].src_index, whole["item"].dst_pos_index = pairs_B2.T
            whole["item"].dst_neg_index = torch.randint(graph.num_items, (len(pairs_B2),))
            yield whole

    return batches


def pyg_lightgcn_whole(batch_size):
    def batches(graph, data):
        users_E, items_E = data[1].get_edge_index(pyg.USER_ITEM, "coo")
        for pairs_B2 in DataLoader(torch.stack([users_E, items_E + graph.num_users], 1), batch_size, shuffle=True):
            negatives_B = graph.num_users + torch.randint(graph.num_items, (len(pairs_B2),))
            yield pairs_B2[:, 0], pairs_B2[:, 1], negatives_B

    return batches


def dgl_sage_own(batch_size, fanouts):
    """DGL's NeighborSampler, its edge sampler and its DataLoader on a graph in memory."""
    dataloading, made = folder.dgl.dataloading, {}

    def uniform(graph, eids):
        users_B = graph.find_edges(eids)[1]
        return torch.randint(made["users"], graph.num_nodes(), (len(eids),)), users_B

    def batches(graph, epoch, seed):
        if epoch == 0:
            np.random.seed(seed)  # DGL shuffles by it
            made.update(graph=folder.homogeneous(graph), users=graph.num_users)
        sampler = dataloading.as_edge_prediction_sampler(
            dataloading.NeighborSampler(list(fanouts[::-1])), negative_sampler=uniform
        )
        edges = torch.arange(graph.num_edges)
        for inputs, pairs, negatives, blocks in dataloading.DataLoader(
            made["graph"], edges, sampler, batch_size=batch_size, shuffle=True
        ):
            items_B, users_B = pairs.edges(order="eid")
            yield inputs, blocks, users_B, items_B, negatives.edges(order="eid")[0]

    return batches


def whole_pyg_sage(model, data):
    whole = pyg.hetero_data(data)
    out = model(whole.x_dict, whole.edge_index_dict)
    return torch.cat([out["user"], out["item"]])


def whole_dgl_sage(layers, rows, graph):
    made = folder.homogeneous(graph)
    hidden_ND = layers[0](made, rows.read(np.arange(graph.num_nodes))).relu()
    return layers[1](made, hidden_ND)


def judged(dataset, out_ND):
    """Mean BPR loss of the validation pairs, 20 fixed uniform negatives each."""
    valid, users = dataset.valid, dataset.graph.num_users
    drawn = torch.from_numpy(np.random.default_rng(7).integers(0, dataset.graph.num_items, (len(valid), 20)))
    users_B, positives_B = torch.from_numpy(valid.users_E).long(), torch.from_numpy(valid.items_E).long() + users
    own_BD = out_ND[users_B]
    gaps_BN = torch.einsum("bd,bnd->bn", own_BD, out_ND[drawn + users]) - (own_BD * out_ND[positives_B]).sum(1, keepdim=True)
    return float(softplus(gaps_BN).mean())


def trained(dataset, train, whole, batches, epochs, seed):
    processor, clock, seconds, losses = time.process_time(), 0.0, [], []
    for state in train(dataset, epochs, batches, seed):
        *parts, loss, taken = state
        losses.append(loss)
        clock += taken
        seconds.append(time.process_time() - processor)
        processor = time.process_time()
    with torch.no_grad():
        valid = judged(dataset, whole(*parts))
    return {"seed": seed, "train_loss": losses, "valid_loss": valid, "seconds": clock / epochs,
            "processor_seconds": statistics.median(seconds)}  # fmt: skip


def main(data: str, record: str, epochs: str = "10", note: str = "") -> None:
    dataset = open_dataset(data)
    graph = dataset.graph
    sage, lightgcn, dgl_sage = example("pyg_sage"), example("pyg_lightgcn"), example("dgl_sage")
    wide = example("pyg_sage")
    wide.FANOUTS = (64, 64)  # nearly every neighbour, so that little but the order of pairs differs from the whole graph
    contenders = {
        "pyg-sage": (sage, whole_pyg_sage, {
            "gcnrec": sage.batches, "gcnrec, fanouts 64 and 64": wide.batches,
            "pyg, whole graph per batch": pyg_sage_whole(sage.BATCH),
        }),
        "pyg-lightgcn": (lightgcn, lambda model, data: model.get_embedding(lightgcn.edges(graph, data)), {
            "gcnrec": lightgcn.batches, "pyg, pairs in memory": pyg_lightgcn_whole(lightgcn.BATCH),
        }),
        "dgl-sage": (dgl_sage, lambda layers, rows: whole_dgl_sage(layers, rows, graph), {
            "gcnrec": dgl_sage.batches, "dgl, NeighborSampler and DataLoader": dgl_sage_own(dgl_sage.BATCH, dgl_sage.FANOUTS),
        }),
    }  # fmt: skip
    rows = []
    for name, (module, whole, loaders) in contenders.items():
        for loader, chosen in loaders.items():
            runs = [trained(dataset, module.train, whole, chosen, int(epochs), seed) for seed in SEEDS]
            last, valid = [run["train_loss"][-1] for run in runs], [run["valid_loss"] for run in runs]
            rows.append({
                "example": name, "loader": loader, "epochs": int(epochs),
                "train_loss": statistics.mean(last), "train_loss_sd": statistics.stdev(last),
                "valid_loss": statistics.mean(valid), "valid_loss_sd": statistics.stdev(valid),
                "seconds": min(run["seconds"] for run in runs),
                "processor_seconds": min(run["processor_seconds"] for run in runs),
                "runs": runs,
            })  # fmt: skip
            print({key: value for key, value in rows[-1].items() if key != "runs"}, flush=True)
    facts = {
        "note": note, "data": {"name": dataset.name, "digest": dataset.digest, "edges": graph.num_edges},
        "threads": torch.get_num_threads(), "machine": machine() | versions(("torch-geometric", "dgl")),
    }  # fmt: skip
    write_record(Path(record), f"python -m jobs.measure.ecosystem DATA RECORD.json {epochs}", rows, **facts)


if __name__ == "__main__":
    main(*sys.argv[1:])
