"""Exports: what each loss leaves out, which rules compete, and that their shared product ranks as each export alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gcnrec.config import Job
from gcnrec.graph import Csr
from gcnrec.models import losses
from gcnrec.ops.topk import Seen
from gcnrec.ranking.export_rules import ExportedInStretches, ExportRule, export_rules, log_shares
from gcnrec.ranking.top_k import top_k_all, top_k_views

USERS, ITEMS, WIDTH = 40, 60, 6
DEGREES = np.random.default_rng(1).integers(0, 30, ITEMS)
NOTHING = Csr(np.zeros(USERS + 1, np.int64), np.empty(0, np.int32), ITEMS)


def job(**sections):
    return Job.parse(sections, [], "test")


def rules_of(**sections):
    wanted = job(**sections)
    return export_rules(wanted.model, wanted.loss, wanted.sampler)


def rows():
    return torch.from_numpy(np.random.default_rng(0).standard_normal((USERS + ITEMS, WIDTH)).astype(np.float32))


IN_BATCH = {"loss": {"temperature": 0.2}}
POPULARITY = {"loss": {"temperature": 0.2}, "sampler": {"negatives": "popularity", "popularity_power": 0.5}}


@pytest.mark.parametrize(
    ("sections", "factor"),
    [
        (IN_BATCH, 0.2),
        ({"loss": {"temperature": 0.2, "logq": 0.25}}, 0.15),
        ({"loss": {"temperature": 0.2, "logq": 1.0}}, 0.0),
        (POPULARITY, 0.1),
        ({"loss": {"temperature": 0.2}, "sampler": {"negatives": "uniform"}}, 0.0),
        ({"loss": {"name": "bsl", "temperature": 0.3, "positive_temperature": 0.1}}, 0.3),
        ({"loss": {"name": "bpr"}}, 0.0),
        ({"loss": {"name": "bpr"}, "sampler": {"negatives": "popularity", "popularity_power": 0.75}}, 0.75),
        ({"loss": {"name": "directau"}}, 0.0),
    ],
)
def test_the_column_is_what_the_loss_takes_out_of_log_p(sections, factor):
    assert rules_of(**sections).column == pytest.approx(factor)


@pytest.mark.parametrize(
    ("sections", "names"),
    [
        (IN_BATCH, ["theory", "cosine", "inner", "0.5 theory", "0.75 theory", "1.25 theory"]),
        ({"loss": {"score": "inner"}}, ["theory", "inner", "cosine", "0.5 theory", "0.75 theory", "1.25 theory"]),
        ({"loss": {"logq": 1.0}}, ["cosine", "inner"]),
        ({"loss": {"name": "bpr"}}, ["inner", "cosine"]),
        ({"loss": {"name": "directau"}}, ["cosine", "inner"]),
        ({"model": {"popularity": "inner"}}, ["inner"]),
        ({"model": {"popularity": "theory"}}, ["theory"]),
        ({"model": {"popularity": 0.7}}, ["0.7 theory"]),
        ({"model": {"popularity": 0}}, ["0 theory"]),
        ({"model": {"degree_power": 0.1}}, ["powers"]),
    ],
)
def test_the_rules_that_compete_and_the_one_that_leads(sections, names):
    assert [rule.name for rule in rules_of(**sections).rules] == names


def test_a_job_fixes_the_export_once():
    with pytest.raises(Exception, match="each fix the export"):
        job(model={"popularity": "cosine", "degree_power": 0.1})


def test_an_item_without_positives_counts_as_the_typical_one_or_as_the_job_says():
    degrees = np.array([8, 2, 0])
    assert rules_of().typical_degree(degrees) == pytest.approx(4.0)  # exp of the mean of log 8 and log 2
    assert log_shares(degrees, 4.0).numpy() == pytest.approx(np.log([0.8, 0.2, 0.4]), rel=1e-6)
    assert rules_of(model={"unseen_degree": 1.5}).typical_degree(degrees) == 1.5
    assert rules_of().typical_degree(np.zeros(3, np.int64)) == 1.0


@pytest.mark.parametrize("score", ["cosine", "inner"])
def test_exports_by_hand(score):
    rules = rules_of(loss={"score": score, "temperature": 0.2}, model={"unseen_degree": 3.0})
    whole = rows().numpy().astype(np.float64)
    users, items = whole[:USERS], whole[USERS:]
    unit_users, unit_items = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in (users, items))
    log_q = np.log(np.where(DEGREES > 0, DEGREES, 3.0) / DEGREES.sum())
    trained = unit_users @ unit_items.T if score == "cosine" else users @ items.T
    expected = {
        "theory": trained + 0.2 * log_q,
        "0.5 theory": trained + 0.1 * log_q,
        "inner": users @ items.T,
        "cosine": unit_users @ unit_items.T,
    }
    for rule in (ExportRule("theory"), ExportRule("theory", 0.5), ExportRule("inner"), ExportRule("cosine")):
        made = rules.exported(rows(), USERS, DEGREES, rule)
        scores = torch.empty(USERS, ITEMS)
        made.scorer.score(made.scorer.prepare(np.arange(USERS, dtype=np.int32)), 0, ITEMS, scores)
        assert scores.numpy() == pytest.approx(expected[rule.name], abs=1e-5)
        lengths = None if made.lengths_I is None else made.lengths_I.numpy()
        assert lengths is None or lengths == pytest.approx(np.linalg.norm(items, axis=1), rel=1e-5)


@pytest.mark.parametrize("sections", [IN_BATCH, POPULARITY, {"loss": {"score": "inner"}}, {"loss": {"name": "directau"}}])
def test_views_of_one_product_rank_as_each_export_alone(sections):
    exports, users = rules_of(**sections), np.arange(USERS, dtype=np.int32)
    rules = exports.rules
    first = exports.exported(rows(), USERS, DEGREES, rules[0])
    (together,) = top_k_views(first.scorer, exports.views(first), users, 10, Seen((NOTHING,)))
    for rule, lists in zip(rules, together, strict=True):
        alone = exports.exported(rows(), USERS, DEGREES, rule).scorer
        assert np.array_equal(lists.items_BK, top_k_all(alone, users, 10, NOTHING).items_BK), rule.name


def test_rows_of_zeros_stay_and_rank_by_popularity():
    rules = rules_of(**IN_BATCH)
    scorer = rules.exported(torch.zeros(USERS + ITEMS, WIDTH), USERS, DEGREES, ExportRule("theory")).scorer
    best = int(np.argmax(np.where(DEGREES > 0, DEGREES, rules.typical_degree(DEGREES))))
    assert (top_k_all(scorer, np.arange(USERS, dtype=np.int32), 1, NOTHING).items_BK == best).all()


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_the_export_recovers_log_p_from_in_batch_softmax(share):
    """Three users with likes of their own; the export of freely trained scores is log p(i|u) up to a constant per user."""
    rng, temperature, batch, items = np.random.default_rng(3), 0.5, 1024, 40
    likes = rng.dirichlet(np.full(items, 4.0), 3)
    q = torch.from_numpy(likes.mean(0)).float()
    scores = torch.zeros(3, items, requires_grad=True)
    optimizer = torch.optim.Adam([scores], 0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 250)
    for _ in range(250):
        users = rng.integers(0, 3, batch)
        positives = draw(rng, likes, users)
        counts = torch.from_numpy(np.bincount(positives, minlength=items)).float()
        own = -share * q.log()
        loss = losses.pool_softmax(
            torch.eye(3)[users] @ scores,
            losses.Pool(torch.eye(items), counts.log() + own, -counts.log()[positives]),
            torch.from_numpy(positives),
            temperature,
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    column = rules_of(loss={"temperature": temperature, "logq": share}).column
    trained, column = scores.detach().numpy(), column * q.log().numpy()
    assert distance((trained + column) / temperature, np.log(likes)) < 0.1
    assert distance(trained / temperature, np.log(likes)) > 0.13 / (1 + share), "what is trained alone is not log p"


def distance(logits, expected):
    """Root mean square difference, up to a constant for each user."""
    differences = logits - expected
    return np.sqrt((differences - differences.mean(1, keepdims=True)).var())


def draw(rng, likes, users):
    """An item for each user by its own likes."""
    return (np.cumsum(likes, axis=1)[users] > rng.random(len(users))[:, None]).argmax(1)


@pytest.mark.parametrize(
    "sections",
    [IN_BATCH, {"model": {"popularity": "inner"}}, {"model": {"popularity": "cosine"}},
     {"model": {"norm_power": 0.5, "degree_power": 0.3}}, {"model": {"popularity": 0.5}, "loss": {"name": "bpr"}}],
)  # fmt: skip
def test_stretches_of_rows_are_the_rows_of_the_whole_to_the_bit(sections):
    rules = rules_of(**sections)
    rule = rules.rules[0]
    whole = rules.exported(rows(), USERS, DEGREES, rule)
    parts = ExportedInStretches(rules, rule, USERS, WIDTH, DEGREES, lambda first, last: rows()[first:last])
    assert (parts.item_columns, parts.factor, parts.rule) == (whole.item_columns, whole.factor, whole.rule)
    assert torch.equal(torch.cat([parts.user_rows(first, min(first + 7, USERS)) for first in range(0, USERS, 7)]), whole.users_UF)
    for first in range(0, ITEMS, 7):
        last = min(first + 7, ITEMS)
        (found, columns), (expected, others) = parts.item_rows(first, last), whole.item_rows(first, last)
        assert torch.equal(found, expected) and columns.keys() == others.keys()
        assert all(torch.equal(columns[name], others[name]) for name in columns)
