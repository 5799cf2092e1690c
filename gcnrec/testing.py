"""Tiny worlds with known answers, and checks of whatever claims to be a table, an encoder, a sampler or a step.

The checks raise AssertionError: call them from a test of a new implementation. `check_own_...` take the name of a class of
another package, as a job names it (docs/extending.md).
Letters: E edges, N nodes, U users, I items, V nodes of a batch, R rows, D width, F width of the embeddings.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from gcnrec.device import ops_for, uploaded
from gcnrec.errors import UsageError
from gcnrec.extensions.load import Own
from gcnrec.extensions.names import ENCODERS, LOSSES, METRICS, POLICIES, TRACKERS, Kind
from gcnrec.graph import BipartiteGraph
from gcnrec.rows import RowGrad, Rows, Ticket
from gcnrec.tables.dense import StepTable, Table
from gcnrec.tables.rules import Sgd

if TYPE_CHECKING:
    from gcnrec.loaders.schema import Dataset
    from gcnrec.models.encoder import Encoded, Encoder
    from gcnrec.models.objective import Objective
    from gcnrec.sampling.sampler import Batch, EdgeSampler
    from gcnrec.steps.explore import Explorer
    from gcnrec.steps.step import Step
    from gcnrec.training.plan import Plan

Edges = list[tuple[int, int]]
Dense = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""A model as a function of rows_ND and the dense hop_NN, in any precision: the embeddings of all nodes, (N, F)."""


@dataclass(frozen=True)
class World:
    """Train, validation and test edges as (user, item) numbers, which go by falling train degree."""

    name: str
    num_users: int
    num_items: int
    train: Edges
    valid: Edges
    test: Edges

    @property
    def graph(self) -> BipartiteGraph:
        """The train edges."""
        users_E, items_E = _columns(self.train)
        return BipartiteGraph.from_edges(users_E, items_E, self.num_users, self.num_items)


def checkerboard(size: int = 24) -> World:
    """User u likes the items of u's parity. Item u is withheld for the test, item u + 2 for the validation.

    So the best new item for user u is item u. `size` is even.
    """
    alike = [(user, item) for user in range(size) for item in range(size) if (user - item) % 2 == 0]
    test = [(user, user) for user in range(size)]
    valid = [(user, (user + 2) % size) for user in range(size)]
    return World("checkerboard", size, size, sorted({*alike} - {*test} - {*valid}), valid, test)


def halves(first: int = 9, second: int = 6) -> World:
    """Two complete graphs that share no node, item u withheld from user u: no list may cross over."""
    sides = [range(first), range(first, first + second)]
    train = [(user, item) for side in sides for user in side for item in side if user != item]
    return World("halves", first + second, first + second, train, [], [(user, user) for user in range(first + second)])


def star(leaves: int = 40) -> World:
    """Every user likes item 0 and nothing else."""
    return World("star", leaves, 1, [(user, 0) for user in range(leaves)], [], [])


def one_user(items: int = 7) -> World:
    """One user who likes every item."""
    return World("one user", 1, items, [(0, item) for item in range(items)], [], [])


def one_item(users: int = 7) -> World:
    """One item that every user likes."""
    return replace(star(users), name="one item")


def duplicate_edges() -> World:
    """Three users, three items; the first edge is given four times and counts once."""
    return World("duplicate edges", 3, 3, [(0, 0)] * 4 + [(0, 1), (0, 2), (1, 0), (1, 1), (2, 0)], [], [(2, 1)])


def empty_rows() -> World:
    """User 3 and item 3 have no train edge; user 2 has none in test."""
    return World("empty rows", 4, 4, [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (2, 0)], [], [(1, 2), (3, 3)])


def worlds() -> list[World]:
    """One of each."""
    return [checkerboard(), halves(), star(), one_user(), one_item(), duplicate_edges(), empty_rows()]


