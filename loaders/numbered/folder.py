"""From a folder of numbered pairs to a dataset folder: nothing is joined, and nothing sorted but the transpose.

An engine on many machines has filtered, split, merged and numbered the interactions. What it wrote is read in bounded memory and
checked row by row, and becomes the same files that `gcnrec ingest` makes of the same rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from gcnrec.config import Data
from gcnrec.errors import DataError
from gcnrec.loaders.bounds.allowed import Allowed
from gcnrec.loaders.ingest.behaviours import BY_TIME
from gcnrec.loaders.ingest.build import degrees_of, write_graph
from gcnrec.loaders.ingest.heldout import Parts, Report, write_held_out
from gcnrec.loaders.ingest.inputs import Input
from gcnrec.loaders.ingest.leakage import PREFIX, report_leakage
from gcnrec.loaders.ingest.listing import listed
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
from gcnrec.loaders.numbered.pairs import check_apart, no_pairs, pair_columns, read_pairs
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
    parts, places = _read_parts(sources, (len(users), len(items)), scratch, report)
    if document.split in BY_TIME and parts.train.times_E is None:
        raise DataError(
            f"{DOCUMENT} says split = '{document.split}', which goes by time, and train has no column 'time'; {AGAIN}"
        )
    degrees = degrees_of(parts.train, (len(users), len(items)), scratch)
    _check(users, items, parts, places, degrees, scratch)
    ticks = None if parts.train.times_E is None else 1
    report_leakage(parts, ticks, document.split, len(users), scratch, report)
    _check_split(document.split, report.entries)
    report.work("writing", 0, 0)
    for nodes, degrees_N in zip((users, items), degrees, strict=True):
        nodes.write(folder, degrees_N, scratch)
    write_held_out(folder / "valid.parquet", parts.valid, ticks)
    write_held_out(folder / "test.parquet", parts.test, ticks)
    write_graph(folder, "", parts.train, degrees, ticks, scratch)


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
    sources: dict[str, Input], sizes: tuple[int, int], scratch: Scratch, report: Report
) -> tuple[Parts, dict[str, Places]]:
    """The pairs of train, valid and test, and where they lie; parts without rows have the columns of train."""
    train = pair_columns(sources["train"], None)
    columns = {"train": train} | {
        role: pair_columns(sources[role], frozenset(train)) for role in ("valid", "test") if role in sources
    }
    parts = {role: Part(sources[role], found, 2, scratch.limit) for role, found in columns.items()}
    rows = {
        role: read_pairs(part, sizes, scratch, partial(_counted, report, role, part.source.rows)) for role, part in parts.items()
    }
    held_out = (rows[role] if role in rows else no_pairs(rows["train"], scratch) for role in ("valid", "test"))
    return Parts(rows["train"], *held_out), {role: part.places for role, part in parts.items()}


def _counted(report: Report, role: str, total: int, done: int) -> None:
    report.work(role, done, total)


def _check(
    users: Nodes,
    items: Nodes,
    parts: Parts,
    places: dict[str, Places],
    degrees: tuple[Any, Any],
    scratch: Scratch,
) -> None:
    """DataError where numbers do not follow the degrees, where a node has no pair, and where parts share a pair."""
    sizes = len(users), len(items)
    held_out = [degrees_of(rows, sizes, scratch) for rows in (parts.valid, parts.test)]
    for side, nodes in enumerate((users, items)):
        nodes.check_order(degrees[side])
        in_valid, in_test = (counts[side] for counts in held_out)
        in_valid += in_test
        nodes.check_met(degrees[side], in_valid)
    check_apart(parts, places, scratch)
