"""Fetches one file of a card into a folder of its own: from a wheel that pip brings, or from a URL.

What comes was made by strangers. Nothing of it is run or unpacked: one file is copied, at most MOST_BYTES of it, under a name
that is ours, and its sha256 is checked before it is handed on.
"""

from __future__ import annotations

import http.client
import io
import re
import shutil
import socket
import struct
import subprocess
import sys
import time
import urllib.request
import zipfile
import zlib
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from gcnrec.errors import first_line
from gcnrec.integrity.digests import sha256_of
from gcnrec.loaders.cards import Source

MOST_BYTES = 16 * 2**30
"""The largest file that is fetched; a larger one belongs under --data-root."""
_PIP_SECONDS = 600
_DOWNLOAD_SECONDS = 3600
_SILENT_SECONDS = 60
_BLOCK_BYTES = 2**20
_LIST_BYTES = 2**23
"""The longest list of members of a zip that is read; of most members, it has some hundred bytes for each."""
_SHOWN = 200
_TOO_LONG = f"it took longer than {_DOWNLOAD_SECONDS} s"
_ENCRYPTED = 1
# What zipfile raises for archives that are damaged or made to mislead; NotImplementedError is a RuntimeError.
_NO_ARCHIVE = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, RuntimeError, ValueError, OverflowError, LookupError)


class SourceFailed(Exception):
    """One source of a file did not work, and why, in one line; the next one is tried."""


def fetch(source: Source, work: Path) -> Path:
    """The file that a wheel or URL leads to, in the empty folder `work`; its sha256 is the source's.

    Raises SourceFailed, and OSError when `work` cannot be written.
    """
    fetched = _wheel(source.wheel, work) if source.wheel is not None else _download(str(source.url), work)
    file = _member(fetched, source.member, work) if source.member is not None else fetched
    check_digest(file, source)
    return file


def check_digest(path: Path, source: Source) -> None:
    """Raise SourceFailed unless the file's sha256 is the card's."""
    came = sha256_of(path)
    if came != source.sha256:
        raise SourceFailed(f"sha256 must be {source.sha256}, is {came}")


def one_line(text: str) -> str:
    """What a program, a server or a file says, cut short, without line breaks and characters that control a terminal."""
    line = "".join(letter if letter.isprintable() else "?" for letter in text[: _SHOWN + 1])
    return line if len(line) <= _SHOWN else f"{line[:_SHOWN]}..."


def reason(problem: BaseException) -> str:
    """The first line of an exception's message, as `one_line` shows it."""
    return one_line(first_line(problem))


def _wheel(wheel: str, work: Path) -> Path:
    """The one wheel `NAME==VERSION` that pip brings by this machine's own configuration."""
    folder = work.resolve() / "pip"
    folder.mkdir()
    # -E, -P and the empty working directory: PYTHONPATH or a file pip.py in the user's folder must not stand in for pip.
    command = [sys.executable, "-E", "-P", "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input", "--quiet"]
    command += ["--disable-pip-version-check", "--dest", str(folder), "--", wheel]
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PIP_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise SourceFailed(f"pip took longer than {_PIP_SECONDS} s") from None
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"pip ended with exit code {done.returncode}"]
        raise SourceFailed(one_line(said[-1]))
    brought = sorted(path.name for path in folder.iterdir())
    if len(brought) != 1 or not _is_wheel_of(brought[0], wheel):
        raise SourceFailed(one_line(f"pip must bring one file, a wheel of that version, brought {', '.join(brought) or 'none'}"))
    return folder / brought[0]


def _is_wheel_of(file: str, wheel: str) -> bool:
    name, _, version = wheel.partition("==")
    parts = file.split("-")
    return file.endswith(".whl") and len(parts) >= 5 and _plain(parts[0]) == _plain(name) and parts[1] == version