def write_dataset(world: World, folder: Path, weights_E: NDArray[np.float32] | None = None) -> Dataset:
    """A dataset folder with string user ids `u0 ..` and int64 item ids `1000 ..`; `weights_E` in the graph's edge order."""
    graph = world.graph
    # Checks of tables and kernels run where pydantic is not installed.
    from gcnrec.loaders.schema import new_folder, open_dataset, seal, write_vocabulary

    with new_folder(folder, force=False) as work:
        graph.save(work)
        users, items = [f"u{user}" for user in range(world.num_users)], range(1000, 1000 + world.num_items)
        for name, ids, csr in (
            ("users", pa.array(users), graph.user_items),
            ("items", pa.array(items, pa.int64()), graph.item_users),
        ):
            write_vocabulary(work / f"{name}.parquet", ids.type, [(ids, csr.degrees)])
        for name, edges in (("valid", world.valid), ("test", world.test)):
            pq.write_table(pa.table(list(_columns(edges)), names=["user", "item"]), work / f"{name}.parquet")
        if weights_E is not None:
            np.save(work / "weights.npy", weights_E)
        seal(work, {"name": world.name, "num_users": world.num_users, "num_items": world.num_items})
    return open_dataset(folder)


def dense_hop(graph: BipartiteGraph) -> torch.Tensor:
    """D^-1/2 [[0, R], [R^T, 0]] D^-1/2 as a float64 (N, N) matrix, 0 for nodes without edges."""
    joined = torch.zeros(graph.num_nodes, graph.num_nodes, dtype=torch.float64)
    for user in range(graph.num_users):
        for item in graph.user_items.row(user):
            joined[user, graph.num_users + item] = joined[graph.num_users + item, user] = 1.0
    scale = joined.sum(1).clamp_min(1.0).rsqrt()
    return scale[:, None] * joined * scale


def assert_as_accurate(
    result: torch.Tensor, yardstick: torch.Tensor, exact: torch.Tensor, what: str, passed: float = 0.0
) -> None:
    """The largest error against `exact` (float64) is at most twice that of `yardstick`, or two units of the largest value.

    `passed` is the size of values that the result passed through, where they may be larger than what cancellation leaves.

    `yardstick` is the same quantity in float32 by a library that is trusted.
    """
    require(result.shape == exact.shape, f"{what}: expected shape {tuple(exact.shape)}, got {tuple(result.shape)}")
    if exact.numel() == 0:
        return
    unit = torch.finfo(torch.float32).eps * max(float(exact.abs().max()), passed)
    allowed = max(2 * float((yardstick.double() - exact).abs().max()), 2 * unit)
    error = float((result.double() - exact).abs().max())
    require(error <= allowed, f"{what}: error {error:.3g} is above the {allowed:.3g} allowed")


def grad_tile(grad: RowGrad, width: int) -> torch.Tensor:
    """The gradient of a dense table's rows as a tile, float32 (R, width)."""
    return grad.values_X[grad.at_R[:, None] + torch.arange(width)]


def require(condition: bool, sentence: str) -> None:
    """AssertionError with `sentence` unless `condition` holds."""
    if not condition:
        raise AssertionError(sentence)


def check_table(make: Callable[[torch.Tensor, int], Table]) -> None:
    """`make(weights_ND, state_width)` gives a table that reads, decodes, updates and restores every row exactly."""
    for width in (1, 3, 16, 33, 64):
        weights_ND = torch.randn(11, width, generator=torch.Generator().manual_seed(width))
        table = make(weights_ND, 2 * width)
        require((table.num_rows, table.width) == (11, width), f"11 x {width} rows became {table.num_rows} x {table.width}")
        before_ND = _all_rows(table)
        require(torch.equal(before_ND, weights_ND), f"width {width}: decode must return what was put in")
        columns = torch.cat([table.columns(0, 1), table.columns(1, width)], 1)
        require(torch.equal(columns, weights_ND), f"width {width}: columns must equal the rows")
        _check_state(table, 2 * width)
        _check_update(table, before_ND)
        _check_restore(table, make(torch.zeros(11, width), 2 * width))


def encoded_by(encoder: Encoder, table: StepTable, batch: Batch) -> Encoded:
    """What `encoder` makes of `batch`, prepared and uploaded as in a step."""
    ops = ops_for(table.device)
    return encoder.encode(table, batch, uploaded(encoder.prepare(batch, ops), ops))


