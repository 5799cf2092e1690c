"""The loss of docs/extending.md passes its check; a softmax of another package trains and exports as ours does."""

from __future__ import annotations

import pytest
import torch

from gcnrec.config import Job
from gcnrec.errors import UsageError
from gcnrec.extensions.load import Own
from gcnrec.extensions.names import LOSSES
from gcnrec.models.objective import objective_of
from gcnrec.models.scores.own import Terms
from gcnrec.ranking.export_rules import export_rules
from gcnrec.runs.contents import RunContents
from gcnrec.sampling.sampler import edge_sampler
from gcnrec.testing import check_own_loss, checkerboard, loss_by, write_dataset
from gcnrec.training.train import train

WRITTEN = """
import torch

class Base:
    def __init__(self, settings):
        if settings: raise ValueError("none is known")

class Softmax(Base):
    popularity = 0.2
    def terms(self, positive, negative, log_weight):
        logits = torch.cat([positive[:, None] / 0.2, negative / 0.2 + log_weight], 1)
        return torch.logsumexp(logits, 1) - positive / 0.2

class Centred(Base):
    def terms(self, positive, negative, log_weight):
        return (negative * log_weight.exp()).sum(1) - positive + positive.mean()

class Unweighted(Base):
    def terms(self, positive, negative, log_weight):
        return torch.nn.functional.softplus(negative).mean(1) - positive

class Alone(Base):
    def terms(self, positive, negative, log_weight):
        return torch.logsumexp(negative + log_weight, 1) - positive

class Detached(Base):
    def terms(self, positive, negative, log_weight):
        return (negative.detach().square() * log_weight.exp()).sum(1) - positive

class Rises(Base):
    def terms(self, positive, negative, log_weight):
        return 2.0 + (log_weight.exp() * -negative).sum(1) / (1 + log_weight.exp().sum(1)) + positive

class Scalar(Base):
    def terms(self, positive, negative, log_weight): return -positive.mean()

class Fixed(Base):
    def terms(self, positive, negative, log_weight): return torch.ones_like(positive)
"""


def job(**loss) -> Job:
    sections = {
        "model": {"width": 4},
        "train": {"epochs": 2, "batch_size": 64, "threads": 1},
        "loss": loss,
        "evaluate": {"baselines": [], "metric": "recall@3"},
    }
    return Job.parse(sections, [], "job.toml")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_dataset(checkerboard(), tmp_path_factory.mktemp("world") / "data")


def test_the_example_passes_the_check(extras):
    check_own_loss("ccl", {"margin": 0.2, "weight": 2.0})


def test_the_example_is_its_formula(extras):
    terms = Terms.of(Own("loss.name", LOSSES, "ccl:Contrastive", {"margin": 0.25, "weight": 3.0})).made
    negative_BN, log_weight_BN = torch.tensor([[0.5, 0.0, 1.0]]), torch.tensor([[0.0, 0.0, -torch.inf]])
    assert terms.terms(torch.tensor([0.75]), negative_BN, log_weight_BN).tolist() == [1 - 0.75 + 3.0 * (0.25 + 0.0) / 2]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("Centred", "from the scores of its own entry alone"),
        ("Unweighted", "a negative of log weight -inf must count as none"),
        ("Alone", "must be finite, also of an entry without negatives"),
        ("Detached", "the gradient of terms misses"),
        ("Rises", "higher scores of the positives must lower the loss"),
    ],
)
def test_the_check_finds_what_is_wrong(module, name, says):
    module(WRITTEN)
    with pytest.raises(AssertionError, match=says):
        check_own_loss(f"written:{name}")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("Scalar", r"terms must give float32 \(4,\), the loss of each positive, got torch.float32 \(\)"),
        ("Fixed", r"terms must follow from the scores, got constant ones without a gradient"),
    ],
)
def test_what_is_no_term_of_each_positive_is_refused_before_there_is_a_run(module, dataset, tmp_path, name, says):
    module(WRITTEN)
    with pytest.raises(UsageError, match=says):
        train(job(name=f"written:{name}"), dataset, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("negatives", ["in_batch", "uniform"])
def test_a_softmax_of_another_package_is_ours(module, negatives):
    module(WRITTEN)
    graph, draw = checkerboard().graph, torch.Generator().manual_seed(1)
    ours, other = job(name="softmax", temperature=0.2, negative_weight=0.5), job(name="written:Softmax", negative_weight=0.5)
    sampler = ours.sampler.model_copy(update={"negatives": negatives, "num_negatives": 3})
    weights_E = torch.rand(graph.num_edges, generator=draw).numpy()
    disliked = checkerboard().graph.user_items
    batch = edge_sampler(sampler, graph, weights_E, 50, 0, disliked=disliked).batch(0, 0)
    found = []
    for each in (ours, other):
        rows_VD = torch.randn(len(batch.nodes_V), 4, generator=torch.Generator().manual_seed(2)).requires_grad_()
        loss = loss_by(objective_of(each.loss, sampler, graph, True), rows_VD, rows_VD, batch)
        loss.backward()
        found.append((loss.detach(), rows_VD.grad))
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-6)
    assert export_rules(other.model, other.loss, sampler) == export_rules(ours.model, ours.loss, sampler)


def test_a_run_learns_by_it(extras, dataset, tmp_path):
    sections = job(name="ccl", settings={"weight": 2.0}).model_dump(exclude_unset=True, by_alias=True)
    changes = ["train.epochs=6", "optimizer.learning_rate=0.02", "evaluate.patience=0"]
    run = train(Job.parse(sections, changes, "job.toml"), dataset, tmp_path / "run")
    losses = [epoch.loss for epoch in RunContents(run.folder).epochs("fit")]
    assert losses[-1] < losses[0] and 'name = "ccl:Contrastive"' in (run.folder / "job.toml").read_text(encoding="utf-8")


def test_an_unknown_loss_says_which_are_ours(extras):
    with pytest.raises(UsageError, match=r"'bpr', .* a loss of your own .* \(installed: ccl\), got 'cll'"):
        job(name="cll")


@pytest.mark.slow
def test_parts_of_a_batch_share_it(module, dataset, tmp_path):
    module(WRITTEN)
    losses = []
    for name, more in (("softmax", {"temperature": 0.2}), ("written:Softmax", {})):
        sections = job(name=name, **more).model_dump(exclude_unset=True, by_alias=True) | {"model": {"name": "mf", "width": 4}}
        shared = Job.parse(sections, ["train.parts=2", "model.start_scale=0.1", "optimizer.rule=adam"], "job.toml")
        run = train(shared, dataset, tmp_path / str(len(losses)))
        losses.append([epoch.loss for epoch in RunContents(run.folder).epochs("fit")])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
