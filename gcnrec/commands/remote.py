"""Addresses on the command line: a command gets folders and files of this machine, fetched before it and uploaded after it."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from typer.core import TyperCommand

from gcnrec.console import output
from gcnrec.errors import UsageError
from gcnrec.storage.remote.address import Address

_FOLDERS = ("run", "path", "since", "base", "runs", "data")
"""Parameters that name folders, which are kept in a cache; others name single files."""
_TRAINS, _WRITES_INTO = ("run", "train"), ("evaluate", "report")
"""Commands whose --out is a run, which may be resumed, and commands that write into the run that they read."""


class Command(TyperCommand):
    """A command that never sees an address: parameters hold paths while it works."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command. Where it fails, nothing is uploaded, and a run that trains stays on this machine to be resumed."""
        if not any(map(_addresses, ctx.params.values())):
            return super().invoke(ctx)
        _refuse_several()
        with ExitStack() as stack:
            ctx.params = {name: _local(name, value, ctx, stack) for name, value in ctx.params.items()}
            return super().invoke(ctx)


def _addresses(value: Any) -> list[Address]:
    """The addresses that a parameter holds."""
    return [each for each in (value if isinstance(value, (list, tuple)) else [value]) if isinstance(each, Address)]


def _local(name: str, value: Any, ctx: Any, stack: ExitStack) -> Any:
    """A parameter with paths in place of its addresses."""
    if not _addresses(value):
        return value
    if isinstance(value, (list, tuple)):
        return [_local(name, each, ctx, stack) for each in value]
    place = _to_write(value, ctx, stack) if name == "out" else _to_read(name, value, ctx, stack)
    output.name_as(place, value.text)
    return place


def _to_write(address: Address, ctx: Any, stack: ExitStack) -> Path:
    from gcnrec.storage.remote.fetch import continued
    from gcnrec.storage.remote.upload import published

    if ctx.info_name in _TRAINS:
        return stack.enter_context(continued(address, ctx.params["resume"], output.note))
    return stack.enter_context(published(address, ctx.params.get("force", False), output.note))


def _to_read(name: str, address: Address, ctx: Any, stack: ExitStack) -> Path:
    from gcnrec.storage.remote.fetch import fetched, fetched_file, half_sent, push

    if name not in _FOLDERS or (name == "runs" and address.name.endswith(".parquet")):
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gcnrec-fetched-")))
        return fetched_file(address, folder, output.note)
    is_written = ctx.info_name in _WRITES_INTO and ctx.params.get("lists") is None
    mirror = (half_sent(address) if is_written else None) or fetched(address, output.note)
    if is_written:
        stack.push(lambda kind, problem, trace: None if problem else push(mirror, address, output.note))
    return mirror


def _refuse_several() -> None:
    """UsageError where this process is one of several that a launcher started: each would upload to the same address."""
    from gcnrec.workers.world import given_size

    if given_size() > 1:
        raise UsageError("several processes that a launcher started cannot share an address; name folders of a shared disk")
