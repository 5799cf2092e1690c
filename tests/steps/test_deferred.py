"""The check that the host reads one step later: the numbers of the immediate one, and a bad step leaves nothing behind either."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import chain

import pytest
import torch
from built import step_of

from gcnrec.config import Job
from gcnrec.device import ops_for
from gcnrec.errors import DivergedError
from gcnrec.models.lightgcn_sampled import SampledLightGcn
from gcnrec.runs.checkpoints import load_checkpoint
from gcnrec.runs.events import read_lines
from gcnrec.sampling.minibatches import Drawing
from gcnrec.steps.deferred import Deferred
from gcnrec.steps.guards import Immediate
from gcnrec.steps.state import copied
from gcnrec.tables.placement import Placement
from gcnrec.testing import checkerboard, write_dataset
from gcnrec.training import build
from gcnrec.training.plan import plan_of
from gcnrec.training.train import train

CPU = torch.device("cpu")
MODELS = {
    "rows": {"model": {"name": "mf", "width": 8}},
    "hops": {"model": {"propagation": "sampled", "layers": 2, "width": 8}, "sampler": {"fanouts": [3, 2]}},
    "layers": {"model": {"name": "graphsage", "propagation": "sampled", "layers": 1, "width": 8}, "sampler": {"fanouts": [3]}},
}
RULES = ["sgd", "adagrad_row", "adam", "adam_row", "adam_dense"]


def built(model, rule, check):
    """A step whose layers have the optimizer of a GPU, a fused one."""
    step = step_of(
        Job.parse({**MODELS[model], "optimizer": {"rule": rule}, "train": {"batch_size": 50}}, [], "test"), checkerboard().graph
    )
    optimizer = None
    if step.encoder.layers is not None:
        optimizer = torch.optim.Adam(step.encoder.layers.parameters(), fused=True)
    return replace(step, layer_optimizer=optimizer, check=check(optimizer))


def immediate(optimizer):
    return Immediate()


deferred = partial(Deferred, ops_for(CPU), CPU)


def uploaded(step, number):
    epoch, index = divmod(number, step.sampler.steps_per_epoch)
    return step.upload(step.prepare(step.sampler.batch(epoch, index)))


def content(step):
    return copied(step, None)


def alike(found, expected):
    return found.keys() == expected.keys() and all(torch.equal(tensor, expected[name]) for name, tensor in found.items())


@pytest.mark.parametrize(("model", "rule"), [*(("rows", rule) for rule in RULES), ("hops", "adam"), ("layers", "adam")])
def test_losses_come_one_step_later_and_are_the_same(model, rule):
    now, later = built(model, rule, immediate), built(model, rule, deferred)
    expected, found = [], []
    for number in range(7):
        expected += now.train(uploaded(now, number), 0.05)
        found.append(later.train(uploaded(later, number), 0.05))
    assert [len(told) for told in found] == [0, 1, 1, 1, 1, 1, 1]
    assert [*chain(*found), *later.check.settled()] == expected and later.check.settled() == []
    assert alike(content(later), content(now))


def spoil(encoder, at, where, monkeypatch):
    """Step `at` has a gradient with a number that is not finite, or such a loss."""
    encode = encoder.encode

    def encode_badly(self, table, batch, given):
        encoded = encode(self, table, batch, given)
        if batch.step != at:
            return encoded
        if where == "loss":
            return replace(encoded, final_VD=encoded.final_VD * torch.nan)

        def pull(*gradients):
            grad = encoded.pull(*gradients)
            target = grad.values_X if where == "rows" else next(self.layers.parameters()).grad
            target.view(-1)[3] = torch.inf
            return grad

        return replace(encoded, pull=pull)

    monkeypatch.setattr(encoder, "encode", encode_badly)


CASES = [
    *(("rows", rule, "rows") for rule in RULES),
    ("rows", "adam", "loss"),
    ("hops", "adam", "rows"),
    ("layers", "adam", "layers"),
]


@pytest.mark.parametrize(("model", "rule", "where"), CASES)
def test_a_bad_step_updates_nothing_and_neither_does_the_next(model, rule, where, monkeypatch):
    step = built(model, rule, deferred)
    spoil(type(step.encoder), 4, where, monkeypatch)
    for number in range(3):
        step.train(uploaded(step, number), 0.05)
    before = content(step)
    step.train(uploaded(step, 3), 0.05)
    assert alike(content(step), before)
    what = {"rows": "the gradient of the table's rows", "loss": "the loss", "layers": "the gradient of the model's layers"}
    with pytest.raises(DivergedError, match=rf"{what[where]} is not finite at step 4 \(loss .*this step updated nothing"):
        step.train(uploaded(step, 4), 0.05)
    assert alike(content(step), before)


def test_the_last_step_is_judged_when_its_loss_is_asked_for(monkeypatch):
    step = built("rows", "adam", deferred)
    spoil(type(step.encoder), 2, "rows", monkeypatch)
    assert step.train(uploaded(step, 0), 0.05) == []
    (first,) = step.train(uploaded(step, 1), 0.05)
    assert first.step == 1
    with pytest.raises(DivergedError, match="at step 2 "):
        step.check.settled()


def test_a_step_by_itself_gives_its_own_loss():
    now, later = built("rows", "adam", immediate), built("rows", "adam", deferred)
    for number in range(3):
        batch = now.sampler.batch(0, number)
        assert later(batch, 0.1) == now(batch, 0.1)


def job_of(**changes):
    sections = {
        "model": {"width": 8, "propagation": "sampled", "layers": 1, "start": "normal"},
        "sampler": {"fanouts": [3]},
        "table": {"budget": 0.5},
        "sparsity": {"policy": "rigl", "interval": 0.4},
        "optimizer": {"rule": "adam", "learning_rate": 0.05},
        "train": {"epochs": 3, "batch_size": 16, "threads": 1},
        "evaluate": {"baselines": [], "every": 1, "patience": 0, "bootstrap": 0, "k": [3], "metric": "recall@3"},
        "run": {"checkpoint_steps": 4, "keep_checkpoints": 9},
    }
    return Job.parse({name: {**section, **changes.get(name, {})} for name, section in sections.items()}, [], "here")


TIMES = ["seconds", "rows_per_second", "stalled_share", "major_faults", "time"]


def record(folder):
    return [{key: value for key, value in line.items() if key not in TIMES} for line in read_lines(folder)]


@pytest.mark.parametrize(("loss_limit", "bad"), [(3.0, None), (1e-9, None), (0.0, 12)], ids=["whole", "explodes", "bad"])
def test_a_run_is_the_same_with_either_check(loss_limit, bad, tmp_path, monkeypatch):
    """Explorations, checkpoints within epochs, sums of losses, and the step that ends a run: 12 would be explored after."""
    if bad:
        spoil(SampledLightGcn, bad, "rows", monkeypatch)
    dataset = write_dataset(checkerboard(), tmp_path / "data")
    job = job_of(train={"loss_limit": loss_limit})
    said = []
    for name in ("now", "later"):
        with monkeypatch.context() as patch:
            if name == "later":
                patch.setattr(build, "Immediate", lambda: deferred(None))
            try:
                train(job, dataset, tmp_path / name)
                said.append(None)
            except DivergedError as problem:
                said.append(str(problem).replace(name, ""))
    assert said[0] == said[1] and (said[0] is None) == (loss_limit == 3.0)
    assert not bad or f"at step {bad} " in said[0]
    assert record(tmp_path / "now") == record(tmp_path / "later")
    names = sorted(path.name for path in (tmp_path / "now" / "checkpoints").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "later" / "checkpoints").iterdir())
    assert loss_limit != 3.0 or len(names) > 5
    for name in names:
        (tensors, progress), (others, other) = (
            load_checkpoint(tmp_path / run / "checkpoints" / name) for run in ("now", "later")
        )
        assert alike(tensors, others) and progress["trend"] == other["trend"]
        assert progress["sums"]["loss"] == other["sums"]["loss"]


@pytest.mark.parametrize("on_gpu", [False, True])
def test_a_gpu_is_what_the_check_is_chosen_by(on_gpu, threads):
    threads(2)
    job, graph = Job.parse(MODELS["layers"], [], "test"), checkerboard().graph
    plan = replace(plan_of(job, graph.num_nodes), placement=Placement(on_gpu))
    step = build.build_step(job, plan, build.TrainData(graph), build.first_table(plan, graph))
    assert isinstance(step.check, Deferred if on_gpu else Immediate)
    assert step.drawing == (Drawing(workers=2, threads=1) if on_gpu else Drawing(workers=1, threads=1))
    assert bool(step.layer_optimizer.defaults["fused"]) == on_gpu
