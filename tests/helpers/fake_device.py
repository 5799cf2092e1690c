"""A device whose transfers lag, run ahead and are torn as far as its queues allow: what the pipeline is tested on."""

from __future__ import annotations

import random
from contextlib import nullcontext

import torch

from gcnrec.queues import Spans


class FakeMark:
    def __init__(self, queue, position):
        self.queue, self.position = queue, position

    def finish(self):
        self.queue.run_until(self.position)


class FakeQueue:
    """Pieces of work in order. A piece is a function, or a mark of another queue that must be passed first."""

    def __init__(self, device):
        self.device, self.pieces, self.done = device, [], 0

    def mark(self):
        return FakeMark(self, len(self.pieces))

    def after(self, mark):
        self.pieces.append(mark)

    def give(self, work):
        self.pieces.append(work)

    def runnable(self):
        if self.done == len(self.pieces):
            return False
        piece = self.pieces[self.done]
        return not isinstance(piece, FakeMark) or piece.queue.done >= piece.position

    def step(self):
        piece = self.pieces[self.done]
        if not isinstance(piece, FakeMark):
            piece()
        self.done += 1

    def run_until(self, position):
        while self.done < position:
            self.device.advance_one(self)


class Immediate(FakeQueue):
    """The calling thread itself: what it waits for is done when `after` returns, and its marks are passed at once."""

    def after(self, mark):
        self.device.dawdle()
        mark.finish()

    def give(self, work):
        self.device.dawdle()
        work()


class FakeDevice:
    def __init__(self, seed):
        self.random = random.Random(seed)
        self.reads, self.writes = FakeQueue(self), FakeQueue(self)
        self.compute = Immediate(self)

    def advance_one(self, wanted):
        """One piece of some queue that can go on; `wanted`'s as soon as chance has it."""
        able = [queue for queue in (self.reads, self.writes) if queue.runnable()]
        assert able, "every queue waits for another: a deadlock"
        self.random.choice(able).step()

    def dawdle(self):
        for _ in range(self.random.choice([0, 0, 3, 50, 1000])):
            able = [queue for queue in (self.reads, self.writes) if queue.runnable()]
            if not able:
                return
            self.random.choice(able).step()

    def adopt(self, memory, length):
        """Host memory is what the fake computes in."""

    def within(self, queue):
        return nullcontext()  # index arithmetic reads nothing that a queue writes

    def place(self, values):
        return torch.from_numpy(values)

    def close(self):
        """Nothing is held."""

    def empty(self, length, like):
        return torch.full((length,), -77, dtype=like.dtype)  # nothing that anyone could mistake for a row

    def resident(self, values):
        return values.clone()

    def copy(self, queue, pairs):
        pieces = []
        for source, target in pairs:
            assert torch.equal(source.lengths(), target.lengths())
            places = zip(source.starts().tolist(), target.starts().tolist(), source.lengths().tolist(), strict=True)
            pieces += [(source.memory, here, target.memory, there, length) for here, there, length in places]
        self.random.shuffle(pieces)  # within one copy no order holds
        for source, here, target, there, length in pieces:
            for part in range(0, length, 3):  # torn: a few units at a time
                piece = source, here + part, target, there + part, min(3, length - part)
                queue.give(lambda piece=piece: self._move(*piece))

    def patch(self, earlier_E, later_L, pairs):
        places = {row: place for place, row in enumerate(earlier_E.tolist())}
        common = [(places[row], place) for place, row in enumerate(later_L.tolist()) if row in places]
        here, there = (torch.tensor([pair[side] for pair in common], dtype=torch.int64) for side in (0, 1))
        self.copy(self.compute, [(picked(source, here), picked(target, there)) for source, target in pairs])

    @staticmethod
    def _move(source, here, target, there, size):
        target[there : there + size] = source[here : here + size].clone()


def picked(spans, places):
    """The pieces at `places`."""
    return Spans(spans.memory, spans.starts()[places], spans.lengths()[places])


class LazyDevice(FakeDevice):
    """Nothing moves before someone waits for it, and then no more than must."""

    def advance_one(self, wanted):
        able = [queue for queue in (wanted, self.reads, self.writes) if queue.runnable()]
        assert able, "every queue waits for another: a deadlock"
        able[0].step()

    def dawdle(self):
        """Never."""


def stand_for_gpus(patch, kind=FakeDevice):
    """Every job trains behind such devices, a new one for each table; `patch` is pytest's monkeypatch. Returns what is made."""
    from gcnrec.tables import placement
    from gcnrec.training import plan

    made = []

    def pipeline_of(device, blocks, on_file, warn):
        made.append(kind(len(made)))
        return made[-1]

    patch.setattr(plan, "uses_gpu", lambda device, able: True)
    patch.setattr(placement, "gpu", lambda: torch.device("cpu"))
    patch.setattr(placement, "take_gpu", lambda place, workers: torch.device("cpu"))
    patch.setattr(placement, "cores_of", lambda device: frozenset())
    patch.setattr(placement, "pipeline_of", pipeline_of)
    return made
