"""Data races of the kernels that share memory between threads, found by ThreadSanitizer with a thread for each CUDA thread.

    python -m jobs.measure.gpu.kernels.races [FILE.cu ...]

Each kernel runs on a small input, then again without each of its barriers in turn. Races in the kernel itself, and a barrier
without which none is found, are failures; the exit code is 1.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from gcnrec.cuda import module

HERE = Path(__file__).resolve().parent
CASES = HERE / "cases"
HOST = HERE.parents[3] / "tests" / "cuda" / "host"
BARRIER = re.compile(r"__sync(?:threads|warp)\([^)]*\)")
KEPT = "// kept: "
"""Begins the comment of a barrier that stays though its removal is not found, and says why."""
FOUND = "WARNING: ThreadSanitizer: data race"
TRIES = 3
SECONDS = 60
"""Limit of a run: without a barrier, threads may wait for ever."""
FLAGS = ("-std=c++17", "-O1", "-fsanitize=thread", "-w", "-x", "c++")


@dataclass(frozen=True)
class Variant:
    """A kernel file, whole or without the barrier of one line."""

    file: str
    text: str
    line: int | None = None
    barrier: str = ""


def variants(file: str) -> Iterator[Variant]:
    """The file as it is, then without each barrier."""
    text = (module.FOLDER / file).read_text(encoding="utf-8")
    yield Variant(file, text)
    for found in BARRIER.finditer(text):
        line = text.count("\n", 0, found.start())
        without = text[: found.start()] + "(void)0" + text[found.end() :]
        yield Variant(file, without, line + 1, text.splitlines()[line].strip())


def has_race(variant: Variant, folder: Path) -> bool:
    """Compile a variant with its case, and run it; without a barrier up to `TRIES` times, as threads may chance upon its order.

    RuntimeError where a run neither ends well nor shows a race.
    """
    name = f"{Path(variant.file).stem}-{variant.line or 'whole'}"
    source, program = folder / f"{name}.cu", folder / name
    source.write_text(variant.text, encoding="utf-8")
    case = CASES / f"{Path(variant.file).stem}.cpp"
    places = [f"-I{path}" for path in (HERE, CASES, HOST, module.FOLDER)]
    command = ["g++", *FLAGS, *places, f'-DKERNEL_FILE="{source}"', str(case), "-o", str(program)]
    built = subprocess.run(command, capture_output=True, text=True)
    if built.returncode:
        raise RuntimeError(f"{name} must compile, got {built.stderr[-500:]}")
    return any(_shows_race(program) for _ in range(1 if variant.line is None else TRIES))


def _shows_race(program: Path) -> bool:
    options = {"TSAN_OPTIONS": "halt_on_error=1"}
    done = subprocess.run([str(program)], capture_output=True, text=True, env=options, timeout=SECONDS)
    if done.returncode and FOUND not in done.stderr:
        raise RuntimeError(f"{program.name} must run through or show a race, got {done.returncode}: {done.stderr[-500:]}")
    return FOUND in done.stderr


def problem(variant: Variant, race: bool) -> str | None:
    """What is wrong with the outcome of a variant, as a sentence."""
    where = f"{variant.file}:{variant.line}"
    if variant.line is None:
        return f"{variant.file} has a data race; run ThreadSanitizer on its case in {CASES.name}/" if race else None
    if race == (KEPT in variant.barrier):
        known = "though its comment says that none is" if race else "and no comment says why it stays"
        return f"{where}: a race is {'' if race else 'not '}found without this barrier, {known}: {variant.barrier}"
    return None


def main(files: list[str]) -> int:
    """Run all variants of `files`, or of every file with a case; prints a line each."""
    if shutil.which("g++") is None:
        print("skipped: needs g++")
        return 0
    chosen = [each for file in files or known() for each in variants(file)]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool:
        races = list(pool.map(lambda each: has_race(each, Path(folder)), chosen))
    problems = [text for each, race in zip(chosen, races, strict=True) if (text := problem(each, race))]
    for each, race in zip(chosen, races, strict=True):
        print(f"{each.file:14} {each.line or 'whole':>6} {'race' if race else 'none'}  {each.barrier}")
    print("\n".join(problems) or f"{len(chosen)} variants, each as expected")
    return 1 if problems else 0


def known() -> list[str]:
    """Kernel files that have a case."""
    return sorted(f"{path.stem}.cu" for path in CASES.glob("*.cpp"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
