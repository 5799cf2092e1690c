"""What classes of other packages raise, give or change is one sentence with exit code 2, whichever method it is."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gcnrec.config import Job
from gcnrec.errors import UsageError
from gcnrec.extensions.calls import amount, calling, described
from gcnrec.extensions.load import Own
from gcnrec.extensions.names import ENCODERS, LOSSES, METRICS
from gcnrec.models.scores.own import Terms
from gcnrec.models.whole_graph.own import OwnEncoder
from gcnrec.ranking.metrics import Judged, per_user_with
from gcnrec.sampling.sampler import edge_sampler
from gcnrec.tables.dense import DenseTable
from gcnrec.testing import checkerboard, encoded_by

TEXT = """
import sys
import numpy as np
import torch

class Bad(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows):
        return rows.clone()

    @staticmethod
    def backward(ctx, gradient):
        raise KeyError("backward")

class Net(torch.nn.Module):
    def __init__(self, width, act):
        super().__init__()
        self.line, self.act = torch.nn.Linear(width, width), act

    def forward(self, rows):
        made = self.line(rows)
        return ACTS.get(self.act, lambda rows, made: made)(rows, made) if self.training else made

def fail(kind):
    raise kind("bad" if kind is not SystemExit else 3)

ACTS = {
    "raise": lambda rows, made: fail(RuntimeError), "exit": lambda rows, made: fail(SystemExit),
    "short": lambda rows, made: made[:-1], "wide": lambda rows, made: torch.cat([made, made], 1),
    "double": lambda rows, made: made.double(), "none": lambda rows, made: None, "sparse": lambda rows, made: made.to_sparse(),
    "elsewhere": lambda rows, made: made.to("meta"), "constant": lambda rows, made: made.detach(),
    "others": lambda rows, made: made.detach().requires_grad_(), "backward": lambda rows, made: Bad.apply(made),
}

class Encoder:
    def __init__(self, settings):
        self.act = settings.pop("act")

    def build(self, graph, width):
        if self.act == "build":
            fail(SystemExit)
        net = Net(width, self.act)
        if self.act == "tied":
            net.other = net.line
        if self.act == "changes":
            net.forward = lambda rows: net.line(rows.add_(1.0))
        if self.act == "empty":
            net.forward = lambda rows: net.line(rows)[:, :0]
        return net

class Loss:
    popularity = 0.5

    def __init__(self, settings):
        self.act = settings.get("act", "")
        if self.act == "init":
            fail(SystemExit)

    def terms(self, positive, negative, log_weight):
        if len(positive) == 4:
            return negative.mean(1) - positive
        return {"raise": lambda: fail(RuntimeError), "exit": lambda: fail(SystemExit), "constant": positive.detach}[self.act]()

class Metric:
    def __init__(self, settings):
        self.act = settings["act"]

    def values(self, judged, k):
        if self.act == "exit":
            fail(SystemExit)
        if self.act == "changes":
            judged.hits_BK[:] = True
        return np.full(len(judged.items_BK), 1e308)
