"""How many loads a kernel has on their way at once, read from its machine code (SASS).

A thread waits where it first uses what it has loaded. So loads are counted in the order of the code, until an instruction
names a register that one of them fills. Copies to shared memory fill none, and are counted until the wait for them.
Jumps are not followed: the count is that of a pass through all branches, in the order in which they stand.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

_TOOL = "nvdisasm"
_INSTRUCTION = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P[\dT]+\s+)?([A-Z0-9_.]+)\s*([^;]*);")
_SECTION = re.compile(r"^\.text\.(\w+):", re.MULTILINE)
_REGISTER = re.compile(r"\bR(\d+)\b(\.64)?")
_WIDTH = {"128": 4, "64": 2}
_COPY_WAITS = ("LDGDEPBAR", "DEPBAR")


def disassembler() -> str | None:
    """The path of nvdisasm: of the package nvidia-cuda-nvdisasm, or on the PATH. None without it."""
    places = [Path(entry) / "nvidia" for entry in sys.path if entry]
    packaged = next((path for place in places for path in sorted(place.glob(f"*/bin/{_TOOL}"))), None)
    return str(packaged) if packaged else shutil.which(_TOOL)


def disassembled(tool: str, cubin: bytes) -> dict[str, str]:
    """Kernel -> its SASS."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernels.cubin"
        path.write_bytes(cubin)
        text = subprocess.run([tool, "-c", str(path)], capture_output=True, text=True, check=True).stdout
    parts = _SECTION.split(text)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def instructions(sass: str) -> Iterator[tuple[str, str]]:
    """(name with its modifiers, operands) in the order of the code."""
    for found in _INSTRUCTION.finditer(sass):
        yield found[1], found[2]


def loads_in_flight(sass: str, kind: str) -> int:
    """The most loads of `kind` (LDG.E.128, LDGSTS.E.64 ...) on their way before one of them must have arrived."""
    if kind.startswith("LDGSTS"):
        return _copies(sass, kind)
    pending: list[set[int]] = []
    most = 0
    for name, operands in instructions(sass):
        named = _named(name, operands)
        is_load = _is(name, kind)
        target = _filled(name, operands) if is_load else set()
        pending = [registers for registers in pending if not registers & (named | target)]
        if is_load:
            pending.append(target)
            most = max(most, len(pending))
    return most


def _copies(sass: str, kind: str) -> int:
    pending = most = 0
    for name, _ in instructions(sass):
        if name.startswith(_COPY_WAITS):
            pending = 0
        elif _is(name, kind):
            pending += 1
            most = max(most, pending)
    return most


def _is(name: str, kind: str) -> bool:
    """Whether an instruction loads so: `LDG.E` alone is a load of 4 bytes."""
    parts, wanted = name.split("."), kind.split(".")
    if parts[0] != wanted[0] or not {*wanted} <= {*parts}:
        return False
    return bool({"64", "128", "U8", "U16"} & {*wanted}) or not {"64", "128", "U8", "S8", "U16", "S16"} & {*parts}


def _filled(name: str, operands: str) -> set[int]:
    """The registers that a load fills: those of its first operand."""
    first = _REGISTER.search(operands)
    if first is None:
        raise ValueError(f"expected a register that {name} fills, got {operands!r}; read the SASS anew")
    return _wide(int(first[1]), name)


def _named(name: str, operands: str) -> set[int]:
    """All registers that an instruction names: both of a pair, all that a wide store takes."""
    found = [(int(each[1]), each[2]) for each in _REGISTER.finditer(operands)]
    stored = _wide(found[-1][0], name) if name.startswith("ST") and found else set()
    return stored | {number + place for number, pair in found for place in range(2 if pair else 1)}


def _wide(first: int, name: str) -> set[int]:
    count = next((number for part, number in _WIDTH.items() if part in name.split(".")), 1)
    return {first + place for place in range(count)}
