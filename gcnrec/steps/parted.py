"""A step whose batch consists of parts, shared by workers: every sum over parts follows one fixed tree.

So losses, tables and layers do not depend on how many workers share the parts.

    ahead    draw and prepare the parts of t+2       ids of rows to their owners, for t+1
    train    rows from their owners | encode each part | items of the pool to everyone | loss of each part
             gradients of the pool to the parts of its items | gradients of rows to their owners | verdict | update

One process alone that leads (`SharedStep`) does so for nobody.
Letters: S parts, P parts of a worker, V nodes of a part, J items of the pool, K of them of a part, R rows, D width, G weights of
layers.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.device import arrays_of, ops_for, with_tensors
from gcnrec.models.encoder import Encoded, Encoder, every_row
from gcnrec.models.scores.parts import PartGiven, PartObjective
from gcnrec.rows import Ticket
from gcnrec.sampling.minibatches import IN_TRAINING, Drawing, Waits, minibatches
from gcnrec.sampling.parts import PartedBatch, PartedSampler
from gcnrec.steps.follower import SharedStep
from gcnrec.steps.guards import Immediate, Loss, diverged
from gcnrec.steps.shared_state import share_layers
from gcnrec.tables.dealt.exchanged import ExchangedTable
from gcnrec.tables.dealt.plan import joined
from gcnrec.tables.features.sides import FeatureSides
from gcnrec.tables.rules import Rule
from gcnrec.workers.sums import tree
from gcnrec.workers.world import World


@dataclass(frozen=True, slots=True)
class PreparedParts:
    """A batch, and what encoder and objective take from the host for each of its parts, `packed` as `Ops.pack` does."""

    batch: PartedBatch
    encoders: tuple[Any, ...]
    objectives: tuple[PartGiven[NDArray[Any]], ...]
    packed: Any


@dataclass(frozen=True, slots=True)
class AnnouncedParts:
    """A batch whose rows' owners know what to send; `tickets` of its parts. `num_rows`: rows that all parts of all workers read,
    where a row of two parts counts twice."""

    batch: PartedBatch
    encoders: tuple[Any, ...]
    objectives: tuple[PartGiven[torch.Tensor], ...]
    tickets: tuple[Ticket, ...]
    num_rows: int


@dataclass(frozen=True, slots=True)
class _Lost:
    """Losses of a worker's parts, float64 (P), and the gradients of their embeddings and table rows."""

    losses_P: torch.Tensor
    encoded: tuple[Encoded, ...]
    grads: tuple[tuple[torch.Tensor, torch.Tensor], ...]


