"""Forks command lines that stop for good inside a write, to be killed there: a program that a test talks to, and its client.

A line of JSON on stdin: [ending, count, moment, arguments]. The fork stops at its count-th rename onto a file of that ending:
with the file `half` written, `before` the rename, or `after` it. It then says "inside PID"; any end is told as "ended CODE".
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path


class Nursery:
    """The program, with everything imported: a fork of it costs no start."""

    def __init__(self, folder):
        self.said = folder / "said.txt"
        with self.said.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=folder
            )

    @contextmanager
    def stopped(self, ending, count, moment, arguments):
        """The process id of a command line that stands inside a write; killed with -9 at the end of the block."""
        self.process.stdin.write(json.dumps([ending, count, moment, [str(argument) for argument in arguments]]) + "\n")
        self.process.stdin.flush()
        told, number = self.process.stdout.readline().split()
        assert told == "inside", self.said.read_text()
        try:
            yield int(number)
        finally:
            os.kill(int(number), signal.SIGKILL)
            assert self.process.stdout.readline() == "ended -9\n"

    def close(self):
        self.process.communicate()


def main():
    import gcnrec.loaders.parquet
    import gcnrec.pipeline
    import gcnrec.results.evaluate
    import gcnrec.results.export  # noqa: F401

    for line in sys.stdin:
        child = os.fork()
        if not child:
            stop_inside(*json.loads(line))
        _, status = os.waitpid(child, 0)
        print("ended", os.waitstatus_to_exitcode(status), flush=True)


def stop_inside(ending, count, moment, arguments):
    from gcnrec import cli

    left = count

    def stopping(plain):
        def rename(source, target, **options):
            nonlocal left
            left -= str(target).endswith(ending)
            if left:
                return plain(source, target, **options)
            if moment == "half":
                os.truncate(source, Path(source).stat().st_size // 2)
            if moment == "after":
                plain(source, target, **options)
            print("inside", os.getpid(), flush=True)
            time.sleep(120)
            os._exit(99)

        return rename

    os.replace, os.rename = stopping(os.replace), stopping(os.rename)
    sys.argv = ["gcnrec", *arguments]
    cli.main()


if __name__ == "__main__":
    main()
