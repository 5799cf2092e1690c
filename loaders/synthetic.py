"""A world of any size from a seed: power-law degrees on both sides and planted blocks, so that recall means something.

Edge e is drawn from counter e alone, so any stretch of edges can be made anywhere, in any order, with the same result.
User rank r has weight (r + 1)^-user_exponent and belongs to block r mod blocks; items likewise. With probability `inside`
an edge's item comes from the user's own block, else from all items. A pair may be drawn again: ingestion merges it.
Ids follow from ranks by a product: they are spread, and say nothing of popularity.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import numba
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import Field, model_validator

from gcnrec.config.toml import Section
from gcnrec.config.values import Seed
from gcnrec.errors import DataError, os_remedy
from gcnrec.random import Stage, two_u64
from gcnrec.system.observer import SILENT

GROUP_ROWS = 2**20
PART_GROUPS = 64
_FIRST_SECOND = 1_500_000_000
_SYNTHETIC = int(Stage.SYNTHETIC)
_MULTIPLIER = np.uint64(0x2545F4914F6CDD1D)
_63_BITS = np.uint64(2**63 - 1)

_PRIME = 2_654_435_761
"""Above every number of nodes, so that rank x prime modulo that number is a permutation."""
_EDGE_BYTES = {"int64": 13, "int32": 8}
"""Of Parquet, about, without times, by type of ids: measured, 17 with times for 8 million users and 2 million items, fewer for a
small world."""
_TIME_BYTES = 4
TEST = "test.parquet"
"""The file of test rows, next to the folder `TRAIN`."""
TRAIN = "train"

Nodes = Annotated[int, Field(ge=1, lt=2**31)]


class World(Section):
    """Settings of a synthetic world; `edges` counts drawn rows, repeated pairs included."""

    users: Nodes = 10_000
    items: Nodes = 5_000
    edges: Annotated[int, Field(ge=1, lt=2**40)] = 300_000
    blocks: Nodes = 20
    user_exponent: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.5
    item_exponent: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.7
    inside: Annotated[float, Field(ge=0.0, le=1.0)] = 0.8
    """Share of the edges that stay inside the user's block."""
    seed: Seed = 0
    ids: Literal["int64", "int32"] = "int64"
    """Spread over 63 bits, or over 0 .. number of users - 1 (items - 1), which takes half the bytes."""
    times: bool = True
    """Whether there is a column of times."""
    test: Annotated[int, Field(ge=0, lt=2**40)] = 0
    """Rows drawn behind the `edges`, for a file of their own: the test set of `[data]` with `test = "synthetic"`."""

    @property
    def identity(self) -> str:
        """The settings as text. A key at its default that earlier versions did not have is left out: their worlds stay valid."""
        later = {"ids", "times", "test"}
        return self.model_dump_json(exclude={key for key in later if getattr(self, key) == World.model_fields[key].default})

    @model_validator(mode="after")
    def _rules(self) -> World:
        if self.blocks > min(self.users, self.items):
            raise ValueError(f"blocks must not pass the number of users and of items, got {self.blocks}")
        return self


