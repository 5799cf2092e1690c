"""The encoder of graphsage as an ONNX graph: features, rows and edges of any nodes in, their embeddings out.

    h_0 = b + row + P f                                            of the node's side; without f, or without rows, that part is 0
    h_{l+1} = sigma(W_r h_l + W_l mean of the neighbours' h_l + c)   (Hamilton et al. 2017, algorithm 1, as in `convolutions.py`)

Inputs, float32 unless said otherwise. A side has only what the model reads of it:

    user_features (U, F), item_features (I, G)   as the dataset holds them after ingestion
    user_rows (U, D), item_rows (I, D)           zeros for a node that training has not seen
    num_users (1), num_items (1)                 int64, of a side that has neither features nor rows
    user_edges (2, E), item_edges (2, M)         int64: numbers of a node, and of a node of the other side that it reads

Outputs: users (U, D), items (I, D), of length 1 where the run exports them so. An item with features alone, or a new user with
its items, is encoded as `gcnrec recommend` does it, where neighbours up to the number of layers away are among the nodes. The
embeddings of the run itself come from all nodes and all edges of train.
Letters: U users, I items, E and M edges, F and G features, D width.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from gcnrec.errors import UsageError, install
from gcnrec.interactions import Vocabulary
from gcnrec.loaders.schema import new_folder
from gcnrec.ranking.export_rules import SHORTEST, Exported
from gcnrec.results.exports.target import ENCODER, EXPORT_FACTS, FORMAT, ONNX_PRODUCER, ROWS_KEY, Target
from gcnrec.runs.folder import Run, final_tensors
from gcnrec.storage.documents import write_json

OPSET, _IR = 17, 8
"""The least versions that have all operators, so that older runtimes read the file."""
_SIDES = ("user", "item")
_ROWS_BYTES = 2**24
"""Of rows that are written at a time, as a row group."""


def write_onnx(run: Run, embeddings: Exported, target: Target) -> dict[str, Any]:
    """Write `encoder.onnx`, `users.parquet` and `items.parquet` (`id`, `row`) where the model reads rows, and `export.json`.

    Raises UsageError for another model than graphsage, for weighted neighbours, and where the extra is missing.
    """
    _refuse(run)
    rows_ND, layers = final_tensors(run)
    reads_rows = run.job.model.inputs != "features"
    num_users, width, unit = len(run.dataset.user_ids), rows_ND.shape[1], embeddings.lengths_I is not None
    model = encoder_graph(layers, reads_rows, width, unit)
    facts: dict[str, Any] = {
        "format": FORMAT, "kind": "onnx", "model": run.job.model.name, "data": run.dataset.digest, "width": width,
        "layers": run.job.model.layers, "opset": OPSET, "unit_length": unit, "rule": embeddings.rule.name,
        "popularity_factor": embeddings.factor, "inputs": [each.name for each in model.graph.input],
        "outputs": [each.name for each in model.graph.output],
    }  # fmt: skip
    with new_folder(target.path, target.force) as work:
        (work / ENCODER).write_bytes(model.SerializeToString(deterministic=True))
        if reads_rows:
            graph = run.train_graph.union
            degrees_N = np.concatenate([graph.user_items.degrees, graph.item_users.degrees])
            rows_ND[torch.from_numpy(degrees_N == 0)] = 0.0  # the model does not read them
            _write_rows(work / "users.parquet", run.dataset.user_ids, rows_ND[:num_users])
            _write_rows(work / "items.parquet", run.dataset.item_ids, rows_ND[num_users:])
        write_json(work / EXPORT_FACTS, facts)
    return facts


def _refuse(run: Run) -> None:
    """UsageError for a run whose encoder cannot be written."""
    model = run.job.model
    if model.name != "graphsage":
        raise UsageError(
            f"--format onnx writes the encoder of graphsage, and {run.folder} holds {model.name}; "
            "choose --format bundle, or train graphsage"
        )
    if model.weighted_graph or run.job.sampler.neighbours == "weighted":
        raise UsageError(
            f"--format onnx has neighbours that count alike, and {run.folder} weighs them; "
            "train with sampler.neighbours = 'uniform' and model.weighted_graph = false"
        )
    _onnx()


def _write_rows(path: Path, ids: Vocabulary, rows_RD: torch.Tensor) -> None:
    width = rows_RD.shape[1]
    schema = pa.schema([("id", ids.type), ("row", pa.list_(pa.float32(), width))], metadata={ROWS_KEY: json.dumps(FORMAT)})
    first = 0
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for part in ids.chunks(max(1, _ROWS_BYTES // (4 * width))):
            flat = pa.array(rows_RD[first : first + len(part)].contiguous().view(-1).numpy())
            writer.write_table(pa.table([part, pa.FixedSizeListArray.from_arrays(flat, width)], schema=schema))
            first += len(part)


def encoder_graph(layers: dict[str, torch.Tensor], reads_rows: bool, width: int, unit: bool) -> Any:
    """The ONNX model of an encoder; `layers` are the parameters of its `NodeLayers` by name, `unit`: outputs have length 1."""
    graph = _Graph(_onnx())
    planes = {side: _first_plane(graph, side, number, layers, reads_rows, width) for number, side in enumerate(_SIDES)}
    edges = {side: _ends(graph, side) for side in _SIDES}
    count = len({name.split(".")[1] for name in layers if name.startswith("convolutions.")})
    for layer in range(count):
        weights = {name: layers[f"convolutions.{layer}.{name}"] for name in ("lin_l.weight", "lin_l.bias", "lin_r.weight")}
        maps = {name: graph.constant(f"convolution_{layer}.{name}", tensor) for name, tensor in weights.items()}
        made = {}
        for side, other in (_SIDES, _SIDES[::-1]):
            means = _means(graph, planes[side], planes[other], edges[side], width)
            own = graph.add("Gemm", [planes[side], maps["lin_r.weight"]], {"transB": 1})
            both = graph.add("Add", [own, graph.add("Gemm", [means, maps["lin_l.weight"], maps["lin_l.bias"]], {"transB": 1})])
            made[side] = both if layer == count - 1 else graph.add("Relu", [both])
        planes = made
    for side in _SIDES:
        graph.output(f"{side}s", _unit_length(graph, planes[side]) if unit else planes[side], width)
    return graph.model()


def _first_plane(
    graph: _Graph, side: str, number: int, layers: dict[str, torch.Tensor], reads_rows: bool, width: int
) -> str:  # fmt: skip
    """h_0 of a side, from the inputs that it has."""
    bias = graph.constant(f"{side}_bias", layers[f"inputs.biases.{number}"])
    projection, parts = layers.get(f"inputs.projections.{number}.weight"), []
    if reads_rows:
        parts.append(graph.input(f"{side}_rows", [f"{side}s", width]))
    if projection is not None:
        features = graph.input(f"{side}_features", [f"{side}s", projection.shape[1]])
        parts.append(graph.add("Gemm", [features, graph.constant(f"{side}_projection", projection)], {"transB": 1}))
    if not parts:
        size = graph.input(f"num_{side}s", [1], integer=True)
        return graph.add("Expand", [bias, graph.add("Concat", [size, graph.numbers([width])], {"axis": 0})])
    total = bias
    for part in parts:
        total = graph.add("Add", [total, part])
    return total


def _ends(graph: _Graph, side: str) -> tuple[str, str]:
    """The targets of a side's edges as (E, 1), and their sources as (E)."""
    edges = graph.input(f"{side}_edges", [2, f"{side}_edges"], integer=True)
    targets, sources = (graph.add("Gather", [edges, graph.numbers(number)], {"axis": 0}) for number in (0, 1))
    return graph.add("Unsqueeze", [targets, graph.numbers([1])]), sources


