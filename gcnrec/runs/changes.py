"""What changed from an earlier run to a run: rows, input files, settings and versions, by what both folders say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pydantic import Field

from gcnrec.errors import DataError, UsageError
from gcnrec.loaders.schema import read_info
from gcnrec.runs.contents import RunContents
from gcnrec.runs.paths import LINEAGE
from gcnrec.storage.documents import Document, checked

_COUNTS = ("rows_train", "rows_valid", "rows_test", "num_train", "num_valid", "num_test", "num_users", "num_items")
"""Counts of dataset.json: rows read by input, then interactions, users and items that are kept."""
_EACH_RUN = ("format", "created", "command", "working_directory", "data")
"""Keys of lineage.json that differ between any two runs, or that rows and files describe."""


@dataclass(frozen=True, slots=True)
class Change:
    """One difference. `kind`: rows, files, settings or versions; a count is an int, any other value text, None where absent."""

    kind: str
    name: str
    before: int | str | None
    now: int | str | None


def changes(earlier: Path, folder: Path) -> list[Change]:
    """All counts of rows, equal ones too, then what differs in files, settings and versions.

    Rows and files are left out where a dataset folder is gone, or holds other data than the run was trained on.
    Raises UsageError where either folder is no run, DataError for a damaged file in it.
    """
    for path in (earlier, folder):
        if not (path / LINEAGE).is_file():
            raise UsageError(f"{path} must be a run folder (with {LINEAGE}), it is not; name a run that 'gcnrec run' made")
    before, now = RunContents(earlier), RunContents(folder)
    infos = [_dataset(each) for each in (before, now)]
    found = [Change("rows", name, *counts) for name in _COUNTS if any(counts := [_count(info, name) for info in infos])]
    found += _differing("files", *map(_files, infos))
    found += _differing("settings", *(_settings(each, info) for each, info in zip((before, now), infos, strict=True)))
    return found + _differing("versions", _versions(before), _versions(now))


class _Info(Document):
    """What dataset.json says of rows, files and the recipe."""

    digest: str = ""
    report: dict[str, Any] = Field(default_factory=dict)
    inputs: dict[str, list[tuple[str, int, str]]] = Field(default_factory=dict)
    data: dict[str, Any] = Field(default_factory=dict)


def _dataset(run: RunContents) -> _Info:
    """dataset.json of the run's data; empty where the folder is gone, damaged, or holds other data."""
    source = run.lineage.data
    try:
        info = checked(_Info, read_info(Path(source.folder)), source.folder)
    except DataError:
        return _Info()
    return info if info.digest == source.digest else _Info()


def _count(info: _Info, name: str) -> int | None:
    found = (info.report if name.startswith("rows_") else info.model_extra or {}).get(name)
    return found if isinstance(found, int) else None


def _files(info: _Info) -> dict[str, str]:
    """Size and time of each input file by its name."""
    return {
        f"{role}: {path}": f"{size:,} bytes, {_moment(time)}"
        for role, stamps in info.inputs.items()
        for path, size, time in stamps
    }


def _moment(stamp: str) -> str:
    """Nanoseconds since 1970 as a time in UTC; any other stamp, such as an etag, as it is."""
    known = stamp.isascii() and stamp.isdigit() and len(stamp) < 20  # beyond it no date has a year of four digits
    return f"{datetime.fromtimestamp(0, UTC) + timedelta(microseconds=int(stamp) // 1000):%F %H:%M:%S.%f} UTC" if known else stamp


def _settings(run: RunContents, info: _Info) -> dict[str, str]:
    """Keys of the job and of the recipe of its data, without what names folders of a day."""
    job = run.job.model_dump(mode="json", exclude={"data": True, "run": True, "train": {"init_from"}})
    return dict(_flat({**job, "data": info.data}))


def _versions(run: RunContents) -> dict[str, str]:
    return dict(_flat({key: value for key, value in run.document(LINEAGE).items() if key not in _EACH_RUN}))


def _differing(kind: str, before: Mapping[str, str], now: Mapping[str, str]) -> list[Change]:
    names = dict.fromkeys([*before, *now])
    return [Change(kind, name, before.get(name), now.get(name)) for name in names if before.get(name) != now.get(name)]


def _flat(nested: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Leaves as (dotted path, text)."""
    for key, value in nested.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(value)
