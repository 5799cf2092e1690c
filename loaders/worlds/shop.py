"""A shop of any size from a seed: views, carts and purchases of users whose tastes are planted and drift.

A user looks at one item after the other; a view may become a cart, a cart a purchase. What is planted:

* Item i is of category i mod categories. A user has an early and a late category. When the share t of the shop's time is over, a
  view within the taste is of the late one with probability t * drift. Early categories follow a power law, late ones the same law
  from the other end, so that what is popular changes, too.
* `view_focus`, `cart_focus` and `buy_focus` are the shares of views, carts and purchases whose item is drawn from the user's
  taste: how much each behaviour says. Other items are drawn from the whole shop by popularity.
* Of the purchases after a user's first, the share `repeats` is of an item that the user has bought: of an earlier purchase, drawn
  by a power law of exponent 0.5 in their order from the newest. So items that were bought often or lately come back.

View v of user u is drawn from counter (u, v) alone and reads nothing but the user's own earlier views. So any users can be drawn
anywhere, in any order, with the same result. Ratios of published shops are in datasets/shop.toml.

Letters: U users of a stretch, V views, X events.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import numba
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import Field, model_validator

from gcnrec.config.toml import Section
from gcnrec.config.values import Fraction, Seed
from gcnrec.loaders.synthetic import Nodes, new_folder, power_law_rank, uniforms
from gcnrec.loaders.worlds.shop_items import items_table, prices_of
from gcnrec.system.observer import SILENT

EVENTS, ITEMS = "events", "items.parquet"
"""What `write_shop` writes: a folder of Parquet parts, and a file of features."""
NAMES = ("view", "cart", "buy")
"""Values of the column `event`, in the order in which they happen."""
GROUP_VIEWS = 2**19
"""Views of a row group, about: a user's views stay together."""
GROUP_ITEMS = 2**16
PART_GROUPS = 64
_FIRST_SECOND = 1_700_006_400
_DAY = 86_400
_EVENT_BYTES, _ITEM_BYTES = 16, 40
"""Of Parquet, about."""
_MOST_OF_A_USER = 1000
"""Events of a user on average; all views of one user are drawn at once."""
_TASTES, _ITEM, _OUTCOME, _REPEAT, _TIMES, _SIDE = 2, 3, 4, 5, 6, 7
"""Steps of draws: 0 and 1 are of the other synthetic world."""

Share = Annotated[float, Field(gt=0.0, lt=1.0)]


