"""A model of another package: a differentiable function of all rows, by a class that the job names.

Letters: N nodes, D width, F width of the embeddings.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import torch

from gcnrec import random
from gcnrec.errors import UsageError, first_line, shown
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
        with _drawing(seed, 0):
            module = own.make().build(graph, width)
        if not isinstance(module, torch.nn.Module):
            raise UsageError(f"{own.shown}: build must give a torch.nn.Module, got {type(module).__name__}; see {PAGE}")
        self._module = module
        self._refuse_other_state()
        has_parameters = any(True for _ in module.parameters())
        super().__init__(self._width_of(graph.num_nodes, width), module if has_parameters else None)

    def propagated(self, rows_ND: torch.Tensor) -> torch.Tensor:
        embedded_NF: torch.Tensor = self._module(rows_ND)
        return embedded_NF

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
        self._module.eval()
        try:
            with torch.no_grad():
                made = self._module(torch.zeros(num_nodes, width))
        except Exception as problem:
            raise UsageError(
                f"{self._own.shown}: forward fails on rows of {num_nodes:,} nodes and {width} columns "
                f"({type(problem).__name__}: {first_line(problem)}); see {PAGE}"
            ) from None
        finally:
            self._module.train()
        is_matrix = isinstance(made, torch.Tensor) and made.dtype == torch.float32 and made.dim() == 2 and len(made) == num_nodes
        if not is_matrix:
            came = f"{made.dtype} {tuple(made.shape)}" if isinstance(made, torch.Tensor) else type(made).__name__
            raise UsageError(
                f"{self._own.shown}: forward must give float32 embeddings of all {num_nodes:,} nodes, a row each, got {came}; "
                f"see {PAGE}"
            )
        return made.shape[1]

    def _refuse_other_state(self) -> None:
        """UsageError for state that no checkpoint holds."""
        for name, value in self._module.state_dict().items():
            if not isinstance(value, torch.Tensor):
                raise UsageError(
                    f"{self._own.shown} keeps {shown(name)} in its state, of type {type(value).__name__}, and a checkpoint holds "
                    f"tensors alone; make it a buffer, see {PAGE}"
                )


@contextmanager
def _drawing(seed: int, step: int) -> Iterator[None]:
    """torch's generator on the CPU, seeded by both numbers within the block, as before afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(random.u64(seed, random.Stage.DROPOUT, step, 1)[0] >> 1))
        yield