"""


def own(kind, name, act, key="key"):
    return Own(key, kind, f"written:{name}", {"act": act})


@pytest.mark.parametrize(
    ("act", "says"),
    [
        ("build", r"build fails \(SystemExit: 3, written\.py line \d+\); see docs/extending\.md"),
        ("tied", "'line.weight' and 'other.weight' share their memory, and a checkpoint holds each tensor once"),
        ("changes", "forward must not change the rows that it gets; copy them first"),
        ("empty", r"forward must give plain float32 embeddings of all 48 nodes, a row each, got torch\.float32 \(48, 0\) on cpu"),
    ],
)
def test_a_module_that_cannot_be_trained_is_refused_when_it_is_made(module, act, says):
    module(TEXT)
    with pytest.raises(UsageError, match=says):
        OwnEncoder(own(ENCODERS, "Encoder", act), checkerboard().graph, 8, 0)


@pytest.mark.parametrize(
    ("act", "says"),
    [
        ("raise", r"forward fails \(RuntimeError: bad, written\.py line \d+\)"),
        ("exit", r"forward fails \(SystemExit: 3, written\.py line \d+\)"),
        ("short", r"embeddings of 8 columns of all 48 nodes, a row each, got torch\.float32 \(47, 8\) on cpu"),
        ("wide", r"embeddings of 8 columns of all 48 nodes, a row each, got torch\.float32 \(48, 16\) on cpu"),
        ("double", r"got torch\.float64 \(48, 8\) on cpu"),
        ("none", "got NoneType"),
        ("sparse", "forward must give plain float32 embeddings"),
        ("elsewhere", r"got torch\.float32 \(48, 8\) on meta"),
        ("constant", "forward must give embeddings that follow from the rows, got constant ones"),
        ("others", "forward must give embeddings that follow from the rows, got others"),
        ("backward", r"the gradient of forward fails \(KeyError: 'backward', written\.py line \d+\)"),
    ],
)
def test_what_a_step_cannot_train_by_is_one_sentence(module, act, says):
    module(TEXT)
    graph = checkerboard().graph
    encoder = OwnEncoder(own(ENCODERS, "Encoder", act), graph, 8, 0)
    batch = edge_sampler(Job().sampler, graph, None, 4, 0).batch(0, 0)
    with pytest.raises(UsageError, match=says) as caught:
        encoded = encoded_by(encoder, DenseTable(torch.ones(graph.num_nodes, 8), 0), batch)
        encoded.pull(torch.ones_like(encoded.final_VD), torch.zeros_like(encoded.ego_VD))
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("act", "says"),
    [
        ("raise", r"terms fails \(RuntimeError: bad, written\.py line \d+\)"),
        ("exit", r"terms fails \(SystemExit: 3, written\.py line \d+\)"),
        ("constant", "terms must follow from the scores, got constant ones without a gradient"),
    ],
)
def test_a_loss_that_fails_in_a_step_is_one_sentence(module, act, says):
    module(TEXT)
    terms = Terms.of(own(LOSSES, "Loss", act))
    with pytest.raises(UsageError, match=says):
        terms(torch.zeros(5).requires_grad_(), torch.zeros(5, 2), torch.zeros(5, 2), None)


def test_a_class_that_ends_the_process_is_one_sentence(module):
    module(TEXT)
    with pytest.raises(UsageError, match=r"cannot be made of its settings \{'act': 'init'\} \(SystemExit: 3\)"):
        own(LOSSES, "Loss", "init").make()


def test_settings_are_as_the_job_has_them_each_time(module):
    name = module(
        "class Greedy:\n def __init__(self, given):\n  self.first = given['list'].pop()\n def terms(self, *each): ...\n"
    )
    greedy = Own("key", LOSSES, f"{name}:Greedy", {"list": [1, 2]})
    assert [greedy.make().first, greedy.make().first] == [2, 2]


@pytest.mark.parametrize("value", ["x", float("nan"), -1, 1e300, True, None])
def test_an_amount_is_a_number(value):
    with pytest.raises(UsageError, match="popularity must be a number from 0 to 1,000,000, got "):
        amount("key", type("Loss", (), {"popularity": value}), "popularity")
    assert amount("key", object(), "popularity") == 0.0


@pytest.mark.parametrize(
    ("act", "says"),
    [
        ("exit", r"values for lists of 2 users at k = 1 fails \(SystemExit: 3, written\.py line \d+\)"),
        ("changes", r"fails \(ValueError: assignment destination is read-only, written\.py line \d+\)"),
        ("", "with values that are not finite"),
    ],
)
def test_a_metric_changes_no_lists_and_has_a_mean(module, act, says):
    module(TEXT)
    metric = per_user_with([own(METRICS, "Metric", act, "own_metrics.late")])["late"]
    judged = Judged(np.zeros((2, 1), np.int32), np.zeros((2, 1), np.bool_), np.ones(2, np.int64))
    with pytest.raises(UsageError, match=says):
        metric(judged, 1)
    assert not judged.hits_BK.any() and judged.hits_BK.flags.writeable


def test_lack_of_memory_and_signals_pass():
    for problem in (MemoryError(), KeyboardInterrupt(), RuntimeError("DefaultCPUAllocator: can't allocate memory")):
        with pytest.raises(type(problem)), calling("key", "terms"):
            raise problem
    assert described(ValueError()) == "ValueError"
