"""Bench `propagate`: one symmetric-normalised hop over all nodes (He et al. 2020, eq. 3), forward and backward apart.

Every variant multiplies the same rows with the same graph on the same threads; peers get their matrix or their edge
weights normalised beforehand, in 64-bit and in 32-bit indices where they take both. A result counts when its largest
error against float64 is at most twice that of torch's CSR product. Before each repetition all rest for a moment: the
thread pools of the libraries spin after their work and would steal from the next variant.
Letters: N nodes (users, then items), E edges, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.bench.graphs import GOWALLA, GraphInputs, graph_inputs, indptr_of, load_dgl, torch_csr
from gcnrec.bench.harness import Row, in_parts, largest_error, measure, use_threads, variants_of
from gcnrec.models.hops import Hop, SymmetricHop

Product = Callable[[torch.Tensor], torch.Tensor]
Repeat = Callable[[], torch.Tensor]


@dataclass(frozen=True)
class Contender:
    """`forward` may be recorded by autograd; `backward` None means that autograd derives it."""

    forward: Product
    backward: Product | None = None


def run(
    dataset: Path | None = None,
    width: int = 64,
    threads: int | None = None,
    runs: int = 15,
    size: tuple[int, int, int] = GOWALLA,
) -> Iterator[Row]:
    """Rows of both directions and one closing row, the slower direction's speedup. Units are edges, each seen both ways.

    `dataset` is a dataset folder; None is a synthetic graph of `size` (users, items, edges) with power laws on both sides.
    """
    count, given = use_threads(threads), graph_inputs(dataset, width, size)

    def part(direction: str, rows_ND: torch.Tensor, go: Callable[[GraphInputs, Contender], Repeat]) -> Iterator[Row]:
        error = partial(largest_error, _exact(given, rows_ND))
        tolerance = 2 * error(None, torch_csr(given, np.int64) @ rows_ND)
        variants = variants_of({name: partial(_repeat_of, go, build) for name, build in CONTENDERS.items()}, given, count)
        return measure(f"propagate-{direction}", variants, 2 * given.graph.num_edges, error, tolerance, runs=runs)

    directions = (("forward", given.source_ND, _forward), ("backward", given.grad_ND, _backward))
    yield from in_parts("propagate", (part(*direction) for direction in directions))


def _ours(given: GraphInputs, threads: int) -> Contender:
    hop = Hop(given.graph)
    return Contender(lambda rows_ND: SymmetricHop.apply(rows_ND, hop))


def _scipy_csr(given: GraphInputs, threads: int) -> Contender:
    matrix = _scipy_matrix(given)

    def product(rows_ND: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(matrix @ rows_ND.detach().numpy())

    return Contender(product, product)


def _torch_csr(index: type, given: GraphInputs, threads: int) -> Contender:
    matrix = torch_csr(given, index)
    return Contender(lambda rows_ND: matrix @ rows_ND)


def _torch_csr_symmetric(index: type, given: GraphInputs, threads: int) -> Contender:
    matrix = torch_csr(given, index)
    return Contender(lambda rows_ND: matrix @ rows_ND.detach(), lambda grad_ND: matrix @ grad_ND)


def _torch_coo(given: GraphInputs, threads: int) -> Contender:
    places = torch.from_numpy(np.stack([given.rows_E, given.columns_E]))
    matrix = torch.sparse_coo_tensor(places, torch.from_numpy(given.values_E), given.shape, check_invariants=False)
    matrix = matrix.coalesce()
    return Contender(lambda rows_ND: torch.sparse.mm(matrix, rows_ND))


def _pyg_csr(given: GraphInputs, threads: int) -> Contender:
    from torch_geometric.nn import LGConv

    layer, matrix = LGConv(normalize=False), torch_csr(given, np.int64)
    return Contender(lambda rows_ND: layer(rows_ND, matrix))


def _pyg_edge_index(given: GraphInputs, threads: int) -> Contender:
    from torch_geometric.nn import LGConv

    layer, weights = LGConv(normalize=False), torch.from_numpy(given.values_E)
    edge_index = torch.from_numpy(np.stack([given.columns_E, given.rows_E]))  # source, target
    return Contender(lambda rows_ND: layer(rows_ND, edge_index, weights))


def _dgl_graph(given: GraphInputs, threads: int) -> Any:
    graph = load_dgl(threads).graph(
        (torch.from_numpy(given.columns_E), torch.from_numpy(given.rows_E)), num_nodes=given.graph.num_nodes
    )
    return graph.int().formats(["csc", "csr"])


def _dgl_graphconv(given: GraphInputs, threads: int) -> Contender:
    graph = _dgl_graph(given, threads)
    from dgl.nn.pytorch import GraphConv

    width = given.source_ND.shape[1]
    layer = GraphConv(width, width, norm="both", weight=False, bias=False, allow_zero_in_degree=True)
    return Contender(lambda rows_ND: layer(graph, rows_ND))


def _dgl_copy_u_sum(given: GraphInputs, threads: int) -> Contender:
    graph = _dgl_graph(given, threads)
    from dgl.ops import copy_u_sum

    scale_N1 = graph.in_degrees().clamp(min=1).float().rsqrt()[:, None]
    return Contender(lambda rows_ND: copy_u_sum(graph, rows_ND * scale_N1) * scale_N1)


Build = Callable[[GraphInputs, int], Contender]
CONTENDERS: dict[str, Build] = {
    "gcnrec": _ours,
    "scipy-csr": _scipy_csr,
    "torch-csr": partial(_torch_csr, np.int64),
    "torch-csr-int32": partial(_torch_csr, np.int32),
    "torch-csr-symmetric": partial(_torch_csr_symmetric, np.int64),
    "torch-csr-int32-symmetric": partial(_torch_csr_symmetric, np.int32),
    "torch-coo": _torch_coo,
    "pyg-lgconv-csr": _pyg_csr,
    "pyg-lgconv-edge-index": _pyg_edge_index,
    "dgl-graphconv": _dgl_graphconv,
    "dgl-copy-u-sum": _dgl_copy_u_sum,
}
"""All of them required. SciPy and the symmetric ones reuse the matrix for the backward pass, as a careful user would."""


def _repeat_of(go: Callable[[GraphInputs, Contender], Repeat], build: Build, given: GraphInputs, threads: int) -> Repeat:
    return go(given, build(given, threads))


def _forward(given: GraphInputs, contender: Contender) -> Repeat:
    source_ND = given.source_ND.clone().requires_grad_()
    return lambda: contender.forward(source_ND).detach()


def _backward(given: GraphInputs, contender: Contender) -> Repeat:
    if contender.backward is not None:
        return partial(contender.backward, given.grad_ND)
    source_ND = given.source_ND.clone().requires_grad_()
    result_ND = contender.forward(source_ND)
    return lambda: torch.autograd.grad(result_ND, source_ND, given.grad_ND, retain_graph=True)[0]


def _exact(given: GraphInputs, rows_ND: torch.Tensor) -> NDArray[np.float64]:
    matrix = _scipy_matrix(given).astype(np.float64)
    matrix.data = given.exact_E
    product: NDArray[np.float64] = matrix @ rows_ND.double().numpy()
    return product


def _scipy_matrix(given: GraphInputs) -> Any:
    from scipy.sparse import csr_matrix

    return csr_matrix((given.values_E, given.columns_E.astype(np.int32), indptr_of(given.graph).astype(np.int32)), given.shape)