def loss_by(objective: Objective, final_VD: torch.Tensor, ego_VD: torch.Tensor, batch: Batch) -> torch.Tensor:
    """The loss of `batch`, prepared and uploaded as in a step."""
    return objective(final_VD, ego_VD, uploaded(objective.prepare(batch), ops_for(final_VD.device)))


def check_encoder(encoder: Encoder, table: Table, batch: Batch, graph: BipartiteGraph, dense: Dense, passed: float = 0.0) -> None:
    """`encode` and `export` equal `dense` on the matrix of `graph`, `pull` equals its autograd; nothing carries over."""
    hop_NN, rows_ND = dense_hop(graph), table.columns(0, table.width).clone()
    nodes = torch.from_numpy(batch.nodes_V)
    draw = torch.Generator().manual_seed(1)
    grad_VF = torch.randn(len(nodes), encoder.export_width, generator=draw)
    grad_ego_VD = torch.randn(len(nodes), table.width, generator=draw)
    final, grads = [], []
    for dtype in (torch.float32, torch.float64):
        leaf_ND = rows_ND.to(dtype).requires_grad_()
        final.append(dense(leaf_ND, hop_NN.to(dtype)))
        loss = (final[-1][nodes] * grad_VF).sum() + (leaf_ND[nodes] * grad_ego_VD).sum()
        grads.append(torch.autograd.grad(loss, leaf_ND)[0])
    exported_NF = torch.full((graph.num_nodes, encoder.export_width), torch.nan)
    encoder.export(table, exported_NF)
    assert_as_accurate(exported_NF, final[0].detach(), final[1].detach(), "export", passed)
    for time in ("first", "second"):
        encoded = encoded_by(encoder, table, batch)
        assert_as_accurate(encoded.final_VD, final[0][nodes].detach(), final[1][nodes].detach(), f"{time} encode", passed)
        require(torch.equal(encoded.ego_VD, rows_ND[nodes]), "ego must be the table's rows")
        grad = encoded.pull(grad_VF, grad_ego_VD)
        require(bool((np.diff(grad.rows_R) > 0).all()), "rows of a gradient must ascend")
        spread_ND = torch.zeros_like(rows_ND)
        spread_ND[torch.from_numpy(grad.rows_R)] = grad_tile(grad, table.width)
        assert_as_accurate(spread_ND, grads[0], grads[1], f"{time} pull", passed)
    require(torch.equal(table.columns(0, table.width), rows_ND), "encode, pull and export must leave the table alone")


def check_sampler(sampler: EdgeSampler) -> None:
    """Every edge once an epoch; order by (seed, epoch) alone; positions that lead back to the triples."""
    csr, num_users = sampler.graph.user_items, sampler.graph.num_users
    for epoch in (0, 3):
        batches = list(sampler.epoch(epoch))
        steps = [epoch * sampler.steps_per_epoch + index + 1 for index in range(len(batches))]
        require([batch.step for batch in batches] == steps, f"epoch {epoch}: steps must count on from 1 over the run")
        edges = [(u, i) for b in batches for u, i in zip(b.triples.users_B.tolist(), b.triples.positives_B.tolist(), strict=True)]
        expected = list(zip(csr.row_numbers().tolist(), csr.indices.tolist(), strict=True))
        require(sorted(edges) == expected, f"epoch {epoch}: every edge exactly once")
        sizes = {len(batch.users_B) for batch in batches}
        require(max(sizes) <= sampler.batch_size and max(sizes) - min(sizes) <= 1, f"batches of even sizes, got {sizes}")
        for index, batch in enumerate(batches):
            again = replace(sampler).batch(epoch, index)
            require(_equal(batch, again), f"epoch {epoch}: batch {index} must not depend on what was drawn before")
            _check_positions(batch, num_users)


