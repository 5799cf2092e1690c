"""Checks by programs of their own: compute-sanitizer over the small checks, and the kernel tests that need a GPU."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

FOUND = 9
"""Exit code that compute-sanitizer gives for an error of the kernels."""
NEEDED_SECONDS = 20
TESTS = Path("tests") / "cuda"
MARK = "pytest.mark.gpu"
"""In every file that has tests for a GPU; other files may need packages that a GPU machine lacks."""
WAYS = (["--kernel-name", "kernel_substring=gcnrec"], [])
"""Our kernels only, where the tool knows the option: far faster, and errors of others are not ours."""


def sanitize(tool: str, checks: list[str], seconds: float) -> dict[str, Any]:
    """Run memcheck or racecheck over the command `checks`; returns the closing event of part `tool`."""
    program = shutil.which("compute-sanitizer")
    if program is None:
        return _event(tool, "skipped", "compute-sanitizer is not on the PATH")
    problem, before = "the time was up", seconds
    for way in WAYS:
        if before < NEEDED_SECONDS:
            break
        command = [program, "--tool", tool, "--report-api-errors", "no", "--error-exitcode", str(FOUND), *way, *checks]
        code, output, taken = run(command, before)
        before -= taken
        closing = re.findall(r"=+ (?:ERROR|RACECHECK) SUMMARY: .*", output)
        if closing:  # the tool ran to its end
            kept = {"summary": closing[-1], "output": output[-2000:]}
            return _event(tool, "failed", closing[-1], **kept) if code else _event(tool, "done", None, **kept)
        problem = f"the tool gave no summary (exit code {code}): {output[-300:]}"
    return _event(tool, "skipped" if problem == "the time was up" else "failed", problem)


def gpu_tests(checkout: Path, seconds: float) -> dict[str, Any]:
    """The tests marked `gpu`, when this checkout and machine have what they need."""
    name = "tests"
    files = [path for path in sorted((checkout / TESTS).rglob("test_*.py")) if MARK in path.read_text(encoding="utf-8")]
    if not files:
        return _event(name, "skipped", f"no file of {TESTS} holds {MARK}")
    if seconds < NEEDED_SECONDS:
        return _event(name, "skipped", "the time was up")
    if subprocess.run([sys.executable, "-c", "import pytest"], capture_output=True).returncode:
        return _event(name, "skipped", "pytest is not installed")
    options = ["-q", "-m", "gpu", "-W", "default", "-p", "no:cacheprovider", "--noconftest"]
    command = [sys.executable, "-m", "pytest", *options, *map(str, files)]
    code, output, _ = run(command, seconds, checkout)
    closing = (output.strip().splitlines() or ["no output"])[-1]
    kept = {"summary": closing, "output": output[-2000:]}
    problem = f"the time was up: {closing}" if code is None else closing
    return _event(name, "failed", problem, **kept) if code != 0 else _event(name, "done", None, **kept)


def run(command: list[str], seconds: float, folder: Path | None = None) -> tuple[int | None, str, float]:
    """Exit code (None: it took too long and was ended, with what it had started), what it printed, and seconds."""
    begun = time.monotonic()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=folder, start_new_session=True
    )
    try:
        output, _ = process.communicate(timeout=seconds)
        code: int | None = process.returncode
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        code = None
    return code, output, time.monotonic() - begun


def _event(part: str, event: str, problem: str | None, **facts: Any) -> dict[str, Any]:
    return {"event": event, "part": part, "problem": problem, **facts}
