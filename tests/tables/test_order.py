"""The order of transfers and training, over all interleavings of small programs; each rule of order, taken away, is seen.

Longer programs: python -m jobs.measure.gpu.order.
"""

from __future__ import annotations

from itertools import pairwise

import pytest

from gcnrec.rows import Ticket
from gcnrec.tables import pipelined, ring, unread, window
from jobs.measure.gpu import order, order_features

LONG = 9
"""Steps after which every slot of the ring was used again."""


@pytest.mark.parametrize("name", order.PROGRAMS)
def test_nothing_depends_on_the_interleaving(name):
    program = order.PROGRAMS[name]
    assert order.all_problems(program, 4, program.subsets[:2]) == set()
    assert order.problems([program.subsets[step % len(program.subsets)] for step in range(LONG)], program) == set()


@pytest.mark.parametrize("name", order_features.PROGRAMS)
def test_nothing_depends_on_the_interleaving_with_features(name):
    program = order_features.PROGRAMS[name]
    assert order_features.all_problems(program, 3, order.SUBSETS[:2]) == set()
    assert order_features.problems([order.SUBSETS[step % 3] for step in range(LONG)], program) == set()


def test_uploads_that_features_alone_let_go_too_early_are_seen(monkeypatch):
    program = order_features.PROGRAMS["alone"]
    monkeypatch.setattr(unread.UnreadTable, "prefetch", lambda self, rows_R, index_R=None: Ticket(rows_R))
    assert any("is reused while" in problem for problem in order_features.problems([(0, 1)] * LONG, program))


def test_a_buffer_of_features_that_is_used_again_too_early_is_seen(monkeypatch):
    right = ring.Ring.give_back
    monkeypatch.setattr(ring.Ring, "give_back", lambda self, slot, *users: right(self, slot))
    begin = ring.Ring.__init__
    monkeypatch.setattr(ring.Ring, "__init__", lambda self, device, slots=None: begin(self, device, 2))
    assert "a value depends on the interleaving" in order_features.problems([(0, 1)] * LONG, order_features.PROGRAMS["alone"])


def found(length=LONG, **program):
    """What goes wrong in a program where rows come back after one, two and more steps."""
    rows = [(0, 1), (1, 2), (0, 2), (3,), (1, 3), (0, 1, 2, 3)]
    return order.problems([rows[step % len(rows)] for step in range(length)], order.Program(**program))


def test_the_program_of_the_mutations_is_right():
    for ahead in (0, 1, 2):
        assert found(ahead=ahead) == found(ahead=ahead, given=True) == set()


def test_a_step_gives_a_device_no_other_work():
    """The caller's upload, a read, a patch for each earlier batch, training and a write: torch is asked for views alone."""
    recorder = order.Recorder()
    assert order.problems([(0, 1)] * 12, order.Program(given=True), recorder) == set()
    queues = [work.queue for work in recorder.works]
    writes = [number for number, queue in enumerate(queues) if queue == "writes"]
    for last, this in pairwise(writes[6:-1]):
        assert queues[last + 1 : this + 1] == ["reads", "reads", "compute", "compute", "compute", "writes"]


def test_a_missing_patch_is_seen(monkeypatch):
    monkeypatch.setattr(pipelined.PipelinedTable, "_patch", lambda self, earlier, later: None)
    assert found()


@pytest.mark.parametrize("queue", ["reads", "compute", "writes"])
def test_a_queue_that_waits_for_nothing_is_seen(queue, monkeypatch):
    right = order.Queue.after
    monkeypatch.setattr(order.Queue, "after", lambda self, mark: None if self.name == queue else right(self, mark))
    assert found(given=True)


def test_row_numbers_that_another_queue_made_are_seen(monkeypatch):
    """A read does not wait for compute, which may be two steps behind."""
    right = order.Recorder.place

    def place(self, values):
        with self.within(self.compute):
            return right(self, values)

    monkeypatch.setattr(order.Recorder, "place", place)
    assert any("may not have made" in problem for problem in found(given=True))


def test_a_buffer_that_is_used_again_too_early_is_seen(monkeypatch):
    monkeypatch.setattr(ring, "SLOTS", 2)
    for given in (False, True):
        assert found(given=given) == set()  # fewer slots wait longer, and are right
    right = ring.Ring.give_back
    monkeypatch.setattr(ring.Ring, "give_back", lambda self, slot, *users: right(self, slot))
    assert "a value depends on the interleaving" in found()


def test_a_place_of_a_window_that_is_used_again_too_early_is_seen(monkeypatch):
    program, singles = order.PROGRAMS["window"], [(step % 4,) for step in range(LONG)]
    assert order.problems(singles, program) == set()
    right = window.Window.leave
    passed = order.Mark(order.Recorder(), 0)
    monkeypatch.setattr(window.Window, "leave", lambda self, stay, over, changed: right(self, stay, passed, changed))
    assert order.problems(singles, program)


@pytest.mark.parametrize("given", [False, True])
def test_row_numbers_that_are_let_go_too_early_are_seen(given, monkeypatch):
    class Hasty(ring.Slot):
        @property
        def held(self):
            """Nothing."""

        @held.setter
        def held(self, value):
            """Let go."""

    monkeypatch.setattr(ring, "Slot", Hasty)
    assert any("is reused while" in problem for problem in found(given=given))
