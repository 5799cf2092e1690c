"""From a folder of numbered pairs to a dataset folder: nothing is joined, and nothing sorted but the transpose.

An engine on many machines has filtered, split, merged and numbered the interactions. What it wrote is read in bounded memory and
checked row by row, and becomes the same files that `gcnrec ingest` makes of the same rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gcnrec.config import Data
from gcnrec.errors import DataError
from gcnrec.loaders.bounds.allowed import Allowed
from gcnrec.loaders.buckets.csr import write_indptr, write_transpose
from gcnrec.loaders.ingest.behaviours import BY_TIME
from gcnrec.loaders.ingest.build import degrees_of
from gcnrec.loaders.ingest.heldout import Report, write_held_out
from gcnrec.loaders.ingest.inputs import Input
from gcnrec.loaders.ingest.leakage import PREFIX, TrainTimes, report_leakage
from gcnrec.loaders.ingest.listing import listed
from gcnrec.loaders.ingest.rows import Rows
from gcnrec.loaders.numbered.layout import (
    AGAIN,
    DOCUMENT,
    NODES,
    PAIRS,
    Numbered,
    inside,
    read_document,
)
from gcnrec.loaders.numbered.nodes import Nodes, read_nodes
from gcnrec.loaders.numbered.pairs import Train, check_apart, no_pairs, pair_columns, read_held_out, read_train
from gcnrec.loaders.numbered.parts import Part, Places, open_part
from gcnrec.loaders.parquet import check_features, write_all_features
from gcnrec.loaders.recipe import RULES, Inputs, absolute, first_change, inputs_of, name_of, recipe_of
from gcnrec.loaders.schema import Dataset, new_folder, open_dataset, refuse_existing, refuse_foreign, seal
from gcnrec.system.limits import parse_bytes
from gcnrec.system.observer import Observer
from gcnrec.system.scratch import Scratch, memory_errors_as_sentences, scratch_in


def ingest_numbered(text: str, data: Data, out: Path, *, data_root: Path | None, force: bool, observer: Observer) -> Dataset:
    """`gcnrec ingest --numbered`: the folder or URI `text` becomes the dataset folder `out`.

    `data` is of `settings_of`; relative paths start at `data_root`. Memory is bounded as in `gcnrec.loaders.parquet.ingest`.
    Raises DataError for a folder that is not what `numbered.json` says, whose rows break a rule of the format, or that changes
    while it is read. `out` then stays as it is.
    """
    if not force:
        refuse_existing(out, observer.warn)
    refuse_foreign(out)
    report = Report(observer.note, observer.work)
    with new_folder(out, force, report.note) as folder, memory_errors_as_sentences(data.memory_limit):
        document = read_document(text, data_root)
        inputs = _inputs(text, document, data, data_root)
        check_features(data, data_root)
        with scratch_in(folder / "scratch", parse_bytes(data.memory_limit)) as scratch:
            _write(_opened(text, document, data, data_root), document, data, folder, scratch, report)
            features = write_all_features(data, folder, data_root, scratch, report)
        change = first_change(inputs, _inputs(text, document, data, data_root))
        if change:
            raise DataError(f"the input must stay as it is while it is read, {change}; ingest again when nothing writes there")
        name = data.name or name_of(text)
        info = {"name": name, **_sizes(document), "numbered": absolute(text, data_root), **features}
        recipe = {"seed": data.seed, "data": recipe_of(data, data_root), "rules": RULES, "inputs": inputs}
        seal(folder, {**info, **recipe, "report": report.entries})
    report.say(
        f"{name}: {document.users:,} users, {document.items:,} items, {document.train:,} train, {document.valid:,} validation "
        f"and {document.test:,} test interactions ({document.split} split, as numbered)"
    )
    return open_dataset(out)


def _sizes(document: Numbered) -> dict[str, Any]:
    """What dataset.json says of the rows."""
    counts = {f"num_{role}": document.rows(role) for role in (*NODES, *PAIRS)}
    return {**counts, "split": document.split}


def _inputs(text: str, document: Numbered, data: Data, data_root: Path | None) -> Inputs:
    """Path, bytes and time of every file that is read, as they are now."""
    files = [(DOCUMENT, DOCUMENT)] + [(role, role) for role in (*NODES, *PAIRS) if document.rows(role)]
    stamps = []
    for name, role in files:
        listing = listed(inside(text, name), data_root)
        prefix = "" if role == DOCUMENT else f"{role}/"
        stamps += [[f"{prefix}{path}", size, when] for path, size, when in listing.stamps()]
    return {"numbered": stamps, **inputs_of(data, data_root)}


def _opened(text: str, document: Numbered, data: Data, data_root: Path | None) -> dict[str, Input]:
    """The folders by their roles; those without rows are absent."""
    limit = parse_bytes(data.memory_limit)
    allowed = {role: Allowed(limit, {"id": data.max_id_bytes} if role in NODES else {}) for role in (*NODES, *PAIRS)}
    found = {role: open_part(text, role, document.rows(role), data_root, allowed[role]) for role in allowed}
    return {role: source for role, source in found.items() if source is not None}


def _write(sources: dict[str, Input], document: Numbered, data: Data, folder: Path, scratch: Scratch, report: Report) -> None:
    """Every file of the dataset folder but features and dataset.json."""
    declared = {"users": document.types.user, "items": document.types.item}
    users, items = (read_nodes(sources[side], side, declared[side], data.max_id_bytes, scratch) for side in NODES)
    sizes = len(users), len(items)
    train, held_out, places = _read_parts(sources, sizes, folder, scratch, report)
    if document.split in BY_TIME and train.times_E is None:
        raise DataError(
            f"{DOCUMENT} says split = '{document.split}', which goes by time, and train has no column 'time'; {AGAIN}"
        )
    degrees = train.degrees_U, train.degrees_I
    _check_nodes((users, items), degrees, held_out, scratch)
    check_apart(train, held_out, places, scratch)
    report_leakage(TrainTimes(train.times_E, train.degrees_U), held_out, document.split, scratch, report)
    _check_split(document.split, report.entries)
    for nodes, degrees_N in zip((users, items), degrees, strict=True):
        nodes.write(folder, degrees_N, scratch)
    for role, rows in held_out.items():
        write_held_out(folder / f"{role}.parquet", rows, None)
    indptr, of_users = write_indptr(folder, "item_users", train.degrees_I), (train.starts, train.items_E)
    for written in write_transpose(folder / "item_users.indices.npy", indptr, of_users, 0, scratch):
        report.work("writing item_users", written, len(train.items_E))


def _check_split(split: str, leakage: Mapping[str, Any]) -> None:
    """DataError where pairs were not held out as `numbered.json` says: the default of `train.refit` and what reports say of
    leakage follow from it."""
    for part in ("valid", "test"):
        later = leakage.get(f"{PREFIX}train_after_first_{part}", 0)
        if split == "temporal" and later:
            problem = f"{later:,} pairs of train are later than the first pair of {part}"
        elif split == "leave_last" and (share := leakage.get(f"{PREFIX}{part}_before_own_train", 0.0)):
            problem = f"{share:.1%} of the pairs of {part} are earlier than their user's last pair of train"
        else:
            continue
        raise DataError(f"{DOCUMENT} says split = '{split}', and {problem}; say split = 'given' there, or {AGAIN}")


def _read_parts(
    sources: dict[str, Input], sizes: tuple[int, int], folder: Path, scratch: Scratch, report: Report
) -> tuple[Train, dict[str, Rows], dict[str, Places]]:
    """Train, the pairs of valid and test, and where the rows of each lie; parts without rows have the columns of train."""
    of_train = pair_columns(sources["train"], None)
    columns = {"train": of_train} | {
        role: pair_columns(sources[role], frozenset(of_train)) for role in ("valid", "test") if role in sources
    }
    parts = {role: Part(sources[role], found, 2, scratch.limit) for role, found in columns.items()}
    counted = {role: partial(_counted, report, role, part.source.rows) for role, part in parts.items()}
    train = read_train(parts["train"], sizes, folder, scratch, counted["train"])
    held_out = {
        role: read_held_out(parts[role], sizes, scratch, counted[role]) if role in parts else no_pairs(of_train, scratch)
        for role in ("valid", "test")
    }
    return train, held_out, {role: part.places for role, part in parts.items()}


def _counted(report: Report, role: str, total: int, done: int) -> None:
    report.work(role, done, total)


def _check_nodes(
    sides: tuple[Nodes, Nodes], degrees: tuple[NDArray[np.int64], NDArray[np.int64]], held_out: dict[str, Rows], scratch: Scratch
) -> None:
    """DataError where numbers do not follow the degrees, and where a node has no pair."""
    of_parts = [degrees_of(rows, (len(sides[0]), len(sides[1])), scratch) for rows in held_out.values()]
    for side, nodes in enumerate(sides):
        nodes.check_order(degrees[side])
        in_valid, in_test = (counts[side] for counts in of_parts)
        in_valid += in_test
        nodes.check_met(degrees[side], in_valid)
