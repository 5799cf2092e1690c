"""Commands about the program and the machine: info, bench, doctor."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from gcnrec.console import output
from gcnrec.console.arguments import AsJson, place_to_write, source_or_address
from gcnrec.errors import DeviceError, UsageError, install, shown
from gcnrec.system.signals import working


def info(
    path: Annotated[Path, typer.Argument(metavar="PATH", parser=source_or_address, help="A dataset or a run folder.")],
    since: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN", parser=source_or_address, help="Say what changed since this run: rows, files, settings, versions."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """What a dataset or a run folder holds, or what changed since an earlier run."""
    from gcnrec.pipeline import describe
    from gcnrec.reports.text import change_lines, figure_lines

    if since is not None:
        from gcnrec.runs.changes import changes

        found = changes(since, path)
        output.show(
            {"since": str(since), "changes": [asdict(each) for each in found]} if as_json else change_lines(str(since), found)
        )
        return
    facts = describe(path)
    output.show(facts if as_json else figure_lines(facts))


def bench(
    what: Annotated[
        str,
        typer.Argument(
            metavar="WHAT",
            help="sample, sample-large, propagate, gather, features, update, table, train-step, epoch, scale, evaluate, ingest.",
        ),
    ],
    data: Annotated[Path | None, typer.Option(metavar="DIR", help="A dataset folder; default: Gowalla's size, made up.")] = None,
    record: Annotated[
        Path | None, typer.Option(metavar="FILE.json", parser=place_to_write, help="Also write rows, command and machine here.")
    ] = None,
    workers: Annotated[str | None, typer.Option(metavar="N,N", help="scale: numbers of workers; default 1,2.")] = None,
    torchrec_python: Annotated[
        Path | None, typer.Option(metavar="PYTHON", help="scale: the Python of an environment with TorchRec, a peer.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Time ours and every peer in one run; exit code 4 when a required peer is absent."""
    from gcnrec.bench.catalogue import Workers, rows_of
    from gcnrec.bench.harness import write_record
    from gcnrec.reports.text import bench_line

    if record and record.exists():
        raise UsageError(f"{record} exists and is never overwritten; remove it or name another --record")
    rows = []
    with working():
        for row in rows_of(what, data, Workers(_numbers(workers), torchrec_python)):
            rows.append(row)
            print(json.dumps(row) if as_json else bench_line(row), flush=True)
        if record:
            write_record(record, shlex.join(["gcnrec", *sys.argv[1:]]), rows)
    if rows[-1]["speedup"] is None and "left_out" not in rows[-1]:
        absent = ", ".join(rows[-1]["absent"])
        raise DeviceError(f"bench {what} needs every required peer, absent: {absent}; {install('bench')}")


def _numbers(text: str | None) -> tuple[int, ...] | None:
    """Numbers of workers, split at commas."""
    if text is None:
        return None
    pieces = text.split(",")
    if not all(piece.strip().isdecimal() for piece in pieces):
        raise UsageError(f"--workers must be numbers with commas between them, such as 1,2, got {shown(text)}")
    return tuple(int(piece) for piece in pieces)


def doctor(as_json: AsJson = False) -> None:
    """Versions, devices, threads, limits, an exchange of two workers; exits with the code that what is amiss would give a job."""
    from gcnrec.reports.text import figure_lines
    from gcnrec.system.doctor import examine

    facts = examine({"workers": _exchange})
    output.show(facts if as_json else figure_lines(facts))
    raise typer.Exit(max((finding["exit_code"] for finding in facts["findings"]), default=0))


def _exchange() -> dict[str, object]:
    """How fast two workers of this machine exchange rows."""
    from gcnrec.workers.probe import probe

    return probe()


COMMANDS = (info, bench, doctor)
"""In the order of the help."""