def _means(graph: _Graph, own: str, other: str, ends: tuple[str, str], width: int) -> str:
    """The mean of the sources of every target, (T, D); zero for a target without any."""
    targets, sources = ends
    first, after = graph.numbers([0]), graph.numbers([1])
    size = graph.add("Slice", [graph.add("Shape", [own]), first, after])
    shapes = [graph.add("Concat", [size, graph.numbers([columns])], {"axis": 0}) for columns in (width, 1)]
    zeros, none = (graph.add("ConstantOfShape", [shape]) for shape in shapes)
    ones = graph.add("Cast", [graph.add("ConstantOfShape", [graph.add("Shape", [targets])], {"value": graph.one})], {"to": 1})
    gathered = graph.add("Gather", [other, sources], {"axis": 0})
    sums = graph.add("ScatterND", [zeros, targets, gathered], {"reduction": "add"})
    counts = graph.add("ScatterND", [none, targets, ones], {"reduction": "add"})
    return graph.add("Div", [sums, graph.add("Max", [counts, graph.constant("one", torch.ones(1))])])


def _unit_length(graph: _Graph, rows: str) -> str:
    lengths = graph.add("ReduceL2", [rows], {"axes": [1], "keepdims": 1})
    return graph.add("Div", [rows, graph.add("Max", [lengths, graph.constant("shortest", torch.tensor([SHORTEST]))])])


