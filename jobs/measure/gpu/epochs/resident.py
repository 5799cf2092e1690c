"""Peers with the whole table in the GPU's memory, by torch alone: `index_select`, sparse products, torch's own optimizer.

A step never waits for the host. Rows of a batch differ, so that the gradient needs no sorting.
Letters: N rows of the table, R rows of a step, V nodes of a batch, T targets and S sources of a hop, D width.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.bench.contenders.epoch_task import BETA1, BETA2, EPSILON, L2, RATE, TEMPERATURE, Task
from gcnrec.bench.contenders.peer_loss import Labels, softmax_loss
from gcnrec.sampling.sampler import Batch, EdgeSampler
from jobs.measure.gpu.bed import Bed
from jobs.measure.gpu.epochs.products import Hop


class ResidentRows:
    """Rows (N, D) on the device, with SparseAdam."""

    def __init__(self, start_ND: torch.Tensor, device: torch.device) -> None:
        self.rows_ND = torch.nn.Parameter(start_ND.to(device, copy=True))
        self._optimizer = torch.optim.SparseAdam([self.rows_ND], RATE, (BETA1, BETA2), EPSILON)

    def read(self, index_R: torch.Tensor) -> torch.Tensor:
        return self.rows_ND.detach().index_select(0, index_R)

    def update(self, index_R: torch.Tensor, grad_RD: torch.Tensor) -> None:
        """`index_R` int64, ascending, unique."""
        shape = self.rows_ND.shape
        self.rows_ND.grad = torch.sparse_coo_tensor(index_R[None], grad_RD, shape, is_coalesced=True, check_invariants=False)
        self._optimizer.step()


@dataclass(frozen=True)
class PlacedHop:
    """A drawn hop; places of its targets and sources among the batch's rows, int64."""

    targets_T: torch.Tensor
    sources_S: torch.Tensor
    product: Hop


@dataclass(frozen=True)
class Placed:
    """A batch on the device; `own_V` are places of its nodes among its rows."""

    index_R: torch.Tensor
    own_V: torch.Tensor
    hops: tuple[PlacedHop, ...]
    labels: Labels


class ResidentLightGcn:
    """The steps of `gcnrec.bench.contenders.epoch_task.step_of`, on the same batches."""

    def __init__(self, bed: Bed, task: Task) -> None:
        self._bed, self._rows = bed, ResidentRows(task.start_ND, bed.device)
        graph = task.graph
        self._degrees_N = np.concatenate([graph.user_items.degrees, graph.item_users.degrees])

    def train(self, batches: Iterable[Placed]) -> list[float]:
        """Train on the batches; returns their losses, read at the end."""
        losses = [self._step(placed) for placed in batches]
        return torch.stack(losses).tolist()  # type: ignore[no-any-return]

    def drawn_ahead(self, sampler: EdgeSampler, epoch: int) -> Iterator[Placed]:
        """The batches of an epoch, drawn and brought to the device by a thread, two ahead."""
        steps = range(sampler.steps_per_epoch)
        with ThreadPoolExecutor(1) as thread:
            coming = [thread.submit(self._drawn, sampler, epoch, index) for index in steps[:2]]
            for index in steps:
                if index + 2 in steps:
                    coming.append(thread.submit(self._drawn, sampler, epoch, index + 2))
                yield coming.pop(0).result()

    def placed(self, batch: Batch) -> Placed:
        """A batch on the device."""
        degrees_R = np.maximum(self._degrees_N[batch.rows_R], 1)
        hops = []
        for block in batch.blocks:
            # 1 / sqrt(d d') of the symmetric normalisation, times d / s for the s drawn neighbours that stand for all d
            scale_T = np.sqrt(degrees_R[block.targets_T]) / np.maximum(block.csr.degrees, 1)
            scale_S = 1 / np.sqrt(degrees_R[block.sources_S])
            product = Hop(block.csr, scale_T.astype(np.float32), scale_S.astype(np.float32), self._upload)
            hops.append(PlacedHop(self._upload(block.targets_T), self._upload(block.sources_S), product))
        own_V = self._upload(np.searchsorted(batch.rows_R, batch.nodes_V))
        labels = Labels.of(batch.nodes_V, batch.num_users, batch.users_B, batch.positives_B)
        tensors = {part.name: value for part in fields(labels) if isinstance(value := getattr(labels, part.name), torch.Tensor)}
        on_device = {name: self._upload(tensor.numpy()) for name, tensor in tensors.items()}
        return Placed(self._upload(batch.rows_R), own_V, tuple(hops), replace(labels, **on_device))

    def _drawn(self, sampler: EdgeSampler, epoch: int, index: int) -> Placed:
        return self.placed(sampler.batch(epoch, index))

    def _upload(self, values: NDArray[Any]) -> torch.Tensor:
        # copy: through pinned memory, without a wait
        return self._bed.host(torch.from_numpy(np.ascontiguousarray(values))).to(self._bed.device, non_blocking=True)

    def _step(self, placed: Placed) -> torch.Tensor:
        rows_RD = self._rows.read(placed.index_R).requires_grad_()
        hops = placed.hops
        inner_SD = rows_RD.index_select(0, hops[-1].sources_S)
        for hop in reversed(hops):
            inner_SD = rows_RD.index_select(0, hop.targets_T) + hop.product(inner_SD)
        ego_VD = rows_RD.index_select(0, placed.own_V)
        loss = softmax_loss(placed.labels, inner_SD / (len(hops) + 1), ego_VD, TEMPERATURE, L2)
        loss.backward()  # type: ignore[no-untyped-call]
        if rows_RD.grad is not None:
            self._rows.update(placed.index_R, rows_RD.grad)
        return loss.detach()
