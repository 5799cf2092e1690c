"""From an address to this machine: a folder is fetched into a cache of this user, its files verified, once for each change."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from gcnrec.errors import DataError, os_remedy
from gcnrec.storage.documents import Document, checked, read_object, write_json
from gcnrec.storage.locks import awaited
from gcnrec.storage.remote.address import Address, address_of
from gcnrec.storage.remote.marker import Held, Marker, read_marker
from gcnrec.storage.remote.store import Store, open_store
from gcnrec.storage.remote.upload import BROUGHT, refuse_taken, upload
from gcnrec.system.kernel_cache import own_folder
from gcnrec.system.observer import SILENT

_RECORD = "mirrored.json"
TakeNote = Callable[[str], object]


class _Mirrored(Document):
    """What a mirror was fetched from, or uploaded to, and what was there then."""

    address: str
    marker: Marker


def mirror_of(address: Address) -> Path:
    """Where the folder of an address lies on this machine: in a cache that only this user may change.

    DataError where no such cache can be had.
    """
    cache = own_folder("remote")
    if cache is None:
        raise DataError("no folder for fetched files that only this user may change; set XDG_CACHE_HOME to one")
    return cache / hashlib.sha256(address.text.encode()).hexdigest()[:16] / address.name


def fetched_file(address: Address, folder: Path, note: TakeNote = SILENT.note) -> Path:
    """Fetch one file into `folder`. DataError where it is not there."""
    store = open_store(address)
    if not store.is_file():
        raise DataError(f"no such file: {address}")
    note(f"fetching {address}")
    store.get(folder / address.name)
    return folder / address.name


def fetched(address: Address, note: TakeNote = SILENT.note) -> Path:
    """The folder of this machine that holds what lies at an address; files that are here already are not fetched again.

    A run comes with its dataset, as its `dataset`. DataError where nothing is there, for half an upload, and where a file
    holds other bytes than were uploaded.
    """
    store, mirror = open_store(address), mirror_of(address)
    marker = _whole(store)
    mirror.parent.mkdir(parents=True, exist_ok=True)
    with awaited(mirror.parent / "fetch.lock", mirror, note):
        before = _recorded(mirror)
        if before != marker or not all((mirror / name).is_file() for name in marker.files):
            _fetch(store, marker, before, note)
        if marker.data and not (mirror / BROUGHT).exists():
            data = address_of(marker.data)
            if data is None:
                raise DataError(
                    f"the marker of {address} must name the address of a dataset, names {marker.data!a}; upload it again"
                )
            (mirror / BROUGHT).unlink(missing_ok=True)
            (mirror / BROUGHT).symlink_to(fetched(data, note))
        return mirror


@contextmanager
def continued(address: Address, resume: bool, note: TakeNote = SILENT.note) -> Iterator[Path]:
    """The folder of this machine in which a run is made for an address; it is uploaded when the block succeeds.

    It stays when the block fails, so that the run can be resumed here. With `resume`, a run that lies at the address alone is
    fetched. Raises UsageError where something lies at the address and is not resumed.
    """
    store, mirror = open_store(address), mirror_of(address)
    if not resume:
        refuse_taken(store)
        if _recorded(mirror) is not None:  # a copy of what was removed there since
            shutil.rmtree(mirror)
    elif not mirror.exists() and read_marker(store) is not None:
        fetched(address, note)
    mirror.parent.mkdir(parents=True, exist_ok=True)
    yield mirror
    _link_dataset(mirror)
    push(mirror, address, note)


def push(mirror: Path, address: Address, note: TakeNote = SILENT.note) -> None:
    """Upload what has changed in the mirror of an address, and where it is a run, the dataset that its `dataset` leads to.

    A dataset that came from an address is named, not uploaded again.
    """
    record = (mirror / BROUGHT).resolve().parent / _RECORD
    data = _record(record).address if (mirror / BROUGHT).is_symlink() and record.is_file() else ""
    marker = upload(mirror, open_store(address), data, note)
    write_json(mirror.parent / _RECORD, json.loads(_Mirrored(address=address.text, marker=marker).model_dump_json()))


def _link_dataset(mirror: Path) -> None:
    """Let `dataset` of a run that was made here lead to its dataset: a folder of that digest, where lineage.json names one."""
    lineage, link = mirror / "lineage.json", mirror / BROUGHT
    if not lineage.is_file() or link.exists():
        return
    named = read_object(lineage, "restore it").get("data")
    data = named if isinstance(named, dict) else {}
    description = Path(str(data.get("folder", ""))) / "dataset.json"
    if not description.is_absolute() or not description.is_file():
        return
    if data.get("digest") and read_object(description, "ingest again").get("digest") == data["digest"]:
        link.unlink(missing_ok=True)
        link.symlink_to(description.parent.resolve())


def _whole(store: Store) -> Marker:
    marker = read_marker(store)
    if marker is None:
        raise DataError(f"{store.address} is no folder that gcnrec has uploaded; name a folder that --out wrote")
    if not marker.complete:
        raise DataError(f"{store.address} holds half an upload; repeat the command that writes it, with --resume where it trains")
    return marker


def _fetch(store: Store, marker: Marker, before: Marker | None, note: TakeNote) -> None:
    """Fetch files that differ into the mirror, and remove files that are gone there."""
    mirror = mirror_of(store.address)
    known: dict[str, Held] = before.files if before is not None else {}
    brought = mirror / BROUGHT
    if brought.is_symlink():  # nothing is written or removed through it: it leads to a dataset of this machine
        known = {name: held for name, held in known.items() if not name.startswith(f"{BROUGHT}/")}
        if any(name.startswith(f"{BROUGHT}/") for name in marker.files):
            brought.unlink()
    wanted = [name for name in marker.files if known.get(name) != marker.files[name] or not (mirror / name).is_file()]
    record = mirror.parent / _RECORD
    record.unlink(missing_ok=True)
    try:
        for number, name in enumerate(wanted, 1):
            note(f"fetching {store.address}: {number} of {len(wanted)} files")
            with tempfile.TemporaryDirectory(dir=mirror.parent, prefix=".fetch-") as folder:
                work = Path(folder) / "file"
                if store.get(work, name) != marker.files[name].sha256:
                    raise DataError(
                        f"{store.address}/{name} does not hold what was uploaded; repeat the command that writes {store.address}"
                    )
                (mirror / name).parent.mkdir(parents=True, exist_ok=True)
                work.replace(mirror / name)
        for name in known.keys() - marker.files.keys():
            (mirror / name).unlink(missing_ok=True)
        write_json(record, json.loads(_Mirrored(address=store.address.text, marker=marker).model_dump_json()))
    except OSError as problem:
        remedy = os_remedy(problem, "set XDG_CACHE_HOME to another folder")
        raise DataError(f"cannot write {mirror}: {problem.strerror or problem}; {remedy}") from problem


def _recorded(mirror: Path) -> Marker | None:
    """What the mirror held when it was last equal to its address; None where that is not known."""
    path = mirror.parent / _RECORD
    if not path.is_file() or not mirror.is_dir():
        return None
    try:
        return _record(path).marker
    except DataError:
        return None


def _record(path: Path) -> _Mirrored:
    return checked(_Mirrored, read_object(path, "remove it"), str(path), "remove it")
