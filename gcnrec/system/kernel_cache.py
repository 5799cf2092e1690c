"""Folders of this user that no other user can change: for compiled kernels, and for what has been verified once.

numba keeps kernels in `__pycache__` next to the source, and where the package may not be written to, in such a folder. It reads
`NUMBA_CACHE_DIR` once, when it is imported. Compiled code is code, and later commands rely on what was verified: a folder counts
only if it belongs to this user, is no link, and is closed to other users.
"""

from __future__ import annotations

import atexit
import os
import pwd
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping, MutableMapping
from pathlib import Path

VARIABLE = "NUMBA_CACHE_DIR"
_SHARED = Path("/tmp")
_OTHERS_WRITE, _OTHERS = 0o022, 0o077
_warnings: list[str] = []


def find_room(environment: MutableMapping[str, str] | None = None) -> None:
    """Set `NUMBA_CACHE_DIR` in `environment`, by default for this process and its children, unless the user has set it.

    The first that will do: `$XDG_CACHE_HOME`, `~/.cache` by `$HOME`, then by the password file, `/tmp/gcnrec-UID`, a private
    folder that vanishes with the process. Where none can be made, numba finds none either, and its error says so.
    """
    environment = os.environ if environment is None else environment
    if environment.get(VARIABLE):
        return
    tried = list(_candidates(environment, "kernels"))
    room = next(filter(_is_safe, tried), None)
    if room is None:
        try:
            room = Path(tempfile.mkdtemp(prefix="gcnrec-kernels-"))
        except OSError:
            return
        atexit.register(_remove, room, os.getpid())
        _warnings.append(
            f"compiled kernels can be kept neither with the package nor in {' or '.join(map(str, tried))}, so each command "
            f"compiles them again; set {VARIABLE} to a folder that only this user may write to"
        )
    environment[VARIABLE] = str(room)


def own_folder(name: str, environment: Mapping[str, str] | None = None) -> Path | None:
    """The first folder for `name` that only this user may change, made where it is missing; None where none can be had.

    The same places as of `find_room`, without the last: `$XDG_CACHE_HOME/gcnrec/NAME`, `~/.cache/gcnrec/NAME`, `/tmp/gcnrec-UID`.
    """
    return next(filter(_is_safe, _candidates(os.environ if environment is None else environment, name)), None)


def take_warnings() -> list[str]:
    """What `find_room` has to report, once."""
    taken = _warnings[:]
    _warnings.clear()
    return taken


def _candidates(environment: Mapping[str, str], name: str) -> Iterator[Path]:
    home = _home()
    named = (environment.get("XDG_CACHE_HOME"), environment.get("HOME") and f"{environment['HOME']}/.cache")
    bases = [Path(text) for text in named if text and Path(text).is_absolute()] + ([home / ".cache"] if home else [])
    for base in dict.fromkeys(bases):
        yield base / "gcnrec" / name
    yield _SHARED / f"gcnrec-{os.geteuid()}"


def _home() -> Path | None:
    """The home of the password file; None for a user without an entry, as containers have them."""
    try:
        return Path(pwd.getpwuid(os.geteuid()).pw_dir)
    except KeyError:
        return None


def _is_safe(folder: Path) -> bool:
    """Whether `folder`, made where it is missing, takes files of this user alone."""
    try:
        if folder.parent.name == "gcnrec":
            folder.parent.mkdir(0o755, parents=True, exist_ok=True)
            if not _is_own(folder.parent, _OTHERS_WRITE):
                return False
        folder.mkdir(0o700, exist_ok=True)
        if not _is_own(folder, _OTHERS):
            return False
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _is_own(folder: Path, forbidden: int) -> bool:
    state = folder.lstat()
    return stat.S_ISDIR(state.st_mode) and state.st_uid == os.geteuid() and not state.st_mode & forbidden


def _remove(folder: Path, owner: int) -> None:
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)