def _plain(name: str) -> str:
    """The name of a package as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _download(url: str, work: Path) -> Path:
    target = work / "fetched"
    parts = urlsplit(url)
    if parts.scheme == "file":
        path = Path(urllib.request.url2pathname(parts.path))
        if not path.is_file():  # a device or a pipe may never end
            raise SourceFailed("no such file")
        if path.stat().st_size == 0:  # so do some files of /proc, all of which say that they are empty
            raise SourceFailed("the file is empty")
        with path.open("rb") as file:
            _copy(file.read, target)
        return target
    try:
        with ExitStack() as opened:
            answer = _web(opened).open(url, timeout=_SILENT_SECONDS)
            _copy(answer.read1, target)
            missing = answer.length or 0
    except (OSError, http.client.HTTPException, ValueError) as problem:
        raise SourceFailed(reason(problem)) from None
    if missing:
        raise SourceFailed(f"the connection was closed {missing:,} bytes before the end")
    return target


def _web(opened: ExitStack) -> urllib.request.OpenerDirector:
    """Opens http and https as this machine's proxies and certificates say, for _DOWNLOAD_SECONDS from now on.

    `opened` closes all answers, also of redirects.

    Unlike `urlopen` it has no handler for files and FTP: a redirect to one of these ends as the HTTP error that it is.
    """
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPErrorProcessor,
        urllib.request.HTTPRedirectHandler,
    ):
        opener.add_handler(handler())
    opener.add_handler(_Until(time.monotonic() + _DOWNLOAD_SECONDS, opened))
    return opener


class _Until(urllib.request.AbstractHTTPHandler):
    """Opens http and https; from `deadline` on, by the monotonic clock, nothing is read any more, headers included."""

    def __init__(self, deadline: float, opened: ExitStack) -> None:
        super().__init__()
        self._deadline, self._answers = deadline, opened

    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self._opened(http.client.HTTPConnection, request)

    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self._opened(http.client.HTTPSConnection, request)

    http_request = https_request = urllib.request.AbstractHTTPHandler.do_request_

    def _opened(self, kind: type[http.client.HTTPConnection], request: urllib.request.Request) -> http.client.HTTPResponse:
        def connection(host: str, **settings: Any) -> http.client.HTTPConnection:
            made = kind(host, **settings)
            made.response_class = partial(_Response, deadline=self._deadline)  # type: ignore[assignment]
            return made

        return self._answers.enter_context(self.do_open(connection, request))  # type: ignore[arg-type]


class _Response(http.client.HTTPResponse):
    """A response that is read up to a deadline. A server may send a byte a minute, of endless headers, too."""

    def __init__(self, sock: socket.socket, *arguments: Any, deadline: float, **named: Any) -> None:
        super().__init__(sock, *arguments, **named)
        self.fp = io.BufferedReader(_Timed(self.fp.detach(), sock, deadline))


class _Timed(io.RawIOBase):
    """What a socket brings, up to a deadline, and never after more than _SILENT_SECONDS of silence."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket, deadline: float) -> None:
        self._raw, self._sock, self._deadline = raw, sock, deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError(_TOO_LONG)
        self._sock.settimeout(min(left, _SILENT_SECONDS))
        try:
            return self._raw.readinto(buffer)
        except TimeoutError:
            raise TimeoutError(_TOO_LONG if left <= _SILENT_SECONDS else f"nothing came for {_SILENT_SECONDS} s") from None

    def close(self) -> None:
        self._raw.close()
        super().close()


def _member(archive: Path, member: str, work: Path) -> Path:
    """A copy of one file inside a zip. Its name in the archive decides nothing on this disk."""
    target = work / "member"
    try:
        with archive.open("rb") as file, zipfile.ZipFile(_InPieces(file)) as zipped:  # type: ignore[arg-type]
            info = _entry(zipped, member)
            _check_size(info.file_size, _most_bytes(work))
            with zipped.open(info) as inside:
                _copy(inside.read, target)
    except _NO_ARCHIVE as problem:
        raise SourceFailed(f"it cannot be read as a zip ({reason(problem)})") from None
    return target


class _InPieces:
    """A file for zipfile, which reads the list of all members at once. BadZipFile where that is longer than _LIST_BYTES."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.tell = file.tell

    def seekable(self) -> bool:
        return True

    def seek(self, place: int, start: int = 0) -> int:
        try:
            return self._file.seek(place, start)
        except (OSError, OverflowError) as problem:
            raise zipfile.BadZipFile("it says that something lies before its begin") from problem

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(_LIST_BYTES + 1 if size < 0 else min(size, _LIST_BYTES + 1))
        if len(data) > _LIST_BYTES:
            raise zipfile.BadZipFile(f"its list of members is longer than {_LIST_BYTES:,} bytes")
        return data


def _entry(zipped: zipfile.ZipFile, member: str) -> zipfile.ZipInfo:
    try:
        info = zipped.getinfo(member)
    except KeyError:
        raise SourceFailed(f"it holds no {member}") from None
    # One block of bzip2 or LZMA may fill the memory; no wheel has them.
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise SourceFailed(f"{member} must be stored or deflated in its zip, has compression {info.compress_type}")
    if info.flag_bits & _ENCRYPTED:
        raise SourceFailed(f"{member} must be readable without a password, is encrypted")
    return info


def _copy(read: Callable[[int], bytes], target: Path) -> None:
    """Write what `read` gives to the new file `target`, up to a size and a time."""
    begun, size, most = time.monotonic(), 0, _most_bytes(target.parent)
    with target.open("xb") as out:
        while block := read(_BLOCK_BYTES):
            size += len(block)
            _check_size(size, most)
            if time.monotonic() > begun + _DOWNLOAD_SECONDS:
                raise SourceFailed(_TOO_LONG)
            out.write(block)


def _check_size(size: int, most: int) -> None:
    if size > most:
        limits = f"the limit is {MOST_BYTES:,} bytes and half of the free space"
        raise SourceFailed(f"it has more than {most:,} bytes ({limits}); put the file under --data-root")


def _most_bytes(folder: Path) -> int:
    return min(MOST_BYTES, shutil.disk_usage(folder).free // 2)
