"""A model of another package: a differentiable function of all rows, by a class that the job names.

Letters: N nodes, D width, F width of the embeddings.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch.nn.parameter import is_lazy

from gcnrec import random
from gcnrec.errors import UsageError, shown
from gcnrec.extensions.calls import calling
from gcnrec.extensions.load import Own
from gcnrec.extensions.names import PAGE
from gcnrec.graph import BipartiteGraph
from gcnrec.models.encoder import Encoded
from gcnrec.models.whole_graph.encoder import WholeGraph
from gcnrec.sampling.sampler import Batch
from gcnrec.tables.dense import StepTable, Table


class OwnModel(Protocol):
    """What `model.name = "package.module:Class"` names; the class is made of one dict, `model.settings`."""

    def build(self, graph: BipartiteGraph, width: int) -> torch.nn.Module:
        """A module whose `forward` takes all rows, float32 (N, width), users first, and gives the embeddings, float32 (N, F).

        `graph`: the train edges of all behaviours. Parameters are trained by Adam. Initial weights and dropout may draw from
        torch's generator, which is seeded before `build` and before each step.
        """
        ...


class OwnEncoder(WholeGraph):
    """The encoder of an `OwnModel`. What it draws follows from `seed` and the step alone, so that a resumed run draws the same.

    Raises UsageError where its module does not make embeddings of the rows.
    """

    def __init__(self, own: Own, graph: BipartiteGraph, width: int, seed: int) -> None:
        self._own, self._seed = own, seed
        made = own.make()
        with _drawing(seed, 0), calling(own.shown, "build"):
            module = made.build(graph, width)
        if not isinstance(module, torch.nn.Module):
            raise UsageError(f"{own.shown}: build must give a torch.nn.Module, got {type(module).__name__}; see {PAGE}")
        self._module = module
        self._refuse_other_state()
        has_parameters = any(True for _ in module.parameters())
        super().__init__(self._width_of(graph.num_nodes, width), module if has_parameters else None)

    def propagated(self, rows_ND: torch.Tensor) -> torch.Tensor:
        version = rows_ND._version
        with calling(self._own.shown, "forward"):
            embedded_NF = self._module(rows_ND)
        self._check(embedded_NF, len(rows_ND))
        if rows_ND._version != version:
            raise UsageError(f"{self._own.shown}: forward must not change the rows that it gets; copy them first, see {PAGE}")
        if torch.is_grad_enabled() and rows_ND.requires_grad and not embedded_NF.requires_grad:
            raise UsageError(
                f"{self._own.shown}: forward must give embeddings that follow from the rows, got constant ones without a "
                f"gradient; see {PAGE}"
            )
        result: torch.Tensor = embedded_NF
        return result

    def back(self, final_VF: torch.Tensor, grad_VF: torch.Tensor, leaf_ND: torch.Tensor) -> torch.Tensor:
        with calling(self._own.shown, "the gradient of forward"):
            super().back(final_VF, grad_VF, leaf_ND)
        if leaf_ND.grad is None:
            raise UsageError(f"{self._own.shown}: forward must give embeddings that follow from the rows, got others; see {PAGE}")
        return leaf_ND.grad

    def encode(self, table: StepTable, batch: Batch, given: None) -> Encoded:
        with _drawing(self._seed, batch.step):
            return super().encode(table, batch, given)

    def drawn(self, rows_ND: torch.Tensor, step: int) -> torch.Tensor:
        """The embeddings of all nodes as training has them in a step."""
        with _drawing(self._seed, step):
            return self.propagated(rows_ND)

    def export(self, table: Table, out_NF: torch.Tensor) -> None:
        self._module.eval()
        try:
            super().export(table, out_NF)
        finally:
            self._module.train()

    def _width_of(self, num_nodes: int, width: int) -> int:
        """Columns of the embeddings, by one pass over rows of zeros."""
        self.export_width = -1
        self._module.eval()
        rows_ND = torch.zeros(num_nodes, width)
        try:
            with torch.no_grad():
                return self.propagated(rows_ND).shape[1]
        finally:
            self._module.train()

    def _check(self, made: Any, num_nodes: int) -> None:
        """UsageError for anything but a plain float32 matrix on the CPU, a row for each node, always of the same width."""
        is_plain = isinstance(made, torch.Tensor) and made.layout == torch.strided and made.device.type == "cpu"
        is_matrix = is_plain and made.dtype == torch.float32 and made.dim() == 2 and len(made) == num_nodes
        if is_matrix and made.shape[1] and self.export_width in (-1, made.shape[1]):
            return
        came = f"{made.dtype} {tuple(made.shape)} on {made.device}" if isinstance(made, torch.Tensor) else type(made).__name__
        columns = "" if self.export_width == -1 else f" of {self.export_width} columns"
        raise UsageError(
            f"{self._own.shown}: forward must give plain float32 embeddings{columns} of all {num_nodes:,} nodes, a row each, "
            f"got {came}; see {PAGE}"
        )

    def _refuse_other_state(self) -> None:
        """UsageError for state that no checkpoint holds."""
        places: dict[int, str] = {}
        for name, value in self._module.state_dict().items():
            if not isinstance(value, torch.Tensor):
                raise UsageError(
                    f"{self._own.shown} keeps {shown(name)} in its state, of type {type(value).__name__}, and a checkpoint holds "
                    f"tensors alone; make it a buffer, see {PAGE}"
                )
            place = 0 if is_lazy(value) or not value.numel() else value.untyped_storage().data_ptr()
            if place and places.setdefault(place, name) != name:
                raise UsageError(
                    f"{self._own.shown} has {shown(places[place])} and {shown(name)} share their memory, and a checkpoint holds "
                    f"each tensor once; keep it under one name, see {PAGE}"
                )


@contextmanager
def _drawing(seed: int, step: int) -> Iterator[None]:
    """torch's generator on the CPU, seeded by both numbers within the block, as before afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(random.u64(seed, random.Stage.DROPOUT, step, 1)[0] >> 1))
        yield
