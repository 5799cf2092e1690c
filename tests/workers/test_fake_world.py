"""The worlds of threads that tests of collectives use keep the promises of World."""

from __future__ import annotations

import pytest
import torch
from fake_world import run_workers
from hypothesis import given
from hypothesis import strategies as st
from worker_programs.obeying import exchanged, rows

from gcnrec.errors import DataError, PeerLostError

DTYPES = [
    torch.bool,
    torch.uint8,
    torch.int16,
    torch.uint16,
    torch.int32,
    torch.int64,
    torch.bfloat16,
    torch.float32,
    torch.float64,
]


@st.composite
def splits_of_workers(draw):
    """splits[v][w]: how many rows worker v sends to worker w, of 1 to 4 workers."""
    size = draw(st.integers(1, 4))
    numbers = st.lists(st.integers(0, 5), min_size=size, max_size=size)
    return draw(st.lists(numbers, min_size=size, max_size=size))


def expected(seed, dtype, splits, axes, rank):
    """What comes to `rank`, by slices of what each worker sends."""
    pieces = []
    for worker, outs in enumerate(splits):
        first = sum(outs[:rank])
        pieces.append(rows(seed, worker, dtype, [sum(outs), *axes])[first : first + outs[rank]])
    return torch.cat(pieces)


@given(splits_of_workers(), st.sampled_from(DTYPES), st.lists(st.integers(0, 3), max_size=2), st.integers(0, 100))
def test_rows_come_in_order_of_workers(splits, dtype, axes, seed):
    came = run_workers(len(splits), lambda world: exchanged(world, seed, dtype, splits, axes))
    for rank, rows_C in enumerate(came):
        oracle = expected(seed, dtype, splits, axes, rank)
        assert rows_C.dtype == dtype and rows_C.shape == oracle.shape and torch.equal(rows_C, oracle)


@given(st.integers(1, 5), st.integers(0, 100))
def test_counts_are_a_transpose(size, seed):
    sent = torch.randint(0, 1000, (size, size), generator=torch.Generator().manual_seed(seed))
    assert run_workers(size, lambda world: world.counts(sent[world.rank].tolist())) == sent.T.tolist()


def test_commands_come_in_order_as_json():
    def work(world):
        if world.rank == 0:
            for number in range(5):
                world.publish({"do": "keep", "number": number, "shape": (1, 2)})
            return world.close()
        found = [world.awaited() for _ in range(6)]
        return [command.get("number") for command in found], found[0]["shape"], found[-1]

    assert run_workers(3, work)[1:] == [([0, 1, 2, 3, 4, None], [1, 2], {"do": "end"})] * 2


def test_a_failing_worker_does_not_hang_the_others_and_its_error_is_raised():
    ends = []

    def work(world):
        if world.rank == 1:
            raise DataError("rank 1 is unwell")
        try:
            world.counts([0, 0, 0])
        except PeerLostError as problem:
            ends.append((world.rank, str(problem)))
            raise

    with pytest.raises(DataError, match="rank 1 is unwell"):
        run_workers(3, work)
    assert (0, "worker 1 was lost (its thread ended)") in ends and {rank for rank, _ in ends} == {0, 2}


def test_a_worker_that_leaves_early_does_not_hang_who_waits():
    with pytest.raises(PeerLostError, match="worker 0"):
        run_workers(2, lambda world: world.rank and world.awaited())


@pytest.mark.parametrize(("outs", "ins"), [([1, 1], [1, 1]), ([3], [3]), ([4, -1], [0, 0])])
def test_numbers_that_do_not_fit_the_rows_are_refused(outs, ins):
    with pytest.raises(ValueError, match="an exchange"):
        run_workers(2, lambda world: world.exchange(torch.zeros(3, 2), outs, ins))
