"""What the job says: the columns, the split, the model and the sizes that fit the machine, each with the reason for it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from gcnrec.draft.roles import Roles
from gcnrec.draft.words import withdraws
from gcnrec.errors import shown
from gcnrec.loaders.ingest.inputs import Input
from gcnrec.system.limits import read_limits
from gcnrec.system.machine import available_cores

_WIDTH, _EPOCHS, _BATCH = 64, 30, 2048
"""Of a job that leaves these keys open."""
_TABLE_BYTES = 4 * _WIDTH * (3 + 1)
"""Of a node: its row, both moments of Adam, and its row of the export."""
_HOP_BYTES = 4 * _WIDTH * 3
"""Of a node: gradient and scratch of exact propagation."""
_EDGE_BYTES = 16
_STEP_SECONDS = 0.057 / 810_128
"""Of an edge: a step of exact propagation on two cores (jobs/records/2026-11-22-train-step-cpu2.json)."""
_SCORE_SECONDS = 3.7 / (29_858 * 40_981)
"""Of a user and an item: a ranking on two cores (jobs/records/2026-11-22-evaluate-cpu2.jsonl)."""
_MOST_HOURS = 2.0
"""Of exact propagation; longer trainings draw neighbourhoods."""
_MOST_RANKING = 60.0
"""Seconds of a validation after each epoch."""
_EPOCH_EDGES = 10**7
"""Edges of an epoch of sampled training; of more, an epoch draws a share."""
_LEAST_STEPS = 32
"""Of an epoch of few rows. measured: on 490 to 10,000 train pairs of two data sets, batches of 64 or 256 beat 2,048."""
_LEAST_BATCH = 64
_MOST_CORES = 8
_FEW_ROWS = 20_000
_LIMITS = {"2GB": 2 * 10**9, "1GB": 10**9, "512MB": 512 * 10**6, "256MB": 256 * 10**6, "128MB": 128 * 10**6}
_MANY_ROWS = 10**8
_LEAST_SHARE = 0.2
"""Of rows whose rating counts, and of rows with a 0 that is no rating."""
_SCALE = 4
"""Values of a scale besides 0, at least: likes and dislikes have fewer."""


@dataclass(frozen=True, slots=True)
class Machine:
    """Bytes that this process may take, and its cores."""

    memory: int
    cores: int

    @classmethod
    def here(cls) -> Machine:
        return cls(read_limits().available, available_cores())


@dataclass(frozen=True, slots=True)
class Sizes:
    """Rows of the input, and its users and items: exact, or estimated from the rows that were read."""

    rows: int
    users: int
    items: int
    exact: bool

    @classmethod
    def of(cls, rows: int, roles: Roles) -> Sizes:
        columns = (roles.user.column, roles.item.column)
        exact = all(column.rows >= rows and column.distinct is not None for column in columns)
        return cls(rows, columns[0].estimated(rows), columns[1].estimated(rows), exact)

    def __str__(self) -> str:
        about = "" if self.exact else "about "
        return f"{self.rows:,} rows, {about}{self.users:,} users and {about}{self.items:,} items"


@dataclass(frozen=True, slots=True)
class Features:
    """Paths of Parquet with features of users and of items, by their ids."""

    user: str | None = None
    item: str | None = None

    def named(self) -> dict[str, str]:
        """The keys of `[data]` that name them."""
        return {f"{side}_features": text for side, text in (("user", self.user), ("item", self.item)) if text is not None}


@dataclass(frozen=True, slots=True)
class Choice:
    """A key of the job, its value and why. One that is not `on` stands in the job as a comment, to be tried."""

    section: str
    key: str
    value: Any
    reason: str
    on: bool = True


def data_choices(source: Input, roles: Roles, machine: Machine, features: Features) -> Iterator[Choice]:
    """The keys of `[data]`."""
    yield Choice("data", "train", source.text, f"{source.rows:,} rows")
    for role, found in roles.found().items():
        if role != "rating":
            yield Choice("data", role, found.path, found.reason)
            yield from _with_role(role, roles)
    yield from _rating_choices(roles)
    for key, text in features.named().items():
        yield Choice("data", key, text, "init was given it")
    yield from _condition(source, roles)
    yield from _split_choices(_target_rows(source.rows, roles), roles)
    if source.rows > _MANY_ROWS and machine.memory > 32 * 10**9:
        yield Choice("data", "memory_limit", "8GB", f"{source.rows:,} rows are sorted in fewer passes")
    elif (limit := _limit(machine)) != "2GB":
        yield Choice("data", "memory_limit", limit, f"a quarter of the {_size(machine.memory)} that are free here")
    yield Choice("data", "k_core", 5, "drops users and items with fewer interactions, of which little can be learnt", on=False)
    if not features.named():
        yield Choice("data", "item_features", "ITEMS.parquet", "graphsage then ranks items without interactions", on=False)
    if not roles.rating:
        yield from _weights(roles)


def _with_role(role: str, roles: Roles) -> Iterator[Choice]:
    """Keys that follow another."""
    if role == "time" and roles.time_unit not in (None, "s"):
        yield Choice("data", "time_unit", roles.time_unit, f"its numbers are {roles.time_unit} since 1970")
    if role == "behaviour":
        yield Choice("data", "target", list(roles.target), "lists are to predict this; --target of init names another")


def _weights(roles: Roles) -> Iterator[Choice]:
    for column in roles.weights[:1]:
        yield Choice("data", "weight", column.path, "makes interactions with more of it count more in the loss", on=False)
        yield Choice("data", "weight_log", True, "ten times as much then counts about three times", on=False)


def _rating_choices(roles: Roles) -> Iterator[Choice]:
    """From which rating on a row counts: three quarters of the scale; low ones, below its middle, are negative pairs."""
    if roles.rating is None:
        return
    column = roles.rating.column
    low, high = column.low or 0.0, column.high or 0.0
    counts = sorted(((float(value), rows) for value, rows in column.values.items()), reverse=True)
    zeros = _not_rated(counts)
    low = counts[-2][0] if zeros else low
    least, below = low + 0.75 * (high - low), low + 0.5 * (high - low)
    share = sum(rows for value, rows in counts if value >= least) / max(column.rows, 1)
    if counts and share < _LEAST_SHARE:
        least = _at_share(counts, column.rows)
    least, below = (_next_known(counts, value) for value in (least, below))
    on = roles.behaviour is None
    why = roles.rating.reason if on else "left out, as rows of each behaviour would need one"
    yield Choice("data", "rating", column.path, why, on)
    unrated = f"; 0, in {zeros / max(column.rows, 1):.0%} of the rows, is taken for no rating" if zeros else ""
    yield Choice("data", "min_rating", least, f"the upper part of the scale from {low:g} to {high:g}{unrated}", on)
    if below < least:
        away = "training keeps such items away from a user's lists"
        yield Choice(
            "data", "negative_below", below, f"{away}{', items without a rating, too' if zeros else ''}", on and not zeros
        )


def _not_rated(counts: list[tuple[float, int]]) -> int:
    """Rows with a 0 below a scale from 1 on, where many have it: sites write 0 for an item that was shelved, but not rated."""
    if len(counts) <= _SCALE or counts[-1][0] != 0.0 or counts[-2][0] < 1.0:
        return 0
    zeros = counts[-1][1]
    return zeros if zeros >= _LEAST_SHARE * sum(rows for _, rows in counts) else 0


def _at_share(counts: list[tuple[float, int]], rows: int) -> float:
    """The highest rating at or above which the least share of the rows lies."""
    above = 0
    for value, count in counts:
        above += count
        if above >= _LEAST_SHARE * rows:
            return value
    return counts[-1][0]


def _next_known(counts: list[tuple[float, int]], value: float) -> float:
    """The lowest rating that occurs from `value` on, where few occur; else `value`, rounded."""
    return min((known for known, _ in counts if known >= value), default=round(value, 2))


def _condition(source: Input, roles: Roles) -> Iterator[Choice]:
    """Rows without an id, a time or a behaviour are refused by ingestion, so that a condition drops them first.

    Rows that take an interaction back, such as a removal from a cart, are no interactions either.
    """
    parts, names = [], []
    for role, found in roles.found().items():
        if role != "rating" and found.column.nulls:
            quoted = _quoted(source, found.path)
            is_float = pa.types.is_floating(found.column.kind)
            parts.append(f"{quoted} > 0" if is_float else f"{quoted} IS NOT NULL")
            names.append(f"{found.column.nulls:,} of {found.column.rows:,} rows read have no {role}")
    back = [] if roles.behaviour is None else [value for value in roles.behaviour.column.values if withdraws(value)]
    if roles.behaviour is not None and back:
        texts = ", ".join("'" + value.replace("'", "''") + "'" for value in back)
        parts.append(f"{_quoted(source, roles.behaviour.path)} NOT IN ({texts})")
        names.append(f"{', '.join(map(shown, back))} takes an interaction back")
    if parts:
        yield Choice("data", "where", " AND ".join(parts), ", ".join(names))


def _quoted(source: Input, path: str) -> str:
    """A column, or a field of a struct, in SQL."""
    steps = [path] if path in source.dataset.schema.names else path.split(".")
    return ".".join('"' + step.replace('"', '""') + '"' for step in steps)


def _split_choices(rows: float, roles: Roles) -> Iterator[Choice]:
    """By time where there are times, else by chance. `rows`: of the behaviour to predict."""
    size = 0.2 if rows < _FEW_ROWS else 0.1
    if roles.time is not None:
        yield Choice("data", "split", "temporal", "there are times: lists are judged by what came later")
        yield Choice("data", "test_size", size, f"the newest {size:.0%} of the rows are the test set")
    else:
        yield Choice("data", "split", "random", "no column of times is known: test pairs are drawn from each user's")
        yield Choice("data", "test_size", 0.2, "a fifth of each user's pairs")


def model_choices(sizes: Sizes, machine: Machine, roles: Roles, features: Features) -> Iterator[Choice]:
    """The keys of the model and its training."""
    nodes, cores = sizes.users + sizes.items, min(machine.cores, _MOST_CORES)
    steps = math.ceil(sizes.rows / _BATCH) * _EPOCHS
    hours = steps * _STEP_SECONDS * sizes.rows * 2 / cores / 3600
    needed = nodes * (_TABLE_BYTES + _HOP_BYTES) + _EDGE_BYTES * sizes.rows
    yield Choice("model", "name", "graphsage" if features.named() else "lightgcn", _model_reason(roles, features))
    if features.named():
        yield from _sampled(sizes, machine, "graphsage reads features on drawn neighbourhoods")
    elif hours > _MOST_HOURS or needed > machine.memory // 2:
        yield from _sampled(sizes, machine, f"exact propagation would take about {_duration(hours)} and {_size(needed)} here")
    else:
        yield Choice(
            "model",
            "propagation",
            "full",
            f"exact; at most about {_duration(hours)} of training and {_size(needed)} on this machine",
        )
    yield Choice("model", "response", "plateau", "the better form of gfcf where it joins the mixture")
    yield Choice("mixture", "with", "auto", "closed forms rank with the trained model where validation says that they help")
    yield Choice("train", "refit", "train+valid", "what validation held out is learnt too, once it has chosen the epochs")
    if (rows := _target_rows(sizes.rows, roles)) < _FEW_ROWS:
        batch = max(2 ** int(math.log2(max(rows / _LEAST_STEPS, 1))), _LEAST_BATCH)
        yield Choice("train", "batch_size", batch, f"of {rows:,.0f} rows, an epoch of larger batches has few steps")
    yield Choice("train", "seed", 0, "another seed shows how much of a figure is chance", on=False)
    ranking = sizes.users * sizes.items * _SCORE_SECONDS * 2 / cores
    if ranking > _MOST_RANKING:
        yield Choice("evaluate", "every", 5, f"a validation ranks all items for each user, about {ranking / 60:.0f} min here")
        yield Choice("evaluate", "patience", 2, "ten epochs without a better figure end the training")
    if (limit := _limit(machine)) != "2GB":
        yield Choice("evaluate", "memory_limit", limit, f"a quarter of the {_size(machine.memory)} that are free here")


def _target_rows(rows: int, roles: Roles) -> float:
    """Of `rows`, those of the behaviour to predict."""
    if roles.behaviour is None:
        return rows
    column = roles.behaviour.column
    return rows * sum(column.values.get(value, 0) for value in roles.target) / max(column.rows, 1)


def _model_reason(roles: Roles, features: Features) -> str:
    reads = "there are features, by which items and users without interactions are ranked, too"
    reason = reads if features.named() else "there are no features"
    if roles.behaviour is not None:
        values = ", ".join(shown(value) for value in list(roles.behaviour.column.values)[:6])
        return f"{reason}; it reads all behaviours ({values}) as one graph"
    return reason


def _sampled(sizes: Sizes, machine: Machine, why: str) -> Iterator[Choice]:
    """Training on drawn neighbourhoods, of a share of the edges where there are many, on disk where memory is short."""
    yield Choice("model", "propagation", "sampled", why)
    needed = (sizes.users + sizes.items) * (_TABLE_BYTES + 4 * _WIDTH) + _EDGE_BYTES * sizes.rows
    if needed > machine.memory // 2:
        said = f"rows and graph take {_size(needed)}, and {_size(machine.memory)} are free here"
        yield Choice("model", "start", "normal", "a spectral start would hold whole tables in memory")
        yield Choice("table", "placement", "disk", said)
    if sizes.rows > _EPOCH_EDGES:
        share = max(round(_EPOCH_EDGES / sizes.rows, 4), 1e-4)
        yield Choice("sampler", "fraction", share, f"an epoch draws {_EPOCH_EDGES:,} of {sizes.rows:,} interactions anew")


def _limit(machine: Machine) -> str:
    """The largest of some limits that a quarter of the free memory holds; the least where none does."""
    return next((text for text, size in _LIMITS.items() if size <= machine.memory // 4), "64MB")


def _size(nbytes: float) -> str:
    return f"{nbytes / 1e9:.1f} GB" if nbytes >= 1e9 else f"{max(nbytes / 1e6, 1):.0f} MB"


def _duration(hours: float) -> str:
    minutes = hours * 60
    return "a minute" if minutes < 1.5 else f"{minutes:.0f} min" if minutes < 90 else f"{hours:.1f} h"
