"""The synthetic shop: events as in plain Python, users alone as among others, planted shares recovered, one card, one shop."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest

from gcnrec.config.toml import validated
from gcnrec.errors import UsageError
from gcnrec.loaders.cards import load_card
from gcnrec.loaders.parquet import ingest
from gcnrec.loaders.sources import materialise
from gcnrec.loaders.synthetic import uniforms
from gcnrec.loaders.worlds import shop as shop_module
from gcnrec.loaders.worlds.shop import NAMES, Shop, draw_events, write_shop
from gcnrec.loaders.worlds.shop_items import NOUNS, items_table, prices_of

SMALL = Shop(users=40, items=60, events=2000, categories=6, days=30, seed=3)
PLANTED = Shop(users=1000, items=50_000, events=200_000, categories=10, repeats=0.0, drift=0.0)
VIEW, CART, BUY = range(3)


def rank(uniform, size, power):
    top = (size + 1.0) ** power
    return min(int((1.0 + uniform * (top - 1.0)) ** (1.0 / power)) - 1, size - 1)


def tastes(shop, user):
    """The early and the late category of a user."""
    early, late = (
        rank(each, shop.categories, 1 - shop.item_exponent) for each in uniforms(np.uint64(user << 32), 2, np.uint64(shop.seed))
    )
    return early, shop.categories - 1 - late


def expected(shop, user, views):
    """The events of a user as (item, second, kind), by plain Python."""
    (early, late), bought, events = tastes(shop, user), [], []
    power, seconds = 1 - shop.item_exponent, shop.days * 86_400
    for view in range(views):
        draws = {step: uniforms(np.uint64((user << 32) + view), step, np.uint64(shop.seed)) for step in (3, 4, 5, 6, 7)}
        share = (view + draws[3][1]) / views
        inside = draws[7][0] < shop.view_focus
        if inside:
            taste = late if draws[7][1] < share * shop.drift else early
            item = taste + shop.categories * rank(draws[3][0], len(range(taste, shop.items, shop.categories)), power)
        else:
            item = rank(draws[3][0], shop.items, power)
        now = int(share * seconds)
        cart = now + 30 + int(600 * draws[6][0])
        buy = cart + 60 + int(7 * 86_400 * draws[6][1] ** 4)
        carted = draws[4][0] < shop.cart_chances[inside] and cart < seconds
        taken = carted and draws[4][1] < shop.buy_chances[inside] and buy < seconds
        if taken and bought:
            before, when = bought[-1 - rank(draws[5][1], len(bought), 0.5)]
            item = before if draws[5][0] < shop.repeats and when < now else item
        if taken:
            bought.append((item, buy))
        times = [now, *([cart] if carted else []), *([buy] if taken else [])]
        events += [(item, 1_700_006_400 + time, kind) for kind, time in enumerate(times)]
    return events


def rows(events):
    return list(zip(events.items_X.tolist(), events.times_X.tolist(), events.kinds_X.tolist(), strict=True))


def test_events_are_those_of_plain_python():
    starts = SMALL.first_views(0, SMALL.users)
    wanted = [event for user in range(SMALL.users) for event in expected(SMALL, user, int(starts[user + 1] - starts[user]))]
    assert rows(draw_events(SMALL, 0, SMALL.users)) == wanted


@pytest.mark.parametrize(("first", "last"), [(0, 1), (7, 19), (39, 40)])
def test_users_alone_as_among_all(first, last):
    whole, part = draw_events(SMALL, 0, SMALL.users), draw_events(SMALL, first, last)
    chosen = (whole.users_X >= first) & (whole.users_X < last)
    assert rows(part) == [row for row, is_in in zip(rows(whole), chosen, strict=True) if is_in]


def test_ratios_and_focuses_are_the_planted_ones():
    events = draw_events(PLANTED, 0, PLANTED.users)
    counts = np.bincount(events.kinds_X)
    assert len(events.users_X) == pytest.approx(PLANTED.events, rel=0.02)
    assert counts[CART] / counts[VIEW] == pytest.approx(PLANTED.carts_per_view, rel=0.02)
    assert counts[BUY] / counts[CART] == pytest.approx(PLANTED.buys_per_cart, rel=0.04)
    early_U = np.array([tastes(PLANTED, user)[0] for user in range(PLANTED.users)])
    within_X = events.items_X % PLANTED.categories == early_U[events.users_X]
    for kind, focus in enumerate((PLANTED.view_focus, PLANTED.cart_focus, PLANTED.buy_focus)):
        # Other items are of the taste by chance, once in ten. Of 14,000 purchases, 0.01 are over three standard deviations.
        assert within_X[events.kinds_X == kind].mean() == pytest.approx(focus + (1 - focus) / 10, abs=0.01)


def test_repeats_are_the_planted_share():
    shop = PLANTED.model_copy(update={"repeats": 0.4})
    events = draw_events(shop, 0, shop.users)
    bought = events.kinds_X == BUY
    pairs, users = set(), set()
    later = again = 0
    for user, item in zip(events.users_X[bought].tolist(), events.items_X[bought].tolist(), strict=True):
        later, again = later + (user in users), again + ((user, item) in pairs)
        users.add(user), pairs.add((user, item))
    # Items also meet twice by chance, and a purchase that has not arrived is not repeated.
    assert again / later == pytest.approx(0.4, abs=0.03)


@pytest.mark.parametrize("drift", [0.0, 1.0])
def test_popular_categories_change_by_drift_alone(drift):
    shop = PLANTED.model_copy(update={"drift": drift})
    events = draw_events(shop, 0, shop.users)
    half = np.median(events.times_X)
    early, late = (np.bincount(events.items_X[chosen] % 10) for chosen in (events.times_X < half, events.times_X >= half))
    assert early[0] > 1.5 * early[9]
    assert (late[0] > 1.5 * late[9]) == (drift == 0.0)


def test_stretches_cover_every_user_and_parts_hold_them(tmp_path, monkeypatch):
    monkeypatch.setattr(shop_module, "GROUP_VIEWS", 100)
    monkeypatch.setattr(shop_module, "PART_GROUPS", 3)
    stretches = SMALL.stretches()
    assert [user for first, last in stretches for user in range(first, last)] == list(range(SMALL.users)) and len(stretches) > 6
    said = []
    write_shop(SMALL, tmp_path / "shop", said.append)
    assert len([*(tmp_path / "shop/events").iterdir()]) == len(said) == -(-len(stretches) // 3)
    table, whole = pq.read_table(tmp_path / "shop/events"), draw_events(SMALL, 0, SMALL.users)
    kinds = [NAMES.index(name) for name in table["event"].to_pylist()]
    assert list(zip(table["item"].to_pylist(), table["time"].to_pylist(), kinds, strict=True)) == rows(whole)
    items = pq.read_table(tmp_path / "shop/items.parquet").to_pylist()
    prices = {row["item"]: row["price"] for row in items}
    assert table["price"].to_pylist() == [prices[item] for item in table["item"].to_pylist()]


def test_items_follow_from_their_numbers():
    whole, part = items_table(0, 0, 200, 20), items_table(0, 50, 60, 20)
    assert whole.slice(50, 10).equals(part)
    for row in whole.to_pylist():
        assert row["category"] == f"{row['title'][-1]}-{row['item'] % 20}" and row["title"][-1] in NOUNS
    prices_II = prices_of(0, np.arange(200), 20).reshape(10, 20)
    assert (prices_II.max(0) / prices_II.min(0) < 4.1).all(), "a category is a factor of four wide, and a cent rounds"
    assert prices_II.min() >= 2.5 and prices_II.max() <= 640


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"users": 5}, "categories must not pass"),
        ({"users": 100, "events": 100_001}, "at most 1,000 for each of 100 users, got 100,001; add users"),
        ({"carts_per_view": 0.9}, "more carts than views"),
        ({"buys_per_cart": 0.95}, "more purchases than carts"),
        ({"buy_focus": 1.0}, "buy_focus"),
    ],
)
def test_settings_that_no_shop_has(settings, sentence):
    with pytest.raises(UsageError, match=sentence):
        validated(Shop, settings, "card")


def test_the_card_makes_its_shop_once(tmp_path):
    (tmp_path / "card.toml").write_text(
        """
[card]
name = "small"
title = "a small shop"
licence = "none"
origin = "this test"
[shop]
users = 100
items = 60
events = 4000
categories = 6
[data]
train = "shop/events"
user = "user"
item = "item"
time = "time"
behaviour = "event"
target = "buy"
split = "temporal"
item_features = "shop/items.parquet"
"""
    )
    said = []
    data = materialise(load_card(tmp_path / "card.toml"), None, tmp_path / "cache", said.append)
    assert materialise(load_card(tmp_path / "card.toml"), None, tmp_path / "cache", said.append) == data and len(said) == 1
    dataset = ingest(data, tmp_path / "out", data_root=None, name="small")
    assert [other.name for other in dataset.others] == ["view", "cart"] and dataset.item_features is not None
    assert dataset.info["report"]["leakage_train_after_first_test"] == 0
