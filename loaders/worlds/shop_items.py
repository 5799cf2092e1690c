"""Items of a synthetic shop: category, price and title, each from the item's number and a seed alone.

Letters: X items in any order, C categories.
"""

from __future__ import annotations

import numba
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gcnrec.loaders.synthetic import uniforms

NOUNS = (
    "lamp",
    "chair",
    "shirt",
    "cable",
    "cream",
    "novel",
    "drill",
    "kettle",
    "racket",
    "puzzle",
    "tent",
    "pan",
    "boot",
    "clock",
)
"""The word of a category in its items' titles; category c has the noun c mod 14 and its own number."""
ADJECTIVES = (
    "blue",
    "small",
    "warm",
    "light",
    "strong",
    "quiet",
    "plain",
    "new",
    "round",
    "soft",
    "dark",
    "quick",
    "flat",
    "fine",
)
_LOWEST_PRICE, _HIGHEST_PRICE = 5.0, 320.0
"""Of a category; an item costs between half of its category's price and twice of it."""
_ITEM, _WORDS, _CATEGORY = 8, 9, 10
"""Steps of draws, after those of the events."""


def prices_of(seed: int, items_X: NDArray[np.int64], categories: int) -> NDArray[np.float64]:
    """Price of each item in units of money, two decimals, float64 (X): log-uniform about the price of its category."""
    own_X, _ = _draws(np.uint64(seed), _ITEM, items_X)
    of_category_X, _ = _draws(np.uint64(seed), _CATEGORY, items_X % categories)
    middle_X = _LOWEST_PRICE * (_HIGHEST_PRICE / _LOWEST_PRICE) ** of_category_X
    return np.round(middle_X * 4.0 ** (own_X - 0.5), 2)


def items_table(seed: int, first: int, last: int, categories: int) -> pa.Table:
    """Items `first .. last - 1`: item (int64), category (text), price (float64), title (list of three words)."""
    items_X = np.arange(first, last, dtype=np.int64)
    words_X2 = np.stack(_draws(np.uint64(seed), _WORDS, items_X), axis=1) * len(ADJECTIVES)
    nouns_X = [NOUNS[number % categories % len(NOUNS)] for number in range(first, last)]
    titles = [[*(ADJECTIVES[int(word)] for word in two), noun] for two, noun in zip(words_X2, nouns_X, strict=True)]
    return pa.table(
        {
            "item": items_X,
            "category": [f"{noun}-{number % categories}" for noun, number in zip(nouns_X, items_X, strict=True)],
            "price": prices_of(seed, items_X, categories),
            "title": pa.array(titles, pa.list_(pa.string())),
        }
    )


@numba.njit(cache=True)
def _draws(seed, step, numbers_X):  # type: ignore[no-untyped-def]
    """Two float64 in [0, 1) for each number."""
    left, right = np.empty(len(numbers_X)), np.empty(len(numbers_X))
    for place in range(len(numbers_X)):
        left[place], right[place] = uniforms(np.uint64(numbers_X[place]), step, seed)
    return left, right
