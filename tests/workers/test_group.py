"""Group between real processes: every kind of row, commands in order, an end in peace."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress

import numpy as np
import pytest
import torch
from worker_programs.checks import check_exchange, splits
from worker_programs.obeying import rows

from gcnrec.errors import PeerLostError, UsageError
from gcnrec.workers.launch import led
from gcnrec.workers.world import from_environment

OBEYING = "worker_programs.obeying"
DTYPES = ["bool", "uint8", "int8", "int16", "uint16", "int32", "uint32", "int64"]
DTYPES += ["bfloat16", "float16", "float32", "float64", "complex64"]


@pytest.fixture(scope="module", params=[2, 4])
def world(request):
    with suppress(PeerLostError), led(request.param, 1.0, OBEYING) as group:
        yield group


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_arrives_bit_for_bit(world, dtype):
    check_exchange(world, dtype, "uneven", [3])


@pytest.mark.parametrize("axes", [[], [1], [0], [2, 3], [2, 1, 2], [2000]])
@pytest.mark.parametrize("kind", ["uneven", "empty", "to one", "from one", "own"])
def test_every_shape_and_split_arrives(world, kind, axes):
    check_exchange(world, "float32", kind, axes)


def test_rows_that_do_not_lie_together_and_need_a_gradient_arrive(world):
    table = splits(world.size, "own")
    world.publish({"do": "exchange", "dtype": "float32", "seed": 5, "splits": table, "axes": [2]})
    sent = rows(5, 0, torch.float32, [3, 2])
    apart = torch.stack([sent, sent], 2).requires_grad_()[..., 0]
    came = world.exchange(apart, table[0], table[0])
    assert torch.equal(came, sent) and not came.requires_grad
    sizes = world.counts([0] * world.size)
    world.exchange(torch.empty(0, dtype=torch.uint8), [0] * world.size, [0, *sizes[1:]])


def test_no_row_arrives_from_numpy_either(world):
    """A worker whose parts have nothing to ask for: NumPy gives such an array strides of 0, which torch keeps."""
    table = splits(world.size, "empty")
    world.publish({"do": "exchange", "dtype": "int32", "seed": 5, "splits": table, "axes": []})
    sent = torch.from_numpy(np.concatenate([np.empty(0, np.int64)]).astype(np.int32))
    assert sent.stride() == (0,)
    came = world.exchange(sent, table[0], table[0])
    assert came.dtype == torch.int32 and came.shape == (0,)
    assert world.counts([0] * world.size) == [0] * world.size
    world.exchange(torch.empty(0, dtype=torch.uint8), [0] * world.size, [0] * world.size)


def test_commands_come_once_and_in_order(world):
    for number in (1, 10, 100):
        for _ in range(3):
            world.publish({"do": "keep", "number": number})
        world.publish({"do": "counts"})
        assert world.counts([0] * world.size) == [0] + [3 * number] * (world.size - 1)


def test_workers_are_several_processes_of_one_machine(world):
    world.publish({"do": "say"})
    numbers = world.counts([os.getpid()] * world.size)
    assert len(set(numbers)) == world.size == world.local_size and numbers[0] == os.getpid() and world.rank == 0
    assert all(os.getsid(number) == number != os.getsid(0) for number in numbers[1:])
    assert from_environment()


def test_a_leader_waits_for_the_reports_of_each_command(world):
    for seconds in (0.0, 0.1):
        begun = time.monotonic()  # before a worker can begin to wait
        world.publish({"do": "report", "seconds": seconds})
        world.await_reports(world.size - 1)
        assert time.monotonic() - begun >= seconds


def test_workers_of_one_machine_name_its_first(world):
    assert world.machines == (0,) * world.size


def test_a_leader_waits_for_no_command_and_refuses_wrong_numbers(world):
    with pytest.raises(ValueError, match="worker 0 publishes"):
        world.awaited()
    with pytest.raises(ValueError, match="was to send 2 rows"):
        world.exchange(torch.zeros(3), [2] + [0] * (world.size - 1), [0] * world.size)


def test_workers_that_were_started_already_must_be_as_many_as_asked_for(world):
    with pytest.raises(UsageError, match=f"--workers is 7, but this process is one of {world.size}"):
        with led(7):
            pass


def test_at_last_a_worker_is_lost_and_named(world):
    """The last test of each world, which it breaks: one worker meets an error of its own, or one of several is killed."""
    lost = world.size - 1
    if world.size == 2:
        world.publish({"do": "fail", "rank": lost})
        why = "GcnrecError: worker was asked to fail"
    else:
        world.publish({"do": "say"})
        os.kill(world.counts([0] * world.size)[lost], signal.SIGKILL)
        why = "its process was ended by SIGKILL, as the system does where memory runs out"
    sentence = f"worker {lost} was lost ({why}), so that all workers stop; start the same command again, a training with --resume"
    waits = [lambda: world.await_reports(1), lambda: world.counts([0] * world.size)]
    for wait in waits if world.size == 2 else waits[::-1]:
        with pytest.raises(PeerLostError) as caught:
            wait()
        assert str(caught.value) == sentence and caught.value.exit_code == 6
    with pytest.raises(PeerLostError, match="was lost"):
        world.publish({"do": "say"})