def check_step(make: Callable[[], Step], rate: float, steps: int, share: float) -> None:
    """Gradients do not carry over; two equal steps stay equal; `steps` on one batch bring its loss below `share` of itself."""
    recorder = _Recorder([])
    still = replace(make(), rule=recorder)
    batch = still.sampler.batch(0, 0)
    losses = still(batch, 0.0), still(batch, 0.0)
    first, second = recorder.grads
    require(losses[0] == losses[1], f"one batch must give one loss, got {losses}")
    require(torch.equal(first.values_X, second.values_X), "one batch must give one gradient: something carried over")
    left, right = make(), make()
    for batch in left.sampler.epoch(0):
        require(left(batch, rate) == right(batch, rate), "two equal steps must give one loss")
    require(
        torch.equal(_all_rows(left.table.drained()), _all_rows(right.table.drained())),
        "two equal runs must give equal rows bit for bit",
    )
    step = make()
    batch = step.sampler.batch(0, 0)
    # The rule counts steps, so that its bias correction is that of a run.
    trained = [step(replace(batch, step=count), rate) for count in range(1, steps + 1)]
    require(trained[-1] < share * trained[0], f"one batch must be overfitted: loss {trained[0]:.4f} -> {trained[-1]:.4f}")


@dataclass(frozen=True)
class _Recorder:
    """A rule that keeps a copy of every gradient and changes nothing."""

    grads: list[RowGrad]
    every_row = False

    def state_width(self, width: int) -> int:
        return 0

    def update(self, rows: Rows, grad: RowGrad, step: int, rate: float) -> Rows:
        self.grads.append(RowGrad(Ticket(grad.rows_R.copy()), grad.values_X.clone(), grad.at_R.clone()))
        return rows


