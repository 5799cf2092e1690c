"""From an address to this machine: a folder is fetched into a cache of this user, its files verified, once for each change."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from gcnrec.errors import DataError, UsageError, os_remedy
from gcnrec.storage.documents import Document, checked, read_object, write_json
from gcnrec.storage.locks import awaited
from gcnrec.storage.remote.address import Address, address_of
from gcnrec.storage.remote.marker import Held, Marker, read_marker
from gcnrec.storage.remote.store import Store, open_store
from gcnrec.storage.remote.upload import BROUGHT, marker_of, refuse_taken, upload
from gcnrec.system.kernel_cache import own_folder
from gcnrec.system.observer import SILENT

_RECORD, _UNSENT, _LOCK = "mirrored.json", "unsent", "fetch.lock"
"""Next to a mirror: what it was fetched from, that it has what its address may lack, and a lock."""
TakeNote = Callable[[str], object]


class _Mirrored(Document):
    """What a mirror was fetched from, or uploaded to, and what was there then."""

    address: str
    marker: Marker


def mirror_of(address: Address) -> Path:
    """Where the folder of an address lies on this machine: in a cache that only this user may change.

    DataError where no such cache can be had, UsageError for a name that is taken there.
    """
    if address.name in (_RECORD, _UNSENT, _LOCK):
        raise UsageError(f"{address} has a name that is taken in the cache of fetched files; choose another one")
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

    A run comes with its dataset, as its `dataset`. DataError where nothing is there, for half an upload, where a file holds
    other bytes than were uploaded, and where a run lies here that another one at the address would replace.
    """
    return _fetched(address, note, is_data=False)


def _fetched(address: Address, note: TakeNote, is_data: bool) -> Path:
    store, mirror = open_store(address), mirror_of(address)
    marker = _whole(store)
    if is_data and marker.data:  # else two markers that name each other would be fetched for ever
        raise DataError(f"{address} is the dataset of a run, and its marker names another; upload that run again")
    mirror.parent.mkdir(parents=True, exist_ok=True)
    with awaited(mirror.parent / _LOCK, mirror, note):
        before = _recorded(mirror)
        if before != marker or not all((mirror / name).is_file() for name in marker.files):
            refuse_other(mirror, store, marker)
            _fetch(store, marker, before, note)
        if marker.data and not (mirror / BROUGHT).exists():
            data = address_of(marker.data)
            if data is None:
                raise DataError(
                    f"the marker of {address} must name the address of a dataset, names {marker.data!a}; upload it again"
                )
            (mirror / BROUGHT).unlink(missing_ok=True)
            (mirror / BROUGHT).symlink_to(_fetched(data, note, is_data=True))
        return mirror


@contextmanager
def continued(address: Address, resume: bool, note: TakeNote = SILENT.note) -> Iterator[Path]:
    """The folder of this machine in which a run is made for an address; it is uploaded when the block succeeds.

    It stays when the block, or its upload, fails, so that the run can be resumed here; such a folder is never removed. With
    `resume`, a run that lies at the address alone is fetched. Raises UsageError where something lies at the address and is not
    resumed, DataError where another run lies there than was begun here.
    """
    store, mirror = open_store(address), mirror_of(address)
    marker = read_marker(store)
    if not resume:
        refuse_taken(store, otherwise="continue it with --resume")
        if mirror.exists() and not _is_unsent(mirror):  # a copy of what was removed there since
            shutil.rmtree(mirror)
    elif _is_unsent(mirror):
        refuse_other(mirror, store, marker)
    elif marker is not None:
        fetched(address, note)
    mirror.parent.mkdir(parents=True, exist_ok=True)
    (mirror.parent / _UNSENT).touch()
    yield mirror
    _link_dataset(mirror)
    push(mirror, address, note)


def push(mirror: Path, address: Address, note: TakeNote = SILENT.note) -> None:
    """Upload what has changed in the mirror of an address, and where it is a run, the dataset that its `dataset` leads to.

    A dataset that came from an address is named, not uploaded again.
    """
    (mirror.parent / _UNSENT).touch()
    marker = upload(mirror, open_store(address), _data_of(mirror), note)
    write_json(mirror.parent / _RECORD, json.loads(_Mirrored(address=address.text, marker=marker).model_dump_json()))
    (mirror.parent / _UNSENT).unlink(missing_ok=True)


def half_sent(address: Address) -> Path | None:
    """The folder of this machine whose upload ended in the middle, so that it is whole here alone; None where there is none."""
    mirror, marker = mirror_of(address), read_marker(open_store(address))
    return mirror if _is_unsent(mirror) and marker is not None and not marker.complete else None


def refuse_other(mirror: Path, store: Store, marker: Marker | None) -> None:
    """DataError where the mirror holds what was never uploaded, and `marker` says that something else lies at the address."""
    if marker is None or not marker.complete or not _is_unsent(mirror) or marker == _recorded(mirror):
        return
    # An upload may have ended between its last file and the record here, and a run may have ended before it changed anything.
    if marker_of(mirror, _data_of(mirror)) not in (marker, _recorded(mirror)):
        raise DataError(
            f"{store.address} has changed, and {mirror} holds a run of this machine that was not uploaded there; "
            "move that folder to another place, or choose another address"
        )


def _is_unsent(mirror: Path) -> bool:
    """Whether the mirror has what its address may lack: a run that was begun here, or an upload that did not end."""
    return mirror.is_dir() and (mirror.parent / _UNSENT).exists()


def _data_of(mirror: Path) -> str:
    """The address of the dataset that `dataset` of a mirror leads to; no text where it came from none."""
    record = (mirror / BROUGHT).resolve().parent / _RECORD
    return _record(record).address if (mirror / BROUGHT).is_symlink() and record.is_file() else ""


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
        (mirror.parent / _UNSENT).unlink(missing_ok=True)
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
