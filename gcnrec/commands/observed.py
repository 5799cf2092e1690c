"""What commands report while they work, and how they report their end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from gcnrec.system.signals import end_line, working

if TYPE_CHECKING:
    from gcnrec.system.observer import Observer

LOG_JSON = "gcnrec.log_json"
"""The key of a context's `meta` that remembers --log-json."""


def _keep(ctx: typer.Context, log_json: bool) -> bool:
    """Remember --log-json for what ends the command: contexts of a group and its command share `meta`."""
    ctx.meta[LOG_JSON] = log_json
    if log_json:
        from gcnrec.reports.progress import line_of

        end_line(lambda text, code: f"{line_of('error', 'error', {'text': text, 'exit_code': code})}\n".encode())
    return log_json


LogJson = Annotated[bool, typer.Option("--log-json", callback=_keep, help="Report on stderr as JSON, one object a line.")]


@contextmanager
def observing(as_json: bool, log_json: bool = False, metric: str = "") -> Iterator[Observer]:
    """The observer of a command, which warns first of kernels that could not be kept."""
    from gcnrec.reports.progress import observed
    from gcnrec.system.kernel_cache import take_warnings

    with working(), observed(metric, as_json, log_json) as observer:
        for text in take_warnings():
            observer.warn(text)
        yield observer
