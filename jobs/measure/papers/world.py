"""The world of datasets/papers-size.toml at any size, and what is known of it: the lists of who knows the blocks.

    python -m jobs.measure.papers.world EDGES SEED FOLDER      draws it into FOLDER

Letters: I items, K list length, C candidates of a user.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gcnrec.loaders.cards import load_card
from gcnrec.loaders.schema import Dataset
from gcnrec.loaders.synthetic import World, ranks_of, write_world

CARD = Path(__file__).parents[3] / "datasets" / "papers-size.toml"
SIZES = ("users", "items", "edges", "blocks")


def scaled(edges: int, seed: int) -> World:
    """The card's world with `edges` rows: users, items and blocks in proportion, so that rows a node and nodes a block stay."""
    world = load_card(CARD).synthetic
    assert world is not None
    share = edges / world.edges
    sizes = {name: max(1, round(getattr(world, name) * share)) for name in SIZES}
    return world.model_copy(update={**sizes, "edges": edges, "seed": seed})


def popularity_expected(dataset: Dataset, k: int) -> float:
    """Share of the train edges that lie on the `k` most popular items: what popularity recalls of very many pairs."""
    degrees_I = dataset.graph.item_users.degrees
    return float(np.sort(degrees_I)[-k:].sum() / dataset.graph.num_edges)


def oracle_recall(world: World, dataset: Dataset, users: NDArray[np.int32], k: int) -> float:
    """Mean recall@k of lists by the probability that the world draws each item with, known items left out, over `users`."""
    test, train = dataset.test, dataset.graph.user_items
    user_ids, item_ids = dataset.user_ids.picked(np.sort(users)), dataset.item_ids.ids
    recalls = []
    for user, identity in zip(np.sort(users).tolist(), user_ids.to_numpy(), strict=True):
        seen = _ranks(world, item_ids, train.row(user))
        held = _ranks(world, item_ids, np.unique(test.items_E[test.users_E == user]))
        block = int(ranks_of(np.array([identity]), world.users)[0]) % world.blocks
        best = best_items(world, block, k + len(seen))
        listed = best[~np.isin(best, seen)][:k]
        recalls.append(np.isin(held, listed).mean())
    return float(np.mean(recalls))


def best_items(world: World, block: int, count: int) -> NDArray[np.int64]:
    """Ranks of the `count` items that a user of `block` draws most often, the likeliest first, int64 (at most count)."""
    size = (world.items - block + world.blocks - 1) // world.blocks
    own = np.arange(min(count, size)) * world.blocks + block
    ranks_C = np.union1d(own, np.arange(min(count, world.items)))
    power = 1.0 - world.item_exponent
    chance_C = (1.0 - world.inside) * _chance(ranks_C, world.items, power)
    inside_C = ranks_C % world.blocks == block
    chance_C[inside_C] += world.inside * _chance(ranks_C[inside_C] // world.blocks, size, power)
    return ranks_C[np.argsort(-chance_C, kind="stable")][:count]


def _chance(ranks: NDArray[np.int64], size: int, power: float) -> NDArray[np.float64]:
    """The probability of each rank, by the power law that `gcnrec.loaders.synthetic` draws from."""
    chance: NDArray[np.float64] = ((ranks + 2.0) ** power - (ranks + 1.0) ** power) / ((size + 1.0) ** power - 1.0)
    return chance


def _ranks(world: World, item_ids: pa.Array, items: NDArray[np.int32]) -> NDArray[np.int64]:
    return ranks_of(item_ids.take(pa.array(items)).to_numpy(), world.items)


if __name__ == "__main__":
    write_world(scaled(int(sys.argv[1]), int(sys.argv[2])), Path(sys.argv[3]), lambda text: print(text, flush=True))
