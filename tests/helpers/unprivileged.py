"""Processes that obey the modes of files, also where the tests run as root, as they do in a container.

As a program: `unprivileged.py PACKAGE HOME ARGUMENT...` runs the command of the package in the folder PACKAGE without any
capability, as a user whose home is HOME by the password file.
"""

from __future__ import annotations

import ctypes
import pwd
import sys
from contextlib import contextmanager
from types import SimpleNamespace

_VERSION = 0x20080522
_libc = ctypes.CDLL(None, use_errno=True)


def _capabilities(call, words):
    header, data = (ctypes.c_uint32 * 2)(_VERSION, 0), (ctypes.c_uint32 * 6)(*words)
    if call(header, data):
        raise OSError(ctypes.get_errno(), "capabilities cannot be read or set")
    return list(data)


@contextmanager
def obeying_modes():
    """This thread has no effective capability in the block."""
    before = _capabilities(_libc.capget, [0] * 6)
    _capabilities(_libc.capset, [0 if place in (0, 3) else word for place, word in enumerate(before)])
    try:
        yield
    finally:
        _capabilities(_libc.capset, before)


if __name__ == "__main__":
    _capabilities(_libc.capset, [0] * 6)
    package, home, *arguments = sys.argv[1:]
    pwd.getpwuid = lambda number: SimpleNamespace(pw_dir=home)
    sys.path[0] = package
    sys.argv = ["gcnrec", *arguments]
    from gcnrec.cli import main

    main()