@dataclass(frozen=True)
class PartedStep(SharedStep):
    """The step on the parts that `world`'s worker has of each batch."""

    sampler: PartedSampler
    encoder: Encoder
    table: ExchangedTable
    rule: Rule
    objective: PartObjective
    layer_optimizer: torch.optim.Optimizer | None
    layer_rate: float
    world: World
    drawing: Drawing = IN_TRAINING
    features: FeatureSides | None = None

    check = Immediate()
    """A step is judged before it updates."""

    def __call__(self, batch: PartedBatch, rate: float) -> float:
        """Train at one learning rate on a batch that was not announced; returns its loss. For a leader whom nobody follows."""
        self._agree()
        return self.trained(self._announced(self._prepared(batch)), rate).value

    def deal(self) -> None:
        self.table.deal()
        if self.encoder.layers is not None and self.layer_optimizer is not None:
            share_layers(self.world, self.encoder.layers, self.layer_optimizer)

    def announced(self, epoch: int, waits: Waits, first: int) -> Generator[AnnouncedParts]:
        def drawn(index: int) -> PreparedParts:
            return self._prepared(self.sampler.batch(epoch, index))

        return minibatches(drawn, self._announced, range(first, self.sampler.steps_per_epoch), waits, self.drawing)

    def trained(self, uploaded: AnnouncedParts, rate: float) -> Loss:
        lost, step = self._lost(uploaded), uploaded.batch.step
        rows, layers = [], []
        for encoded, (grad_VD, grad_ego_VD) in zip(lost.encoded, lost.grads, strict=True):
            self._forget_layers()
            rows.append(encoded.pull(grad_VD, grad_ego_VD))
            layers.append(self._layer_gradient())
        grad = self.table.pushed(uploaded.tickets, rows)
        self._set_layers(layers)
        loss = self._judged(step, lost.losses_P, [grad.values_X, *self._layer_gradients()])
        local = self.table.local
        if self.rule.every_row:
            grad = every_row(grad, local.num_rows, local.width)
        self.table.write(self.rule.update(local.read(grad.ticket, with_state=True), grad, step, rate))
        if self.layer_optimizer is not None:
            for group in self.layer_optimizer.param_groups:
                group["lr"] = rate * self.layer_rate
            self.layer_optimizer.step()
        return loss

    def drawn_with_rows(self, epoch: int, index: int) -> PartedBatch:
        """This worker's parts of a batch; on the leader with the rows of all workers' parts."""
        batch, size = self.sampler.batch(epoch, index), self.world.size
        if size == 1:
            return batch
        rows, to_leader = torch.from_numpy(batch.rows_R), [len(batch.rows_R)] + [0] * (size - 1)
        counts = self.world.counts([len(rows)] * size)
        came = self.world.exchange(rows, to_leader, counts if self.world.rank == 0 else [0] * size)
        return batch if self.world.rank else replace(batch, rows_R=np.unique(came.numpy()))

    def whole_gradient(self, batch: PartedBatch) -> tuple[NDArray[np.int64], torch.Tensor]:
        uploaded = self._announced(self._prepared(batch))
        lost = self._lost(uploaded)
        self._judged(batch.step, lost.losses_P, [grad for pair in lost.grads for grad in pair])
        tiles = []
        for ticket, encoded, grads in zip(uploaded.tickets, lost.encoded, lost.grads, strict=True):
            tiles.append(torch.zeros(len(ticket.rows_R), self.table.width))
            encoded.pull_whole(*grads, ticket.rows_R, tiles[-1])
        return self.table.whole(uploaded.tickets, tiles)

    def _prepared(self, batch: PartedBatch) -> PreparedParts:
        ops = ops_for(self.table.device)
        encoders = tuple(self.encoder.prepare(part.batch, ops) for part in batch.parts)
        objectives = tuple(self.objective.prepare(part, batch) for part in batch.parts)
        return PreparedParts(batch, encoders, objectives, ops.pack(arrays_of((encoders, objectives))))

    def _announced(self, prepared: PreparedParts) -> AnnouncedParts:
        """Upload what is prepared, and announce the rows of each part to their owners."""
        with self.table.announcing():
            tensors = ops_for(self.table.device).upload(prepared.packed)
            encoders, objectives = with_tensors((prepared.encoders, prepared.objectives), iter(tensors))
            tickets = self.table.announce([part.batch.rows_R for part in prepared.batch.parts])
            if self.features is not None:
                for ticket in tickets:
                    self.features.prefetch(ticket)
        parts = tuple(
            replace(part, batch=replace(part.batch, ticket=ticket))
            for part, ticket in zip(prepared.batch.parts, tickets, strict=True)
        )
        num_rows = self.table.num_asked(tickets)
        return AnnouncedParts(replace(prepared.batch, parts=parts), encoders, objectives, tuple(tickets), num_rows)

    def _lost(self, uploaded: AnnouncedParts) -> _Lost:
        """Encode this worker's parts, and their losses' gradients with respect to embeddings and table rows."""
        self.table.fetch(uploaded.tickets)
        encoded = [
            self.encoder.encode(self.table, part.batch, given)
            for part, given in zip(uploaded.batch.parts, uploaded.encoders, strict=True)
        ]
        finals = [each.final_VD.detach().requires_grad_() for each in encoded]
        egos = [each.ego_VD.detach().requires_grad_() for each in encoded]
        scored = [self.objective.rows(final_VD) for final_VD in finals]
        leaves = [rows_VD.detach().requires_grad_() for rows_VD in scored]
        shared = [self.objective.shared(*each) for each in zip(leaves, uploaded.objectives, strict=True)]
        pool_JD = self._pooled(uploaded.batch, [rows_KD.detach() for rows_KD in shared])
        losses, slopes, grads_pool, grads_ego = [], [], [], []
        for leaf_VD, ego_VD, given in zip(leaves, egos, uploaded.objectives, strict=True):
            pool_leaf_JD = pool_JD.detach().requires_grad_()
            loss = self.objective.loss(leaf_VD, ego_VD, pool_leaf_JD, given)
            losses.append(loss.detach().double())
            grads = _gradients(loss, (leaf_VD, ego_VD, pool_leaf_JD))
            slopes.append(grads[0])
            grads_ego.append(grads[1])
            grads_pool.append(grads[2])
        for place, grad_KD in enumerate(self._returned(uploaded.batch, grads_pool)):
            slopes[place] = slopes[place] + _gradients(shared[place], (leaves[place],), grad_KD)[0]
        grads_final = [_gradients(*each) for each in zip(scored, [(final,) for final in finals], slopes, strict=True)]
        pairs = tuple((final[0], ego) for final, ego in zip(grads_final, grads_ego, strict=True))
        return _Lost(torch.stack(losses), tuple(encoded), pairs)

    def _pooled(self, batch: PartedBatch, shared: Sequence[torch.Tensor]) -> torch.Tensor:
        """The pool of all parts, (J, D), part after part; empty without one."""
        if batch.pool is None:
            return shared[0][:0]
        rank, size, counts_S = self.world.rank, self.world.size, np.diff(batch.pool.starts_S1)
        own_KD = joined(shared)
        outs = [0 if worker == rank else len(own_KD) for worker in range(size)]  # own items do not travel
        ins = [0 if worker == rank else int(counts_S[worker::size].sum()) for worker in range(size)]
        came = self.world.exchange(joined([own_KD] * (size - 1) or [own_KD[:0]]), outs, ins)  # copy: for each other worker
        pieces = [
            shared if worker == rank else torch.split(items_JD, counts_S[worker::size].tolist())
            for worker, items_JD in enumerate(torch.split(came, ins))
        ]
        return joined([pieces[part % size][part // size] for part in range(len(counts_S))])  # copy: the pool, part after part

    def _returned(self, batch: PartedBatch, grads_JD: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The gradient of the items that each part of this worker has in the pool, summed over all parts."""
        if batch.pool is None:
            return []
        rank, size, summed_JD, pool = self.world.rank, self.world.size, tree(grads_JD), batch.pool
        parts = range(len(pool.starts_S1) - 1)
        of_owners = [joined([summed_JD[pool.of_part(part)] for part in parts[worker::size]]) for worker in range(size)]
        own_KD, of_owners[rank] = of_owners[rank], of_owners[rank][:0]  # the own gradient does not travel
        ins = [0 if worker == rank else len(own_KD) for worker in range(size)]
        came = self.world.exchange(joined(of_owners), list(map(len, of_owners)), ins)
        pieces = [own_KD if worker == rank else piece for worker, piece in enumerate(torch.split(came, ins))]
        return list(torch.split(tree(pieces), [_length(pool.of_part(part)) for part in self.sampler.own]))

    def _judged(self, step: int, losses_P: torch.Tensor, gradients: Sequence[torch.Tensor]) -> Loss:
        """The loss of the step. DivergedError, on all workers, unless it and the sums of all workers' gradients are finite."""
        size = self.world.size
        row = torch.cat([losses_P, torch.stack([grad.sum().double() for grad in gradients]).sum()[None]])
        row = row.cpu()  # copy: a few numbers; synchronize: all workers must know a bad step before it updates
        came = self.world.exchange(row.repeat(size, 1), [1] * size, [1] * size)
        loss = float(tree(list(came[:, :-1].T.reshape(-1))))  # parts in their order: part j of worker w is w + j * W of all
        if np.isfinite(loss) and bool(torch.isfinite(came[:, -1]).all()):
            return Loss(step, loss)
        raise diverged(step, loss, "a gradient" if np.isfinite(loss) else "the loss")

    def _forget_layers(self) -> None:
        if self.layer_optimizer is not None:
            self.layer_optimizer.zero_grad()

    def _layer_gradients(self) -> list[torch.Tensor]:
        return [leaf.grad for leaf in self._weights() if leaf.grad is not None]

    def _layer_gradient(self) -> torch.Tensor:
        """The gradient of all layers of one part, flat float32 (G), and behind it which of the weights have one."""
        flat = [leaf.new_zeros(leaf.numel()) if leaf.grad is None else leaf.grad.reshape(-1) for leaf in self._weights()]
        has = torch.tensor([float(leaf.grad is not None) for leaf in self._weights()], device=self.table.device)
        return torch.cat([*flat, has])

    def _set_layers(self, layers_G: Sequence[torch.Tensor]) -> None:
        """Give the layers the gradient summed over all parts; a weight without one in any part has none."""
        if not len(layers_G[0]):
            return
        size, own = self.world.size, torch.stack(list(layers_G))
        came = self.world.exchange(own.repeat(size, 1), [len(own)] * size, [len(own)] * size).view(size, len(own), -1)
        total_G = tree(list(came.transpose(0, 1).reshape(size * len(own), -1)))
        weights = self._weights()
        *grads, has = torch.split(total_G, [*(leaf.numel() for leaf in weights), len(weights)])
        # synchronize: the host must know which weights have a gradient
        for leaf, grad, some in zip(weights, grads, has.tolist(), strict=True):
            leaf.grad = grad.view_as(leaf).clone() if some else None

    def _weights(self) -> list[torch.nn.Parameter]:
        return [] if self.encoder.layers is None else list(self.encoder.layers.parameters())


def _gradients(
    loss: torch.Tensor, inputs: tuple[torch.Tensor, ...], upstream: torch.Tensor | None = None
) -> tuple[torch.Tensor, ...]:
    """The gradient with respect to each of `inputs`, zero where the loss does not depend on it."""
    if not loss.requires_grad:
        return tuple(torch.zeros_like(each) for each in inputs)
    found = torch.autograd.grad(loss, inputs, upstream, allow_unused=True)
    return tuple(torch.zeros_like(each) if grad is None else grad for each, grad in zip(inputs, found, strict=True))


def _length(places: slice) -> int:
    return int(places.stop - places.start)