def draw_edges(world: World, first: int, count: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """`users_E` and `items_E` of edges `first .. first + count - 1`: ids int64, spread over 63 bits, or int32 (`World.ids`)."""
    users_E, items_E = draw_ranks(world, first, count)
    if world.ids == "int32":
        return _permuted(users_E, world.users), _permuted(items_E, world.items)
    return _spread(users_E), _spread(items_E)


def draw_ranks(world: World, first: int, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ranks by popularity, from 0, of the users and items of edges `first .. first + count - 1`; int64 (count) each."""
    users_E, items_E = np.empty(count, np.int64), np.empty(count, np.int64)
    exponents = (1.0 - world.user_exponent, 1.0 - world.item_exponent)
    sizes = (world.users, world.items, world.blocks)
    _draw(np.uint64(world.seed), first, sizes, exponents, world.inside, users_E, items_E)
    return users_E, items_E


def ranks_of(ids: NDArray[np.int32], nodes: int) -> NDArray[np.int64]:
    """The ranks behind int32 `ids` of a side with so many `nodes`: what `draw_ranks` gave."""
    return ids.astype(np.int64) * pow(_PRIME, -1, nodes) % nodes


def _permuted(ranks_E: NDArray[np.int64], nodes: int) -> NDArray[np.int32]:
    return (ranks_E * _PRIME % nodes).astype(np.int32)


def _spread(ranks_E: NDArray[np.int64]) -> NDArray[np.int64]:
    return ((ranks_E.astype(np.uint64) * _MULTIPLIER) & _63_BITS).astype(np.int64)


def write_world(world: World, folder: Path, note: Callable[[str], None] = SILENT.note) -> None:
    """Write columns user, item and time (seconds, rising; `World.times`) as Parquet parts into the new `folder`, in constant
    memory. With test rows the parts lie in its folder `TRAIN`, next to the file `TEST`.

    The folder appears in one rename, or not at all. Raises DataError when the disk is full, or is too small from the start.
    """
    need = world.edges * (_EDGE_BYTES[world.ids] + (_TIME_BYTES if world.times else 0))
    with new_folder(folder, need, f"a synthetic world of {world.edges:,} edges") as work:
        train = work / TRAIN if world.test else work
        train.mkdir(exist_ok=True)
        groups = math.ceil(world.edges / GROUP_ROWS)
        for part, group in enumerate(range(0, groups, PART_GROUPS)):
            first, last = group * GROUP_ROWS, min((group + PART_GROUPS) * GROUP_ROWS, world.edges)
            write_rows(world, first, last, train / f"part-{part:05d}.parquet")
            note(f"synthetic world: {last:,} of {world.edges:,} edges drawn")
        if world.test:
            write_rows(world, world.edges, world.edges + world.test, work / TEST)


@contextmanager
def new_folder(folder: Path, need: int, what: str) -> Iterator[Path]:
    """A folder to write into that becomes the new `folder` at the end, in one rename, or is removed.

    Raises DataError, with the words `what`, where fewer than `need` bytes are free, and when the disk is full later.
    """
    work = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    try:
        work.mkdir(parents=True)
        _require_room(need, what, work)
        yield work
        work.rename(folder)
    except OSError as problem:
        remedy = os_remedy(problem, "work in another folder")
        raise DataError(f"cannot write {folder}: {problem.strerror or problem}; {remedy}") from None
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _require_room(need: int, what: str, folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if need > free:
        raise DataError(
            f"{what} takes about {need:,} bytes, {free:,} are free in {folder.parent}; free some space, or ask for fewer"
        )


def write_rows(world: World, first: int, last: int, path: Path) -> None:
    """Write edges `first .. last - 1` into one Parquet file, a row group at a time; the next group is drawn meanwhile."""
    kind = pa.int64() if world.ids == "int64" else pa.int32()
    schema = pa.schema([("user", kind), ("item", kind), *([("time", pa.int64())] if world.times else [])])
    starts = range(first, last, GROUP_ROWS)
    with (
        pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=False) as writer,
        ThreadPoolExecutor(1) as pool,
    ):
        drawn = [pool.submit(draw_edges, world, start, min(GROUP_ROWS, last - start)) for start in starts[:1]]
        for place, start in enumerate(starts):
            users, items = drawn.pop().result()
            following = starts[place + 1 : place + 2]
            drawn += [pool.submit(draw_edges, world, each, min(GROUP_ROWS, last - each)) for each in following]
            times = [_FIRST_SECOND + np.arange(start, start + len(users), dtype=np.int64)] if world.times else []
            writer.write_table(pa.table([users, items, *times], schema=schema))


@numba.njit(inline="always")
def uniforms(index, step, seed):  # type: ignore[no-untyped-def]
    """Two float64 in [0, 1) from one counter."""
    left, right = two_u64(seed, _SYNTHETIC, step, index)
    return np.float64(left >> np.uint64(11)) * 2.0**-53, np.float64(right >> np.uint64(11)) * 2.0**-53


@numba.njit(inline="always")
def power_law_rank(uniform, size, power):  # type: ignore[no-untyped-def]
    """Inverse of the continuous power law on [1, size + 1), cut down to a rank 0 .. size - 1; power = 1 - exponent."""
    top = (np.float64(size) + 1.0) ** power
    return min(np.int64((1.0 + uniform * (top - 1.0)) ** (1.0 / power)) - 1, size - 1)


@numba.njit(parallel=True, cache=True, nogil=True)
def _draw(seed, first, sizes, powers, inside, users, items):  # type: ignore[no-untyped-def]
    num_users, num_items, blocks = sizes
    for edge in numba.prange(len(users)):
        index = np.uint64(first + edge)
        for_user, for_side = uniforms(index, 0, seed)
        for_item, _ = uniforms(index, 1, seed)
        user = power_law_rank(for_user, num_users, powers[0])
        if for_side < inside:
            block = user % blocks
            item = power_law_rank(for_item, (num_items - block + blocks - 1) // blocks, powers[1]) * blocks + block
        else:
            item = power_law_rank(for_item, num_items, powers[1])
        users[edge] = user
        items[edge] = item
