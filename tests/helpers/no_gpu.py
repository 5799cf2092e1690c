"""A GPU of which only shapes exist (torch's meta device): what a step asks of it is counted, and nothing is computed.

The code that runs is the GPU's own. Asking such a device for a number raises, so that no wait for one stays unseen.
"""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from unittest.mock import patch

import numpy as np
import torch
from built import start_table
from torch.utils._python_dispatch import TorchDispatchMode

from gcnrec import device
from gcnrec.config import Job
from gcnrec.cuda import module, spans
from gcnrec.cuda import ops as cuda_ops
from gcnrec.steps.deferred import Deferred
from gcnrec.tables.dense import in_ram
from gcnrec.tables.features.sides import Features
from gcnrec.tables.pipelined import PipelinedTable
from gcnrec.tables.placement import Placement, placed_features
from gcnrec.testing import checkerboard
from gcnrec.training.build import TrainData, build_step, features_read
from gcnrec.training.plan import plan_of

DEVICE = torch.device("meta")
VIEWS = {
    "view", "_unsafe_view", "slice", "select", "expand", "t", "transpose", "as_strided", "detach", "unsqueeze", "squeeze",
    "alias", "permute", "diagonal", "unbind", "split",
}  # fmt: skip
"""Operations that touch no memory of the device."""


class Counted(TorchDispatchMode):
    """Counts by name, while it is entered: `launches`, `dispatches`, `views`, `waits`, and copies of either way."""

    def __init__(self):
        super().__init__()
        self.pinned = {}
        self.clear()

    def clear(self):
        self.launches, self.dispatches, self.views, self.waits, self.copies = (Counter() for _ in range(5))

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        (self.views if name in VIEWS else self.dispatches)[name] += 1
        if name == "copy_" and (args[0].device.type, args[1].device.type) == ("cpu", "meta"):
            self.copies["download" if self.is_pinned(args[0]) else "pageable"] += 1
            return args[0]
        found = func(*args, **(kwargs or {}))
        sources = [each for each in args if isinstance(each, torch.Tensor)]
        if sources and sources[-1].device.type == "cpu" and sources[-1].dim() and getattr(found, "device", None) == DEVICE:
            self.copies["upload" if self.is_pinned(sources[-1]) else "pageable"] += 1
        return found

    def is_pinned(self, tensor):
        return tensor.untyped_storage().data_ptr() in self.pinned

    def launch(self, file, kernel, grid, block, arguments, where, shared=0):
        assert where == DEVICE
        self.launches[kernel] += 1

    def allocate(self, size, dtype):
        """Pinned memory, of zeros."""
        memory = torch.zeros(size, dtype=dtype)
        self.pinned[memory.untyped_storage().data_ptr()] = memory
        return memory

    def wait(self):
        self.waits["wait"] += 1


class Event:
    """Over as soon as it is recorded."""

    counted = None

    def record(self, stream=None):
        """Over already."""

    def query(self):
        return True

    def synchronize(self):
        self.counted.wait()


class Queue:
    def __init__(self, counted):
        self.counted = counted

    def mark(self):
        return self

    def after(self, mark):
        """Nothing runs."""

    def finish(self):
        self.counted.wait()


class Device:
    """`gcnrec.queues.Device`, its transfers by the GPU's kernels."""

    def __init__(self, counted):
        self.counted = counted
        self.compute, self.reads, self.writes = (Queue(counted) for _ in range(3))

    def adopt(self, memory, length):
        """Nothing reads it."""

    def within(self, queue):
        return nullcontext()

    def place(self, values):
        return torch.from_numpy(values).to(DEVICE)

    def empty(self, length, like):
        return torch.empty(length, dtype=like.dtype, device=DEVICE)

    def resident(self, values):
        return values.to(DEVICE)

    def copy(self, queue, pairs):
        spans.copy_pairs(pairs, max_blocks=3, by_target=queue is self.writes)

    def patch(self, earlier_E, later_L, pairs):
        spans.patch(earlier_E, later_L, pairs)

    def close(self):
        """Nothing is held."""


@contextmanager
def counted():
    """What is asked of the device within; enter what is yielded to count operations of torch too."""
    counts = Counted()
    device.ops_for.cache_clear()  # its slabs are of another count
    with (
        patch.object(module, "launch", counts.launch),
        patch.object(cuda_ops, "pinned", counts.allocate),
        patch.object(torch.cuda, "Event", type("CountedEvent", (Event,), {"counted": counts})),
        patch.object(torch.cuda, "default_stream", lambda device: None),
        patch.object(torch.Tensor, "record_stream", lambda tensor, stream: None),
    ):
        yield counts
    device.ops_for.cache_clear()


GRAPH = checkerboard().graph
FEATURES = Features(None, np.random.default_rng(0).standard_normal((24, 20), np.float32))


def step_behind(counts, hot=None, **sections):
    """A step of [10, 10] neighbours and in-batch softmax, unless `sections` of a job say otherwise.

    Layers have no optimizer: a fused one knows real devices alone.
    """
    common = {
        "model": {"propagation": "sampled", "layers": 2, "width": 64, "start": "normal"},
        "sampler": {"fanouts": [10, 10]},
        "loss": {"name": "softmax", "l2": 1e-4},
        "optimizer": {"rule": "adam"},
        "train": {"batch_size": 24},
    }
    job = Job.model_validate(
        {name: {**common.get(name, {}), **sections.get(name, {})} for name in common.keys() | sections.keys()}
    )
    table = PipelinedTable(start_table(job, GRAPH), Device(counts), hot)
    features = placed_features(Placement(True), table, features_read(job, FEATURES, GRAPH, in_ram))
    step = build_step(job, plan_of(job, GRAPH.num_nodes), TrainData(GRAPH, None, features), table)
    return replace(step, check=Deferred(device.ops_for(DEVICE), DEVICE, None), layer_optimizer=None)