class _Graph:
    """An ONNX graph as it grows: each added operator returns the name of what it makes."""

    def __init__(self, onnx: Any) -> None:
        self._onnx = onnx
        self._nodes: list[Any] = []
        self._constants: dict[str, Any] = {}
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []
        self.one = onnx.numpy_helper.from_array(np.ones(1, np.float32))

    def add(self, operator: str, inputs: list[str], attributes: dict[str, Any] | None = None) -> str:
        """The name of the output of an operator."""
        name = f"{operator}_{len(self._nodes)}"
        self._nodes.append(self._onnx.helper.make_node(operator, inputs, [name], name=name, **(attributes or {})))
        return name

    def constant(self, name: str, values: torch.Tensor) -> str:
        """A float32 parameter by name, stored once."""
        return self._stored(name, values.detach().float().numpy())

    def numbers(self, values: list[int] | int) -> str:
        """An int64 constant."""
        return self._stored(f"int64_{values}", np.array(values, np.int64))

    def input(self, name: str, shape: list[int | str], integer: bool = False) -> str:
        """An input of `shape`, sizes that are known later by name; float32, or int64 where it is `integer`."""
        self._inputs.append(self._value(name, shape, integer))
        return name

    def output(self, name: str, made: str, width: int) -> None:
        """An output (rows, `width`) float32 by name, which is what an operator made."""
        self._nodes.append(self._onnx.helper.make_node("Identity", [made], [name], name=name))
        self._outputs.append(self._value(name, [name, width], False))

    def model(self) -> Any:
        """The whole, checked."""
        helper = self._onnx.helper
        stored = list(self._constants.values())
        graph = helper.make_graph(self._nodes, "graphsage", self._inputs, self._outputs, stored)
        opset = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=opset, ir_version=_IR, producer_name=ONNX_PRODUCER)
        self._onnx.checker.check_model(model, full_check=True)
        return model

    def _stored(self, name: str, values: Any) -> str:
        if name not in self._constants:
            self._constants[name] = self._onnx.numpy_helper.from_array(np.array(values, order="C"), name)  # copy: small
        return name

    def _value(self, name: str, shape: list[int | str], integer: bool) -> Any:
        kind = self._onnx.TensorProto.INT64 if integer else self._onnx.TensorProto.FLOAT
        return self._onnx.helper.make_tensor_value_info(name, kind, shape)


def _onnx() -> Any:
    try:
        import onnx
        import onnx.checker
        import onnx.helper
        import onnx.numpy_helper
    except ImportError:
        raise UsageError(f"an ONNX graph needs the package onnx, which is not installed; {install('onnx')}") from None
    return onnx
