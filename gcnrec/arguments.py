"""What options of the command line take: numbers in plain digits, and places to write to. Each refusal is typer.BadParameter."""

from __future__ import annotations

import re
from pathlib import Path

import typer

from gcnrec.errors import shown


def integer(text: str | int) -> int:
    """A whole number in plain digits: int() also takes 1_0, and digits of other scripts."""
    if not re.fullmatch(r"[+-]?[0-9]{1,19}", str(text)):
        raise typer.BadParameter(f"expected a whole number in the digits 0 to 9, at most 19 of them, got {shown(text)}")
    return int(text)


def count(text: str | int) -> int:
    """A whole number from 1 on."""
    number = integer(text)
    if number < 1:
        raise typer.BadParameter(f"expected 1 or more, got {number}")
    return number


def number(text: str | float) -> float:
    """A decimal number in plain digits, neither infinite nor nan."""
    if not re.fullmatch(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)(e[+-]?[0-9]{1,2})?", str(text).lower(), re.ASCII):
        raise typer.BadParameter(f"expected a number in the digits 0 to 9, got {shown(text)}")
    return float(text)


def place_to_write(text: str | Path) -> Path:
    """Where to write: on this machine, without a step up from a folder that is not there, which making it would leave behind."""
    path = Path(text)
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", str(text)):
        raise typer.BadParameter(f"expected a path of this machine, got the address {shown(str(text))}; write here, then copy")
    above = [Path(*path.parts[:at]) for at, part in enumerate(path.parts) if at and part == ".."]
    absent = next((folder for folder in above if not folder.is_dir()), None)
    if absent is not None:
        raise typer.BadParameter(f"{shown(str(text))} goes up from {absent}, which is no folder; write the path without ..")
    return path