def _columns(edges: Iterable[tuple[int, int]]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    pairs = np.array(list(edges), np.int32).reshape(-1, 2)
    return pairs[:, 0].copy(), pairs[:, 1].copy()


def _all_rows(table: Table) -> torch.Tensor:
    return table.decode(table.read(Ticket(np.arange(table.num_rows)), with_state=False))


def _check_state(table: Table, state_width: int) -> None:
    ticket = table.prefetch(np.array([2, 5, 9]))
    require(table.read(ticket, with_state=False).state is None, "a forward-only read must not touch the state")
    state = table.read(ticket, with_state=True).state
    require(state is not None and not state.last_N.any(), "rows must not have been updated yet")
    assert state is not None  # the line above
    for at in state.at_R.tolist():
        own = state.values[at : at + state_width]
        require(len(own) == state_width and not own.any(), f"the state of a row must be {state_width} zeros")


def _check_update(table: Table, before_ND: torch.Tensor) -> None:
    ticket = table.prefetch(np.array([0, 4, 10]))
    tile_RD = table.decode(table.read(ticket, with_state=False))
    tile_RD.fill_(torch.nan)
    require(torch.equal(_all_rows(table), before_ND), "a decoded tile must be a copy, and the caller's rows as well")
    grad = table.stored(ticket, torch.ones(3, table.width))
    table.write(Sgd().update(table.read(ticket, with_state=True), grad, 1, 0.5))
    expected_ND = before_ND.clone()
    expected_ND[torch.from_numpy(ticket.rows_R)] -= 0.5
    require(torch.equal(_all_rows(table), expected_ND), "an update must change its rows and no others")


def _check_restore(table: Table, other: Table) -> None:
    other.restore(table.tensors())
    require(torch.equal(_all_rows(table), _all_rows(other)), "`restore` must put back what `tensors` gave")


def _check_positions(batch: Batch, num_users: int) -> None:
    triples, nodes_V = batch.triples, batch.nodes_V
    require(bool((np.diff(nodes_V) > 0).all()), "nodes of a batch must ascend")
    require(int((nodes_V < num_users).sum()) == batch.num_users, "num_users must count the users among the nodes")
    require(np.array_equal(nodes_V[batch.users_B], triples.users_B), "users_B must lead to the triples' users")
    items_V = nodes_V - num_users
    require(np.array_equal(items_V[batch.positives_B], triples.positives_B), "positives_B must lead to the positives")
    require(np.array_equal(items_V[batch.negatives_BN], triples.negatives_BN), "negatives_BN must lead to the negatives")
    if batch.disliked_B is not None and triples.disliked_B is not None:
        found_B = np.where(batch.disliked_B < 0, -1, items_V[batch.disliked_B])
        require(np.array_equal(found_B, triples.disliked_B), "disliked_B must lead to the items rated low")


def _equal(one: Batch, other: Batch) -> bool:
    names: tuple[str, ...] = ("users_B", "positives_B", "negatives_BN")
    names += () if one.triples.disliked_B is None else ("disliked_B",)
    same = (np.array_equal(getattr(one.triples, name), getattr(other.triples, name)) for name in names)
    return one.step == other.step and all(same)


_STEPS = 30
"""Of one batch, after which a model must know it better."""
_FAR = 0.02
"""Share of a gradient's length by which a difference of float32 values may miss it."""
Settings = dict[str, Any]


def check_own_encoder(name: str, settings: Settings | None = None) -> None:
    """A class for `model.name` refuses unknown settings, draws and learns alike each time, and has the gradient of what it
    computes.

    A run that goes on from a checkpoint computes the same bits. `settings` go to the class. Raises AssertionError, or
    UsageError where a job would.
    """
    from gcnrec.models.whole_graph.own import OwnEncoder
    from gcnrec.tables.dense import DenseTable

    own = _own_of(ENCODERS, name, settings)
    sections = {"model": {"name": own.name, "settings": own.settings, "width": 8}}
    for world in (checkerboard(), empty_rows()):
        graph, width = world.graph, 8
        draw = torch.Generator().manual_seed(2)
        rows_ND = torch.randn(graph.num_nodes, width, generator=draw)
        encoder, again, table = (*(OwnEncoder(own, graph, width, 5) for _ in range(2)), DenseTable(rows_ND, 0))
        exports = [torch.full((graph.num_nodes, encoder.export_width), torch.nan) for _ in range(2)]
        for one, out_NF in zip((encoder, again), exports, strict=True):
            one.export(table, out_NF)
        require(torch.equal(table.columns(0, width), rows_ND), f"{world.name}: an export must leave the rows as they are")
        require(bool(torch.isfinite(exports[0]).all()), f"{world.name}: embeddings must be finite")
        require(torch.equal(*exports), f"{world.name}: equal seeds and rows must give equal embeddings")
        _check_gradient(encoder, rows_ND, draw)
    check_step(lambda: _own_step(sections), rate=0.05, steps=_STEPS, share=0.9)
    _check_resume(lambda: _own_step(sections))


def check_own_loss(name: str, settings: Settings | None = None) -> None:
    """A class for `loss.name` gives each positive a term of its own scores alone, with the gradient of what it computes.

    A weight w counts as w equal negatives, and none at -inf, also where that leaves an entry without any. Higher scores of
    positives lower it. A model learns by it, from in-batch and from drawn negatives. `settings` go to the class. Raises
    AssertionError, or UsageError where a job would.
    """
    from gcnrec.models.scores.own import Terms

    own = _own_of(LOSSES, name, settings)
    made, draw = Terms.of(own).made, torch.Generator().manual_seed(3)
    positive_B, negative_BN = torch.rand(7, generator=draw).double(), 2 * torch.rand(7, 5, generator=draw).double() - 1
    weight_BN = torch.zeros(7, 5).double()
    weight_BN[2], weight_BN[3, 1], weight_BN[4, 0] = -torch.inf, -torch.inf, np.log(2.0)
    given = positive_B, negative_BN, weight_BN
    kept = [each.clone() for each in given]
    terms_B = made.terms(*given)
    require(all(map(torch.equal, kept, given)), "terms must leave what they are given as it is")
    require(bool(torch.isfinite(terms_B).all()), "terms must be finite, also of an entry without negatives")
    require(torch.equal(made.terms(*given), terms_B), "equal scores must give equal terms")
    order = torch.tensor([4, 0, 3, 1, 2])

    def same(other_B: torch.Tensor, expected_B: torch.Tensor, sentence: str) -> None:
        require(torch.allclose(other_B, expected_B, rtol=1e-9, atol=1e-9), sentence)

    same(
        made.terms(positive_B, negative_BN[:, order], weight_BN[:, order]), terms_B, "the order of negatives must change no term"
    )
    alone = [made.terms(*(each[row : row + 1] for each in given)) for row in range(7)]
    same(torch.cat(alone), terms_B, "a term must follow from the scores of its own entry alone")
    rest = made.terms(positive_B[3:4], negative_BN[3:4, [0, 2, 3, 4]], weight_BN[3:4, [0, 2, 3, 4]])
    same(rest, terms_B[3:4], "a negative of log weight -inf must count as none")
    twice = made.terms(positive_B[4:5], negative_BN[4:5, [0, 0, 1, 2, 3, 4]], torch.zeros(1, 6).double())
    same(twice, terms_B[4:5], "a negative of log weight log 2 must count as two")
    leaves = positive_B.requires_grad_(), negative_BN.requires_grad_()
    try:
        torch.autograd.gradcheck(lambda one, other: made.terms(one, other, weight_BN), leaves)
    except (RuntimeError, AssertionError) as problem:
        raise AssertionError(f"the gradient of terms misses a difference of values: {problem}") from None
    (slope_B,) = torch.autograd.grad(made.terms(*leaves, weight_BN).sum(), leaves[:1])
    require(float(slope_B.sum()) < 0.0, "higher scores of the positives must lower the loss")
    popularity = getattr(made, "popularity", 0.0)
    require(isinstance(popularity, float) and 0.0 <= popularity < np.inf, f"popularity must be a float from 0, got {popularity}")
    for negatives in ("in_batch", "uniform"):
        sections = {
            "loss": {"name": own.name, "settings": own.settings},
            "sampler": {"negatives": negatives},
            "model": {"width": 8},
        }
        check_step(lambda sections=sections: _own_step(sections), rate=0.05, steps=_STEPS, share=0.9)  # type: ignore[misc]


def check_own_metric(name: str, settings: Settings | None = None) -> None:
    """A class for `evaluate.own_metrics` gives each user a finite value, from the first k items of that user's list alone.

    Chunks of users and their order change no value, lists may be short or empty, and nothing that it is given is written to.
    `settings` go to the class. Raises AssertionError, or UsageError where
    a job would.
    """
    from gcnrec.ranking.metrics import Judged, per_user_with

    own = _own_of(METRICS, name, settings)
    (metric,) = (per_user_with([own])[own.key],)
    draw = np.random.default_rng(1)
    items_BK = np.argsort(draw.random((40, 12)), axis=1).astype(np.int32)
    items_BK[np.arange(12) >= draw.integers(0, 13, 40)[:, None]] = -1
    hits_BK = (draw.random(items_BK.shape) < 0.3) & (items_BK >= 0)
    judged = Judged(items_BK, hits_BK, np.maximum(hits_BK.sum(1), 1) + draw.integers(0, 3, 40))

    def part(chosen: NDArray[np.int64], columns: int = 12) -> Judged:
        return Judged(items_BK[chosen, :columns].copy(), hits_BK[chosen, :columns].copy(), judged.num_held_out_B[chosen])

    for k in (1, 5, 12, 50):
        before = items_BK.copy(), hits_BK.copy(), judged.num_held_out_B.copy()
        values_B, order = metric(judged, k), draw.permutation(40)
        after = items_BK, hits_BK, judged.num_held_out_B
        require(all(map(np.array_equal, before, after)), f"k = {k}: a metric must leave the lists as they are")
        require(np.array_equal(metric(judged, k), values_B), f"k = {k}: equal lists must give equal values")
        require(np.array_equal(metric(part(order), k), values_B[order]), f"k = {k}: the order of users must change no value")
        halves = [metric(part(chosen), k) for chosen in (np.arange(17), np.arange(17, 40))]
        require(np.array_equal(np.concatenate(halves), values_B), f"k = {k}: a value must follow from the user's own list alone")
        require(np.array_equal(metric(part(np.arange(40), k), k), values_B), f"k = {k}: items behind the first k must not count")


def check_own_policy(name: str, settings: Settings | None = None) -> None:
    """A class for `sparsity.policy` gives shares and scores that follow from rows, gradients and moment alone.

    Blocks of rows change no score, equal runs store equal cells, also after a checkpoint, and values stay within the budget.
    `settings` go to the class. Raises AssertionError, or UsageError where a job would.
    """
    from gcnrec.sparsity.own import Foreign
    from gcnrec.sparsity.policy import Moment

    own = _own_of(POLICIES, name, settings)
    policy, draw = Foreign.of(own, 1.0), np.random.default_rng(4)
    for number, progress in enumerate((0.0, 0.3, 0.99)):
        moment = Moment(progress, number)
        gradient_RD = draw.standard_normal((24, 8)).astype(np.float32) if policy.batches else None

        def scores(first: int, last: int, moment: Moment = moment, all_RD: Any = gradient_RD) -> NDArray[np.float32]:
            return policy.made.scores(range(first, last), 8, None if all_RD is None else all_RD[first:last].copy(), moment)

        whole_RD = scores(0, 24).copy()
        require(np.array_equal(scores(0, 24), whole_RD), "equal rows, gradients and moments must give equal scores")
        parts_RD = np.concatenate([scores(15, 24), scores(0, 15)])
        require(np.array_equal(np.roll(parts_RD, 15, 0), whole_RD), "a row's scores must not depend on the block that it is in")
        shares = policy.made.share(moment), policy.made.share(moment)
        require(shares[0] == shares[1], "equal moments must give equal shares")
    _check_explored({"sparsity": {"policy": own.name, "settings": own.settings, "interval": 0.25, "stop": 1.0}})


def _check_explored(sections: Settings) -> None:
    """Two trainings explore alike, one of them from a checkpoint on, and store no more than the budget."""
    from gcnrec.steps.state import copied, restore
    from gcnrec.training.build import explorer_of

    sections = {**sections, "model": {"width": 8}, "table": {"budget": 0.5}, "optimizer": {"rule": "adam"}}
    with TemporaryDirectory() as place:

        def begun() -> tuple[int, Step, Explorer]:
            plan, step = _planned_step(sections)
            explorer = explorer_of(plan, step, 2, Path(place))
            assert explorer is not None  # the table is sparse
            return plan.budget, step, explorer

        def trained(parts: tuple[int, Step, Explorer], epoch: int) -> dict[str, torch.Tensor]:
            budget, step, explorer = parts
            for batch in step.sampler.epoch(epoch):
                step(batch, 0.02)
                if explorer.is_due(batch.step):
                    explorer.after(step, batch.step)
                    values = step.table.drained().num_values
                    require(values <= budget, f"a table must store {budget} values at most, it stores {values}")
            return copied(step, explorer)

        first, other = begun(), begun()
        middle = trained(first, 0)
        restore(other[1], other[2], middle, Path("checkpoint"), "check")
        ends = trained(first, 1), trained(other, 1)
        differs = [key for key in ends[0] if not torch.equal(ends[0][key], ends[1][key])]
        require(not differs, f"explorations after a checkpoint must be those without one, {', '.join(differs)} differ")


def check_own_tracker(name: str, settings: Settings | None = None) -> None:
    """A class for `run.tracker` takes what training, a resume, an evaluation and a report say, each in a process of its own.

    It leaves the files of the run, what it is given, the working directory and the loggers as they are.
    `settings` go to the class; choose some without a network. Raises AssertionError.
    """
    own = _own_of(TRACKERS, name, settings)
    with TemporaryDirectory() as place:
        folder = Path(place) / "run"
        folder.mkdir()
        for file in ("job.toml", "lineage.json", "metrics.jsonl", "report.html"):
            (folder / file).write_text("{}", encoding="utf-8")
        before, around = _files(folder), _around()
        job: dict[str, dict[str, Any]] = {"model": {"name": "lightgcn", "width": 8}, "evaluate": {"k": [10, 20]}}
        figures = {"loss": 0.5, "valid/recall_at_20": 0.25}
        for status in ("KILLED", "FINISHED"):
            tracker = own.make()
            tracker.begin(folder, job)
            for stage, epoch in (("fit", 1), ("fit", 2), ("refit", 1)):
                tracker.epoch(stage, epoch, figures)
            tracker.close(status)
        tracker = own.make()
        tracker.begin(folder, job)
        tracker.results("test", figures)
        tracker.report(folder / "report.html")
        tracker.close("FINISHED")
        given = {"model": {"name": "lightgcn", "width": 8}, "evaluate": {"k": [10, 20]}}
        require((job, figures) == (given, {"loss": 0.5, "valid/recall_at_20": 0.25}), "a tracker must leave what it is given")
        require(before.items() <= _files(folder).items(), "a tracker must leave the files of the run as they are")
        require(_around() == around, "a tracker must leave working directory, output and loggers as they are")


def _files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _around() -> tuple[Any, ...]:
    return Path.cwd(), [*logging.root.handlers], logging.root.level, sys.stdout, sys.stderr


def _own_of(kind: Kind, name: str, settings: Settings | None) -> Own:
    """The class of that name, which must refuse a setting that no class has."""
    own = Own("name", kind, kind.full_name(name), settings or {})
    own.make()
    try:
        replace(own, settings={**own.settings, "no_such_setting": 1}).make()
    except UsageError as problem:
        require("refuses its settings" in str(problem), f"a setting that is unknown must raise ValueError: {problem}")
        return own
    raise AssertionError(f"{own.name} must raise ValueError for settings that it does not know, and took no_such_setting = 1")


def _own_step(sections: Settings) -> Step:
    """The step of a small job on the checkerboard."""
    return _planned_step(sections)[1]


def _planned_step(sections: Settings) -> tuple[Plan, Step]:
    """The plan and the step of a small job on the checkerboard."""
    from gcnrec.config import Job
    from gcnrec.training.build import TrainData, build_step, first_table
    from gcnrec.training.plan import plan_of

    sections = {**sections, "model": {"start": "normal", **sections.get("model", {})}}
    job = Job.parse({"train": {"batch_size": 64, "device": "cpu"}, **sections}, [], "check")
    graph = checkerboard().graph
    plan = plan_of(job, graph.num_nodes)
    return plan, build_step(job, plan, TrainData(graph), first_table(plan, graph))


def _check_resume(make: Callable[[], Step]) -> None:
    """A step that a checkpoint restores goes on as the one that it is of."""
    from gcnrec.steps.state import copied, restore

    first, other = make(), make()
    batches = [first.sampler.batch(0, index) for index in range(3)]
    for batch in batches[:2]:
        first(batch, 0.01)
    restore(other, None, copied(first, None), Path("checkpoint"), "check")
    require(first(batches[2], 0.01) == other(batches[2], 0.01), "a step after a checkpoint must have the loss of one without")
    kept, restored = copied(first, None), copied(other, None)
    differs = [key for key in kept if not torch.equal(kept[key], restored[key])]
    require(not differs, f"a step after a checkpoint must leave what one without leaves, {', '.join(differs)} differ")


def _check_gradient(encoder: Any, rows_ND: torch.Tensor, draw: torch.Generator) -> None:
    """Autograd agrees with differences of `encoder.drawn` in rows and parameters, along random directions."""
    weights_NF = torch.randn(len(rows_ND), encoder.export_width, generator=draw)
    leaves = [rows_ND.clone().requires_grad_(), *(encoder.layers.parameters() if encoder.layers is not None else ())]
    leaves = [leaf for leaf in leaves if leaf.requires_grad]

    def total() -> torch.Tensor:
        return (encoder.drawn(leaves[0], 7).double() * weights_NF).sum()

    grads = torch.autograd.grad(total(), leaves, allow_unused=True)
    for number, (leaf, grad) in enumerate(zip(leaves, grads, strict=True)):
        grad = torch.zeros_like(leaf) if grad is None else grad
        for _ in range(3):
            way = torch.randn(leaf.shape, generator=draw)
            ends = []
            for far in (1e-2, -1e-2):
                with torch.no_grad():
                    leaf += far * way
                    ends.append(float(total()))
                    leaf -= far * way
            error = abs((ends[0] - ends[1]) / 2e-2 - float((grad * way).sum()))
            what = "the rows" if number == 0 else f"parameter {number}"
            allowed = _FAR * max(float(grad.norm()), 1e-3 * abs(ends[0]), 1e-3)
            require(
                error <= allowed, f"the gradient of {what} misses a difference of values by {error:.3g}, allowed {allowed:.3g}"
            )
