"""From this machine to an address: a file appears whole, a folder counts once its marker says so."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from gcnrec.errors import DataError, UsageError
from gcnrec.storage.remote.address import Address
from gcnrec.storage.remote.marker import NAME, Held, Marker, read_marker, write_marker
from gcnrec.storage.remote.store import Store, open_store
from gcnrec.system.observer import SILENT

DESCRIPTIONS = ("dataset.json", "lineage.json", "export.json", "index.json")
"""What says that a folder is a dataset, a run or an export: uploaded last, so that a plain copy of half of it is none either."""
BROUGHT = "dataset"
"""Below a run: the files of the dataset that it was trained on, or here a link to them."""
_TAKEN = "exists and is never overwritten; choose another --out"


@contextmanager
def published(address: Address, force: bool = False, note: Callable[[str], object] = SILENT.note) -> Iterator[Path]:
    """A path of this machine where nothing lies; what the block makes there, file or folder, is uploaded when it succeeds.

    Half an upload of an earlier block is replaced. Raises UsageError where something else lies at the address; with `force`,
    a file, or a folder that was uploaded so, is replaced. DataError where the store cannot be written.
    """
    store = open_store(address)
    refuse_taken(store, force)
    with tempfile.TemporaryDirectory(prefix="gcnrec-staged-") as folder:
        staged = Path(folder) / address.name
        yield staged
        if staged.is_dir():
            upload(staged, store, note=note)
        elif staged.is_file():
            note(f"uploading {address}")
            store.put_alone(staged)


def refuse_taken(store: Store, force: bool = False, otherwise: str = "add --force") -> None:
    """UsageError where something lies at the address that may not be replaced; `otherwise`: what helps beyond another name."""
    if store.is_file():
        if not force:
            raise UsageError(f"{store.address} {_TAKEN}, or {otherwise}")
        return
    marker = read_marker(store)
    if marker is None and store.names():
        raise UsageError(f"{store.address} {_TAKEN}")
    if marker is not None and marker.complete and not force:
        raise UsageError(f"{store.address} {_TAKEN}, or {otherwise}")


def upload(folder: Path, store: Store, data: str = "", note: Callable[[str], object] = SILENT.note) -> Marker:
    """Make the address hold the files of `folder`, and return its marker. Only files that differ travel.

    `data`: the address of a run's dataset; without it, the dataset that lies at, or is linked from, `dataset` goes along.
    Locks and hidden files stay behind.
    """
    before = read_marker(store)
    paths, whole = files_of(folder, with_dataset=not data), marker_of(folder, data)
    held = whole.files
    if before == whole:
        return whole
    known = before.files if before is not None and before.complete else {}
    write_marker(store, Marker(files=held, data=data))
    fresh = [name for name in held if known.get(name) != held[name]]
    for number, name in enumerate(sorted(fresh, key=lambda name: (name in DESCRIPTIONS, name)), 1):
        note(f"uploading {store.address}: {number} of {len(fresh)} files")
        store.put(paths[name], name)
    if before is not None:
        for name in set(store.names()) - held.keys() - {NAME}:
            store.remove(name)
    write_marker(store, whole)
    return whole


def marker_of(folder: Path, data: str = "") -> Marker:
    """What says that an address holds the files of `folder` whole. DataError for a name that no address should have."""
    paths = files_of(folder, with_dataset=not data)
    hostile = next((name for name in paths if not name.isprintable()), None)
    if hostile is not None:
        raise DataError(
            f"{folder} has a file whose name cannot be printed, {hostile!a}, and is not uploaded; rename or remove it"
        )
    return Marker(complete=True, files={name: _held(path) for name, path in paths.items()}, data=data)


def files_of(folder: Path, with_dataset: bool) -> dict[str, Path]:
    """The files to upload by their path inside, files of a linked dataset below `dataset`."""
    found = dict(_walked(folder))
    brought = folder / BROUGHT
    if brought.is_symlink() and with_dataset:
        found |= {f"{BROUGHT}/{name}": path for name, path in _walked(brought.resolve())}
    return {name: path for name, path in found.items() if with_dataset or not name.startswith(f"{BROUGHT}/")}


def _walked(folder: Path) -> Iterator[tuple[str, Path]]:
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = Path(place) / name
            if not name.startswith(".") and not name.endswith(".lock") and path.is_file() and name != NAME:
                yield path.relative_to(folder).as_posix(), path


def _held(path: Path) -> Held:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Held(size=path.stat().st_size, sha256=digest)
