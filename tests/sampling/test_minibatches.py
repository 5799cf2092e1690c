"""Batches drawn ahead: the same ones in the same order, each announced one step before it is handed out."""

from __future__ import annotations

import threading

import pytest

from gcnrec.sampling.minibatches import Drawing, Waits, minibatches

ONE, TWO = Drawing(), Drawing(workers=2, threads=1)


def draw(number):
    return {"number": number}


@pytest.mark.parametrize("drawing", [ONE, TWO], ids=["one worker", "two workers"])
@pytest.mark.parametrize("numbers", [range(0), range(1), range(2), range(3, 12)], ids=str)
def test_batches_come_in_order(numbers, drawing):
    found = minibatches(draw, lambda drawn: drawn["number"] * 10, numbers, Waits(), drawing)
    assert list(found) == [number * 10 for number in numbers]


@pytest.mark.parametrize("drawing", [ONE, TWO], ids=["one worker", "two workers"])
def test_the_next_batch_is_announced_before_this_one_trains(drawing):
    announced = []
    for number in minibatches(lambda number: number, lambda drawn: announced.append(drawn) or drawn, range(7), Waits(), drawing):
        assert announced == list(range(min(number + 2, 7)))


def test_announcing_is_work_of_the_calling_thread():
    threads = []
    for _ in minibatches(draw, lambda drawn: threads.append(threading.get_ident()), range(3), Waits(), ONE):
        pass
    assert threads == [threading.get_ident()] * 3


def test_workers_draw_at_the_same_time():
    """The first two batches wait for each other: a single worker would stop here."""
    both = threading.Barrier(2, timeout=20)

    def met(number):
        if number < 2:
            both.wait()
        return number

    assert list(minibatches(met, lambda drawn: drawn, range(4), Waits(), TWO)) == [0, 1, 2, 3]


@pytest.mark.serial
def test_the_threads_end_with_the_iterator():
    before = threading.active_count()
    batches = minibatches(draw, draw, range(9), Waits(), TWO)
    next(batches)
    batches.close()
    assert threading.active_count() == before


def test_a_failure_while_drawing_reaches_the_caller():
    with pytest.raises(ZeroDivisionError):
        list(minibatches(lambda number: 1 // 0, draw, range(5), Waits(), ONE))


def test_time_without_a_batch_is_counted():
    waits = Waits()
    for _ in minibatches(draw, draw, range(3), waits, ONE):
        pass
    assert waits.seconds > 0  # nothing was drawn before the first