class Shop(Section):
    """Settings of a synthetic shop; `events` is what is expected of views, carts and purchases together."""

    users: Nodes = 2000
    items: Nodes = 1000
    events: Annotated[int, Field(ge=1, lt=2**40)] = 100_000
    categories: Nodes = 20
    days: Annotated[int, Field(ge=1, le=36_500)] = 120
    carts_per_view: Fraction = 0.6
    buys_per_cart: Fraction = 0.22
    repeats: Fraction = 0.4
    """Share of the purchases after a user's first that are of an item bought before."""
    drift: Annotated[float, Field(ge=0.0, le=1.0)] = 1.0
    """How far tastes have moved when the shop closes; 0: not at all."""
    view_focus: Share = 0.6
    cart_focus: Share = 0.8
    buy_focus: Share = 0.9
    user_exponent: Fraction = 0.5
    item_exponent: Fraction = 0.7
    seed: Seed = 0

    @model_validator(mode="after")
    def _rules(self) -> Shop:
        if self.categories > min(self.users, self.items):
            raise ValueError(f"categories must not pass the number of users and of items, got {self.categories}")
        if self.events > _MOST_OF_A_USER * self.users:
            raise ValueError(
                f"events must be at most {_MOST_OF_A_USER:,} for each of {self.users:,} users, got {self.events:,}; add users"
            )
        if max(self.cart_chances) > 1.0 or max(self.buy_chances) > 1.0:
            raise ValueError(
                "carts_per_view, buys_per_cart and the three focuses ask for more carts than views or more purchases than carts "
                "on one side of a taste; lower carts_per_view or buys_per_cart"
            )
        return self

    @property
    def views(self) -> int:
        """Views of all users, about."""
        return max(round(self.events / (1.0 + self.carts_per_view * (1.0 + self.buys_per_cart))), 1)

    @property
    def cart_chances(self) -> tuple[float, float]:
        """Probability that a view outside, and within, the taste becomes a cart."""
        return _chances(self.carts_per_view, self.view_focus, self.cart_focus)

    @property
    def buy_chances(self) -> tuple[float, float]:
        """Probability that a cart outside, and within, the taste becomes a purchase."""
        return _chances(self.buys_per_cart, self.cart_focus, self.buy_focus)

    def first_views(self, first: int, last: int) -> NDArray[np.int64]:
        """Where the views of users `first .. last - 1` begin, and the last ones end, among all views: int64 (last - first + 1).

        User r has a share of the views by the weight (r + 1)^-user_exponent, as an integral, and one view at least.
        """
        power, ranks_U1 = 1.0 - self.user_exponent, np.arange(first, last + 1)
        shares_U1 = ((ranks_U1 + 1.0) ** power - 1.0) / ((self.users + 1.0) ** power - 1.0)
        return ranks_U1 + np.int64(shares_U1 * self.views)

    def stretches(self) -> list[tuple[int, int]]:
        """Users in stretches of about `GROUP_VIEWS` views, as first and one past the last."""
        groups = -(-(self.views + self.users) // GROUP_VIEWS)
        shares = np.arange(1, groups) / groups
        power = 1.0 - self.user_exponent
        ends = np.int64((1.0 + shares * ((self.users + 1.0) ** power - 1.0)) ** (1.0 / power)) - 1
        bounds = np.unique(np.concatenate([[0], ends.clip(0, self.users), [self.users]])).tolist()
        return list(pairwise(bounds))


def _chances(ratio: float, before: float, after: float) -> tuple[float, float]:
    """Chances outside and within the taste that give `ratio` in all, and raise the share within from `before` to `after`."""
    return ratio * (1.0 - after) / (1.0 - before), ratio * after / before


@dataclass(frozen=True)
class Events:
    """Events of some users: `users_X` and `items_X` int64, `times_X` int64 seconds, `kinds_X` int8, a place in `NAMES`."""

    users_X: NDArray[np.int64]
    items_X: NDArray[np.int64]
    times_X: NDArray[np.int64]
    kinds_X: NDArray[np.int8]


def draw_events(shop: Shop, first: int, last: int) -> Events:
    """The events of users `first .. last - 1`, user by user, each view followed by what comes of it."""
    starts_U1 = shop.first_views(first, last)
    starts_U1 -= starts_U1[0]
    items_V, times_V3 = np.empty(starts_U1[-1], np.int64), np.empty((starts_U1[-1], len(NAMES)), np.int64)
    sizes = (shop.items, shop.categories, shop.days * _DAY)
    shares = (shop.view_focus, shop.drift, shop.repeats, 1.0 - shop.item_exponent)
    _draw(np.uint64(shop.seed), first, starts_U1, sizes, shares, shop.cart_chances, shop.buy_chances, items_V, times_V3)
    views_X, kinds_X = np.nonzero(times_V3 >= 0)
    users_V = np.repeat(np.arange(first, last), np.diff(starts_U1))
    return Events(users_V[views_X], items_V[views_X], _FIRST_SECOND + times_V3[views_X, kinds_X], kinds_X.astype(np.int8))


def write_shop(shop: Shop, folder: Path, note: Callable[[str], None] = SILENT.note) -> None:
    """Write `EVENTS` and `ITEMS` into the new `folder`, in bounded memory.

    Events have columns user, item (int64), time (seconds), event (text) and price (float64); items those of `items_table`.
    The folder appears in one rename, or not at all. Raises DataError when the disk is full, or is too small from the start.
    """
    need = _EVENT_BYTES * shop.events + _ITEM_BYTES * shop.items
    with new_folder(folder, need, f"a synthetic shop of {shop.events:,} events and {shop.items:,} items") as work:
        (work / EVENTS).mkdir()
        stretches = shop.stretches()
        for part, group in enumerate(range(0, len(stretches), PART_GROUPS)):
            chosen = stretches[group : group + PART_GROUPS]
            _write_tables((_events_table(shop, *stretch) for stretch in chosen), work / EVENTS / f"part-{part:05d}.parquet")
            note(f"synthetic shop: events of {chosen[-1][1]:,} of {shop.users:,} users drawn")
        firsts = range(0, shop.items, GROUP_ITEMS)
        lasts = (min(first + GROUP_ITEMS, shop.items) for first in firsts)
        tables = (items_table(shop.seed, first, last, shop.categories) for first, last in zip(firsts, lasts, strict=True))
        _write_tables(tables, work / ITEMS)


def _write_tables(tables: Iterable[pa.Table], path: Path) -> None:
    """Write tables of one schema, at least one, as the row groups of a file."""
    tables = iter(tables)
    first = next(tables)
    with pq.ParquetWriter(path, first.schema, compression="zstd") as writer:
        writer.write_table(first)
        for table in tables:
            writer.write_table(table)


def _events_table(shop: Shop, first: int, last: int) -> pa.Table:
    events = draw_events(shop, first, last)
    names_X = pa.DictionaryArray.from_arrays(events.kinds_X, list(NAMES)).cast(pa.string())
    prices_X = prices_of(shop.seed, events.items_X, shop.categories)
    columns = [events.users_X, events.items_X, events.times_X, names_X, prices_X]
    return pa.table(columns, names=["user", "item", "time", "event", "price"])


@numba.njit(inline="always")
def _item_of_taste(uniform, category, items, categories, power):  # type: ignore[no-untyped-def]
    """An item of the category by popularity."""
    return power_law_rank(uniform, (items - category + categories - 1) // categories, power) * categories + category


@numba.njit(cache=True)
def _draw(seed, first, starts_U1, sizes, shares, cart_chances, buy_chances, items_V, times_V3):  # type: ignore[no-untyped-def]
    """Write the item of every view, and the seconds from the opening to view, cart and purchase; -1 where there is none."""
    num_items, categories, seconds = sizes
    view_focus, drift, repeats, power = shares
    bought_V = np.empty(len(items_V), np.int64)  # places of a user's purchases, from the user's first view on
    for place in range(len(starts_U1) - 1):
        user, start, views = np.uint64(first + place), starts_U1[place], starts_U1[place + 1] - starts_U1[place]
        for_early, for_late = uniforms(user << np.uint64(32), _TASTES, seed)
        early = power_law_rank(for_early, categories, power)
        late = categories - 1 - power_law_rank(for_late, categories, power)
        num_bought = 0
        for view in range(views):
            index = user << np.uint64(32) | np.uint64(view)
            for_focus, for_taste = uniforms(index, _SIDE, seed)
            for_item, for_when = uniforms(index, _ITEM, seed)
            share = (view + for_when) / views  # of the shop's time
            inside = np.int64(for_focus < view_focus)
            if inside:
                taste = late if for_taste < share * drift else early
                item = _item_of_taste(for_item, taste, num_items, categories, power)
            else:
                item = power_law_rank(for_item, num_items, power)
            now = np.int64(share * seconds)
            for_cart, for_buy = uniforms(index, _OUTCOME, seed)
            for_cart_time, for_buy_time = uniforms(index, _TIMES, seed)
            cart = now + 30 + np.int64(600 * for_cart_time)
            buy = cart + 60 + np.int64(7 * _DAY * for_buy_time**4)
            has_cart = for_cart < cart_chances[inside] and cart < seconds
            has_buy = has_cart and for_buy < buy_chances[inside] and buy < seconds
            if has_buy and num_bought > 0:
                for_repeat, for_which = uniforms(index, _REPEAT, seed)
                earlier = bought_V[start + num_bought - 1 - power_law_rank(for_which, num_bought, 0.5)]
                if for_repeat < repeats and times_V3[earlier, 2] < now:
                    item = items_V[earlier]
            if has_buy:
                bought_V[start + num_bought] = start + view
                num_bought += 1
            items_V[start + view] = item
            times_V3[start + view, 0] = now
            times_V3[start + view, 1] = cart if has_cart else -1
            times_V3[start + view, 2] = buy if has_buy else -1
