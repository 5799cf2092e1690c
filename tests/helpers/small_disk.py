"""Runs a job on a small file system that is full sooner or later: a program for its own mount namespace, started by a test.

    python tests/helpers/small_disk.py MOUNT JOB.toml DATA DIGESTS.json ROOM...

MOUNT is a file system of its own. For every ROOM in KiB, a run that has no more than that, then one that resumes it with all
there is. Prints one line of JSON each: the exit codes, what was said, and which files differ from the expected digests.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import sys
from pathlib import Path

from gcnrec import cli
from gcnrec.reports import charts
from jobs.measure.kill import digests


def main():
    mount, job, data, expected = Path(sys.argv[1]), sys.argv[2], sys.argv[3], json.loads(Path(sys.argv[4]).read_text())
    charts._svg = lambda *drawn: "<svg></svg>"  # drawing takes most of the time, and writes nothing
    arguments = ["run", job, "--data", data, "--out", str(mount / "run")]
    for room in map(int, sys.argv[5:]):
        ballast = mount / "ballast"
        leave(mount, ballast, 1024 * room)
        code, said = call(arguments)
        cut = half_written(mount / "run", digests)
        ballast.unlink()
        again, said_again = call([*arguments, "--resume"])
        differing = digests.differences(expected, digests.digests(mount / "run")) if not again else None
        result = {"room": room, "code": code, "said": said, "half_written": cut, "resumed": again, "then": said_again}
        print(json.dumps({**result, "differing": differing}), flush=True)
        shutil.rmtree(mount / "run")


def leave(mount, ballast, room):
    """Fill the file system with `ballast` until `room` bytes are free."""
    state = os.statvfs(mount)
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, state.f_bavail * state.f_frsize - room)


def call(arguments):
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        try:
            cli.app(arguments)
        except SystemExit as ended:
            return ended.code or 0, errors.getvalue()
    return 0, errors.getvalue()


def half_written(run, digests):
    """Files under their final names that cannot be read; a last line of metrics.jsonl may be cut short."""
    cut = []
    for path in sorted(run.rglob("*")):
        if path.is_file() and not path.name.startswith(".") and path.name != "metrics.jsonl":
            try:
                digests.digest_of(path)
            except Exception as problem:
                cut.append(f"{path.name}: {problem}")
    return cut


if __name__ == "__main__":
    main()
